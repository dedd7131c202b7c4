#pragma once

#include <vector>

#include "core/tensor.h"
#include "weights/checkpoint.h"
#include "weights/match.h"

namespace quire {

/// The parts of a rank's share of a weight as views of its sources, group after group and within each in canonical
/// order: whatever the checkpoint stacks, splits or interleaves is undone by offsets and strides. Matrices are
/// [outputs, inputs], or [inputs, outputs] if `weight.transposed`; vectors have one axis, or two where the file gives
/// them two. The shapes have been checked.
std::vector<Tensor> weight_parts(const MatchedWeight& weight, const Checkpoint& checkpoint);

}  // namespace quire
