#include "runtime/step_outputs.h"

#include <algorithm>

#include "core/check.h"

namespace quire {
namespace {

constexpr int64_t kAlignment = 256;

/// Candidates stand behind the tokens.
int64_t candidates_offset(int32_t max_rows) {
  const int64_t bytes = int64_t{max_rows} * static_cast<int64_t>(sizeof(SampledToken));
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

size_t candidate_bytes(int64_t num_rows, int32_t max_candidates) {
  return static_cast<size_t>(num_rows * max_candidates) * sizeof(SampledCandidate);
}

}  // namespace

SampleResult StepResults::operator[](int32_t row) const {
  const SampledToken& token = tokens_[static_cast<size_t>(row)];
  SampleResult result{.token = token.token, .logprob = token.logprob, .finite = token.finite != 0};
  if (candidates_ != nullptr) {
    result.candidates = {candidates_ + int64_t{row} * max_candidates_, static_cast<size_t>(token.num_candidates)};
  }
  return result;
}

bool StepResults::same_tokens(const StepResults& other) const {
  return std::ranges::equal(tokens_, other.tokens_, [](const SampledToken& own, const SampledToken& theirs) {
    return own.finite == theirs.finite && (own.finite == 0 || own.token == theirs.token);
  });
}

StepOutputs::StepOutputs(Backend& backend, int32_t max_rows, int32_t max_candidates)
    : backend_(backend),
      max_rows_(max_rows),
      max_candidates_(max_candidates),
      device_(backend.allocate(static_cast<size_t>(bytes(max_rows, max_candidates)), MemoryKind::kWorkspace)) {
  for (Fetch& fetch : fetches_) {
    fetch.host = backend.allocate_host(device_.bytes());
    fetch.arrived = backend.create_event();
  }
}

int64_t StepOutputs::bytes(int32_t max_rows, int32_t max_candidates) {
  return candidates_offset(max_rows) + static_cast<int64_t>(candidate_bytes(max_rows, max_candidates));
}

SampledCandidate* StepOutputs::candidates() const {
  return reinterpret_cast<SampledCandidate*>(static_cast<std::byte*>(device_.data()) + candidates_offset(max_rows_));
}

void StepOutputs::fetch(int32_t num_rows, bool with_candidates, Stream& stream) {
  QUIRE_CHECK(num_rows <= max_rows_ && num_in_flight_ < 2, "num_rows=", num_rows, ", max_rows=", max_rows_,
              ", steps on their way=", num_in_flight_);
  Fetch& fetch = fetches_[next_ % 2];
  fetch.num_rows = num_rows;
  fetch.with_candidates = with_candidates;
  auto* const host = static_cast<std::byte*>(fetch.host.data());
  backend_.enqueue_to_host(host, tokens(), static_cast<size_t>(num_rows) * sizeof(SampledToken), stream);
  if (with_candidates) {
    backend_.enqueue_to_host(host + candidates_offset(max_rows_), candidates(),
                             candidate_bytes(num_rows, max_candidates_), stream);
  }
  fetch.arrived->record(stream);
  ++next_;
  ++num_in_flight_;
}

StepResults StepOutputs::wait() {
  QUIRE_CHECK(num_in_flight_ > 0, "no step is on its way");
  const Fetch& fetch = fetches_[(next_ - static_cast<uint32_t>(num_in_flight_)) % 2];
  --num_in_flight_;
  fetch.arrived->wait();
  const auto* const host = static_cast<const std::byte*>(fetch.host.data());
  const auto* const candidates = reinterpret_cast<const SampledCandidate*>(host + candidates_offset(max_rows_));
  return {{reinterpret_cast<const SampledToken*>(host), static_cast<size_t>(fetch.num_rows)},
          fetch.with_candidates ? candidates : nullptr,
          max_candidates_};
}

}  // namespace quire
