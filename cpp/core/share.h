#pragma once

#include <cstdint>

namespace quire {

/// One of the ranks that compute a model together.
struct Rank {
  int32_t index = 0;
  int32_t num_ranks = 1;

  bool operator==(const Rank&) const = default;
};

/// A range of columns or rows.
struct Share {
  int64_t first = 0;
  int64_t count = 0;

  bool operator==(const Share&) const = default;
};

/// What a rank has of `count` things of which each rank takes as many, the last ones fewer if they do not go evenly.
constexpr Share share_of_rank(int64_t count, int rank, int num_ranks) {
  const int64_t each = (count + num_ranks - 1) / num_ranks;
  const int64_t first = rank * each < count ? rank * each : count;
  return {first, first + each < count ? each : count - first};
}

}  // namespace quire
