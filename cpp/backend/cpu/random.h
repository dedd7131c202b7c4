#pragma once

#include <array>
#include <cstdint>

namespace quire::cpu {

/// Philox4x32-10: four random words from a 128-bit counter and a 64-bit key, without state.
/// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; constants as in Random123.
constexpr std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t second = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(second >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(second),
               static_cast<uint32_t>(first >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(first)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

/// The one draw of a row, in [0, 1) with 32 bits: a pure function of what names the token.
constexpr double uniform_draw(uint64_t seed, uint32_t sequence, uint64_t position) {
  const auto words = philox4x32({static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), sequence, 0u},
                                {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return words[0] * 0x1p-32;
}

}  // namespace quire::cpu
