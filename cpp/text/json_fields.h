#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/json.h"

namespace quire {

/// A member of a JSON object, and where it stands for error messages.
struct JsonField {
  const Json* value;  ///< null if the object has no such member
  std::string place;  ///< "[file] field.name"

  /// The member `key`; this field must be an object.
  JsonField member(std::string_view key) const;
  JsonField element(size_t index) const;

  bool present() const { return value != nullptr && !value->is_null(); }

  // Raises: kInvalidArgument naming the place, if the field is missing or of another type.
  const std::string& string() const;
  bool boolean() const;
  int64_t integer() const;
  const Json::Array& array() const;
  const Json::Object& object() const;
};

/// A whole document; `path` names it for error messages. Raises: as parse_json.
struct JsonFile {
  JsonFile(std::string_view text, std::string path);

  JsonField root() const { return {&document, "[" + path + "]"}; }

  std::string path;
  Json document;
};

}  // namespace quire
