#pragma once

#include <memory>

#include "engine/open_model.h"
#include "quire/engine.h"

namespace quire {

/// Read the weights of an opened model and start the thread that runs it. Raises: as Engine::create().
std::unique_ptr<Engine> start_engine(OpenModel model, const LoadProgress& progress = {});

}  // namespace quire
