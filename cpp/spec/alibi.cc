#include "spec/alibi.h"

#include <bit>
#include <cmath>

namespace quire {

std::vector<double> alibi_slopes(const Alibi& alibi, int32_t heads) {
  const auto count = static_cast<int32_t>(std::bit_ceil(static_cast<uint32_t>(heads)));
  const auto slope = [&](int32_t i) { return std::exp2(-alibi.max_bias * (i + 1) / count); };
  std::vector<double> slopes;
  if (count == heads) {
    for (int32_t i = 0; i < count; ++i) slopes.push_back(slope(i));
    return slopes;
  }
  for (int32_t i = 1; i < count; i += 2) slopes.push_back(slope(i));
  for (int32_t i = 0; i < count; i += 2) slopes.push_back(slope(i));
  slopes.resize(static_cast<size_t>(heads));
  return slopes;
}

}  // namespace quire
