#include "text/json_fields.h"

#include <utility>

#include "core/check.h"

namespace quire {
namespace {

template <typename T>
const T& required(const T* value, const JsonField& field, std::string_view type) {
  QUIRE_REQUIRE(value != nullptr, ErrorKind::kInvalidArgument, field.place, " has the wrong type: expected=", type,
                ", got=", field.value == nullptr ? "nothing" : field.value->type_name());
  return *value;
}

}  // namespace

JsonField JsonField::member(std::string_view key) const {
  object();
  const std::string separator = place.find("] ") == std::string::npos ? " " : ".";  // behind the file or a field
  return {value->find(key), place + separator + std::string(key)};
}

JsonField JsonField::element(size_t index) const {
  const Json::Array& elements = array();
  const Json* element = index < elements.size() ? &elements[index] : nullptr;
  return {element, detail::join_message(place, "[", index, "]")};
}

const std::string& JsonField::string() const {
  return required(value == nullptr ? nullptr : value->as_string(), *this, "string");
}

bool JsonField::boolean() const {
  return required(value == nullptr ? nullptr : value->as_bool(), *this, "bool");
}

int64_t JsonField::integer() const {
  return required(value == nullptr ? nullptr : value->as_int(), *this, "integer");
}

const Json::Array& JsonField::array() const {
  return required(value == nullptr ? nullptr : value->as_array(), *this, "array");
}

const Json::Object& JsonField::object() const {
  return required(value == nullptr ? nullptr : value->as_object(), *this, "object");
}

JsonFile::JsonFile(std::string_view text, std::string path)
    : path(std::move(path)), document(parse_json(text, this->path)) {}

}  // namespace quire
