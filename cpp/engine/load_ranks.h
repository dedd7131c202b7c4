#pragma once

#include <memory>

#include "engine/open_model.h"
#include "engine/ranks.h"
#include "quire/engine.h"

namespace quire {

/// Say in the log where the memory goes, connect the ranks of an opened model, whose backends are taken, and read the
/// weights, every rank its share on a thread of its own. `progress` is that of the first rank.
/// Raises: as Engine::create().
std::unique_ptr<Ranks> load_ranks(OpenModel& model, const LoadProgress& progress);

}  // namespace quire
