#include "weights/match.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "core/check.h"
#include "core/quote.h"
#include "spec/families/table.h"
#include "weights/layout.h"

namespace quire {
namespace {

constexpr size_t kNamesShown = 5;

bool is_weight_type(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16;
}

std::string list_of(const std::vector<std::string>& names) {
  std::string text = std::to_string(names.size());
  for (size_t i = 0; i < names.size() && i < kNamesShown; ++i) {
    text += (i == 0 ? " (" : ", ") + in_quotes(names[i]);
  }
  if (names.size() > kNamesShown) text += ", ...";
  return names.empty() ? text : text + ")";
}

/// Shapes in which one source of a weight may be stored; the first is the usual one.
std::vector<std::vector<int64_t>> allowed_shapes(const MatchedWeight& weight, size_t source) {
  const WantedWeight& want = weight.wanted;
  const size_t per_group = weight.sources_per_group();
  const int64_t outputs = per_group == 1 ? want.stored_outputs() : want.outputs[source % per_group];
  std::vector<int64_t> one = {outputs};
  if (want.inputs > 0) one.insert(weight.transposed ? one.begin() : one.end(), want.inputs);
  if (want.groups > 1 && !weight.per_group) {
    // All groups in one tensor, with an axis of their own or one behind the other along the first.
    std::vector<int64_t> stacked = one, flat = one;
    stacked.insert(stacked.begin(), want.groups);
    flat.front() *= want.groups;
    return {stacked, flat};
  }
  const auto parts = static_cast<int64_t>(want.outputs.size());
  if (want.rows > 0 && want.groups == 1 && per_group == 1) return {one, {parts, outputs / parts}};
  return {one};
}

class Matcher {
 public:
  Matcher(const ModelFolder& folder, const Checkpoint& checkpoint)
      : spec_(folder.spec), checkpoint_(checkpoint), names_(family_named(folder.spec.family).names(folder.spec)) {
    for (const NamePrefix& prefix : names_.prefixes) {
      prefix_ = prefix;
      if (checkpoint.find(module_name("embedding")) != nullptr) return;
    }
    prefix_ = names_.prefixes.front();
  }

  MatchedWeight match(WantedWeight wanted) const {
    MatchedWeight matched{.wanted = std::move(wanted)};
    const WantedWeight& want = matched.wanted;
    const NameRule& rule = names_.rule(want.module);
    matched.transposed = rule.transposed && want.inputs > 0;
    matched.split = rule.split;
    matched.per_group = want.groups > 1 && rule.sources.front().find("{e}") != std::string_view::npos;
    for (int64_t group = 0; group < (matched.per_group ? want.groups : 1); ++group) add_sources(rule, group, matched);
    const size_t per_group = matched.sources_per_group();
    QUIRE_CHECK(per_group == 1 || per_group == want.outputs.size(), "module=", want.module, ", sources=", per_group);
    return matched;
  }

  /// Every source must be there, and every tensor be a source or one to ignore.
  void require_same_names(const std::vector<MatchedWeight>& weights) const {
    std::set<std::string_view> used;
    std::vector<std::string> missing;
    for (const MatchedWeight& weight : weights) {
      for (const std::string& name : weight.sources) {
        if (used.insert(name).second && checkpoint_.find(name) == nullptr) missing.push_back(name);
      }
    }
    std::vector<std::string> left_over;
    for (const auto& [name, tensor] : checkpoint_.tensors()) {
      if (!used.contains(name) && !ignores(name)) left_over.push_back(name);
    }
    QUIRE_REQUIRE(missing.empty() && left_over.empty(), ErrorKind::kInvalidArgument, "[", checkpoint_.name(),
                  "] the tensors do not fit config.json: architecture=", spec_.architecture,
                  ", missing=", list_of(missing), ", left over=", list_of(left_over));
  }

  void require_shapes(const MatchedWeight& weight) const {
    const WantedWeight& want = weight.wanted;
    for (size_t i = 0; i < weight.sources.size(); ++i) {
      const std::string& name = weight.sources[i];
      const Tensor& tensor = *checkpoint_.find(name);
      const auto allowed = allowed_shapes(weight, i);
      const bool fits = std::any_of(allowed.begin(), allowed.end(), [&](const std::vector<int64_t>& shape) {
        return static_cast<size_t>(tensor.rank) == shape.size() &&
               std::equal(shape.begin(), shape.end(), tensor.shape.begin());
      });
      QUIRE_REQUIRE(fits, ErrorKind::kInvalidArgument, "[", checkpoint_.file_of(name),
                    "] tensor of wrong shape: name=", in_quotes(name), ", expected=", shape_text(allowed.front()),
                    " (by ", want.fields, " in config.json), got=", shape_text(tensor));
    }
  }

  /// Type of all sources of a weight.
  DType stored_type(const MatchedWeight& weight) const {
    const DType first = checkpoint_.find(weight.sources.front())->dtype;
    for (const std::string& name : weight.sources) {
      const DType dtype = checkpoint_.find(name)->dtype;
      QUIRE_REQUIRE(is_weight_type(dtype), ErrorKind::kInvalidArgument, "[", checkpoint_.file_of(name),
                    "] tensor of wrong type: name=", in_quotes(name),
                    ", expected=float32, bfloat16 or float16, got=", dtype_name(dtype));
      QUIRE_REQUIRE(dtype == first, ErrorKind::kInvalidArgument, "[", checkpoint_.file_of(name),
                    "] tensors that belong together differ in type: name=", in_quotes(name),
                    ", expected=", dtype_name(first), " as ", in_quotes(weight.sources.front()),
                    ", got=", dtype_name(dtype));
    }
    return first;
  }

 private:
  /// Name of the weight of a module that has one source.
  std::string module_name(std::string_view module) const {
    const NameRule& rule = names_.rule(module);
    return expand_name(rule.sources.front(), {.prefix = prefix_}) + std::string(rule.weight_suffix);
  }

  void add_sources(const NameRule& rule, int64_t group, MatchedWeight& matched) const {
    const WantedWeight& want = matched.wanted;
    const std::string suffix(want.is_bias ? rule.bias_suffix : rule.weight_suffix);
    for (const std::string_view source : rule.sources) {
      // One tensor for each head, or one for all.
      const size_t heads = source.find("{h}") != std::string_view::npos ? want.outputs.size() : 1;
      for (size_t head = 0; head < heads; ++head) {
        matched.sources.push_back(
            expand_name(source,
                        {.prefix = prefix_, .layer = want.layer, .expert = group, .head = static_cast<int64_t>(head)}) +
            suffix);
      }
    }
  }

  bool ignores(const std::string& name) const {
    // Files of tied models may hold the head all the same: it equals the embedding.
    if (spec_.tied && name == module_name("head")) return true;
    return std::any_of(names_.ignored.begin(), names_.ignored.end(), [&](std::string_view pattern) {
      if (pattern.find("{extra}") == std::string_view::npos) return matches_pattern(pattern, name);
      for (int32_t i = 0; i < spec_.num_extra_layers; ++i) {
        const auto layer = static_cast<int64_t>(spec_.layers.size()) + i;
        if (matches_pattern(expand_name(pattern, {.prefix = prefix_, .extra_layer = layer}), name)) return true;
      }
      return false;
    });
  }

  const ModelSpec& spec_;
  const Checkpoint& checkpoint_;
  NameMap names_;
  NamePrefix prefix_;
};

}  // namespace

DType held_type(const WantedWeight& weight, DType stored, std::optional<DType> wanted) {
  if (weight.inputs == 0) return DType::kFloat32;
  const bool widens = wanted == DType::kFloat32 && dtype_bytes(stored) == 2 && weight.fold == Fold::kNone;
  return !wanted || widens ? stored : *wanted;
}

std::vector<MatchedWeight> match_weights(const ModelFolder& folder, const Checkpoint& checkpoint,
                                         std::optional<DType> dtype, ModelWeights& weights, Rank rank) {
  QUIRE_REQUIRE(!dtype || is_weight_type(*dtype), ErrorKind::kInvalidArgument,
                "[weights] weights cannot be held in this type: dtype=", dtype_name(*dtype),
                ", expected=float32, bfloat16 or float16");
  const Matcher matcher(folder, checkpoint);
  std::vector<MatchedWeight> matched;
  for (WantedWeight& wanted : wanted_weights(folder.spec, weights, rank.num_ranks)) {
    matched.push_back(matcher.match(std::move(wanted)));
    matched.back().rank = rank;
  }
  matcher.require_same_names(matched);
  for (MatchedWeight& weight : matched) {
    matcher.require_shapes(weight);
    weight.stored = matcher.stored_type(weight);
    weight.held = held_type(weight.wanted, weight.stored, dtype);
  }
  return matched;
}

}  // namespace quire
