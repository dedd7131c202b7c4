#include "spec/hf_config.h"

#include <utility>

#include "core/quote.h"

namespace quire {
namespace {

std::string shown(const Json& value) {
  if (const bool* truth = value.as_bool()) return *truth ? "true" : "false";
  if (const int64_t* integer = value.as_int()) return std::to_string(*integer);
  if (const double* number = value.as_double()) return detail::join_message(*number);
  if (const std::string* text = value.as_string()) return in_quotes(*text);
  return value.is_null() ? "null" : detail::join_message("(", value.type_name(), ")");
}

template <typename T>
std::string describe(std::string_view what, Range<T> range) {
  return detail::join_message(what, " from ", range.min, " to ", range.max);
}

}  // namespace

HfConfig::HfConfig(Json root, std::string file) : root_(std::move(root)), file_(std::move(file)) {
  QUIRE_REQUIRE(root_.as_object() != nullptr, ErrorKind::kInvalidArgument, "[", file_, "] wrong type: the document is ",
                shown(root_), ", expected=an object");
}

const Json* HfConfig::find(std::string_view name) const {
  const Json* value = root_.find(name);
  return value == nullptr || value->is_null() ? nullptr : value;
}

bool HfConfig::is_null(std::string_view name) const {
  const Json* value = root_.find(name);
  return value != nullptr && value->is_null();
}

bool HfConfig::is_string(std::string_view name) const {
  const Json* value = root_.find(name);
  return value != nullptr && value->as_string() != nullptr;
}

std::string_view HfConfig::present(const FieldNames& names) const {
  for (const std::string_view name : names) {
    if (has(name)) return name;
  }
  return names.first();
}

void HfConfig::refuse(ErrorKind kind, const FieldNames& names, std::string_view problem,
                      std::string_view expected) const {
  const std::string_view name = present(names);
  refuse_value(kind, name, root_.find(name), problem, expected);
}

void HfConfig::refuse_value(ErrorKind kind, std::string_view name, const Json* value, std::string_view problem,
                            std::string_view expected) const {
  throw Error(kind, detail::join_message("[", file_, "] ", problem, ": ", prefix_, name,
                                         value == nullptr ? "" : "=" + shown(*value), ", expected=", expected));
}

void HfConfig::wrong_type(std::string_view name, const Json* value, std::string_view expected) const {
  if (value == nullptr) refuse_value(ErrorKind::kInvalidArgument, name, root_.find(name), "missing field", expected);
  refuse_value(ErrorKind::kInvalidArgument, name, value, "wrong type",
               detail::join_message(expected, ", got=", value->type_name()));
}

int32_t HfConfig::checked_integer(std::string_view name, const Json* value, Range<int32_t> range) const {
  const std::string expected = describe("an integer", range);
  if (value == nullptr || value->as_int() == nullptr) wrong_type(name, value, expected);
  const int64_t integer = *value->as_int();
  if (integer < range.min || integer > range.max) {
    refuse_value(ErrorKind::kInvalidArgument, name, value, "out of range", expected);
  }
  return static_cast<int32_t>(integer);
}

double HfConfig::checked_number(std::string_view name, const Json* value, Range<double> range) const {
  const std::string expected = describe("a number", range);
  if (value == nullptr || !value->number()) wrong_type(name, value, expected);
  const double number = *value->number();
  if (number < range.min || number > range.max) {  // never NaN: JSON has none
    refuse_value(ErrorKind::kInvalidArgument, name, value, "out of range", expected);
  }
  return number;
}

int32_t HfConfig::integer(const FieldNames& names, Range<int32_t> range) const {
  const std::string_view name = present(names);
  return checked_integer(name, find(name), range);
}

int32_t HfConfig::integer_or(const FieldNames& names, int32_t fallback, Range<int32_t> range) const {
  return has(present(names)) ? integer(names, range) : fallback;
}

double HfConfig::number(const FieldNames& names, Range<double> range) const {
  const std::string_view name = present(names);
  return checked_number(name, find(name), range);
}

double HfConfig::number_or(const FieldNames& names, double fallback, Range<double> range) const {
  return has(present(names)) ? number(names, range) : fallback;
}

bool HfConfig::boolean_or(const FieldNames& names, bool fallback) const {
  const std::string_view name = present(names);
  const Json* value = find(name);
  if (value == nullptr) return fallback;
  if (value->as_bool() == nullptr) wrong_type(name, value, "true or false");
  return *value->as_bool();
}

std::string HfConfig::string_or(const FieldNames& names, std::string_view fallback) const {
  const std::string_view name = present(names);
  const Json* value = find(name);
  if (value == nullptr) return std::string(fallback);
  if (value->as_string() == nullptr) wrong_type(name, value, "a string");
  return *value->as_string();
}

std::vector<double> HfConfig::numbers(const FieldNames& names, size_t count, Range<double> range) const {
  const std::string_view name = present(names);
  const Json* value = find(name);
  const std::string expected = detail::join_message("a list of ", count, " numbers");
  if (value == nullptr || value->as_array() == nullptr) wrong_type(name, value, expected);
  const Json::Array& items = *value->as_array();
  if (items.size() != count) {
    refuse(ErrorKind::kInvalidArgument, names, detail::join_message("wrong length ", items.size()), expected);
  }
  std::vector<double> result;
  for (const Json& item : items) result.push_back(checked_number(name, &item, range));
  return result;
}

std::vector<std::string> HfConfig::strings(const FieldNames& names) const {
  const std::string_view name = present(names);
  const Json* value = find(name);
  std::vector<std::string> result;
  if (value == nullptr) return result;
  if (value->as_array() == nullptr) wrong_type(name, value, "a list of strings");
  for (const Json& item : *value->as_array()) {
    if (item.as_string() == nullptr) wrong_type(name, &item, "a list of strings");
    result.push_back(*item.as_string());
  }
  return result;
}

std::vector<int32_t> HfConfig::integers(const FieldNames& names, Range<int32_t> range) const {
  const std::string_view name = present(names);
  const Json* value = find(name);
  std::vector<int32_t> result;
  if (value == nullptr) return result;
  if (value->as_array() == nullptr) return {checked_integer(name, value, range)};
  for (const Json& item : *value->as_array()) result.push_back(checked_integer(name, &item, range));
  return result;
}

std::optional<HfConfig> HfConfig::section(std::string_view name) const {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (value->as_object() == nullptr) wrong_type(name, value, "an object");
  HfConfig inner(*value, file_);
  inner.prefix_ = detail::join_message(prefix_, name, ".");
  return inner;
}

HfConfig HfConfig::with_defaults(std::initializer_list<std::pair<const char*, int64_t>> defaults) const {
  Json::Object fields = *root_.as_object();
  for (const auto& fallback : defaults) {
    if (has(fallback.first)) continue;
    std::erase_if(fields, [&](const auto& field) { return field.first == fallback.first; });
    fields.emplace_back(fallback.first, Json(fallback.second));
  }
  HfConfig result(Json(std::move(fields)), file_);
  result.prefix_ = prefix_;
  return result;
}

bool HfConfig::has_sections() const {
  for (const auto& [name, value] : *root_.as_object()) {
    if (value.as_object() != nullptr) return true;
  }
  return false;
}

}  // namespace quire
