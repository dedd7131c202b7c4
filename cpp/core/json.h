#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace quire {

/// A parsed JSON value. Integers and floating-point numbers are told apart; objects keep their order.
class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;

  Json() = default;
  template <typename T>
  explicit Json(T value) : value_(std::move(value)) {}

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  const bool* as_bool() const { return std::get_if<bool>(&value_); }
  const int64_t* as_int() const { return std::get_if<int64_t>(&value_); }
  const double* as_double() const { return std::get_if<double>(&value_); }
  const std::string* as_string() const { return std::get_if<std::string>(&value_); }
  const Array* as_array() const { return std::get_if<Array>(&value_); }
  const Object* as_object() const { return std::get_if<Object>(&value_); }

  /// The number as floating point, whichever way it was written.
  std::optional<double> number() const;

  /// The member of an object, or null if this is no object or has none of that name. Looks at one member after the
  /// other: walk as_object() to read a large one.
  const Json* find(std::string_view key) const;

  /// "null", "bool", "integer", "number", "string", "array" or "object".
  std::string_view type_name() const;

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> value_;
};

/// How much a document may ask for.
struct JsonLimits {
  int max_depth = 64;
};

/// Parse one document, strictly: RFC 8259, valid UTF-8, no duplicate keys, nothing behind the value. Python's
/// `Infinity` and `NaN` are refused. Integers beyond int64 become floating point. `where` (a file's name) opens the
/// message of an error. Raises: kInvalidArgument with line and column.
Json parse_json(std::string_view text, std::string_view where, const JsonLimits& limits = {});

}  // namespace quire
