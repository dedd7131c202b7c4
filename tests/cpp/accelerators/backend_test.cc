#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "accelerator.h"
#include "quire/error.h"

namespace quire {
namespace {

using test::accelerator;
using test::accelerator_kind;
using test::Shared;

/// The kind and message of what `work` throws.
template <typename Work>
std::string error_of(ErrorKind expected, const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), expected) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

std::vector<std::byte> random_bytes(size_t count, uint32_t seed) {
  std::vector<std::byte> bytes(count);
  std::mt19937 generator(seed);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(generator());
  return bytes;
}

std::vector<std::byte> read_back(const void* memory, size_t bytes, Stream& stream) {
  std::vector<std::byte> read(bytes);
  accelerator()->copy_to_host(read.data(), memory, bytes, stream);
  return read;
}

/// x += 1 over an array of 1000 floats.
struct Counter {
  Shared<float> ones = Shared<float>(1000, 1.0f);
  Shared<float> sum = Shared<float>(1000, 0.0f);

  void enqueue(Stream& stream) {
    accelerator()->ops().add(
        {.x = Tensor(ones.data(), DType::kFloat32, {1, 1000}), .out = Tensor(sum.data(), DType::kFloat32, {1, 1000})},
        stream);
  }
  bool is(float value) const {
    return std::all_of(sum.begin(), sum.end(), [&](float entry) { return entry == value; });
  }
};

TEST(AcceleratorBackendTest, a_machine_without_a_gpu_is_told_what_to_do) {
  if (accelerator() != nullptr) GTEST_SKIP() << "there is a GPU";
  for (const char* const device : {"cuda", "hip"}) {
    try {
      create_backend(device, {});
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUnsupported) << error.what();
      const std::string message = error.what();
      EXPECT_TRUE(message.find("device=\"cpu\"") != std::string::npos || message.find("visible") != std::string::npos)
          << message;
    }
  }
}

TEST(AcceleratorBackendTest, its_name_holds_ordinal_model_and_architecture) {
  QUIRE_NEED_ACCELERATOR();
  const std::string name = accelerator()->name();
  EXPECT_TRUE(name.starts_with("cuda:0 (") || name.starts_with("hip:0 (")) << name;
  EXPECT_TRUE(name.find(", sm_") != std::string::npos || name.find(", gfx") != std::string::npos) << name;
  EXPECT_TRUE(accelerator()->runs_behind());
  EXPECT_TRUE(accelerator()->records_graphs());
}

TEST(AcceleratorBackendTest, a_gpu_that_is_not_there_is_refused) {
  QUIRE_NEED_ACCELERATOR();
  const std::string message =
      error_of(ErrorKind::kInvalidArgument, [] { create_backend(accelerator_kind() + ":99", {}); });
  EXPECT_NE(message.find(accelerator_kind() + ":99"), std::string::npos) << message;
}

TEST(AcceleratorBackendTest, copies_of_any_size_arrive_and_their_source_is_free_at_once) {
  QUIRE_NEED_ACCELERATOR();
  const auto stream = accelerator()->create_stream();
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{4097}, size_t{8} << 20, (size_t{41} << 20) + 7}) {
    std::vector<std::byte> source = random_bytes(bytes, static_cast<uint32_t>(bytes));
    const std::vector<std::byte> kept = source;
    const Buffer memory = accelerator()->allocate(bytes, MemoryKind::kWorkspace);
    accelerator()->copy_to_device(memory.data(), source.data(), bytes, *stream);
    std::fill(source.begin(), source.end(), std::byte{0});
    EXPECT_TRUE(read_back(memory.data(), bytes, *stream) == kept) << bytes;
  }
}

TEST(AcceleratorBackendTest, enqueued_copies_are_part_of_the_stream) {
  QUIRE_NEED_ACCELERATOR();
  const auto stream = accelerator()->create_stream();
  Counter counter;
  const size_t bytes = 1000 * sizeof(float);
  const Buffer memory = accelerator()->allocate(bytes, MemoryKind::kWorkspace);
  Shared<float> result(1000, -1.0f);
  for (int i = 0; i < 3; ++i) counter.enqueue(*stream);
  accelerator()->enqueue_to_device(memory.data(), counter.sum.data(), bytes, *stream);
  counter.enqueue(*stream);
  accelerator()->enqueue_to_host(result.data(), memory.data(), bytes, *stream);
  stream->synchronize();
  EXPECT_EQ(result[0], 3.0f);
  EXPECT_EQ(result[999], 3.0f);
  EXPECT_TRUE(counter.is(4.0f));
}

TEST(AcceleratorBackendTest, ops_reach_page_locked_memory_of_any_size) {
  QUIRE_NEED_ACCELERATOR();
  const auto stream = accelerator()->create_stream();
  for (const size_t bytes : {size_t{4000}, size_t{100} << 20}) {
    const Buffer source = accelerator()->allocate_host(bytes), sum = accelerator()->allocate_host(bytes);
    const auto rows = static_cast<int64_t>(bytes / sizeof(float) / 1000);
    const auto fill = [rows](const Buffer& memory, float value) {
      return std::fill_n(static_cast<float*>(memory.data()), rows * 1000, value);
    };
    fill(source, 2.0f);
    const float* const end = fill(sum, 1.0f);
    const auto whole = [rows](const Buffer& memory) { return Tensor(memory.data(), DType::kFloat32, {rows, 1000}); };
    accelerator()->ops().add({.x = whole(source), .out = whole(sum)}, *stream);
    stream->synchronize();
    EXPECT_TRUE(std::all_of(static_cast<const float*>(sum.data()), end, [](float number) { return number == 3.0f; }));
  }
}

TEST(AcceleratorBackendTest, memory_of_a_cache_reads_as_zero) {
  QUIRE_NEED_ACCELERATOR();
  const auto stream = accelerator()->create_stream();
  constexpr size_t kBytes = (32 << 20) + 5;
  for (int round = 0; round < 2; ++round) {
    const Buffer memory = accelerator()->allocate(kBytes, MemoryKind::kKvCache);
    EXPECT_TRUE(read_back(memory.data(), kBytes, *stream) == std::vector<std::byte>(kBytes));
    const std::vector<std::byte> dirt(kBytes, std::byte{0xab});
    accelerator()->copy_to_device(memory.data(), dirt.data(), kBytes, *stream);
    stream->synchronize();
  }
}

TEST(AcceleratorBackendTest, weights_lie_side_by_side_and_go_back) {
  QUIRE_NEED_ACCELERATOR();
  const auto stream = accelerator()->create_stream();
  const int64_t before = accelerator()->available_memory();
  EXPECT_GT(accelerator()->total_memory(), before);
  {
    std::mt19937 generator(1);
    std::vector<Buffer> buffers;
    std::vector<std::vector<std::byte>> contents;
    int64_t total = 0;
    for (uint32_t i = 0; i < 2000; ++i) {
      const size_t most = i % 100 == 0 ? 24 << 20 : 40000;
      contents.push_back(random_bytes(1 + generator() % most, i));
      total += static_cast<int64_t>(contents.back().size());
      buffers.push_back(accelerator()->allocate(contents.back().size(), MemoryKind::kWeights));
      EXPECT_EQ(reinterpret_cast<uintptr_t>(buffers.back().data()) % 256, 0U);
      accelerator()->copy_to_device(buffers.back().data(), contents.back().data(), contents.back().size(), *stream);
    }
    for (size_t i = 0; i < buffers.size(); ++i) {
      ASSERT_TRUE(read_back(buffers[i].data(), contents[i].size(), *stream) == contents[i]) << i;
    }
    const int64_t taken = before - accelerator()->available_memory();
    EXPECT_LE(taken, total + (int64_t{96} << 20));
    RecordProperty("weights_mib", static_cast<int>(total >> 20));
    RecordProperty("taken_mib", static_cast<int>(taken >> 20));
  }
  EXPECT_GE(accelerator()->available_memory(), before - (int64_t{4} << 20));
}

TEST(AcceleratorBackendTest, too_much_memory_is_refused_with_size_and_remedy) {
  QUIRE_NEED_ACCELERATOR();
  constexpr size_t kPiece = 2 << 20;  // what drivers count in
  const size_t bytes = static_cast<size_t>(accelerator()->total_memory()) / kPiece * 2 * kPiece;
  for (const MemoryKind kind : {MemoryKind::kWeights, MemoryKind::kKvCache, MemoryKind::kWorkspace}) {
    const std::string message =
        error_of(ErrorKind::kOutOfMemory, [&] { static_cast<void>(accelerator()->allocate(bytes, kind)); });
    EXPECT_NE(message.find("wanted=" + std::to_string(bytes >> 20) + " MiB"), std::string::npos) << message;
    EXPECT_NE(message.find("free="), std::string::npos) << message;
    EXPECT_NE(message.find("gpu_memory_utilization"), std::string::npos) << message;
  }
  const auto stream = accelerator()->create_stream();
  Counter counter;
  counter.enqueue(*stream);
  stream->synchronize();
  EXPECT_TRUE(counter.is(1.0f));
}

TEST(AcceleratorBackendTest, recorded_work_runs_when_launched_and_only_then) {
  QUIRE_NEED_ACCELERATOR();
  const auto stream = accelerator()->create_stream();
  Counter counter;
  accelerator()->begin_recording(*stream);
  for (int i = 0; i < 10; ++i) counter.enqueue(*stream);
  const auto graph = accelerator()->end_recording(*stream);
  stream->synchronize();
  EXPECT_TRUE(counter.is(0.0f));
  for (int i = 0; i < 3; ++i) graph->launch(*stream);
  counter.enqueue(*stream);
  graph->launch(*stream);
  stream->synchronize();
  EXPECT_TRUE(counter.is(41.0f));
  accelerator()->begin_recording(*stream);
  const auto nothing = accelerator()->end_recording(*stream);
  nothing->launch(*stream);
  stream->synchronize();
}

TEST(AcceleratorBackendTest, a_recording_that_fails_leaves_the_stream_usable) {
  QUIRE_NEED_ACCELERATOR();
  const auto stream = accelerator()->create_stream();
  Counter counter;
  accelerator()->begin_recording(*stream);
  counter.enqueue(*stream);
  error_of(ErrorKind::kDevice, [&] { stream->synchronize(); });
  error_of(ErrorKind::kDevice, [&] { accelerator()->end_recording(*stream); });
  counter.enqueue(*stream);
  stream->synchronize();
  EXPECT_TRUE(counter.is(1.0f));
  accelerator()->begin_recording(*stream);
  counter.enqueue(*stream);
  accelerator()->end_recording(*stream)->launch(*stream);
  stream->synchronize();
  EXPECT_TRUE(counter.is(2.0f));
}

TEST(AcceleratorBackendTest, other_threads_copy_while_one_records) {
  QUIRE_NEED_ACCELERATOR();
  const auto stream = accelerator()->create_stream();
  Counter counter;
  accelerator()->begin_recording(*stream);
  counter.enqueue(*stream);
  std::thread([] {
    const auto own = accelerator()->create_stream();
    const std::vector<std::byte> source = random_bytes(10 << 20, 5);
    const Buffer memory = accelerator()->allocate(source.size(), MemoryKind::kKvCache);
    accelerator()->copy_to_device(memory.data(), source.data(), source.size(), *own);
    EXPECT_TRUE(read_back(memory.data(), source.size(), *own) == source);
  }).join();
  const auto graph = accelerator()->end_recording(*stream);
  graph->launch(*stream);
  stream->synchronize();
  EXPECT_TRUE(counter.is(1.0f));
}

TEST(AcceleratorBackendTest, an_event_is_reached_with_the_work_before_it) {
  QUIRE_NEED_ACCELERATOR();
  const auto stream = accelerator()->create_stream();
  const auto event = accelerator()->create_event();
  event->wait();  // never recorded: nothing to wait for
  Counter counter;
  for (int round = 1; round <= 5; ++round) {
    for (int i = 0; i < 200; ++i) counter.enqueue(*stream);
    event->record(*stream);
    event->wait();
    EXPECT_TRUE(counter.is(200.0f * static_cast<float>(round)));
  }
}

TEST(AcceleratorBackendTest, a_second_backend_of_the_same_device_comes_and_goes) {
  QUIRE_NEED_ACCELERATOR();
  const int64_t before = accelerator()->available_memory();
  for (int round = 0; round < 3; ++round) {
    const auto other = create_backend(accelerator_kind() + ":0", {});
    const auto stream = other->create_stream();
    const Buffer memory = other->allocate(1000, MemoryKind::kWeights);
    std::vector<float> values(250, 2.0f);
    other->copy_to_device(memory.data(), values.data(), 1000, *stream);
    stream->synchronize();
  }
  EXPECT_GE(accelerator()->available_memory(), before - (int64_t{16} << 20));
}

/// An address that does not exist breaks the device for the whole process, so this runs in one of its own.
TEST(AcceleratorBackendDeathTest, a_device_that_fails_says_so) {
  QUIRE_NEED_ACCELERATOR();
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        const auto stream = accelerator()->create_stream();
        Counter counter;
        for (int round = 0; round < 2; ++round) {
          try {
            accelerator()->ops().add({.x = Tensor(counter.ones.data(), DType::kFloat32, {1, 1000}),
                                      .out = Tensor(reinterpret_cast<void*>(0x100000), DType::kFloat32, {1, 1000})},
                                     *stream);
            stream->synchronize();
            std::_Exit(1);
          } catch (const Error& error) {
            if (error.kind() != ErrorKind::kDevice) std::_Exit(2);
            std::fprintf(stderr, "%s\n", error.what());
          }
        }
        std::_Exit(0);
      },
      testing::ExitedWithCode(0), "illegal memory access");
}

}  // namespace
}  // namespace quire
