// Speed of sampling on a GPU, as if it read the logits once.
//
//   bench_gpu_sample [--device cuda] [--vocabulary 128256] [--peak 4.3]
//
// Every case is a recorded graph of calls over several sets of logits, together more than the second-level cache holds;
// launched several times; the median counts. --peak: TB/s that a plain copy reaches.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/registry.h"

namespace quire::bench {
namespace {

constexpr int32_t kMaxCandidates = 21;
constexpr int kIds = 4000;

struct Case {
  const char* name;
  std::function<void(SampleRow&)> set;
};

/// Logits as models give them: most far below, a few near the top ("peaked"), or all alike ("flat").
std::vector<float> make_logits(int64_t count, int64_t vocabulary, bool peaked) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal(0.0f, peaked ? 2.5f : 1.0f);
  std::vector<float> logits(static_cast<size_t>(count));
  for (float& logit : logits) logit = normal(generator);
  for (int64_t row = 0; peaked && row < count / vocabulary; ++row) {
    for (int n = 0; n < 30; ++n) {
      logits[static_cast<size_t>(row * vocabulary +
                                 static_cast<int64_t>(generator() % static_cast<uint64_t>(vocabulary)))] =
          15.0f - 0.25f * static_cast<float>(n);
    }
  }
  return logits;
}

class Bench {
 public:
  Bench(Backend& backend, int64_t vocabulary, double peak) : backend_(backend), vocabulary_(vocabulary), peak_(peak) {}

  void run(int64_t rows, bool peaked, const std::vector<Case>& cases) {
    const int64_t bytes = rows * vocabulary_ * 4;
    const int64_t copies = std::clamp<int64_t>((int64_t{160} << 20) / bytes, 2, 64);
    auto stream = backend_.create_stream();
    const auto make = [&](const void* from, size_t size) {
      Buffer buffer = backend_.allocate(size, MemoryKind::kWorkspace);
      backend_.copy_to_device(buffer.data(), from, size, *stream);
      return buffer;
    };
    const std::vector<float> some = make_logits(rows * vocabulary_, vocabulary_, peaked);
    std::vector<Buffer> logits;
    for (int64_t i = 0; i < copies; ++i) logits.push_back(make(some.data(), some.size() * 4));
    std::vector<int32_t> id_list(kIds);
    for (int i = 0; i < kIds; ++i)
      id_list[static_cast<size_t>(i)] = static_cast<int32_t>(i * int64_t{7919} % vocabulary_);
    const Buffer ids = make(id_list.data(), id_list.size() * 4);
    Buffer tokens = backend_.allocate(static_cast<size_t>(rows) * sizeof(SampledToken), MemoryKind::kWorkspace);
    Buffer candidates = backend_.allocate(static_cast<size_t>(rows * kMaxCandidates) * sizeof(SampledCandidate),
                                          MemoryKind::kWorkspace);
    Buffer scratch = backend_.allocate(backend_.sample_scratch_bytes(rows, vocabulary_), MemoryKind::kWorkspace);

    for (const Case& one : cases) {
      std::vector<SampleRow> row_list(static_cast<size_t>(rows));
      for (size_t r = 0; r < row_list.size(); ++r) {
        row_list[r].position = r;
        one.set(row_list[r]);
      }
      const Buffer row_buffer = make(row_list.data(), row_list.size() * sizeof(SampleRow));
      const int calls = rows >= 64 ? 16 : 128;
      backend_.begin_recording(*stream);
      for (int i = 0; i < calls; ++i) {
        SampleArgs args;
        args.logits = Tensor(logits[static_cast<size_t>(i % copies)].data(), DType::kFloat32, {rows, vocabulary_});
        args.rows = static_cast<const SampleRow*>(row_buffer.data());
        args.ids = static_cast<const int32_t*>(ids.data());
        args.tokens = static_cast<SampledToken*>(tokens.data());
        args.candidates = static_cast<SampledCandidate*>(candidates.data());
        args.max_candidates = kMaxCandidates;
        args.scratch = scratch.data();
        backend_.ops().sample(args, *stream);
      }
      const auto graph = backend_.end_recording(*stream);
      std::vector<double> times;
      for (int n = 0; n < 17; ++n) {
        stream->synchronize();
        const auto start = std::chrono::steady_clock::now();
        graph->launch(*stream);
        stream->synchronize();
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        if (n >= 2) times.push_back(seconds / calls);
      }
      std::sort(times.begin(), times.end());
      const double median = times[times.size() / 2];
      const double rate = static_cast<double>(bytes) / median * 1e-12;
      std::printf("R=%-4ld %-7s %-34s %9.2f us (best %9.2f) %7.3f TB/s %4.0f %%\n", static_cast<long>(rows),
                  peaked ? "peaked" : "flat", one.name, median * 1e6, times[0] * 1e6, rate, 100.0 * rate / peak_);
      std::fflush(stdout);
    }
  }

 private:
  Backend& backend_;
  const int64_t vocabulary_;
  const double peak_;
};

int run(const std::string& device, int64_t vocabulary, double peak) {
  const auto backend = create_backend(device, {});
  std::printf("%s, V=%ld\n", backend->name().c_str(), static_cast<long>(vocabulary));
  const std::vector<Case> cases = {
      {"greedy", [](SampleRow& row) { row.temperature = 0.0f; }},
      {"temperature 0.8", [](SampleRow& row) { row.temperature = 0.8f; }},
      {"top_k 50", [](SampleRow& row) { row.top_k = 50; }},
      {"top_p 0.9", [](SampleRow& row) { row.top_p = 0.9f; }},
      {"min_p 0.05", [](SampleRow& row) { row.min_p = 0.05f; }},
      {"top_k 40, top_p 0.9, t 0.7", [](SampleRow& row) { row.top_k = 40, row.top_p = 0.9f, row.temperature = 0.7f; }},
      {"top_k 5000", [](SampleRow& row) { row.top_k = 5000; }},
      {"greedy, 5 logprobs", [](SampleRow& row) { row.temperature = 0.0f, row.num_logprobs = 5; }},
      {"temperature 1, 20 logprobs", [](SampleRow& row) { row.num_logprobs = 20; }},
      {"given token, 1 logprob", [](SampleRow& row) { row.given_token = 1234, row.num_logprobs = 1; }},
      {"greedy, penalties over 4000 ids",
       [](SampleRow& row) {
         row.temperature = 0.0f, row.repetition_penalty = 1.0001f, row.presence_penalty = 1e-4f;
         row.num_prompt_ids = kIds / 2, row.num_output_ids = kIds / 2;
       }},
  };
  Bench bench(*backend, vocabulary, peak);
  for (const bool peaked : {true, false}) {
    for (const int64_t rows : {1, 8, 64, 256}) bench.run(rows, peaked, cases);
  }
  return 0;
}

}  // namespace
}  // namespace quire::bench

int main(int argc, char** argv) {
  std::string device = "cuda";
  int64_t vocabulary = 128256;
  double peak = 4.3;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string option = argv[i];
    if (option == "--device") device = argv[i + 1];
    if (option == "--vocabulary") vocabulary = std::stoll(argv[i + 1]);
    if (option == "--peak") peak = std::stod(argv[i + 1]);
  }
  try {
    return quire::bench::run(device, vocabulary, peak);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
