#pragma once

#include <cstdint>
#include <string_view>

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
constexpr Range<double> kNormEps{0.0, 1.0};

/// heads, kv_heads and head_dim; `heads` must divide the width where the config gives no head_dim, and kv_heads the
/// heads.
Attention attention_shape(const HfConfig& config, int32_t width, const FieldNames& heads, const FieldNames& kv_heads);

/// An activation by the name that transformers has for it.
/// Raises: kUnsupported for a name that there is no kernel for.
Ffn::Act activation(const HfConfig& config, const FieldNames& names, std::string_view fallback);

/// rope_theta, partial_rotary_factor and scaling, from the fields of transformers 4 (rope_scaling, with "type" or
/// "rope_type") or 5 (rope_parameters).
/// Raises: kUnsupported for an unknown kind of scaling and for parameters per layer type.
Rope rope(const HfConfig& config, int32_t head_dim);

/// The longest sequence: the minimum over the fields that say so, times the factor of linear and dynamic scaling; for
/// yarn the original length times its factor. Never more than a table of learned positions has. 2048 if nothing says.
int32_t max_positions(const HfConfig& config, const Positions& positions);

}  // namespace quire
