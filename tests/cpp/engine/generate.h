#pragma once

#include <cstdint>
#include <cstdlib>
#include <future>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/late_backend.h"
#include "engine/open_model.h"
#include "engine/start.h"
#include "quire/quire.h"

namespace quire {

/// Engine::create(), or with QUIRE_TEST_AHEAD in the environment an engine of the same kind whose device runs behind
/// its host (LateBackend).
inline std::unique_ptr<Engine> create_engine(const EngineConfig& config) {
  if (std::getenv("QUIRE_TEST_AHEAD") == nullptr) return Engine::create(config);
  OpenModel model = open_model(config);
  for (auto& backend : model.backends) backend = std::make_unique<LateBackend>(std::move(backend));
  return start_engine(std::move(model));
}

/// The same with blocks to swap out to, which the host's memory as a device has no use for.
inline std::unique_ptr<Engine> create_swapping_engine(const EngineConfig& config, int32_t num_swap_blocks) {
  OpenModel model = open_model(config);
  model.description.memory.num_swap_blocks = num_swap_blocks;
  if (std::getenv("QUIRE_TEST_AHEAD") != nullptr) {
    for (auto& backend : model.backends) backend = std::make_unique<LateBackend>(std::move(backend));
  }
  return start_engine(std::move(model));
}

/// Holds the engine thread in a callback until open(), so that requests submitted meanwhile come to it all at once and
/// the steps that follow do not depend on time.
class Gate {
 public:
  explicit Gate(Engine& engine) : state_(std::make_shared<State>()) {
    Request request{.prompt_token_ids = {0}};
    request.sampling.max_tokens = 1;
    engine.submit(request, [state = state_](Output&&) {
      state->reached.set_value();
      state->opened.get_future().wait();
    });
    state_->reached.get_future().wait();
  }
  ~Gate() { open(); }

  void open() {
    if (open_) return;
    state_->opened.set_value();
    open_ = true;
  }

 private:
  struct State {
    std::promise<void> reached, opened;
  };
  std::shared_ptr<State> state_;
  bool open_ = false;
};

/// Submit requests together, wait for all, and return their last outputs in order. Deltas are joined, so that both
/// kinds of output give the same.
inline std::vector<Output> generate(Engine& engine, const std::vector<Request>& requests, Gate* gate = nullptr) {
  const auto queue = OutputQueue::create();
  std::map<RequestId, size_t> places;
  for (const Request& request : requests) {
    const RequestId id = engine.submit(request, queue->callback());
    places.emplace(id, places.size());
  }
  if (gate != nullptr) gate->open();
  std::vector<Output> joined(requests.size());
  for (size_t num_finished = 0; num_finished < requests.size();) {
    for (Output& output : queue->take()) {
      Output& whole = joined[places.at(output.request_id)];
      std::vector<SequenceOutput> sequences = std::move(whole.sequences);
      std::vector<PositionLogprobs> prompt_logprobs = std::move(whole.prompt_logprobs);
      std::vector<SequenceOutput> news = std::move(output.sequences);
      if (prompt_logprobs.empty()) prompt_logprobs = std::move(output.prompt_logprobs);
      num_finished += output.finished ? 1 : 0;
      whole = std::move(output);
      for (SequenceOutput& added : news) {
        while (static_cast<int32_t>(sequences.size()) <= added.index) {
          sequences.push_back({.index = static_cast<int32_t>(sequences.size())});
        }
        SequenceOutput& sequence = sequences[added.index];
        sequence.text += added.text;
        sequence.token_ids.insert(sequence.token_ids.end(), added.token_ids.begin(), added.token_ids.end());
        sequence.logprobs.insert(sequence.logprobs.end(), added.logprobs.begin(), added.logprobs.end());
        sequence.cumulative_logprob = added.cumulative_logprob;
        sequence.finish_reason = added.finish_reason;
        sequence.stop_reason = added.stop_reason;
      }
      whole.sequences = std::move(sequences);
      whole.prompt_logprobs = std::move(prompt_logprobs);
    }
  }
  return joined;
}

inline Output generate(Engine& engine, const Request& request) {
  return generate(engine, std::vector<Request>{request}).front();
}

/// Tokens of all sequences with the exact log-probabilities that they were chosen with: equal only if every bit is.
inline std::vector<std::vector<std::pair<int32_t, float>>> bits(const Output& output) {
  std::vector<std::vector<std::pair<int32_t, float>>> all;
  for (const SequenceOutput& sequence : output.sequences) {
    auto& own = all.emplace_back();
    for (size_t i = 0; i < sequence.token_ids.size(); ++i) {
      own.emplace_back(sequence.token_ids[i], sequence.logprobs.at(i).front().logprob);
    }
  }
  return all;
}

/// Token ids in [0, limit), the same for the same seed.
inline std::vector<int32_t> random_prompt(uint32_t seed, int32_t length, int32_t limit = 95) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(length);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % limit);
  return tokens;
}

}  // namespace quire
