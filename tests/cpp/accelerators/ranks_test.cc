// Ranks on GPUs of this machine (comm/communicator.h): what they sum up and gather is compared with the CPU's float32
// sums in the order of ranks, bit for bit where that order is promised. QUIRE_TEST_DEVICE names the kind of device;
// QUIRE_TEST_RANKS="cuda:0,cuda:0,..." says which devices stand for ranks if not the first ones of that kind.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "accelerator.h"
#include "comm/communicator.h"
#include "quire/error.h"

namespace quire {
namespace {

using Clock = std::chrono::steady_clock;

/// A variable of the environment, for the life of this.
class Setting {
 public:
  Setting(const char* name, const std::string& value) : name_(name) {
    if (const char* const before = std::getenv(name)) before_ = before;
    value.empty() ? unsetenv(name) : setenv(name, value.c_str(), 1);
  }
  ~Setting() { before_ ? setenv(name_, before_->c_str(), 1) : unsetenv(name_); }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

/// The devices that can stand for ranks; none without QUIRE_TEST_DEVICE.
std::vector<std::string> devices_for_ranks() {
  const char* const kind = std::getenv("QUIRE_TEST_DEVICE");
  std::vector<std::string> devices;
  if (kind == nullptr) return devices;
  if (const char* const list = std::getenv("QUIRE_TEST_RANKS")) {
    std::istringstream names(list);
    for (std::string name; std::getline(names, name, ',');) devices.push_back(name);
    return devices;
  }
  for (const KnownDevice& known : known_devices()) {
    if (known.name != std::string(kind).substr(0, known.name.size())) continue;
    for (int i = 0; i < known.num_devices; ++i) devices.push_back(known.name + ":" + std::to_string(i));
  }
  return devices;
}

/// How ranks are connected.
struct Way {
  int num_ranks = 2;
  std::string all_reduce;  ///< QUIRE_ALL_REDUCE
  bool deterministic = false;

  /// Whether sums are promised in the order of ranks. Between two there is one order only, but what the library has
  /// summed up in 16 bits is rounded before it is added.
  bool is_exact() const { return all_reduce == "own" || deterministic; }
};

/// Memory of a rank's device.
struct DeviceArray {
  DeviceArray(Backend& backend, DType type, int64_t elements)
      : dtype(type), count(elements), memory(backend.allocate(bytes() + 64, MemoryKind::kWorkspace)) {}
  size_t bytes() const { return static_cast<size_t>(count * dtype_bytes(dtype)); }
  Tensor tensor(int64_t rows, int64_t columns, int64_t offset = 0) const {
    return Tensor(static_cast<std::byte*>(memory.data()) + offset * dtype_bytes(dtype), dtype, {rows, columns});
  }
  DType dtype;
  int64_t count;
  Buffer memory;
};

struct Rank {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Stream> stream;
  std::unique_ptr<Communicator> communicator;

  void upload(const DeviceArray& array, const std::vector<std::byte>& from) {
    backend->copy_to_device(array.memory.data(), from.data(), from.size(), *stream);
  }
  std::vector<std::byte> download(const DeviceArray& array) {
    std::vector<std::byte> bytes(array.bytes());
    backend->copy_to_host(bytes.data(), array.memory.data(), bytes.size(), *stream);
    return bytes;
  }
};

/// Ranks that are connected, or why they are not.
struct Ranks {
  explicit Ranks(const Way& way, const std::string& timeout_ms = "") {
    const std::vector<std::string> devices = devices_for_ranks();
    if (static_cast<int>(devices.size()) < way.num_ranks) {
      why_not = devices.empty() ? "QUIRE_TEST_DEVICE is not set: no GPU to test"
                                : "this machine has too few GPUs: has=" + std::to_string(devices.size()) +
                                      ", wanted=" + std::to_string(way.num_ranks);
      return;
    }
    const Setting all_reduce("QUIRE_ALL_REDUCE", way.all_reduce), timeout("QUIRE_COMM_TIMEOUT_MS", timeout_ms);
    std::vector<Backend*> backends;
    for (int r = 0; r < way.num_ranks; ++r) {
      ranks.push_back({});
      ranks.back().backend = create_backend(devices[static_cast<size_t>(r)], {.deterministic = way.deterministic});
      ranks.back().stream = ranks.back().backend->create_stream();
      backends.push_back(ranks.back().backend.get());
    }
    try {
      Communicators made = backends[0]->connect(backends);
      for (size_t r = 0; r < made.size(); ++r) ranks[r].communicator = std::move(made[r]);
    } catch (const Error& error) {
      why_not = error.what();
      EXPECT_EQ(error.kind(), ErrorKind::kUnsupported) << why_not;
      EXPECT_EQ(why_not.find('\n'), std::string::npos);
      ranks.clear();
    }
  }

  /// Communicators first: they outlive nothing of a backend.
  ~Ranks() {
    for (Rank& rank : ranks) {
      rank.communicator.reset();
      rank.stream.reset();
    }
  }

  int size() const { return static_cast<int>(ranks.size()); }

  /// Each rank in a thread of its own. What is thrown fails the test, and stops the others.
  void run(const std::function<void(Rank&, int)>& work) {
    std::vector<std::thread> threads;
    for (int r = 0; r < size(); ++r) {
      threads.emplace_back([&, r] {
        Rank& rank = ranks[static_cast<size_t>(r)];
        try {
          work(rank, r);
          rank.stream->synchronize();
        } catch (const std::exception& error) {
          ADD_FAILURE() << "rank " << r << ": " << error.what();
          rank.communicator->abort();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  std::vector<Rank> ranks;
  std::string why_not;
};

#define QUIRE_NEED_RANKS(ranks) \
  if ((ranks).ranks.empty()) GTEST_SKIP() << (ranks).why_not

/// Numbers that differ from rank to rank and from place to place, between -4 and 4, exact in no 16-bit type.
float number_at(uint32_t seed, int rank, int64_t i) {
  const uint64_t mixed =
      (seed * uint64_t{1000003} + static_cast<uint64_t>(rank) * 7919 + static_cast<uint64_t>(i) + 1) *
      uint64_t{0x9e3779b97f4a7c15};
  return static_cast<float>(static_cast<int32_t>(mixed >> 40) - (1 << 23)) / static_cast<float>(1 << 21);
}

float round_to(DType dtype, float value) {
  if (dtype == DType::kBFloat16) return to_float(to_bfloat16(value));
  return dtype == DType::kFloat16 ? to_float(to_float16(value)) : value;
}

float element(const std::vector<std::byte>& bytes, DType dtype, int64_t i) {
  const std::byte* const at = bytes.data() + i * dtype_bytes(dtype);
  if (dtype == DType::kFloat32) {
    float value;
    std::memcpy(&value, at, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, at, sizeof(bits));
  return dtype == DType::kBFloat16 ? to_float(BFloat16{bits}) : to_float(Float16{bits});
}

void set_element(std::vector<std::byte>& bytes, DType dtype, int64_t i, float value) {
  std::byte* const at = bytes.data() + i * dtype_bytes(dtype);
  if (dtype == DType::kFloat32) {
    std::memcpy(at, &value, sizeof(value));
  } else if (dtype == DType::kBFloat16) {
    const BFloat16 rounded = to_bfloat16(value);
    std::memcpy(at, &rounded, sizeof(rounded));
  } else {
    const Float16 rounded = to_float16(value);
    std::memcpy(at, &rounded, sizeof(rounded));
  }
}

std::vector<std::byte> numbers(DType dtype, uint32_t seed, int rank, int64_t count) {
  std::vector<std::byte> bytes(static_cast<size_t>(count * dtype_bytes(dtype)));
  for (int64_t i = 0; i < count; ++i) set_element(bytes, dtype, i, number_at(seed, rank, i));
  return bytes;
}

/// Of the ranks' numbers, which have been rounded to `dtype`.
float sum_at(DType dtype, uint32_t seed, int num_ranks, int64_t i) {
  float sum = round_to(dtype, number_at(seed, 0, i));
  for (int r = 1; r < num_ranks; ++r) sum += round_to(dtype, number_at(seed, r, i));
  return sum;
}

constexpr float kScale = 0.75f, kBefore = 1.5f;

float expected_at(DType dtype, uint32_t seed, int num_ranks, int64_t i, bool adds) {
  const float sum = sum_at(dtype, seed, num_ranks, i);
  return adds ? std::fma(kScale, sum, kBefore) : round_to(dtype, sum);
}

/// What 16-bit sums that are rounded in each step may be away from one that is rounded once: a unit in the last place
/// of numbers up to 32 for each rank.
double allowance(const Way& way, DType dtype) {
  if (way.is_exact()) return 0.0;
  const double unit = dtype == DType::kBFloat16 ? 0.125 : dtype == DType::kFloat16 ? 0.016 : 2e-6;
  return unit * way.num_ranks;
}

struct Message {
  DType dtype = DType::kBFloat16;
  int64_t rows = 1, columns = 64;
  bool adds = false;
  int64_t offset = 0;  ///< elements by which x is out of alignment
  int64_t count() const { return rows * columns; }
};

/// One all_reduce on all ranks: right, the same everywhere, and nothing beside it touched.
void reduce_and_compare(Ranks& ranks, const Way& way, const Message& message, uint32_t seed) {
  const int64_t count = message.count();
  std::vector<std::vector<std::byte>> results(ranks.ranks.size());
  ranks.run([&](Rank& rank, int r) {
    const DeviceArray x(*rank.backend, message.dtype, count + message.offset + 8);
    const DeviceArray add_to(*rank.backend, DType::kFloat32, count + 8);
    std::vector<std::byte> bytes = numbers(message.dtype, seed, r, count);
    bytes.insert(bytes.begin(), static_cast<size_t>(message.offset * dtype_bytes(message.dtype)), std::byte{0x3c});
    bytes.resize(x.bytes(), std::byte{0x3c});
    rank.upload(x, bytes);
    std::vector<std::byte> before(add_to.bytes());
    for (int64_t i = 0; i < add_to.count; ++i) set_element(before, DType::kFloat32, i, kBefore);
    rank.upload(add_to, before);
    AllReduceArgs args{.x = x.tensor(message.rows, message.columns, message.offset)};
    if (message.adds) {
      args.scale = kScale;
      args.add_to = add_to.tensor(message.rows, message.columns);
    }
    rank.communicator->all_reduce(args, *rank.stream);
    std::vector<std::byte> result = rank.download(message.adds ? add_to : x);
    const int64_t first = message.adds ? 0 : message.offset;
    const auto size = static_cast<int64_t>(dtype_bytes(message.adds ? DType::kFloat32 : message.dtype));
    EXPECT_EQ(
        std::memcmp(result.data() + (first + count) * size,
                    (message.adds ? before : bytes).data() + (first + count) * size, static_cast<size_t>(8 * size)),
        0)
        << "memory behind x was written";
    result.erase(result.begin(), result.begin() + first * size);
    results[static_cast<size_t>(r)] = std::move(result);
  });
  if (testing::Test::HasFailure()) return;
  const DType dtype = message.adds ? DType::kFloat32 : message.dtype;
  for (size_t r = 1; r < results.size(); ++r) {
    ASSERT_EQ(std::memcmp(results[r].data(), results[0].data(), static_cast<size_t>(count * dtype_bytes(dtype))), 0)
        << "rank " << r << " has something else than rank 0";
  }
  for (int64_t i = 0; i < count; ++i) {
    const float got = element(results[0], dtype, i);
    const float expected = expected_at(message.dtype, seed, ranks.size(), i, message.adds);
    ASSERT_LE(std::abs(got - expected), allowance(way, message.dtype))
        << "got " << got << ", expected " << expected << ", element " << i << " of " << message.rows << " x "
        << message.columns << " " << dtype_name(message.dtype) << (message.adds ? " added" : "");
  }
}

class RanksTest : public testing::TestWithParam<Way> {};

TEST_P(RanksTest, sums_are_those_of_the_cpu_and_the_same_on_all_ranks) {
  Ranks ranks(GetParam());
  QUIRE_NEED_RANKS(ranks);
  uint32_t seed = 1;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const int64_t rows : {1, 3, 64, 257}) {
      for (const int64_t columns : {64, 896, 4096, 7168}) {
        for (const bool adds : {false, true}) {
          const Message message{.dtype = dtype, .rows = rows, .columns = columns, .adds = adds};
          ASSERT_NO_FATAL_FAILURE(reduce_and_compare(ranks, GetParam(), message, seed++));
        }
      }
    }
  }
}

TEST_P(RanksTest, messages_of_a_prompt_are_summed_up_too) {
  Ranks ranks(GetParam());
  QUIRE_NEED_RANKS(ranks);
  uint32_t seed = 100;
  for (const bool adds : {false, true}) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      const Message message{
          .dtype = dtype, .rows = 4096, .columns = dtype == DType::kFloat32 ? 896 : 4096, .adds = adds};
      ASSERT_NO_FATAL_FAILURE(reduce_and_compare(ranks, GetParam(), message, seed++));
    }
  }
}

TEST_P(RanksTest, sizes_around_every_change_of_way_are_right) {
  Ranks ranks(GetParam());
  QUIRE_NEED_RANKS(ranks);
  uint32_t seed = 200;
  // Where it is summed up in parts, where a message is cut, and where the library takes over, in bytes, for any number
  // of ranks; and the smallest.
  for (const int64_t bytes : {int64_t{0}, int64_t{512}, int64_t{96} << 10, int64_t{256} << 10, int64_t{1} << 20,
                              int64_t{4} << 20, int64_t{6} << 20}) {
    for (const int64_t more : {-17, -1, 0, 1, 9}) {
      for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
        const int64_t count = bytes / dtype_bytes(dtype) + more;
        if (count < 1 || (more != 0 && more != 9 && bytes > (int64_t{1} << 20))) continue;
        const Message message{.dtype = dtype, .rows = 1, .columns = count, .adds = seed % 2 == 0};
        ASSERT_NO_FATAL_FAILURE(reduce_and_compare(ranks, GetParam(), message, seed++));
      }
    }
  }
}

TEST_P(RanksTest, memory_that_is_not_aligned_is_summed_up_too) {
  Ranks ranks(GetParam());
  QUIRE_NEED_RANKS(ranks);
  uint32_t seed = 300;
  for (const int64_t columns : {1, 5, 999, 100001}) {
    for (const bool adds : {false, true}) {
      const Message message{.dtype = DType::kBFloat16, .rows = 3, .columns = columns, .adds = adds, .offset = 1};
      ASSERT_NO_FATAL_FAILURE(reduce_and_compare(ranks, GetParam(), message, seed++));
    }
  }
}

TEST_P(RanksTest, an_empty_message_is_nothing) {
  Ranks ranks(GetParam());
  QUIRE_NEED_RANKS(ranks);
  ranks.run([&](Rank& rank, int) {
    const DeviceArray x(*rank.backend, DType::kFloat32, 64);
    rank.communicator->all_reduce({.x = x.tensor(0, 64)}, *rank.stream);
    rank.communicator->all_gather({.x = x.tensor(0, 32), .out = x.tensor(0, 64)}, *rank.stream);
  });
}

TEST_P(RanksTest, thousands_of_calls_of_changing_sizes_follow_each_other) {
  const Way way = GetParam();
  Ranks ranks(way);
  QUIRE_NEED_RANKS(ranks);
  struct Call {
    int64_t first, count;
    bool adds;
  };
  constexpr int kCalls = 4000;
  std::vector<Call> calls;
  std::mt19937 generator(7);
  int64_t total = 0;
  for (int i = 0; i < kCalls; ++i) {
    const int64_t most = i % 100 == 0 ? 200000 : i % 3 == 0 ? 8000 : 500;
    calls.push_back({total, 1 + static_cast<int64_t>(generator() % static_cast<uint32_t>(most)), generator() % 2 == 0});
    total += (calls.back().count + 15) / 8 * 8;
  }
  std::vector<std::vector<std::byte>> sums(ranks.ranks.size()), added(ranks.ranks.size());
  ranks.run([&](Rank& rank, int r) {
    const DeviceArray x(*rank.backend, DType::kBFloat16, total), add_to(*rank.backend, DType::kFloat32, total);
    rank.upload(x, numbers(DType::kBFloat16, 11, r, total));
    std::vector<std::byte> before(add_to.bytes());
    for (int64_t i = 0; i < total; ++i) set_element(before, DType::kFloat32, i, kBefore);
    rank.upload(add_to, before);
    for (const Call& call : calls) {
      AllReduceArgs args{.x = x.tensor(1, call.count, call.first)};
      if (call.adds) {
        args.scale = kScale;
        args.add_to = add_to.tensor(1, call.count, call.first);
      }
      rank.communicator->all_reduce(args, *rank.stream);
    }
    sums[static_cast<size_t>(r)] = rank.download(x);
    added[static_cast<size_t>(r)] = rank.download(add_to);
  });
  for (size_t r = 0; r < sums.size() && !HasFailure(); ++r) {
    for (const Call& call : calls) {
      for (int64_t i = call.first; i < call.first + call.count; ++i) {
        const float got = call.adds ? element(added[r], DType::kFloat32, i) : element(sums[r], DType::kBFloat16, i);
        const float expected = expected_at(DType::kBFloat16, 11, ranks.size(), i, call.adds);
        ASSERT_LE(std::abs(got - expected), allowance(way, DType::kBFloat16))
            << "rank " << r << ", got " << got << ", expected " << expected << ", element " << i - call.first << " of "
            << call.count;
      }
    }
  }
}

/// A step of a model, recorded: x is filled from what no op changes, summed up in place, summed up into a residual,
/// with other ops between.
TEST_P(RanksTest, recorded_calls_are_replayed_between_other_work) {
  const Way way = GetParam();
  Ranks ranks(way);
  QUIRE_NEED_RANKS(ranks);
  constexpr int kReplays = 300;
  constexpr int64_t kWidths[] = {64, 896, 4096, 60000};
  constexpr int64_t kMost = 60000;
  std::vector<std::vector<std::byte>> results(ranks.ranks.size());
  ranks.run([&](Rank& rank, int r) {
    const DeviceArray source(*rank.backend, DType::kFloat32, kMost), x(*rank.backend, DType::kFloat32, kMost);
    const DeviceArray residual(*rank.backend, DType::kFloat32, kMost);
    const std::vector<std::byte> zeros(residual.bytes());
    rank.upload(source, numbers(DType::kFloat32, 21, r, kMost));
    rank.upload(residual, zeros);
    const auto step = [&] {
      for (const int64_t width : kWidths) {
        // x := source, by two ops that know no assignment.
        rank.backend->ops().clip({.x = x.tensor(1, width), .limit = 0.0f}, *rank.stream);
        rank.backend->ops().add({.x = source.tensor(1, width), .out = x.tensor(1, width)}, *rank.stream);
        rank.communicator->all_reduce({.x = x.tensor(1, width)}, *rank.stream);
        // residual += 2^-10 times the sum of sums
        rank.communicator->all_reduce(
            {.x = x.tensor(1, width), .scale = 1.0f / 1024.0f, .add_to = residual.tensor(1, width)}, *rank.stream);
      }
    };
    rank.upload(x, zeros);
    step();
    rank.stream->synchronize();
    rank.backend->begin_recording(*rank.stream);
    step();
    const auto graph = rank.backend->end_recording(*rank.stream);
    for (int i = 1; i < kReplays; ++i) graph->launch(*rank.stream);
    results[static_cast<size_t>(r)] = rank.download(residual);
  });
  for (size_t r = 0; r < results.size() && !HasFailure(); ++r) {
    for (int64_t i = 0; i < kMost; ++i) {
      const float sum = sum_at(DType::kFloat32, 21, ranks.size(), i);
      float sums = sum;
      for (int other = 1; other < ranks.size(); ++other) sums += sum;
      const auto times = std::count_if(std::begin(kWidths), std::end(kWidths), [&](int64_t w) { return i < w; });
      float expected = 0.0f;
      for (int64_t k = 0; k < times * kReplays; ++k) expected = std::fma(sums, 1.0f / 1024.0f, expected);
      ASSERT_LE(std::abs(element(results[r], DType::kFloat32, i) - expected), way.is_exact() ? 0.0 : 1e-2)
          << "rank " << r << " element " << i;
    }
  }
}

TEST_P(RanksTest, columns_of_all_ranks_are_gathered) {
  Ranks ranks(GetParam());
  QUIRE_NEED_RANKS(ranks);
  for (const int64_t columns : {1, 2, 3, 8, 10, 1001, 32003, 128256}) {
    for (const int64_t rows : {1, 2, 5, 64}) {
      std::vector<std::vector<std::byte>> results(ranks.ranks.size());
      ranks.run([&](Rank& rank, int r) {
        const Share own = share_of_rank(columns, r, ranks.size());
        const DeviceArray x(*rank.backend, DType::kFloat32, rows * own.count);
        const DeviceArray out(*rank.backend, DType::kFloat32, rows * columns + 8);
        std::vector<std::byte> bytes(x.bytes());
        for (int64_t row = 0; row < rows; ++row) {
          for (int64_t c = 0; c < own.count; ++c) {
            set_element(bytes, DType::kFloat32, row * own.count + c, number_at(3, 0, row * columns + own.first + c));
          }
        }
        rank.upload(x, bytes);
        rank.upload(out, std::vector<std::byte>(out.bytes(), std::byte{0xff}));
        for (int i = 0; i < 3; ++i) {
          rank.communicator->all_gather({.x = x.tensor(rows, own.count), .out = out.tensor(rows, columns)},
                                        *rank.stream);
        }
        results[static_cast<size_t>(r)] = rank.download(out);
      });
      for (size_t r = 0; r < results.size() && !HasFailure(); ++r) {
        for (int64_t i = 0; i < rows * columns; ++i) {
          ASSERT_EQ(element(results[r], DType::kFloat32, i), number_at(3, 0, i))
              << "rank " << r << ", " << rows << " x " << columns << ", element " << i;
        }
        for (int64_t i = rows * columns; i < rows * columns + 8; ++i) {
          ASSERT_TRUE(std::isnan(element(results[r], DType::kFloat32, i))) << "memory behind out was written";
        }
      }
    }
  }
}

/// The message of what `work` throws: kDevice, in one line, and soon.
std::string device_error_of(const std::function<void()>& work) {
  const Clock::time_point begin = Clock::now();
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kDevice) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    EXPECT_LT(Clock::now() - begin, std::chrono::seconds(12)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

TEST_P(RanksTest, abort_wakes_who_waits_and_refuses_what_comes) {
  Ranks ranks(GetParam());
  QUIRE_NEED_RANKS(ranks);
  Rank& waiting = ranks.ranks[0];
  const DeviceArray x(*waiting.backend, DType::kFloat32, 1024);
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    ranks.ranks.back().communicator->abort();
  });
  const std::string message = device_error_of([&] {
    waiting.communicator->all_reduce({.x = x.tensor(1, 1024)}, *waiting.stream);
    waiting.stream->synchronize();
  });
  other.join();
  EXPECT_NE(message.find("stop"), std::string::npos) << message;
  for (Rank& rank : ranks.ranks) {
    device_error_of([&] { rank.communicator->all_reduce({.x = x.tensor(1, 1024)}, *rank.stream); });
    device_error_of([&] { rank.stream->synchronize(); });
    rank.communicator->abort();
  }
}

TEST_P(RanksTest, a_rank_that_never_comes_is_named) {
  Ranks ranks(GetParam(), "500");
  QUIRE_NEED_RANKS(ranks);
  Rank& waiting = ranks.ranks[0];
  const DeviceArray x(*waiting.backend, DType::kFloat32, 1024);
  const auto event = waiting.backend->create_event();
  const std::string message = device_error_of([&] {
    waiting.communicator->all_reduce({.x = x.tensor(1, 1024)}, *waiting.stream);
    event->record(*waiting.stream);
    event->wait();
  });
  EXPECT_NE(message.find("did not come"), std::string::npos) << message;
  if (GetParam().all_reduce == "own" && ranks.size() == 2) {
    EXPECT_NE(message.find("rank 1 did not come: waiting=rank 0"), std::string::npos) << message;
  }
  device_error_of([&] { ranks.ranks[1].communicator->all_reduce({.x = x.tensor(1, 1024)}, *ranks.ranks[1].stream); });
}

TEST_P(RanksTest, recorded_work_of_ranks_that_have_failed_is_not_launched) {
  Ranks ranks(GetParam());
  QUIRE_NEED_RANKS(ranks);
  std::vector<std::unique_ptr<Graph>> graphs(ranks.ranks.size());
  ranks.run([&](Rank& rank, int r) {
    const DeviceArray x(*rank.backend, DType::kFloat32, 1024);
    const auto reduce = [&] { rank.communicator->all_reduce({.x = x.tensor(1, 1024)}, *rank.stream); };
    reduce();
    rank.stream->synchronize();
    rank.backend->begin_recording(*rank.stream);
    reduce();
    graphs[static_cast<size_t>(r)] = rank.backend->end_recording(*rank.stream);
  });
  ranks.ranks[0].communicator->abort();
  device_error_of([&] { graphs[0]->launch(*ranks.ranks[0].stream); });
  graphs.clear();
}

TEST_P(RanksTest, ranks_are_late_and_nothing_is_lost) {
  Ranks ranks(GetParam());
  QUIRE_NEED_RANKS(ranks);
  constexpr int64_t kCount = 5000;
  std::vector<std::vector<std::byte>> results(ranks.ranks.size());
  ranks.run([&](Rank& rank, int r) {
    const DeviceArray x(*rank.backend, DType::kFloat32, kCount);
    rank.upload(x, numbers(DType::kFloat32, 5, r, kCount));
    for (int i = 0; i < 4; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds((r + i) % 3 * 150));
      rank.communicator->all_reduce({.x = x.tensor(1, kCount)}, *rank.stream);
    }
    results[static_cast<size_t>(r)] = rank.download(x);
  });
  for (int64_t i = 0; i < kCount && !HasFailure(); ++i) {
    float expected = sum_at(DType::kFloat32, 5, ranks.size(), i);
    for (int round = 1; round < 4; ++round) {
      const float part = expected;
      for (int r = 1; r < ranks.size(); ++r) expected += part;
    }
    for (const auto& result : results) {
      ASSERT_LE(std::abs(element(result, DType::kFloat32, i) - expected), GetParam().is_exact() ? 0.0 : 1e-2) << i;
    }
  }
}

TEST_P(RanksTest, ranks_come_and_go_with_their_memory) {
  int64_t before = 0;
  for (int round = 0; round < 3; ++round) {
    Ranks ranks(GetParam());
    QUIRE_NEED_RANKS(ranks);
    if (round == 1) before = ranks.ranks[0].backend->available_memory();
    if (round == 2) {
      EXPECT_GE(ranks.ranks[0].backend->available_memory(), before - (int64_t{16} << 20));
    }
    ASSERT_NO_FATAL_FAILURE(reduce_and_compare(ranks, GetParam(), {.rows = 8, .columns = 896}, 400));
    // Backends outlive communicators, and may be connected again.
    std::vector<Backend*> backends;
    for (Rank& rank : ranks.ranks) {
      rank.communicator.reset();
      rank.stream->synchronize();
      backends.push_back(rank.backend.get());
    }
    const Setting all_reduce("QUIRE_ALL_REDUCE", GetParam().all_reduce);
    Communicators again = backends[0]->connect(backends);
    for (size_t r = 0; r < again.size(); ++r) ranks.ranks[r].communicator = std::move(again[r]);
    ASSERT_NO_FATAL_FAILURE(reduce_and_compare(ranks, GetParam(), {.rows = 3, .columns = 4096, .adds = true}, 401));
  }
}

TEST(RanksRefusalTest, a_library_that_is_not_there_is_named_with_its_remedy) {
  if (devices_for_ranks().size() < 2) GTEST_SKIP() << "QUIRE_TEST_DEVICE names no two GPUs";
  // That the library wants a GPU for each rank is said first.
  if (devices_for_ranks()[0] == devices_for_ranks()[1]) GTEST_SKIP() << "both ranks have the same GPU";
  const bool is_hip = devices_for_ranks()[0].starts_with("hip");
  const Setting folder(is_hip ? "QUIRE_RCCL_PATH" : "QUIRE_NCCL_PATH", "/nowhere"), file("VLLM_NCCL_SO_PATH", "");
  const Ranks ranks({.num_ranks = 2, .all_reduce = "library"});
  EXPECT_TRUE(ranks.ranks.empty());
  const std::string name = is_hip ? "RCCL" : "NCCL";
  for (const std::string& part : {name + " not found", std::string("/nowhere/lib"), "QUIRE_" + name + "_PATH"}) {
    EXPECT_NE(ranks.why_not.find(part), std::string::npos) << ranks.why_not;
  }
}

TEST(RanksRefusalTest, a_way_that_there_is_not_is_refused) {
  if (devices_for_ranks().empty()) GTEST_SKIP() << "QUIRE_TEST_DEVICE is not set: no GPU to test";
  const auto backend = create_backend(devices_for_ranks()[0], {});
  Backend* const one[] = {backend.get()};
  const Setting way("QUIRE_ALL_REDUCE", "pigeons");
  try {
    backend->connect(one);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument) << error.what();
  }
}

std::string way_name(const testing::TestParamInfo<Way>& info) {
  const Way& way = info.param;
  return std::to_string(way.num_ranks) + "_ranks_" + (way.all_reduce.empty() ? "either" : way.all_reduce) +
         (way.deterministic ? "_deterministic" : "");
}

std::vector<Way> ways() {
  std::vector<Way> all;
  for (const int num_ranks : {2, 3, 4, 8}) {
    all.push_back({num_ranks, "own", false});
    all.push_back({num_ranks, "library", false});
    all.push_back({num_ranks, "library", true});
    all.push_back({num_ranks, "", false});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(way, RanksTest, testing::ValuesIn(ways()), way_name);

}  // namespace
}  // namespace quire
