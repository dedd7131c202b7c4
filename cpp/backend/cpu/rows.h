#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/cpu/stream.h"

namespace quire::cpu {

/// Below this a worker is not worth waking: some two microseconds of a simple pass over floats.
constexpr int64_t kMinElementsPerWorker = 16384;

/// Call body(begin, end) over [0, count) items of `item_elements` floats each, on the pool if there is enough to do.
/// A decode step's small ops stay on the calling thread.
template <typename Body>
void split_items(Stream& stream, int64_t count, int64_t item_elements, const Body& body) {
  const int64_t least = std::max<int64_t>(1, kMinElementsPerWorker / std::max<int64_t>(1, item_elements));
  as_cpu(stream).pool().parallel_for(count, least, [&](int64_t begin, int64_t end, int) { body(begin, end); });
}

}  // namespace quire::cpu
