#pragma once

#include <cstddef>
#include <cstdlib>
#include <string_view>

#include "core/check.h"

namespace quire::gpu {

/// QUIRE_CHAIN, for measurements and tests: "always" or "never" instead of where it pays.
enum class ChainUse { kAlways, kWherePays, kNever };

/// Bytes of a chain's products, in the mean, from which on it pays: what is read ahead covers the time between small
/// ones no better than kernels do that overlap. On an H200 a step of one token takes 2 % longer as a chain with
/// Llama-3.2-1B (30 MB), 11 % less with Llama-3-8B (109 MB).
constexpr size_t kLeastMeanBytes = size_t{40} << 20;

inline ChainUse chain_use() {
  const char* const value = std::getenv("QUIRE_CHAIN");
  const std::string_view use = value == nullptr ? "" : value;
  QUIRE_REQUIRE(use.empty() || use == "always" || use == "never", ErrorKind::kInvalidArgument,
                "[device] QUIRE_CHAIN is neither \"always\" nor \"never\": got=", use);
  return use == "always" ? ChainUse::kAlways : use == "never" ? ChainUse::kNever : ChainUse::kWherePays;
}

}  // namespace quire::gpu
