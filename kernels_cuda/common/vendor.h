// What the host's part of the backend asks of a GPU's vendor, by names that belong to none: the one place, with
// vendor.cuh for kernels, that knows for whom a file is being compiled.
#pragma once

#if defined(QUIRE_FOR_HIP)
#include "kernels_hip/compat.h"
#else
#include "kernels_cuda/common/nvidia.h"
#endif
