#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "backend/cpu/random.h"
#include "backend/ops/sample.h"

namespace quire::test {

/// A row beside the lists that it names.
struct Choice : SampleRow {
  std::vector<int32_t> prompt, output, masked;
  std::vector<TokenBias> bias;
};

/// Sampling as ops/sample.h defines it, step by step and in double, by sorting the whole row.
struct SampleOracle {
  std::vector<double> logits;   ///< after bias, mask and penalties, divided by the temperature
  std::vector<int32_t> order;   ///< best first
  std::vector<double> weights;  ///< of every id; 0 if dropped
  double total = 0.0;
  double nearest_cut = 1.0;  ///< how close top_p or min_p were to deciding otherwise, as a share of the mass

  SampleOracle(const std::vector<float>& row, const Choice& choice) {
    logits = edited(row, choice);
    const bool greedy = choice.temperature < 1e-5f || choice.given_token >= 0;
    if (!greedy) {
      for (double& logit : logits) logit /= choice.temperature;
    }
    order.resize(row.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return at(a) > at(b); });
    for (const double logit : logits) weights.push_back(std::exp(logit - at(order[0])));
    if (!greedy) cut(choice);
    total = std::accumulate(weights.begin(), weights.end(), 0.0);
  }

  double logprob(int32_t id) const { return std::log(weights[static_cast<size_t>(id)] / total); }

  /// Whether `id` is what a draw gives, but for rounding at the ends of its interval.
  bool drawn(int32_t id, double uniform) const {
    double before = 0.0;
    for (int32_t i = 0; i < id; ++i) before += weights[static_cast<size_t>(i)] / total;
    const double weight = weights[static_cast<size_t>(id)] / total;
    constexpr double kRounding = 1e-5;
    return weight > 0.0 && uniform >= before - kRounding && uniform <= before + weight + kRounding;
  }

  int32_t rank(int32_t id) const {
    return static_cast<int32_t>(std::find(order.begin(), order.end(), id) - order.begin()) + 1;
  }

  /// The float logits after bias, mask and penalties, as double.
  static std::vector<double> edited(std::vector<float> row, const Choice& choice) {
    if (choice.given_token < 0) {
      for (const auto& [id, bias] : choice.bias) row[static_cast<size_t>(id)] += bias;
      for (const int32_t id : choice.masked) {
        row[static_cast<size_t>(id)] = -std::numeric_limits<float>::infinity();
      }
      std::set<int32_t> seen(choice.prompt.begin(), choice.prompt.end());
      seen.insert(choice.output.begin(), choice.output.end());
      for (const int32_t id : seen) {
        float& logit = row[static_cast<size_t>(id)];
        logit = logit > 0.0f ? logit / choice.repetition_penalty : logit * choice.repetition_penalty;
      }
      std::map<int32_t, int> counts;
      for (const int32_t id : choice.output) ++counts[id];
      for (const auto& [id, count] : counts) {
        row[static_cast<size_t>(id)] -= choice.frequency_penalty * static_cast<float>(count);
        row[static_cast<size_t>(id)] -= choice.presence_penalty;
      }
    }
    return {row.begin(), row.end()};
  }

 private:
  double at(int32_t id) const { return logits[static_cast<size_t>(id)]; }

  void cut(const SampleRow& choice) {
    size_t kept = order.size();
    if (choice.top_k > 0) kept = std::min(kept, static_cast<size_t>(choice.top_k));
    double mass = 0.0;
    for (size_t i = 0; i < kept; ++i) mass += weights[static_cast<size_t>(order[i])];
    if (choice.top_p < 1.0f) {
      double before = 0.0;
      for (size_t i = 0; i < kept; ++i) {
        nearest_cut = std::min(nearest_cut, std::abs(before / mass - choice.top_p));
        if (i > 0 && before >= double{choice.top_p} * mass) kept = i;
        if (i < kept) before += weights[static_cast<size_t>(order[i])];
      }
    }
    for (size_t i = 0; i < order.size(); ++i) {
      double& weight = weights[static_cast<size_t>(order[i])];
      if (choice.min_p > 0.0f) nearest_cut = std::min(nearest_cut, std::abs(weight - choice.min_p));
      if (i >= kept || weight < choice.min_p) weight = 0.0;
    }
  }
};

}  // namespace quire::test
