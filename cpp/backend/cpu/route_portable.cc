// The route op, the same for every instruction set: of E scores per token, few hundred at most, the best are kept in a
// list in falling order, into which hardly any score beyond the first ones gets. What limits: latency of the compares.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "backend/cpu/kernels.h"
#include "backend/cpu/rows.h"

namespace quire::cpu::portable {
namespace {

/// The best numbers of those offered so far, in falling order of their values. Offered in rising order, so that the
/// smaller of equals comes first.
class BestList {
 public:
  BestList(int32_t* memory, int64_t size) : best_(memory), size_(size) {}

  void offer(int32_t id, const float* values) {
    if (count_ == size_) {
      if (!(values[id] > values[best_[count_ - 1]])) return;
      --count_;
    }
    int64_t place = count_++;
    for (; place > 0 && values[id] > values[best_[place - 1]]; --place) best_[place] = best_[place - 1];
    best_[place] = id;
  }

  std::span<int32_t> ids() const { return {best_, static_cast<size_t>(count_)}; }

 private:
  int32_t* best_;
  int64_t size_;
  int64_t count_ = 0;
};

/// What one worker needs for a token.
struct RouteMemory {
  float* scores = nullptr;           ///< [E]
  float* choice = nullptr;           ///< [E], scores with the bias
  float* group_scores = nullptr;     ///< [num_groups]
  int32_t* chosen_groups = nullptr;  ///< [top_groups]

  static size_t bytes(const RouteArgs& args) {
    return static_cast<size_t>(2 * args.logits.shape[1] + args.num_groups + args.top_groups) * sizeof(float);
  }

  RouteMemory(void* memory, const RouteArgs& args)
      : scores(static_cast<float*>(memory)),
        choice(scores + args.logits.shape[1]),
        group_scores(choice + args.logits.shape[1]),
        chosen_groups(reinterpret_cast<int32_t*>(group_scores + args.num_groups)) {}
};

class TokenRouter {
 public:
  TokenRouter(const RouteArgs& args, const RouteMemory& memory)
      : args_(args), memory_(memory), num_experts_(args.logits.shape[1]) {}

  void route(int64_t token) {
    const float* const logits = args_.logits.as<const float>() + token * args_.logits.strides[0];
    int32_t* const experts = args_.experts + token * args_.top_k;
    float* const weights = args_.weights + token * args_.top_k;
    if (!compute_scores(logits)) {
      for (int32_t j = 0; j < args_.top_k; ++j) {
        experts[j] = j;
        weights[j] = std::numeric_limits<float>::quiet_NaN();
      }
      return;
    }
    choose(BestList(experts, args_.top_k));
    weigh(experts, weights);
  }

 private:
  /// Whether there is no NaN among them: such a token must be seen to be broken, and cannot be compared.
  bool compute_scores(const float* logits) {
    float* const scores = memory_.scores;
    if (args_.scoring == RouterScoring::kSigmoid) {
      for (int64_t e = 0; e < num_experts_; ++e) scores[e] = 1.0f / (1.0f + std::exp(-logits[e]));
    } else {
      const float max = *std::max_element(logits, logits + num_experts_);
      float sum = 0.0f;
      for (int64_t e = 0; e < num_experts_; ++e) {
        scores[e] = std::exp(logits[e] - max);
        sum += scores[e];
      }
      for (int64_t e = 0; e < num_experts_; ++e) scores[e] /= sum;
    }
    bool clean = true;
    for (int64_t e = 0; e < num_experts_; ++e) {
      memory_.choice[e] = scores[e] + (args_.choice_bias ? args_.choice_bias.as<const float>()[e] : 0.0f);
      clean = clean && !std::isnan(memory_.choice[e]);
    }
    return clean;
  }

  void choose(BestList best) const {
    if (args_.num_groups == 1) return offer_experts(best, 0, num_experts_);
    const int64_t size = num_experts_ / args_.num_groups;
    BestList groups(memory_.chosen_groups, args_.top_groups);
    for (int32_t group = 0; group < args_.num_groups; ++group) {
      memory_.group_scores[group] = group_score(memory_.choice + group * size, size);
      groups.offer(group, memory_.group_scores);
    }
    std::sort(groups.ids().begin(), groups.ids().end());
    for (const int32_t group : groups.ids()) offer_experts(best, group * size, (group + 1) * size);
  }

  void offer_experts(BestList& best, int64_t begin, int64_t end) const {
    for (int64_t e = begin; e < end; ++e) best.offer(static_cast<int32_t>(e), memory_.choice);
  }

  float group_score(const float* choice, int64_t size) const {
    float first = choice[0];
    float second = -std::numeric_limits<float>::infinity();
    for (int64_t e = 1; e < size; ++e) {
      second = std::max(second, std::min(first, choice[e]));
      first = std::max(first, choice[e]);
    }
    return args_.group_scoring == GroupScoring::kSumOfBestTwo && size > 1 ? first + second : first;
  }

  void weigh(const int32_t* experts, float* weights) const {
    float sum = 0.0f;
    for (int32_t j = 0; j < args_.top_k; ++j) {
      weights[j] = memory_.scores[experts[j]];
      sum += weights[j];
    }
    if (args_.scoring == RouterScoring::kSigmoid) sum += 1e-20f;  // all may be 0
    for (int32_t j = 0; j < args_.top_k; ++j) {
      if (args_.renormalize) weights[j] /= sum;
      weights[j] *= args_.scale;
    }
  }

  const RouteArgs& args_;
  const RouteMemory& memory_;
  const int64_t num_experts_;
};

}  // namespace

void route(const RouteArgs& args, Stream& stream) {
  CpuStream& cpu = as_cpu(stream);
  cpu.reserve_scratch(RouteMemory::bytes(args));
  // A score costs about as much as ten floats of a simple pass.
  const int64_t least = std::max<int64_t>(1, kMinElementsPerWorker / (10 * args.logits.shape[1]));
  cpu.pool().parallel_for(args.logits.shape[0], least, [&](int64_t begin, int64_t end, int worker) {
    const RouteMemory memory(cpu.scratch(worker), args);
    TokenRouter router(args, memory);
    for (int64_t token = begin; token < end; ++token) router.route(token);
  });
}

}  // namespace quire::cpu::portable
