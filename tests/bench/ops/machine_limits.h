#pragma once

#include <cstddef>

#include "backend/cpu/cpu_features.h"
#include "core/thread_pool.h"

namespace quire::bench {

/// Bytes per second at which the pool's threads together read [data, data + bytes) once, doing nothing else with it.
double read_bandwidth(const void* data, size_t bytes, cpu::Isa isa, ThreadPool& pool);

/// Floating-point operations per second of float32 multiply-adds from registers, on all of the pool's threads; a
/// multiply-add counts as two.
double peak_flops(cpu::Isa isa, ThreadPool& pool);

}  // namespace quire::bench
