// The same for kernels: 16-bit numbers, what the lanes of a warp do together, how one kernel follows another.
//
// A warp is 32 lanes for every vendor, threads 32 i .. 32 i + 31 of a block in the order of their indices. Where the
// hardware's waves have 64 lanes, a wave carries two warps, which may part ways like any other two: nothing may take
// them to be at the same place.
#pragma once

#if defined(QUIRE_FOR_HIP)
#include "kernels_hip/compat.cuh"
#else
#include "kernels_cuda/common/nvidia.cuh"
#endif
