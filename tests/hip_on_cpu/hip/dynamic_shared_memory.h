// Comes before a source whose kernels have no shared memory but that of the size that a launch gives, and say
// `extern __shared__ float shared[]`: this is then what they mean.
#pragma once

#include "hip/kernel_language.h"

#undef __shared__
#define __shared__

namespace quire::gpu {
namespace {
float shared[hip_on_cpu::kMostSharedBytes / sizeof(float)];
}  // namespace
}  // namespace quire::gpu
