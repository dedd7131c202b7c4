// Scores of a token's experts, the best groups, the best experts in them, and their weights, as cpp/backend/ops/moe.h
// says. A warp per token, of which lane l has experts l, l + 32, ... in registers. What is compared becomes an unsigned
// number of the same order (a key), because a warp finds the largest of these in one instruction; a second one finds
// the smallest id that has it. Key 0 is below all numbers and marks what cannot be chosen (any more). Limited by
// latency.
#include <climits>
#include <cmath>

#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/reduce.cuh"
#include "kernels_cuda/ops.h"

namespace quire::gpu {
namespace {

constexpr unsigned kMaxWarps = 4;
constexpr size_t kSharedBytes = 48 << 10;

struct Routing {
  const float* logits;
  int64_t logits_stride;
  const float* choice_bias;
  int64_t num_tokens;
  int32_t num_experts;
  int32_t num_groups;
  int32_t top_groups;
  int32_t top_k;
  float scale;
  bool sigmoid;
  bool renormalize;
  bool best_two;
  int32_t* experts;
  float* weights;
};

/// Words of shared memory for a token: scores, keys of groups, the chosen, and what experts are chosen by, if in
/// groups.
__host__ __device__ inline int32_t token_words(const Routing& routing) {
  const int32_t choice = routing.num_groups > 1 ? routing.num_experts : 0;
  return routing.num_experts + routing.num_groups + routing.top_k + choice;
}

/// Of the same order as the values; zeros of both signs are equal, NaN has no place in it.
__device__ inline unsigned key_of(float value) {
  const unsigned bits = __float_as_uint(value + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

__device__ inline int32_t smallest_of_warp(int32_t value) {
  return static_cast<int32_t>(~warp_largest(~static_cast<unsigned>(value)));
}

/// The best two of some numbers.
struct BestTwo {
  float first = -INFINITY;
  float second = -INFINITY;

  __device__ void offer(float value) {
    second = fmaxf(second, fminf(first, value));
    first = fmaxf(first, value);
  }
};

/// Of a token with at most 32 * kPerLane experts.
template <int kPerLane>
class TokenRouter {
 public:
  __device__ TokenRouter(const Routing& routing, float* memory, int lane)
      : routing_(routing),
        scores_(memory),
        group_keys_(reinterpret_cast<unsigned*>(scores_ + routing.num_experts)),
        chosen_(reinterpret_cast<int32_t*>(group_keys_ + routing.num_groups)),
        choice_(reinterpret_cast<float*>(chosen_ + routing.top_k)),
        lane_(lane) {}

  __device__ void route(int64_t token) {
    int32_t* const experts = routing_.experts + token * routing_.top_k;
    float* const weights = routing_.weights + token * routing_.top_k;
    if (!compute_keys(routing_.logits + token * routing_.logits_stride)) {
      for (int32_t j = lane_; j < routing_.top_k; j += 32) {
        experts[j] = j;
        weights[j] = NAN;
      }
      return;
    }
    if (routing_.num_groups > 1) keep_best_groups();
    choose();
    weigh(experts, weights);
  }

 private:
  template <typename Body>
  __device__ void for_each(const Body& body) const {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int32_t expert = lane_ + 32 * i;
      if (expert < routing_.num_experts) body(i, expert);
    }
  }

  /// Whether there is no NaN among the scores with their biases.
  __device__ bool compute_keys(const float* logits) {
    float scores[kPerLane], bias[kPerLane];
    for_each([&](int i, int32_t expert) {
      scores[i] = logits[expert];
      bias[i] = routing_.choice_bias != nullptr ? routing_.choice_bias[expert] : 0.0f;
    });
    if (routing_.sigmoid) {
      for_each([&](int i, int32_t) { scores[i] = 1.0f / (1.0f + expf(-scores[i])); });
    } else {
      float most = -INFINITY;
      for_each([&](int i, int32_t) { most = fmaxf(most, scores[i]); });
      most = warp_max(most);
      float sum = 0.0f;
      for_each([&](int i, int32_t) {
        scores[i] = expf(scores[i] - most);
        sum += scores[i];
      });
      sum = warp_sum(sum);
      for_each([&](int i, int32_t) { scores[i] /= sum; });
    }
    bool clean = true;
    for_each([&](int i, int32_t expert) {
      const float choice = scores[i] + bias[i];
      scores_[expert] = scores[i];
      if (routing_.num_groups > 1) choice_[expert] = choice;
      keys_[i] = key_of(choice);
      clean = clean && !isnan(choice);
    });
    return all_of_warp(clean);
  }

  /// Take the keys from what is not in the best groups.
  __device__ void keep_best_groups() {
    sync_warp();
    score_groups();
    sync_warp();
    for (int32_t place = 0; place < routing_.top_groups; ++place) {
      unsigned own = 0;
      int32_t own_group = INT_MAX;
      for (int32_t group = lane_; group < routing_.num_groups; group += 32) {
        if (group_keys_[group] > own) {
          own = group_keys_[group];
          own_group = group;
        }
      }
      const unsigned best = warp_largest(own);
      const int32_t group = smallest_of_warp(own == best ? own_group : INT_MAX);
      if (group == own_group && group != INT_MAX) group_keys_[group] = 0;
    }
    sync_warp();
    const int32_t size = routing_.num_experts / routing_.num_groups;
    for_each([&](int i, int32_t expert) {
      if (group_keys_[expert / size] != 0) keys_[i] = 0;
    });
  }

  /// As many lanes as there are for each group share its experts, every group in another order, so that they read from
  /// different banks.
  __device__ void score_groups() {
    const int32_t size = routing_.num_experts / routing_.num_groups;
    int32_t sharers = 1;
    while (2 * sharers * routing_.num_groups <= 32) sharers *= 2;
    const int32_t rounds = (size + sharers - 1) / sharers;
    for (int32_t first = 0; first < routing_.num_groups; first += 32 / sharers) {
      const int32_t group = first + lane_ / sharers;
      const bool mine = group < routing_.num_groups;
      BestTwo best;
      for (int32_t round = 0; mine && round < rounds; ++round) {
        const int32_t expert = (round + group) % rounds * sharers + lane_ % sharers;
        if (expert < size) best.offer(choice_[group * size + expert]);
      }
      for (int32_t offset = sharers / 2; offset > 0; offset /= 2) {
        const BestTwo other{shuffle_xor(best.first, offset), shuffle_xor(best.second, offset)};
        best.offer(other.first);
        best.offer(other.second);
      }
      float score = routing_.best_two && size > 1 ? best.first + best.second : best.first;
      if (isnan(score)) score = -INFINITY;  // infinities of both signs
      if (mine && lane_ % sharers == 0) group_keys_[group] = key_of(score);
    }
  }

  __device__ void choose() {
    for (int32_t place = 0; place < routing_.top_k; ++place) {
      unsigned own = 0;
      int32_t own_expert = INT_MAX;
      for_each([&](int i, int32_t expert) {
        if (keys_[i] > own) {
          own = keys_[i];
          own_expert = expert;
        }
      });
      const unsigned best = warp_largest(own);
      const int32_t expert = smallest_of_warp(own == best ? own_expert : INT_MAX);
      for_each([&](int i, int32_t each) {
        if (each == expert) keys_[i] = 0;
      });
      if (lane_ == 0) chosen_[place] = expert;
    }
    sync_warp();
  }

  __device__ void weigh(int32_t* experts, float* weights) const {
    float sum = 0.0f;
    for (int32_t j = lane_; j < routing_.top_k; j += 32) sum += scores_[chosen_[j]];
    sum = warp_sum(sum);
    if (routing_.sigmoid) sum += 1e-20f;  // all may be 0
    for (int32_t j = lane_; j < routing_.top_k; j += 32) {
      float weight = scores_[chosen_[j]];
      if (routing_.renormalize) weight /= sum;
      experts[j] = chosen_[j];
      weights[j] = weight * routing_.scale;
    }
  }

  const Routing& routing_;
  float* const scores_;
  unsigned* const group_keys_;
  int32_t* const chosen_;
  float* const choice_;
  const int lane_;
  unsigned keys_[kPerLane];
};

template <int kPerLane>
__global__ void __launch_bounds__(kMaxWarps * 32) route_kernel(const __grid_constant__ Routing routing) {
  QUIRE_DYNAMIC_SHARED(float, shared);
  let_next_start();
  wait_for_previous();
  const unsigned warp = threadIdx.x / 32;
  const int64_t token = int64_t{blockIdx.x} * (blockDim.x / 32) + warp;
  if (token >= routing.num_tokens) return;
  TokenRouter<kPerLane>(routing, shared + warp * token_words(routing), static_cast<int>(threadIdx.x % 32)).route(token);
}

auto choose_kernel(int32_t num_experts) {
  QUIRE_CHECK(num_experts <= 32 * 64, "num_experts=", num_experts);
  if (num_experts <= 32 * 2) return route_kernel<2>;
  if (num_experts <= 32 * 4) return route_kernel<4>;
  if (num_experts <= 32 * 8) return route_kernel<8>;
  return num_experts <= 32 * 16 ? route_kernel<16> : route_kernel<64>;
}

}  // namespace

void route(const RouteArgs& args, Stream& stream) {
  const int64_t num_tokens = args.logits.shape[0];
  if (num_tokens == 0) return;
  const Routing routing{.logits = args.logits.as<const float>(),
                        .logits_stride = args.logits.strides[0],
                        .choice_bias = args.choice_bias.as<const float>(),
                        .num_tokens = num_tokens,
                        .num_experts = static_cast<int32_t>(args.logits.shape[1]),
                        .num_groups = args.num_groups,
                        .top_groups = args.top_groups,
                        .top_k = args.top_k,
                        .scale = args.scale,
                        .sigmoid = args.scoring == RouterScoring::kSigmoid,
                        .renormalize = args.renormalize,
                        .best_two = args.group_scoring == GroupScoring::kSumOfBestTwo,
                        .experts = args.experts,
                        .weights = args.weights};
  const size_t token_bytes = static_cast<size_t>(token_words(routing)) * sizeof(float);
  const unsigned warps = kMaxWarps * token_bytes <= kSharedBytes ? kMaxWarps : 1;
  const auto blocks = static_cast<unsigned>((num_tokens + warps - 1) / warps);
  launch("route", choose_kernel(routing.num_experts), blocks, warps * 32, warps * token_bytes, as_gpu(stream), routing);
}

}  // namespace quire::gpu
