// librccl.so.1 for the CPU: what quire uses of RCCL, done by the ranks' threads themselves, which wait for each other
// where a GPU's kernels would. Sums of 16-bit numbers are rounded in each step, in an order that is not that of ranks:
// as the library may.
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/dtype.h"
#include "gpu_on_cpu/runtime.h"

namespace {

constexpr int kDone = 0, kInternalError = 3, kInvalidArgument = 4;
constexpr int kInt8 = 0, kFloat16 = 6, kFloat32 = 7, kBFloat16 = 9;

size_t bytes_of(int type) {
  return type == kInt8 ? 1 : type == kFloat32 ? 4 : 2;
}

float load(const void* from, int type, size_t i) {
  if (type == kFloat32) return static_cast<const float*>(from)[i];
  const uint16_t bits = static_cast<const uint16_t*>(from)[i];
  return type == kBFloat16 ? quire::to_float(quire::BFloat16{bits}) : quire::to_float(quire::Float16{bits});
}

void store(void* to, int type, size_t i, float value) {
  if (type == kFloat32) {
    static_cast<float*>(to)[i] = value;
  } else {
    static_cast<uint16_t*>(to)[i] = type == kBFloat16 ? quire::to_bfloat16(value).bits : quire::to_float16(value).bits;
  }
}

struct Group {
  explicit Group(int count) : parts(static_cast<size_t>(count)) {}

  /// False if the ranks were told to stop.
  bool meet() {
    std::unique_lock lock(mutex);
    if (is_aborted) return false;
    const uint64_t now = round;
    if (++arrived == parts.size()) {
      arrived = 0;
      ++round;
      changed.notify_all();
      return true;
    }
    changed.wait(lock, [&] { return round != now || is_aborted; });
    return round != now;
  }

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<const void*> parts;
  size_t arrived = 0;
  uint64_t round = 0;
  bool is_aborted = false;
};

struct Member {
  std::shared_ptr<Group> group;
  size_t rank;
  std::shared_ptr<int> use = std::make_shared<int>(0);  ///< shared by what was recorded

  /// As the libraries do before they end.
  void wait_for_graphs() const {
    while (use.use_count() > 1) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  /// `make` makes this rank's result of what all ranks have.
  template <typename Make>
  int exchange(const void* x, void* out, gpu_on_cpu::Stream* stream, Make make) {
    int status = kDone;
    auto shared = group;
    const size_t own = rank;
    const auto recorded = stream->is_recorded() ? use : nullptr;
    gpu_on_cpu::enqueue(stream, [shared, own, x, out, make, recorded, &status] {
      const auto fail = [&] {
        if (recorded == nullptr) status = kInternalError;
      };
      shared->parts[own] = x;
      if (!shared->meet()) return fail();
      const std::vector<uint8_t> result = make(*shared);
      if (!shared->meet()) return fail();
      std::memcpy(out, result.data(), result.size());
    });
    return status;
  }
};

}  // namespace

extern "C" {

int ncclGetVersion(int* version) {
  *version = 22707;
  return kDone;
}

const char* ncclGetErrorString(int status) {
  return status == kDone ? "no error" : "internal error";
}

int ncclCommInitAll(void** members, int count, const int*) {
  const auto group = std::make_shared<Group>(count);
  for (int r = 0; r < count; ++r) members[r] = new Member{group, static_cast<size_t>(r)};
  return kDone;
}

int ncclCommDestroy(void* member) {
  static_cast<Member*>(member)->wait_for_graphs();
  delete static_cast<Member*>(member);
  return kDone;
}

/// A rank may still be in a call: its member stays.
int ncclCommAbort(void* member) {
  Group& group = *static_cast<Member*>(member)->group;
  {
    const std::lock_guard lock(group.mutex);
    group.is_aborted = true;
    group.changed.notify_all();
  }
  static_cast<Member*>(member)->wait_for_graphs();
  return kDone;
}

int ncclAllReduce(const void* x, void* out, size_t count, int type, int operation, void* member,
                  gpu_on_cpu::Stream* stream) {
  if (operation != 0 || type == kInt8) return kInvalidArgument;
  return static_cast<Member*>(member)->exchange(x, out, stream, [count, type](const Group& group) {
    std::vector<uint8_t> result(count * bytes_of(type));
    for (size_t i = 0; i < count; ++i) {
      store(result.data(), type, i, load(group.parts.back(), type, i));
      for (size_t r = group.parts.size() - 1; r-- > 0;) {
        store(result.data(), type, i, load(result.data(), type, i) + load(group.parts[r], type, i));
      }
    }
    return result;
  });
}

int ncclAllGather(const void* x, void* out, size_t count, int type, void* member, gpu_on_cpu::Stream* stream) {
  return static_cast<Member*>(member)->exchange(x, out, stream, [count, type](const Group& group) {
    const size_t bytes = count * bytes_of(type);
    std::vector<uint8_t> result(bytes * group.parts.size());
    for (size_t r = 0; r < group.parts.size(); ++r) std::memcpy(result.data() + r * bytes, group.parts[r], bytes);
    return result;
  });
}

}  // extern "C"
