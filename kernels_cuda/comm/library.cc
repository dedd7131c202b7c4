// Types and functions of nccl.h that we need are declared here, so that neither its headers nor the library are needed
// to build. RCCL has the same functions by the same names; numbers are those of NCCL 2.10 to 2.28 and of RCCL 2.10 on.
#include "kernels_cuda/comm/library.h"

#include <dlfcn.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <iterator>
#include <mutex>
#include <thread>

#include "core/check.h"
#include "kernels_cuda/common/device.h"

namespace quire::gpu {
namespace {

using Member = void*;  // ncclComm_t
using Status = int;

constexpr Status kDone = 0;                                          // ncclSuccess
constexpr int kInt8 = 0, kFloat16 = 6, kFloat32 = 7, kBFloat16 = 9;  // ncclDataType_t
constexpr int kSum = 0;                                              // ncclRedOp_t
constexpr int kOldestVersion = 21000;                                // the first with bfloat16
constexpr std::chrono::milliseconds kCallMayTake{1000};              // a collective's enqueueing, before an abort

/// The functions of the library.
struct Functions {
  Status (*version)(int*);
  const char* (*error_text)(Status);
  Status (*make_group)(Member* members, int count, const int* devices);
  Status (*leave)(Member);
  Status (*abort)(Member);
  Status (*all_reduce)(const void* x, void* out, size_t count, int type, int operation, Member, vendor::StreamHandle);
  Status (*all_gather)(const void* x, void* out, size_t count, int type, Member, vendor::StreamHandle);
  const char* (*last_error)(Member);  ///< may be absent, before 2.13
};

template <typename Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

bool find_all(void* library, Functions& found) {
  static_cast<void>(find(library, "ncclGetLastError", found.last_error));
  return find(library, "ncclGetVersion", found.version) && find(library, "ncclGetErrorString", found.error_text) &&
         find(library, "ncclCommInitAll", found.make_group) && find(library, "ncclCommDestroy", found.leave) &&
         find(library, "ncclCommAbort", found.abort) && find(library, "ncclAllReduce", found.all_reduce) &&
         find(library, "ncclAllGather", found.all_gather);
}

/// The folder that this library lies in, with a slash, or nothing.
std::string own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) == 0 || info.dli_fname == nullptr) return "";
  const std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/') + 1);
}

/// What is looked for, in this order: the folder or the file that a variable names; or else what the loader finds, and
/// what pip has put beside the Python package that we are a part of.
std::vector<std::string> files_to_try() {
  std::vector<std::string> files;
  if (const char* const folder = std::getenv(vendor::kCollectivesFolder)) {
    for (const char* const name : vendor::kCollectivesFiles) files.push_back(std::string(folder) + "/" + name);
  } else if (const char* const file = std::getenv(vendor::kCollectivesFile)) {
    files.emplace_back(file);
  } else {
    files.assign(std::begin(vendor::kCollectivesFiles), std::end(vendor::kCollectivesFiles));
    if (vendor::kCollectivesOfPip != nullptr) files.push_back(own_folder() + vendor::kCollectivesOfPip);
  }
  return files;
}

bool open_functions(Functions& functions, std::string& why_not) {
  void* library = nullptr;
  std::string file;
  for (const std::string& path : files_to_try()) {
    library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) {
      file = path;
      break;
    }
    if (const char* const error = dlerror(); error != nullptr && why_not.empty()) why_not = error;
  }
  if (library == nullptr) {
    why_not = detail::join_message(vendor::kCollectivesName, " not found: ", why_not, "; ", vendor::kCollectivesRemedy,
                                   ", or set ", vendor::kCollectivesFolder, " to its folder");
    return false;
  }
  if (const std::string second = vendor::explain_second_runtime(); !second.empty()) {
    why_not = detail::join_message(vendor::kCollectivesName, " is not of this build: file=", file, ", ", second);
    return false;  // and stays open: nobody knows what closing it would take along
  }
  int version = 0;
  if (!find_all(library, functions) || functions.version(&version) != kDone || version < kOldestVersion) {
    why_not = detail::join_message(vendor::kCollectivesName, " is too old: file=", file, ", version=", version,
                                   ", expected=", kOldestVersion, " or newer; ", vendor::kCollectivesRemedy);
    dlclose(library);
    return false;
  }
  return true;
}

/// The library reads these when a group is made. Who has set them keeps what they have set.
void choose_settings() {
  // Sums made in a switch come in no order of ours, and from run to run in another; multicast memory, which they need,
  // is not to be had in every container.
  setenv("NCCL_NVLS_ENABLE", "0", 0);
  // All links are made with the group: a first call that makes them waits on the host for the other ranks.
  setenv("NCCL_RUNTIME_CONNECT", "0", 0);
}

int type_of(DType dtype) {
  if (dtype == DType::kFloat32) return kFloat32;
  return dtype == DType::kBFloat16 ? kBFloat16 : kFloat16;
}

}  // namespace

struct CollectiveLibrary::State {
  Functions functions{};
  std::vector<int> devices;
  std::vector<Member> members;
  std::vector<std::timed_mutex> calls;  ///< one for each rank: held while it is in the library
  std::thread maker;
  std::once_flag made;
  std::exception_ptr why_not_made;
  std::atomic<bool> is_made = false;
  std::atomic<bool> is_aborted = false;
  std::vector<std::thread> stoppers;  ///< one for each rank, in the library's abort

  explicit State(std::vector<int> ordinals)
      : devices(std::move(ordinals)), members(devices.size()), calls(devices.size()) {}

  void make() {
    try {
      const Status status = functions.make_group(members.data(), static_cast<int>(devices.size()), devices.data());
      check(status, "making the group of ranks", nullptr);
      is_made = true;
    } catch (...) {
      why_not_made = std::current_exception();
    }
  }

  void wait() {
    std::call_once(made, [this] { maker.join(); });
  }

  void check(Status status, const char* what, Member member) const {
    if (status == kDone) return;
    const char* const more = functions.last_error != nullptr ? functions.last_error(member) : nullptr;
    throw Error(ErrorKind::kDevice,
                detail::join_message("[", vendor::kName, "] ", vendor::kCollectivesName, " reports an error: doing=",
                                     what, ", error=", functions.error_text(status), more != nullptr ? ": " : "",
                                     more != nullptr ? more : "", "; NCCL_DEBUG=WARN says more"));
  }

  template <typename Call>
  void call(int rank, const char* what, Call run) {
    const std::lock_guard lock(calls[static_cast<size_t>(rank)]);
    QUIRE_REQUIRE(!is_aborted, ErrorKind::kDevice, "[", vendor::kName, "] the ranks were told to stop");
    Member const member = members[static_cast<size_t>(rank)];
    const Status status = run(member);
    // Who waited in the library for a rank that failed is told of that, and not of the library's end.
    QUIRE_REQUIRE(!is_aborted, ErrorKind::kDevice, "[", vendor::kName, "] the ranks were told to stop");
    check(status, what, member);
  }
};

std::unique_ptr<CollectiveLibrary> CollectiveLibrary::open(std::vector<int> devices, std::string& why_not) {
  auto state = std::make_unique<State>(std::move(devices));
  if (!open_functions(state->functions, why_not)) return nullptr;
  choose_settings();
  state->maker = std::thread([made = state.get()] { made->make(); });
  return std::unique_ptr<CollectiveLibrary>(new CollectiveLibrary(std::move(state)));
}

CollectiveLibrary::CollectiveLibrary(std::unique_ptr<State> state) : state_(std::move(state)) {}

CollectiveLibrary::~CollectiveLibrary() {
  state_->wait();
  for (std::thread& stopper : state_->stoppers) stopper.join();
  if (!state_->is_made || state_->is_aborted) return;
  // An error on the way out changes nothing any more.
  for (Member const member : state_->members) static_cast<void>(state_->functions.leave(member));
}

void CollectiveLibrary::ready() {
  state_->wait();
  if (state_->why_not_made) std::rethrow_exception(state_->why_not_made);
}

void CollectiveLibrary::all_reduce(int rank, void* x, size_t count, DType dtype, vendor::StreamHandle stream) {
  state_->call(rank, "all_reduce", [&](Member member) {
    return state_->functions.all_reduce(x, x, count, type_of(dtype), kSum, member, stream);
  });
}

void CollectiveLibrary::all_gather(int rank, const void* x, void* out, size_t bytes, vendor::StreamHandle stream) {
  state_->call(rank, "all_gather",
               [&](Member member) { return state_->functions.all_gather(x, out, bytes, kInt8, member, stream); });
}

void CollectiveLibrary::abort() noexcept {
  if (state_->is_aborted.exchange(true)) return;
  // A group that is still being made ends by itself.
  if (!state_->is_made) return;
  // A member's abort ends what runs at once, and comes back when all graphs are gone in which it has calls. Whoever
  // has those graphs may be the one that waits for this function.
  const auto end = std::chrono::steady_clock::now() + kCallMayTake;
  for (size_t rank = 0; rank < state_->members.size(); ++rank) {
    const auto stop = [state = state_.get(), rank, end] {
      // A rank that is in a call for longer waits there for others: the library says that aborting is the way out.
      std::unique_lock lock(state->calls[rank], std::defer_lock);
      static_cast<void>(lock.try_lock_until(end));
      static_cast<void>(state->functions.abort(state->members[rank]));
    };
    try {
      state_->stoppers.emplace_back(stop);
    } catch (const std::exception&) {
      stop();  // no thread to be had
    }
  }
}

}  // namespace quire::gpu
