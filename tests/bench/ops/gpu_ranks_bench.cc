// Time of an all-reduce between GPUs of this machine, as the ranks of a model make them, by size and by way.
//
//   bench_gpu_ranks [--device cuda] [--ranks 2]
//
// bfloat16. Every case is a recorded graph of calls on each rank, launched by a thread for each; the median of several
// launches counts, of the slowest rank. "in place" leaves the sum in x, "added" adds it to a float32 residual. Large
// messages share two arrays, so that those of up to some MB stay in the second-level cache, as activations do.
#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "backend/registry.h"
#include "comm/communicator.h"
#include "core/check.h"

namespace quire::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRounds = 9;
constexpr int64_t kMostBytes = int64_t{64} << 20;

struct Rank {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Stream> stream;
  std::unique_ptr<Communicator> communicator;
  Buffer x, residual, out;
};

class Ranks {
 public:
  Ranks(const std::string& device, int count, const std::string& way) : ranks_(static_cast<size_t>(count)) {
    way.empty() ? unsetenv("QUIRE_ALL_REDUCE") : setenv("QUIRE_ALL_REDUCE", way.c_str(), 1);
    std::vector<Backend*> backends;
    for (int r = 0; r < count; ++r) {
      Rank& rank = ranks_[static_cast<size_t>(r)];
      rank.backend = create_backend(device + ":" + std::to_string(r), {});
      rank.stream = rank.backend->create_stream();
      const auto bytes = static_cast<size_t>(kMostBytes);
      rank.x = rank.backend->allocate(bytes, MemoryKind::kKvCache);
      rank.residual = rank.backend->allocate(2 * bytes, MemoryKind::kKvCache);
      rank.out = rank.backend->allocate(bytes, MemoryKind::kKvCache);
      backends.push_back(rank.backend.get());
    }
    const Clock::time_point begin = Clock::now();
    Communicators made = backends[0]->connect(backends);
    const double opened = std::chrono::duration<double>(Clock::now() - begin).count();
    for (size_t r = 0; r < made.size(); ++r) ranks_[r].communicator = std::move(made[r]);
    run([](Rank& rank) {
      rank.communicator->all_reduce({.x = Tensor(rank.x.data(), DType::kBFloat16, {1, 64})}, *rank.stream);
      rank.stream->synchronize();
    });
    std::printf("%s: connected in %.2f s, first call after %.2f s\n", way.empty() ? "by default" : way.c_str(), opened,
                std::chrono::duration<double>(Clock::now() - begin).count());
  }
  ~Ranks() {
    for (Rank& rank : ranks_) rank.communicator.reset();
  }

  /// Microseconds of one of `calls` calls in a graph.
  double time(int calls, const std::function<void(Rank&)>& call) {
    std::barrier start(static_cast<std::ptrdiff_t>(ranks_.size()));
    std::vector<std::vector<double>> times(ranks_.size());
    std::atomic<size_t> next = 0;
    run([&](Rank& rank) {
      std::vector<double>& own = times[next++];
      call(rank);
      rank.stream->synchronize();
      rank.backend->begin_recording(*rank.stream);
      for (int i = 0; i < calls; ++i) call(rank);
      const auto graph = rank.backend->end_recording(*rank.stream);
      for (int round = 0; round < kRounds; ++round) {
        start.arrive_and_wait();
        const Clock::time_point begin = Clock::now();
        graph->launch(*rank.stream);
        rank.stream->synchronize();
        own.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count() / calls);
      }
    });
    double slowest = 0.0;
    for (std::vector<double>& own : times) {
      std::sort(own.begin(), own.end());
      slowest = std::max(slowest, own[kRounds / 2]);
    }
    return slowest;
  }

  int size() const { return static_cast<int>(ranks_.size()); }
  const std::string name() const { return ranks_[0].backend->name(); }

 private:
  void run(const std::function<void(Rank&)>& work) {
    std::vector<std::thread> threads;
    std::atomic<bool> failed = false;
    for (Rank& rank : ranks_) {
      threads.emplace_back([&] {
        try {
          work(rank);
        } catch (const std::exception& error) {
          std::fprintf(stderr, "%s\n", error.what());
          rank.communicator->abort();
          failed = true;
          std::_Exit(1);  // the others may wait for this one at a barrier
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  std::vector<Rank> ranks_;
};

struct Row {
  std::string name;
  double bytes;
  std::vector<double> times;
};

Tensor matrix(const Buffer& buffer, DType dtype, int64_t rows, int64_t columns) {
  return Tensor(buffer.data(), dtype, {rows, columns});
}

std::vector<Row> time_all(Ranks& ranks) {
  std::vector<Row> rows;
  for (const int64_t kib : {8, 16, 32, 64, 96, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536}) {
    const int64_t count = (kib << 10) / 2;
    const int calls = kib <= 2048 ? 200 : 20;
    for (const bool adds : {false, true}) {
      const double us = ranks.time(calls, [&](Rank& rank) {
        AllReduceArgs args{.x = matrix(rank.x, DType::kBFloat16, 1, count)};
        if (adds) args.add_to = matrix(rank.residual, DType::kFloat32, 1, count);
        rank.communicator->all_reduce(args, *rank.stream);
      });
      rows.push_back(
          {std::to_string(kib) + " KiB " + (adds ? "added" : "in place"), static_cast<double>(kib << 10), {us}});
    }
  }
  for (const int64_t sequences : {1, 64}) {
    constexpr int64_t kVocabulary = 128256;
    const double us = ranks.time(50, [&](Rank& rank) {
      const Share own = share_of_rank(kVocabulary, rank.communicator->rank(), ranks.size());
      rank.communicator->all_gather({.x = matrix(rank.x, DType::kFloat32, sequences, own.count),
                                     .out = matrix(rank.out, DType::kFloat32, sequences, kVocabulary)},
                                    *rank.stream);
    });
    rows.push_back(
        {"gather " + std::to_string(sequences) + " x 128256", static_cast<double>(sequences * kVocabulary * 4), {us}});
  }
  return rows;
}

int run(int count, char** arguments) {
  std::string device = "cuda";
  int num_ranks = 2;
  for (int i = 1; i + 1 < count; i += 2) {
    if (std::string(arguments[i]) == "--device") device = arguments[i + 1];
    if (std::string(arguments[i]) == "--ranks") num_ranks = std::stoi(arguments[i + 1]);
  }
  std::vector<Row> table;
  std::vector<std::string> ways;
  for (const std::string way : {"own", "library", ""}) {
    try {
      Ranks ranks(device, num_ranks, way);
      if (ways.empty()) std::printf("%d x %s\n", num_ranks, ranks.name().c_str());
      std::vector<Row> rows = time_all(ranks);
      if (table.empty()) {
        table = std::move(rows);
      } else {
        for (size_t i = 0; i < table.size(); ++i) table[i].times.push_back(rows[i].times[0]);
      }
      ways.push_back(way.empty() ? "default" : way);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kUnsupported) throw;
      std::printf("%s: %s\n", way.c_str(), error.what());
    }
  }
  std::printf("%-24s", "us per call");
  for (const std::string& way : ways) std::printf(" %10s", way.c_str());
  std::printf("   GB/s of the message, best\n");
  for (const Row& row : table) {
    std::printf("%-24s", row.name.c_str());
    for (const double us : row.times) std::printf(" %10.2f", us);
    std::printf("   %8.1f\n", row.bytes / *std::min_element(row.times.begin(), row.times.end()) * 1e-3);
  }
  return 0;
}

}  // namespace
}  // namespace quire::bench

int main(int count, char** arguments) {
  try {
    return quire::bench::run(count, arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
