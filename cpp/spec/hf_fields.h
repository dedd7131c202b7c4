#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "spec/hf_config.h"
#include "spec/spec.h"

/// Parts of config.json that many families share, read into the spec's structs.
namespace quire {

// What no model comes near, but small enough that products of two or three stay within 64 bits and a hostile config
// cannot ask for much memory.
constexpr Range<int32_t> kLayerCounts{1, 1000};
constexpr Range<int32_t> kHeadCounts{1, 1 << 16};
constexpr Range<int32_t> kHeadDims{1, 1 << 12};
constexpr Range<int32_t> kWidths{1, 1 << 20};
constexpr Range<int32_t> kVocabSizes{1, 1 << 24};
constexpr Range<int32_t> kPositionCounts{1, 1 << 30};
constexpr Range<int32_t> kExpertCounts{1, 1 << 14};
constexpr Range<double> kNormEps{0.0, 1.0};
constexpr Range<double> kMultipliers{1e-6, 1e6};
constexpr Range<double> kRopeBases{2.0, 1e15};

/// heads, kv_heads and head_dim; `heads` must divide the width where the config gives no head_dim, and kv_heads the
/// heads.
Attention attention_shape(const HfConfig& config, int32_t width, const FieldNames& heads, const FieldNames& kv_heads);

/// An activation by the name that transformers has for it.
/// Raises: kUnsupported for a name that there is no kernel for.
Ffn::Act activation(const HfConfig& config, const FieldNames& names, std::string_view fallback);

/// rope_theta, partial_rotary_factor (also by their older names) and scaling, from the fields of transformers 4
/// (rope_scaling, with "type" or "rope_type") or 5 (rope_parameters).
/// Raises: kUnsupported for an unknown kind of scaling, and for parameters per type where no type is given.
struct RopeDefaults {
  double base = 10000.0;
  double rotated = 1.0;  ///< share of a head's components
  /// Which parameters, if the config has them per type of layer.
  std::string_view layer_type = {};
};
Rope rope(const HfConfig& config, int32_t head_dim, const RopeDefaults& defaults = {});

/// A norm with its eps.
Norm rms_norm(const HfConfig& config, const FieldNames& eps, double fallback = 1e-6);
Norm layer_norm(const HfConfig& config, const FieldNames& eps, double fallback = 1e-5);

/// Does each layer slide? By `layer_types`; without it every layer but each `pattern`-th, or, if that is 0, the answer
/// is empty.
/// Raises: kUnsupported for an unknown type, kInvalidArgument if it is not as long as there are layers.
std::vector<bool> sliding_layers(const HfConfig& config, size_t num_layers, int32_t pattern = 0);

/// sliding_window, 0 if it is null or, without a fallback, absent.
int32_t sliding_window(const HfConfig& config, int32_t fallback = 0);

/// The number of experts and how many of them a token uses, which is not more.
Moe experts(const HfConfig& config, const FieldNames& num_experts, const FieldNames& top_k);

/// Raise kUnsupported if a field holds anything but what the family can do.
void require_string(const HfConfig& config, const FieldNames& names, std::string_view supported);
void require_boolean(const HfConfig& config, const FieldNames& names, bool supported);

/// How many components each head has where the width is dealt out evenly.
/// Raises: kInvalidArgument if it cannot be.
int32_t even_head_dim(const HfConfig& config, int32_t width, const FieldNames& heads);

/// The longest sequence: the minimum over the fields that say so, times the factor of linear and dynamic scaling; for
/// yarn the original length times its factor. Never more than a table of learned positions has. 2048 if nothing says.
int32_t max_positions(const HfConfig& config, const Positions& positions);

}  // namespace quire
