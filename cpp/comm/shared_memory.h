#pragma once

#include <chrono>

#include "comm/communicator.h"

namespace quire {

/// How long ranks wait for one that does not come. Beside the slowest op, whose length all ranks share, only a machine
/// that has no time for one of them keeps it away.
constexpr std::chrono::milliseconds kPatience = std::chrono::minutes(5);

/// Connect ranks whose memory is the host's and whose ops have run when they return: threads of one process, each of
/// which reads and writes the others' tensors. Sums are made in the order of the ranks, each element by one of them.
/// float32 only. Raises: kInvalidArgument for no ranks.
Communicators connect_shared_memory(int num_ranks, std::chrono::milliseconds patience = kPatience);

}  // namespace quire
