#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/cpu/cpu_features.h"
#include "backend/cpu/stream.h"
#include "backend/registry.h"
#include "core/temporary_folder.h"
#include "quire/error.h"

namespace quire {
namespace {

TEST(BackendTest, cpu_is_the_best_instruction_set_of_the_machine) {
  const std::string expected = "cpu (" + std::string(cpu::isa_name(cpu::best_isa())) + ")";
  EXPECT_EQ(create_backend("cpu", {.num_threads = 1})->name(), expected);
}

/// While it lives there are no GPU backends but those in a folder.
struct CpuOnly {
  explicit CpuOnly(const std::string& folder = "/nowhere") {
    if (const char* const path = std::getenv(kVariable)) before = path;
    setenv(kVariable, folder.c_str(), 1);
  }
  ~CpuOnly() { before ? setenv(kVariable, before->c_str(), 1) : unsetenv(kVariable); }

  static constexpr const char* kVariable = "QUIRE_BACKEND_PATH";
  std::optional<std::string> before;
};

TEST(BackendTest, auto_is_the_cpu_where_there_is_no_gpu_backend) {
  const CpuOnly here;
  EXPECT_EQ(create_backend("auto", {.num_threads = 1})->name(), create_backend("cpu", {.num_threads = 1})->name());
}

TEST(BackendTest, a_gpu_that_the_build_knows_nothing_of_is_refused_with_what_to_do) {
  const CpuOnly here;
  for (const std::string device : {"cuda", "cuda:0", "cuda:7", "hip", "hip:0", "hip:7"}) {
    try {
      create_backend(device, {});
      FAIL() << device;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
      const std::string option = device.starts_with("cuda") ? "QUIRE_CUDA" : "QUIRE_HIP";
      EXPECT_NE(std::string(error.what()).find(option), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("device=\"cpu\""), std::string::npos) << error.what();
    }
  }
}

TEST(BackendTest, a_gpu_backend_that_is_there_but_cannot_be_loaded_is_not_called_absent) {
  const TemporaryFolder folder;
  folder.write("libquire_hip.so", "this is no library");
  const CpuOnly here(folder.path());
  try {
    create_backend("hip", {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    const std::string message = error.what();
    for (const char* const part : {"hip", "cannot open", "libquire_hip.so", "ROCm", "device=\"cpu\""}) {
      EXPECT_NE(message.find(part), std::string::npos) << message;
    }
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
  EXPECT_EQ(create_backend("auto", {.num_threads = 1})->name(), create_backend("cpu", {.num_threads = 1})->name());
}

TEST(BackendTest, an_instruction_set_can_be_forced_or_is_refused) {
  for (const cpu::Isa isa : {cpu::Isa::kPortable, cpu::Isa::kAvx2, cpu::Isa::kAvx512}) {
    const std::string name(cpu::isa_name(isa));
    if (cpu::isa_supported(isa)) {
      EXPECT_EQ(create_backend("cpu:" + name, {.num_threads = 1})->name(), "cpu (" + name + ")");
      continue;
    }
    try {
      create_backend("cpu:" + name, {.num_threads = 1});
      FAIL() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    }
  }
}

TEST(BackendTest, an_unknown_device_is_refused_with_the_known_ones) {
  for (const std::string device : {"", "cpu:", "cpu:avx", "CPU", "cpu:avx2 ", "cuda:", "cuda:-1", "cuda:x", "cuda:0 ",
                                   "cuda0", "hip:", "hip:-1", "hipp", "HIP:0"}) {
    try {
      create_backend(device, {.num_threads = 1});
      FAIL() << device;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
      EXPECT_NE(std::string(error.what()).find("cpu:avx512"), std::string::npos) << error.what();
    }
  }
}

TEST(BackendTest, every_op_is_there) {
  for (const cpu::Isa isa : {cpu::Isa::kPortable, cpu::Isa::kAvx2, cpu::Isa::kAvx512}) {
    if (!cpu::isa_supported(isa)) continue;
    const std::unique_ptr<Backend> backend =
        create_backend("cpu:" + std::string(cpu::isa_name(isa)), {.num_threads = 1});
    const Ops& ops = backend->ops();
    EXPECT_TRUE(ops.embed && ops.norm && ops.linear && ops.grouped_linear && ops.rope && ops.kv_write &&
                ops.copy_blocks && ops.attention && ops.activation && ops.route && ops.moe && ops.add && ops.clip &&
                ops.gather && ops.logit_scale && ops.resolve && ops.sample);
  }
}

TEST(BackendTest, memory_is_aligned_writable_and_given_back) {
  const std::unique_ptr<Backend> backend = create_backend("cpu", {.num_threads = 1});
  for (const MemoryKind kind : {MemoryKind::kWeights, MemoryKind::kKvCache, MemoryKind::kWorkspace}) {
    for (const size_t bytes : {size_t{1}, size_t{63}, size_t{4097}, size_t{5} << 20}) {
      const Buffer buffer = backend->allocate(bytes, kind);
      ASSERT_NE(buffer.data(), nullptr);
      EXPECT_EQ(buffer.bytes(), bytes);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
      std::memset(buffer.data(), 0xab, bytes);
    }
  }
  EXPECT_EQ(backend->allocate(0, MemoryKind::kWorkspace).bytes(), 0u);
}

TEST(BackendTest, weights_do_not_overlap_and_outlive_their_backend) {
  std::unique_ptr<Backend> backend = create_backend("cpu", {.num_threads = 1});
  std::vector<Buffer> buffers;
  for (size_t i = 0; i < 40; ++i) buffers.push_back(backend->allocate((i + 1) * 50001, MemoryKind::kWeights));
  for (size_t i = 0; i < 40; ++i) std::memset(buffers[i].data(), static_cast<int>(i), buffers[i].bytes());
  for (size_t i = 0; i < 40; i += 2) buffers[i] = Buffer();
  backend.reset();
  for (size_t i = 1; i < 40; i += 2) {
    const auto* const bytes = static_cast<const unsigned char*>(buffers[i].data());
    ASSERT_EQ(bytes[0], i);
    ASSERT_EQ(bytes[buffers[i].bytes() - 1], i);
  }
}

TEST(BackendTest, kv_memory_reads_as_zero) {
  const std::unique_ptr<Backend> backend = create_backend("cpu", {.num_threads = 1});
  constexpr size_t kBytes = 3 << 20;
  for (int round = 0; round < 2; ++round) {
    const Buffer buffer = backend->allocate(kBytes, MemoryKind::kKvCache);
    auto* const bytes = static_cast<unsigned char*>(buffer.data());
    for (size_t i = 0; i < kBytes; i += 997) ASSERT_EQ(bytes[i], 0);
    std::memset(bytes, 0xff, kBytes);  // so that the next round would see memory that is merely recycled
  }
}

TEST(BackendTest, too_much_memory_is_refused_with_what_there_is) {
  const std::unique_ptr<Backend> backend = create_backend("cpu", {.num_threads = 1});
  for (const MemoryKind kind : {MemoryKind::kWeights, MemoryKind::kKvCache, MemoryKind::kWorkspace}) {
    for (const size_t bytes : {size_t{1} << 46, std::numeric_limits<size_t>::max() - 5}) {
      try {
        backend->allocate(bytes, kind);
        FAIL() << bytes;
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kOutOfMemory);
        EXPECT_NE(std::string(error.what()).find("available="), std::string::npos) << error.what();
      }
    }
  }
}

TEST(BackendTest, available_memory_is_some_and_not_absurd) {
  const int64_t bytes = create_backend("cpu", {.num_threads = 1})->available_memory();
  EXPECT_GT(bytes, int64_t{1} << 20);
  EXPECT_LT(bytes, int64_t{1} << 50);
}

TEST(BackendTest, copies_there_and_back) {
  const std::unique_ptr<Backend> backend = create_backend("cpu", {.num_threads = 1});
  const std::unique_ptr<Stream> stream = backend->create_stream();
  const std::vector<int> source = {1, 2, 3};
  std::vector<int> back(3);
  const Buffer memory = backend->allocate(12, MemoryKind::kWorkspace);
  backend->copy_to_device(memory.data(), source.data(), 12, *stream);
  backend->copy_to_host(back.data(), memory.data(), 12, *stream);
  EXPECT_EQ(back, source);
  backend->copy_to_host(nullptr, nullptr, 0, *stream);
}

TEST(BackendTest, threads_are_as_many_as_asked_for) {
  EXPECT_EQ(create_backend("cpu", {.num_threads = 3})->num_threads(), 3);
  EXPECT_GE(create_backend("cpu", {})->num_threads(), 1);
}

TEST(CpuStreamTest, scratch_is_apart_for_every_worker_and_only_grows) {
  ThreadPool pool(3);
  cpu::CpuStream stream(pool);
  stream.reserve_scratch(1000);
  for (int worker = 0; worker < 3; ++worker) std::memset(stream.scratch(worker), worker, 1000);
  stream.reserve_scratch(10);
  for (int worker = 0; worker < 3; ++worker) EXPECT_EQ(static_cast<char*>(stream.scratch(worker))[999], worker);
}

TEST(WorkRangesTest, every_number_is_taken_once_however_workers_run) {
  constexpr int kWorkers = 4;
  constexpr int64_t kCount = 20011;
  ThreadPool pool(kWorkers);
  cpu::WorkRanges work(kWorkers);
  for (const int64_t most : {1, 3, 1000000}) {
    std::vector<std::atomic<int>> taken(kCount);
    work.deal(kCount, kWorkers);
    pool.run([&](int worker) {
      for (auto range = work.take(worker, most); !range.empty(); range = work.take(worker, most)) {
        for (int64_t i = range.begin; i < range.end; ++i) taken[static_cast<size_t>(i)].fetch_add(1);
      }
    });
    for (int64_t i = 0; i < kCount; ++i) ASSERT_EQ(taken[static_cast<size_t>(i)].load(), 1) << i;
  }
}

TEST(WorkRangesTest, one_worker_can_take_what_the_others_do_not) {
  cpu::WorkRanges work(3);
  work.deal(100, 3);
  int64_t taken = 0;
  for (auto range = work.take(1, 7); !range.empty(); range = work.take(1, 7)) taken += range.end - range.begin;
  EXPECT_EQ(taken, 100);
  EXPECT_TRUE(work.take(0, 7).empty());
}

}  // namespace
}  // namespace quire
