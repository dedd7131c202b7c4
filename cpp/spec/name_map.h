#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quire {

/// How one source holds several parts: q, k and v, or gate and up.
enum class Split {
  kInOrder,     ///< one part after the other, in canonical order
  kReversed,    ///< the last part first
  kByKvHead,    ///< for every kv head its share of each part: its queries, its key, its value
  kAlternating  ///< row by row: of two parts, the even rows and the odd ones
};

/// Where a checkpoint keeps one canonical module.
///
/// Canonical modules: embedding, embedding_norm, position_embedding, project_in, project_out, final_norm, head; and of
/// each layer attention_norm, attention.qkv, attention.q_norm, attention.k_norm, attention.sinks, attention.out,
/// attention_out_norm, ffn_norm, ffn.up, ffn.down, ffn_out_norm; of latent attention attention.q_b and attention.kv_b;
/// of experts ffn.router, ffn.choice_bias, experts.up, experts.down, shared.up, shared.down, shared.gate.
/// qkv holds q over k over v, that of latent attention the query (compressed, if it is) over the latent with the shared
/// key; up of a gated model gate over up.
struct NameRule {
  std::string_view module;
  /// One name renames; several are concatenated along the outputs, in the canonical order. "{body}" and "{root}" stand
  /// for the prefixes that the file uses, "{i}" for the layer's number, "{e}" for the expert's and "{h}" for the
  /// head's. The experts' tensors are stacked; without "{e}" one tensor holds all of them.
  std::vector<std::string_view> sources;
  /// Stored as [inputs, outputs], GPT-2's Conv1D.
  bool transposed = false;
  Split split = Split::kInOrder;
  /// Put behind each name.
  std::string_view weight_suffix = ".weight";
  std::string_view bias_suffix = ".bias";
};

/// What the names of a file begin with: those of the model's body, and those of what stands outside it.
struct NamePrefix {
  std::string_view body;
  std::string_view root = "";
};

/// The weight names of a family, as data.
struct NameMap {
  /// The first under which the embedding is found counts.
  std::vector<NamePrefix> prefixes;
  std::vector<NameRule> rules;
  /// Patterns of tensors that hold no weight: buffers that older libraries saved. '*' stands for any characters,
  /// "{extra}" for the number of each of the spec's extra layers.
  std::vector<std::string_view> ignored;

  /// Raises: kInternal if the family has no such module.
  const NameRule& rule(std::string_view module) const;
  NameRule& rule(std::string_view module) {
    return const_cast<NameRule&>(static_cast<const NameMap&>(*this).rule(module));
  }
};

/// What the placeholders of a source stand for.
struct NameValues {
  NamePrefix prefix;
  int64_t layer = -1;
  int64_t expert = -1;
  int64_t head = -1;
  int64_t extra_layer = -1;
};

/// A source name with its placeholders filled in.
std::string expand_name(std::string_view source, const NameValues& values);

/// Does `name` match the pattern as a whole? Linear in name times pattern.
bool matches_pattern(std::string_view pattern, std::string_view name);

}  // namespace quire
