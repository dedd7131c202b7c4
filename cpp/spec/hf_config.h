#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/json.h"

namespace quire {

/// Both ends included.
template <typename T>
struct Range {
  T min;
  T max;
};

/// The names that one field goes by; the first that is there counts.
class FieldNames {
 public:
  FieldNames(const char* name) : names_{name} {}  // NOLINT(google-explicit-constructor): a name is a list of one
  FieldNames(std::initializer_list<std::string_view> names) : names_(names) {}

  auto begin() const { return names_.begin(); }
  auto end() const { return names_.end(); }
  std::string_view first() const { return names_.front(); }

 private:
  std::vector<std::string_view> names_;
};

/// Typed reader over config.json, or over an object within it. null counts as absent, as in transformers.
///
/// Every method raises kInvalidArgument for a value of wrong type or outside its range, in one line that names file,
/// field, value and what was expected; those without `_or` also if the field is absent.
class HfConfig {
 public:
  /// `root` must be an object (kInvalidArgument). `file` opens the messages.
  HfConfig(Json root, std::string file);

  /// Is the field there, and not null?
  bool has(std::string_view name) const { return find(name) != nullptr; }
  bool is_null(std::string_view name) const;
  bool is_string(std::string_view name) const;

  int32_t integer(const FieldNames& names, Range<int32_t> range) const;
  int32_t integer_or(const FieldNames& names, int32_t fallback, Range<int32_t> range) const;
  double number(const FieldNames& names, Range<double> range) const;
  double number_or(const FieldNames& names, double fallback, Range<double> range) const;
  bool boolean_or(const FieldNames& names, bool fallback) const;
  std::string string_or(const FieldNames& names, std::string_view fallback) const;

  /// A list of exactly `count` numbers.
  std::vector<double> numbers(const FieldNames& names, size_t count, Range<double> range) const;
  /// A list of strings, empty if absent.
  std::vector<std::string> strings(const FieldNames& names) const;
  /// One integer or a list of them, empty if absent.
  std::vector<int32_t> integers(const FieldNames& names, Range<int32_t> range) const;

  /// The object under a name; its fields are called "name.field" in messages.
  std::optional<HfConfig> section(std::string_view name) const;
  /// Is any member of this object an object itself?
  bool has_sections() const;

  /// The same with integers for fields that are absent or null: the defaults of the family's own configuration class.
  HfConfig with_defaults(std::initializer_list<std::pair<const char*, int64_t>> defaults) const;

  /// Throw, naming file and field: "[config.json] PROBLEM: FIELD=VALUE, expected=EXPECTED".
  [[noreturn]] void refuse(ErrorKind kind, const FieldNames& names, std::string_view problem,
                           std::string_view expected) const;

  const std::string& file() const { return file_; }

 private:
  const Json* find(std::string_view name) const;
  /// The first of the names that is there, or of all names the first.
  std::string_view present(const FieldNames& names) const;
  [[noreturn]] void refuse_value(ErrorKind kind, std::string_view name, const Json* value, std::string_view problem,
                                 std::string_view expected) const;
  /// Refuse a value, or its absence if it is null.
  [[noreturn]] void wrong_type(std::string_view name, const Json* value, std::string_view expected) const;
  int32_t checked_integer(std::string_view name, const Json* value, Range<int32_t> range) const;
  double checked_number(std::string_view name, const Json* value, Range<double> range) const;

  Json root_;
  std::string file_;
  std::string prefix_;  ///< "rope_scaling." within that object
};

}  // namespace quire
