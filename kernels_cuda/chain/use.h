#pragma once

#include <cstdlib>
#include <string_view>

#include "core/check.h"

namespace quire::gpu {

/// QUIRE_CHAIN, for measurements and tests: "always" or "never" instead of where it pays.
enum class ChainUse { kAlways, kWherePays, kNever };

inline ChainUse chain_use() {
  const char* const value = std::getenv("QUIRE_CHAIN");
  const std::string_view use = value == nullptr ? "" : value;
  QUIRE_REQUIRE(use.empty() || use == "always" || use == "never", ErrorKind::kInvalidArgument,
                "[device] QUIRE_CHAIN is neither \"always\" nor \"never\": got=", use);
  return use == "always" ? ChainUse::kAlways : use == "never" ? ChainUse::kNever : ChainUse::kWherePays;
}

}  // namespace quire::gpu
