#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

/// What a decoder-only model is, as plain data on seven axes. Defaults mean "llama". No tensor and no op in here: a
/// family function sets fields, the loader fills weights by them and the decoder reads them.
namespace quire {

/// Axis 1: normalisation.
struct Norm {
  enum class Kind { kRms, kLayer, kNone };
  Kind kind = Kind::kRms;
  float eps = 1e-5f;
  bool weight = true;
  bool bias = false;
  /// The stored weight is an offset from one (Gemma); folded into the weight at load.
  bool unit_offset = false;
};

/// Axis 2: positions.
struct RopeScaling {
  enum class Kind { kNone, kLinear, kDynamic, kLlama3, kYarn, kLongRope };
  Kind kind = Kind::kNone;
  double factor = 1.0;
  int32_t original_max_positions = 0;
  double low_freq_factor = 1.0;   ///< llama3
  double high_freq_factor = 4.0;  ///< llama3
  double beta_fast = 32.0;        ///< yarn
  double beta_slow = 1.0;         ///< yarn
  bool truncate = true;           ///< yarn: round the correction range to whole dimensions
  /// yarn, longrope: multiplies cos and sin; negative: derived from the factor.
  double attention_factor = -1.0;
  double mscale = 0.0;                ///< yarn as in DeepSeek
  double mscale_all_dim = 0.0;        ///< yarn as in DeepSeek
  std::vector<double> short_factors;  ///< longrope, one per pair
  std::vector<double> long_factors;   ///< longrope

  bool operator==(const RopeScaling&) const = default;
};

struct Rope {
  int32_t dim = 0;  ///< rotated components of a head; even
  double base = 10000.0;
  bool interleaved = false;
  RopeScaling scaling;

  bool operator==(const Rope&) const = default;
};

struct Alibi {
  double max_bias = 8.0;
  /// The slopes are multiplied by the attention scale (Falcon-RW).
  bool scaled = false;
};

/// Learned absolute positions: a table added to the embeddings.
struct LearnedPositions {
  int32_t num_positions = 0;  ///< rows a sequence may use
  int32_t offset = 0;         ///< OPT: 2
};

struct NoPositions {};

using Positions = std::variant<Rope, Alibi, LearnedPositions, NoPositions>;

/// Axis 3: attention.
struct Attention {
  int32_t heads = 0;       ///< H
  int32_t kv_heads = 0;    ///< G
  int32_t head_dim = 0;    ///< K
  int32_t v_head_dim = 0;  ///< 0: as head_dim
  bool qkv_bias = false;
  bool out_bias = false;
  enum class QkNorm { kNone, kHead, kPerHeadWeights, kFull };
  QkNorm qk_norm = QkNorm::kNone;
  Norm qk_norm_kind;
  Positions positions = Rope{};
  int32_t window = 0;  ///< keys a query sees, itself included; 0: all
  double scale = 0.0;  ///< 0: 1 / sqrt(head_dim)
  double softcap = 0.0;
  double clip_qkv = 0.0;
  bool sinks = false;

  int32_t value_dim() const { return v_head_dim > 0 ? v_head_dim : head_dim; }
};

/// Axis 5 (axis 4, recurrent mixers, comes with the first family that has one).
struct Ffn {
  enum class Act { kSilu, kGelu, kGeluTanh, kGeluQuick, kRelu, kRelu2 };
  int32_t width = 0;  ///< F
  Act act = Act::kSilu;
  bool gated = true;
  bool bias = false;
};

/// Axis 6: a layer.
struct Layer {
  Attention attention;
  Ffn ffn;
  /// kPre: x += attn(norm1(x)); x += ffn(norm2(x)).
  enum class Wiring { kPre };
  Wiring wiring = Wiring::kPre;
  Norm attention_norm;
  Norm ffn_norm;
};

/// Axis 7: the whole.
struct ModelSpec {
  std::string family;        ///< the row of the family table
  std::string architecture;  ///< as in config.json
  int32_t vocab = 0;         ///< V
  int32_t width = 0;         ///< D
  std::vector<Layer> layers;
  float embed_scale = 1.0f;
  Norm final_norm;
  bool tied = false;  ///< the head is the embedding table
  bool head_bias = false;
  float logit_scale = 1.0f;
  float logit_softcap = 0.0f;
  /// Longest sequence, rope scaling included.
  int32_t max_positions = 2048;

  /// Apply a change to the attention (or feed-forward part) of every layer: how one family is told as a difference from
  /// another.
  template <typename Change>
  void for_attention(Change&& change) {
    for (Layer& layer : layers) change(layer.attention);
  }
  template <typename Change>
  void for_ffn(Change&& change) {
    for (Layer& layer : layers) change(layer.ffn);
  }
};

}  // namespace quire
