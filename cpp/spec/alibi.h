#pragma once

#include <cstdint>
#include <vector>

#include "spec/spec.h"

namespace quire {

/// What a score loses per token of distance, for each head: powers of 2^(-max_bias / n) with n heads, or, if n is no
/// power of two, those of the next larger one, every second first.
/// Source: Press et al., arXiv:2108.12409; transformers/models/{bloom,mpt}/modeling_*.py
std::vector<double> alibi_slopes(const Alibi& alibi, int32_t heads);

}  // namespace quire
