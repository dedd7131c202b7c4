#pragma once

#include "backend/packed_linear.h"
#include "core/thread_pool.h"

namespace quire::cpu {

/// What PackedLinear::data must hold. Raises: kUnsupported for a type without a kernel, kInternal for parts that do not
/// fit together.
struct PackedShape {
  int64_t n = 0;
  int64_t k = 0;
  int64_t bytes = 0;
};
PackedShape packed_shape(const LinearSource& source);

/// Fill `packed`, whose data has packed_shape(source).bytes, on the pool's threads.
void pack_panels(const LinearSource& source, PackedLinear& packed, ThreadPool& pool);

}  // namespace quire::cpu
