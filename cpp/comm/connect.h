#pragma once

#include <span>

#include "backend/backend.h"
#include "comm/communicator.h"

namespace quire {

/// Connect the ranks of a model: backends of one kind, each to be used by a thread of its own.
/// Raises: as Backend::connect().
Communicators connect(std::span<Backend* const> ranks);

}  // namespace quire
