#pragma once

#include <memory>
#include <string>

#include "backend/backend.h"

namespace quire {

/// Make the backend that `device` names: "auto", "cpu", "cpu:portable", "cpu:avx2", "cpu:avx512".
/// `num_threads`: 0 for one per physical core.
/// Raises: kInvalidArgument for an unknown name (listing the known ones), kUnsupported if this machine or build lacks
/// it.
std::unique_ptr<Backend> create_backend(const std::string& device, int num_threads);

}  // namespace quire
