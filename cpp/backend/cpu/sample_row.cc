#include "backend/cpu/sample_row.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/random.h"

namespace quire::cpu {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();
/// As in SamplingParams: below it the best token is taken.
constexpr float kGreedyTemperature = 1e-5f;

int64_t num_chunks(int64_t vocabulary) {
  return (vocabulary + kSampleChunk - 1) / kSampleChunk;
}

int64_t num_groups(int64_t vocabulary) {
  return (vocabulary + kSampleGroup - 1) / kSampleGroup;
}

/// Hands out pieces of one block of memory, each 64-byte aligned. Without memory it only counts.
class Carver {
 public:
  explicit Carver(void* memory) : memory_(static_cast<std::byte*>(memory)) {}

  template <typename T>
  void take(T*& pointer, int64_t count) {
    pointer = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    used_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
  }

  size_t used() const { return used_; }

 private:
  std::byte* memory_;
  size_t used_ = 0;
};

size_t carve(SampleMemory& memory, void* block, int64_t vocabulary) {
  Carver carver(block);
  carver.take(memory.chunk, kSampleChunk);
  carver.take(memory.group_best, num_groups(vocabulary));
  carver.take(memory.group_order, num_groups(vocabulary));
  carver.take(memory.sums, num_chunks(vocabulary));
  carver.take(memory.ids, vocabulary);
  carver.take(memory.candidates, vocabulary);
  carver.take(memory.order, vocabulary);
  carver.take(memory.edits.bits, LogitEdits::bits_words(vocabulary));
  carver.take(memory.edits.counts, vocabulary);
  carver.take(memory.edits.saved, vocabulary);
  return carver.used();
}

}  // namespace

size_t SampleMemory::bytes(int64_t vocabulary) {
  SampleMemory memory;
  return carve(memory, nullptr, vocabulary);
}

void SampleMemory::assign(void* memory, int64_t vocabulary) {
  carve(*this, memory, vocabulary);
}

RowSampler::RowSampler(float* logits, int64_t vocabulary, const SampleRow& row, const SampleLists& lists,
                       const SampleMemory& memory, const SamplePasses& passes, ThreadPool* pool)
    : logits_(logits),
      vocabulary_(vocabulary),
      row_(row),
      lists_(lists),
      memory_(memory),
      passes_(passes),
      pool_(pool) {}

void RowSampler::sample(SampledToken& result, SampledCandidate* candidates) {
  const bool given = row_.given_token >= 0;
  const bool greedy = given || row_.temperature < kGreedyTemperature;
  LogitEdits edits(logits_, vocabulary_, memory_.edits);
  const bool edits_finite = given || edits.apply(row_, lists_);
  softmax_ = sum_row(greedy ? 1.0f : 1.0f / row_.temperature);
  result.finite = softmax_.finite && edits_finite ? 1 : 0;
  if (result.finite == 0) return;

  const int64_t top_k = row_.top_k > 0 && row_.top_k < vocabulary_ ? row_.top_k : 0;
  if (given) {
    result.token = row_.given_token;
  } else if (greedy) {
    result.token = best_token();
  } else {
    const double uniform = uniform_draw(row_.seed, row_.sequence, row_.position);
    if (top_k > 0 || row_.top_p < 1.0f || row_.min_p > 0.0f) {
      cut(top_k);
      result.token = draw_from_kept(uniform);
    } else {
      result.token = draw_from_row(uniform);
    }
  }
  if (row_.raw_logprobs != 0 && !given) {
    const bool changed = kept_.has_value() || !edits.empty() || softmax_.scale != 1.0f;
    kept_.reset();
    if (changed) {
      edits.undo();
      softmax_ = sum_row(1.0f);
    }
  }
  result.logprob = log_probability(result.token);
  if (row_.num_logprobs >= 0) report(result, candidates);
}

RowSampler::Softmax RowSampler::sum_row(float scale) const {
  const int64_t chunks = num_chunks(vocabulary_);
  const auto sum = [&](int64_t first, int64_t last, int) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const int64_t begin = chunk * kSampleChunk;
      memory_.sums[chunk] = passes_.sum(logits_ + begin, std::min(kSampleChunk, vocabulary_ - begin), scale,
                                        memory_.group_best + begin / kSampleGroup);
    }
  };
  if (pool_ != nullptr) {
    constexpr int64_t kMinChunksPerWorker = 4;
    pool_->parallel_for(chunks, kMinChunksPerWorker, sum);
  } else {
    sum(0, chunks, 0);
  }
  Softmax softmax{.best = kNothing, .scale = scale, .total = 0.0, .finite = true};
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    softmax.best = std::max(softmax.best, memory_.sums[chunk].best);
    softmax.finite = softmax.finite && memory_.sums[chunk].finite;
  }
  softmax.finite = softmax.finite && softmax.best > kNothing;
  if (!softmax.finite) return softmax;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) softmax.total += chunk_weight(memory_.sums[chunk], softmax);
  return softmax;
}

double RowSampler::chunk_weight(const ChunkSum& sum, const Softmax& softmax) {
  return sum.sum * std::exp((double{sum.best} - softmax.best) * softmax.scale);
}

int32_t RowSampler::best_token() const {
  int64_t group = 0;
  while (memory_.group_best[group] != softmax_.best) ++group;
  int64_t id = group * kSampleGroup;
  while (logits_[id] != softmax_.best) ++id;
  return static_cast<int32_t>(id);
}

/// The first token in order of id at which the cumulated weight passes the draw: first its chunk, then its place there.
int32_t RowSampler::draw_from_row(double uniform) const {
  double left = uniform * softmax_.total;
  int64_t chunk = 0;
  for (const int64_t last = num_chunks(vocabulary_) - 1; chunk < last; ++chunk) {
    const double weight = chunk_weight(memory_.sums[chunk], softmax_);
    if (left < weight) break;
    left -= weight;
  }
  const int64_t begin = chunk * kSampleChunk;
  const int64_t size = std::min(kSampleChunk, vocabulary_ - begin);
  passes_.weigh(logits_ + begin, size, softmax_.scale, softmax_.best, memory_.chunk);
  // Rounding may leave a little beyond the chunk's end: then its last token that can be drawn.
  int64_t token = -1;
  for (int64_t i = 0; i < size; ++i) {
    if (memory_.chunk[i] == 0.0f) continue;
    token = begin + i;
    if (left < memory_.chunk[i]) break;
    left -= memory_.chunk[i];
  }
  return token >= 0 ? static_cast<int32_t>(token) : best_token();
}

/// The logit that a weight belongs to, a little lower: rounding must not lose a candidate.
float RowSampler::logit_of_weight(double weight) const {
  if (weight <= 0.0) return kNothing;
  constexpr double kSlack = 1e-3;
  return static_cast<float>(softmax_.best + (std::log(weight) - kSlack) / softmax_.scale);
}

/// A lower bound of the `count`-th best logit: so many groups have one at least as large.
float RowSampler::bound_of_best(int64_t count) const {
  const int64_t groups = num_groups(vocabulary_);
  if (count > groups) return kNothing;
  if (count <= 0) return std::numeric_limits<float>::infinity();
  std::copy_n(memory_.group_best, groups, memory_.group_order);
  std::nth_element(memory_.group_order, memory_.group_order + (count - 1), memory_.group_order + groups,
                   [](float a, float b) { return a > b; });
  return memory_.group_order[count - 1];
}

/// All tokens with at least that logit, in order of id, with their weights.
std::span<Candidate> RowSampler::collect(float least) const {
  const int64_t count = passes_.collect(logits_, vocabulary_, least, memory_.ids);
  for (int64_t begin = 0; begin < count; begin += kSampleChunk) {
    const int64_t size = std::min(kSampleChunk, count - begin);
    for (int64_t i = 0; i < size; ++i) memory_.chunk[i] = logits_[memory_.ids[begin + i]];
    passes_.weigh(memory_.chunk, size, softmax_.scale, softmax_.best, memory_.chunk);
    for (int64_t i = 0; i < size; ++i) {
      const int32_t id = memory_.ids[begin + i];
      memory_.candidates[begin + i] = {.id = id, .logit = logits_[id], .weight = memory_.chunk[i]};
    }
  }
  return {memory_.candidates, static_cast<size_t>(count)};
}

/// Find what top_k, top_p and min_p keep. Afterwards memory_.candidates holds it, in order of id, kept_.count of them.
void RowSampler::cut(int64_t top_k) {
  std::span<Candidate> candidates;
  if (top_k > 0) {
    candidates = collect(bound_of_best(top_k));
  } else {
    // Tokens that together weigh no more than what top_p drops are all dropped. A first guess takes few tokens and
    // nearly always holds top_p; the second holds it but for rounding; the third is the row.
    const double dropped = (1.0 - double{row_.top_p}) * softmax_.total;
    for (const double least : {dropped / 1024.0, dropped / static_cast<double>(vocabulary_), 0.0}) {
      const bool min_p_rules = row_.min_p >= least;
      candidates = collect(logit_of_weight(std::max<double>(row_.min_p, least)));
      if (min_p_rules || total_weight(candidates) >= row_.top_p * softmax_.total) break;
    }
  }
  std::copy(candidates.begin(), candidates.end(), memory_.order);
  const std::span<Candidate> order(memory_.order, candidates.size());
  const auto kept = order.first(static_cast<size_t>(cut_candidates(order, row_, top_k, softmax_.total)));
  kept_ = Kept{.worst = *std::max_element(kept.begin(), kept.end(), better), .count = 0};
  for (const Candidate& candidate : candidates) {
    if (kept_->has(candidate.id, candidate.logit)) memory_.candidates[kept_->count++] = candidate;
  }
  softmax_.total = total_weight({memory_.candidates, static_cast<size_t>(kept_->count)});
}

int32_t RowSampler::draw_from_kept(double uniform) const {
  double left = uniform * softmax_.total;
  int32_t token = -1;
  for (int64_t i = 0; i < kept_->count; ++i) {
    const Candidate& candidate = memory_.candidates[i];
    if (candidate.weight == 0.0f) continue;
    token = candidate.id;
    if (left < candidate.weight) break;
    left -= candidate.weight;
  }
  return token;
}

float RowSampler::log_probability(int32_t id) const {
  const float logit = logits_[id];
  if (kept_ && !kept_->has(id, logit)) return kNothing;
  return static_cast<float>((double{logit} - softmax_.best) * softmax_.scale - std::log(softmax_.total));
}

int32_t RowSampler::rank(int32_t id) const {
  const float logit = logits_[id];
  // Before it also those that are equal: larger than the next float below, of which minus infinity has none.
  int64_t before = id;
  if (id > 0 && logit > kNothing) before = passes_.count_larger(logits_, id, std::nextafter(logit, kNothing));
  return static_cast<int32_t>(1 + before + passes_.count_larger(logits_ + id, vocabulary_ - id, logit));
}

void RowSampler::report(SampledToken& result, SampledCandidate* candidates) const {
  int32_t& count = result.num_candidates;
  candidates[count++] = {.token = result.token, .rank = rank(result.token), .logprob = result.logprob};
  const int64_t wanted = std::min<int64_t>(row_.num_logprobs, vocabulary_);
  const auto add = [&](int32_t id, int64_t place) {
    if (id == result.token) return;
    candidates[count++] = {.token = id, .rank = static_cast<int32_t>(place + 1), .logprob = log_probability(id)};
  };
  const int64_t whole = kept_ ? std::min(wanted, kept_->count) : wanted;
  const std::span<Candidate> best = collect(bound_of_best(whole));
  select_best(best, whole);
  std::sort(best.begin(), best.begin() + whole, better);
  for (int64_t place = 0; place < whole; ++place) add(best[static_cast<size_t>(place)].id, place);
  // All dropped tokens are alike: minus infinity, the smaller id first.
  int64_t place = whole;
  for (int32_t id = 0; place < wanted; ++id) {
    if (!kept_->has(id, logits_[id])) add(id, place++);
  }
}

}  // namespace quire::cpu
