#include "text/protobuf_reader.h"

#include "core/check.h"

namespace quire {

void ProtobufReader::require(bool condition, std::string_view problem) const {
  QUIRE_REQUIRE(condition, ErrorKind::kInvalidArgument, "[", place_, "] not a SentencePiece model: ", problem);
}

uint64_t ProtobufReader::read_varint() {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    require(!rest_.empty(), "the file ends inside a number");
    const auto byte = static_cast<unsigned char>(rest_[0]);
    rest_.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  require(false, "a number has more than ten bytes");
  return 0;
}

uint64_t ProtobufReader::read_fixed(size_t size) {
  require(rest_.size() >= size, "the file ends inside a number");
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) value |= uint64_t{static_cast<unsigned char>(rest_[i])} << (8 * i);
  rest_.remove_prefix(size);
  return value;
}

std::string_view ProtobufReader::read_bytes() {
  const uint64_t length = read_varint();
  require(length <= rest_.size(), "a field is longer than the file");
  const std::string_view bytes = rest_.substr(0, length);
  rest_.remove_prefix(length);
  return bytes;
}

bool ProtobufReader::next(ProtobufField& field) {
  if (rest_.empty()) return false;
  const uint64_t tag = read_varint();
  field = {.number = tag >> 3};
  require(field.number > 0, "a field has the number 0");
  switch (tag & 7) {
    case 0: field.value = read_varint(); break;
    case 1: field.value = read_fixed(8); break;
    case 2:
      field.is_bytes = true;
      field.bytes = read_bytes();
      break;
    case 5: field.value = read_fixed(4); break;
    default: require(false, "a field has an unknown wire type");
  }
  return true;
}

}  // namespace quire
