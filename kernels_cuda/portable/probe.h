#pragma once

#include "kernels_cuda/common/vendor.h"

namespace quire::gpu {

/// Whether this build has code for the current device: an error that is_missing_code() if not.
vendor::Result probe_code();

}  // namespace quire::gpu
