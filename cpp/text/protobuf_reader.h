#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace quire {

/// One field of a protobuf message: its number and its value as the wire has it.
struct ProtobufField {
  uint64_t number = 0;
  bool is_bytes = false;   ///< string, bytes or message, in `bytes`; else a number in `value`
  uint64_t value = 0;      ///< varint, or the bits of a fixed-width number
  std::string_view bytes;  ///< into the message
};

/// Walks through the fields of one message in the wire format (protobuf.dev/programming-guides/encoding), in order
/// and without allocating. Groups, which SentencePiece does not use, are refused.
class ProtobufReader {
 public:
  /// `place` opens the messages of errors; it must outlive the reader, as `message` must.
  ProtobufReader(std::string_view message, std::string_view place) : rest_(message), place_(place) {}

  /// Read the next field; false at the end. Raises: kInvalidArgument for bytes that are no message.
  bool next(ProtobufField& field);

 private:
  void require(bool condition, std::string_view problem) const;
  uint64_t read_varint();
  uint64_t read_fixed(size_t size);
  std::string_view read_bytes();

  std::string_view rest_;
  std::string_view place_;
};

}  // namespace quire
