#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/share.h"

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
  enum class Kind { kNone, kLinear, kDynamic, kLlama3, kYarn, kLongRope, kQwenDynamic };
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
  /// > 0: the query of the n-th token, counted from 1, is multiplied by log(n) to this base where that is more than 1
  /// (Qwen's log-n attention).
  int32_t log_scale_base = 0;

  bool operator==(const Rope&) const = default;
};

struct Alibi {
  double max_bias = 8.0;
  /// The slopes are multiplied by the attention scale (Falcon-RW).
  bool scaled = false;

  bool operator==(const Alibi&) const = default;
};

/// Learned absolute positions: a table added to the embeddings.
struct LearnedPositions {
  int32_t num_positions = 0;  ///< rows a sequence may use
  int32_t offset = 0;         ///< OPT: 2
};

struct NoPositions {};

using Positions = std::variant<Rope, Alibi, LearnedPositions, NoPositions>;

/// Keys and values of all heads come from one small vector per token, which is what the cache holds (DeepSeek's MLA). A
/// head of `head_dim` begins with components that are up-projected from it and ends with rotated ones, whose key is
/// shared by all heads.
struct Latent {
  int32_t q_rank = 0;  ///< width of the compressed query; 0: not compressed
  int32_t kv_rank = 0;
  int32_t rope_dim = 0;
  Norm norm;  ///< of the compressed query and of the latent
};

/// The heads of a whole model, and where those stand in it that a rank has.
struct AllHeads {
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t first = 0;
  int32_t first_kv = 0;
};

/// Axis 3: attention.
struct Attention {
  int32_t heads = 0;       ///< H
  int32_t kv_heads = 0;    ///< G
  int32_t head_dim = 0;    ///< K
  int32_t v_head_dim = 0;  ///< 0: as head_dim
  std::optional<Latent> latent;
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
  /// In a rank's share of a model, where `heads` and `kv_heads` are the rank's (weights/shard.h).
  std::optional<AllHeads> all;

  int32_t value_dim() const { return v_head_dim > 0 ? v_head_dim : head_dim; }
  /// What the cache holds of a token: heads, and components of each key and value.
  int32_t cache_heads() const { return latent ? 1 : kv_heads; }
  int32_t cache_key_dim() const { return latent ? latent->kv_rank + latent->rope_dim : head_dim; }
  int32_t cache_value_dim() const { return latent ? latent->kv_rank : value_dim(); }

  /// Heads of which a rank computes queries and keys: a norm over all heads needs those of the other ranks too.
  int32_t computed_heads() const { return computes_all() ? all->heads : heads; }
  int32_t computed_kv_heads() const { return computes_all() ? all->kv_heads : kv_heads; }
  /// The rank's own first one among them.
  int32_t first_head() const { return computes_all() ? all->first : 0; }
  int32_t first_kv_head() const { return computes_all() ? all->first_kv : 0; }

 private:
  bool computes_all() const { return all && qk_norm == QkNorm::kFull; }
};

/// What scores are multiplied by.
double attention_scale(const Attention& attention);

/// A feed-forward part of many experts, of which each token uses a few. The fields of the op backend/ops/moe.h.
struct Moe {
  int32_t num_experts = 0;  ///< E
  int32_t top_k = 0;
  enum class Scoring { kSoftmax, kSigmoid };
  Scoring scoring = Scoring::kSoftmax;
  bool renormalize = false;
  int32_t num_groups = 1;
  int32_t top_groups = 1;
  /// Groups are judged by the sum of their two best experts (DeepSeek-V3), not by the best one (V2).
  bool groups_by_two = false;
  double scale = 1.0;
  bool router_bias = false;  ///< added to the logits
  bool choice_bias = false;  ///< added to the scores for choosing only
  int32_t shared_width = 0;  ///< F of a further expert that every token uses; 0: none
  bool shared_gate = false;  ///< its output is multiplied by a sigmoid
};

/// Axis 5 (axis 4, recurrent mixers, comes with the first family that has one).
struct Ffn {
  enum class Act { kSilu, kGelu, kGeluTanh, kGeluQuick, kRelu, kRelu2 };
  int32_t width = 0;  ///< F, of each expert if there are several
  Act act = Act::kSilu;
  bool gated = true;
  bool bias = false;
  double limit = 0.0;   ///< > 0: bound of both halves before the activation (gpt-oss)
  double offset = 0.0;  ///< added to the half that is multiplied
  std::optional<Moe> moe;

  int32_t up_columns(int32_t ffn_width) const { return gated ? 2 * ffn_width : ffn_width; }
};

/// Axis 6: a layer. With A and F for the two parts, each with its output norm and residual_scale applied:
enum class Wiring {
  kSequential,        ///< x += A(norm1(x)); x += F(norm2(x))
  kParallel,          ///< x += A(norm1(x)) + F(norm1(x))
  kParallelTwoNorms,  ///< x += A(norm1(x)) + F(norm2(x))
  kPost,              ///< x = norm1(x + A(x)); x = norm2(x + F(x))
  kNormedResidual     ///< x = norm1(x); x += A(x); x = norm2(x); x += F(x)
};

struct Layer {
  Attention attention;
  Ffn ffn;
  Wiring wiring = Wiring::kSequential;
  Norm attention_norm;
  Norm ffn_norm;
  Norm attention_out_norm{.kind = Norm::Kind::kNone};
  Norm ffn_out_norm{.kind = Norm::Kind::kNone};
  float residual_scale = 1.0f;
};

/// Axis 7: the whole.
struct ModelSpec {
  std::string family;        ///< the row of the family table
  std::string architecture;  ///< as in config.json
  int32_t vocab = 0;         ///< V
  int32_t padding_rows = 0;  ///< rows of the stored tables behind V, which are no tokens and are not read
  int32_t width = 0;         ///< D
  std::vector<Layer> layers;
  int32_t embed_width = 0;   ///< of the embeddings and the head, with a projection on either side; 0: D
  float embed_scale = 1.0f;  ///< of learned positions too
  Norm embed_norm{.kind = Norm::Kind::kNone};
  Norm final_norm;
  bool tied = false;  ///< the head is the embedding table
  bool head_bias = false;
  bool head_unit_rows = false;  ///< each row of the head is divided by its length (Baichuan2); folded in at load
  float logit_scale = 1.0f;
  float logit_softcap = 0.0f;
  /// Longest sequence, rope scaling included.
  int32_t max_positions = 2048;
  /// Whose share of the whole model this is: of heads and of feed-forward columns those in the layers, and a share of
  /// the head's rows; all else is held by every rank.
  Rank rank;
  /// Layers behind the last one that a checkpoint holds for other uses: multi-token prediction. They are not read.
  int32_t num_extra_layers = 0;

  Share head_rows() const { return share_of_rank(vocab, rank.index, rank.num_ranks); }
  bool projects_embedding() const { return embed_width > 0 && embed_width != width; }

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
  /// Pairs lie side by side in every head.
  void interleave_rope() {
    for (Layer& layer : layers) std::get<Rope>(layer.attention.positions).interleaved = true;
  }
  /// One norm everywhere.
  void set_norms(const Norm& norm) {
    final_norm = norm;
    for (Layer& layer : layers) layer.attention_norm = layer.ffn_norm = norm;
  }
  template <typename Change>
  void for_layers(Change&& change) {
    for (Layer& layer : layers) change(layer);
  }
};

}  // namespace quire
