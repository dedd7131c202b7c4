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

class Matcher {
 public:
  Matcher(const ModelFolder& folder, const Checkpoint& checkpoint)
      : spec_(folder.spec), checkpoint_(checkpoint), names_(family_named(folder.spec.family).names()) {
    for (const std::string_view body : names_.bodies) {
      body_ = body;
      if (checkpoint.find(source_names("embedding", -1, false).front()) != nullptr) return;
    }
    body_ = names_.bodies.front();
  }

  MatchedWeight match(WantedWeight wanted) const {
    MatchedWeight matched{.wanted = std::move(wanted)};
    const WantedWeight& want = matched.wanted;
    matched.transposed = names_.rule(want.module).transposed && want.inputs > 0;
    matched.sources = source_names(want.module, want.layer, want.is_bias);
    QUIRE_CHECK(matched.sources.size() == 1 || matched.sources.size() == want.outputs.size(), "module=", want.module,
                ", sources=", matched.sources.size());
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
      const int64_t outputs = weight.sources.size() == 1 ? want.num_outputs() : want.outputs[i];
      std::vector<int64_t> expected = {outputs};
      if (want.inputs > 0) expected.insert(weight.transposed ? expected.begin() : expected.end(), want.inputs);
      const std::string& name = weight.sources[i];
      const Tensor& tensor = *checkpoint_.find(name);
      const bool same = static_cast<size_t>(tensor.rank) == expected.size() &&
                        std::equal(expected.begin(), expected.end(), tensor.shape.begin());
      QUIRE_REQUIRE(same, ErrorKind::kInvalidArgument, "[", checkpoint_.file_of(name),
                    "] tensor of wrong shape: name=", in_quotes(name), ", expected=", shape_text(expected), " (by ",
                    want.fields, " in config.json), got=", shape_text(tensor));
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
  std::vector<std::string> source_names(std::string_view module, int32_t layer, bool is_bias) const {
    std::vector<std::string> names;
    for (const std::string_view source : names_.rule(module).sources) {
      names.push_back(expand_name(source, body_, layer) + (is_bias ? ".bias" : ".weight"));
    }
    return names;
  }

  /// Files of tied models may hold the head all the same: it equals the embedding.
  bool ignores(const std::string& name) const {
    return names_.ignores(name) || (spec_.tied && name == source_names("head", -1, false).front());
  }

  const ModelSpec& spec_;
  const Checkpoint& checkpoint_;
  NameMap names_;
  std::string_view body_;
};

/// Widening 16 bits changes no value, so that float32 keeps such a matrix as it is stored.
DType held_type(DType stored, std::optional<DType> wanted) {
  return !wanted || (*wanted == DType::kFloat32 && dtype_bytes(stored) == 2) ? stored : *wanted;
}

}  // namespace

int64_t MatchedWeight::bytes() const {
  return wanted.num_outputs() * std::max<int64_t>(wanted.inputs, 1) * dtype_bytes(held);
}

std::vector<MatchedWeight> match_weights(const ModelFolder& folder, const Checkpoint& checkpoint,
                                         std::optional<DType> dtype, ModelWeights& weights) {
  QUIRE_REQUIRE(!dtype || is_weight_type(*dtype), ErrorKind::kInvalidArgument,
                "[weights] weights cannot be held in this type: dtype=", dtype_name(*dtype),
                ", expected=float32, bfloat16 or float16");
  const Matcher matcher(folder, checkpoint);
  std::vector<MatchedWeight> matched;
  for (WantedWeight& wanted : wanted_weights(folder.spec, weights)) matched.push_back(matcher.match(std::move(wanted)));
  matcher.require_same_names(matched);
  for (MatchedWeight& weight : matched) {
    matcher.require_shapes(weight);
    weight.stored = matcher.stored_type(weight);
    weight.held = weight.wanted.inputs == 0 ? DType::kFloat32 : held_type(weight.stored, dtype);
  }
  return matched;
}

}  // namespace quire
