#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quire {

/// Where a checkpoint keeps one canonical module. ".weight" and ".bias" are put behind each name.
///
/// Canonical modules: embedding, position_embedding, final_norm, head; and of each layer attention_norm, attention.qkv,
/// attention.q_norm, attention.k_norm, attention.out, ffn_norm, ffn.up, ffn.down. qkv holds q over k over v; ffn.up of
/// a gated model gate over up.
struct NameRule {
  std::string_view module;
  /// One name renames; several are concatenated along the outputs, in the canonical order. "{body}" stands for the
  /// prefix that the file uses, "{i}" for the layer's number.
  std::vector<std::string_view> sources;
  /// Stored as [inputs, outputs], GPT-2's Conv1D.
  bool transposed = false;
};

/// The weight names of a family, as data.
struct NameMap {
  /// What the names of the model's body may begin with; the first under which the embedding is found counts.
  std::vector<std::string_view> bodies;
  std::vector<NameRule> rules;
  /// Patterns of tensors that hold no weight: buffers that older libraries saved. '*' stands for any characters.
  std::vector<std::string_view> ignored;

  /// Raises: kInternal if the family has no such module.
  const NameRule& rule(std::string_view module) const;
  bool ignores(std::string_view name) const;
};

/// A source name with its placeholders filled in.
std::string expand_name(std::string_view source, std::string_view body, int32_t layer);

/// Does `name` match the pattern as a whole? Linear in name times pattern.
bool matches_pattern(std::string_view pattern, std::string_view name);

}  // namespace quire
