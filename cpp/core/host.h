#pragma once

#include <cstdint>

namespace quire {

/// Physical cores that this process may run on, by its affinity mask and its control group's quota; at least 1.
int physical_core_count();

/// Bytes of main memory that this process could still take: what the system says is available, bounded by what the
/// limits of its control groups leave. At least 0; INT64_MAX where the system does not say.
int64_t available_host_memory();

/// Bytes of main memory that this machine has; INT64_MAX where the system does not say.
int64_t total_host_memory();

}  // namespace quire
