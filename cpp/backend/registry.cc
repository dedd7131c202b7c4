#include "backend/registry.h"

#include <dlfcn.h>

#include <array>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "backend/cpu/backend.h"
#include "backend/cpu/cpu_features.h"
#include "backend/loadable.h"
#include "core/check.h"
#include "core/log.h"
#include "core/quote.h"

namespace quire {
namespace {

/// A GPU backend: what users call it, the file it is in, and how a build gets it.
struct GpuBackend {
  std::string_view device;
  const char* file;
  const char* remedy;
};

constexpr std::array<GpuBackend, 1> kGpuBackends = {
    {{"cuda", "libquire_cuda.so", "build quire where nvcc is on the PATH (CMake option QUIRE_CUDA)"}}};

/// The folder that this library, or the program or Python module it is part of, lies in.
std::string own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&create_backend), &info) == 0 || info.dli_fname == nullptr) return "";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash + 1);
}

/// Opened once and never closed: its objects may live as long as the process. Null, with the reason, if it is not
/// there.
const LoadableBackend* open_backend(const GpuBackend& gpu, std::string& why_not) {
  const char* const folder = std::getenv("QUIRE_BACKEND_PATH");
  const std::string path = (folder != nullptr ? std::string(folder) + "/" : own_folder()) + gpu.file;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) why_not = dlerror();
  // A program that has this library linked in lies elsewhere than what was installed with it.
  if (library == nullptr && folder == nullptr) library = dlopen(gpu.file, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return nullptr;
  const auto entry = reinterpret_cast<LoadableBackendFn>(dlsym(library, "quire_backend"));
  if (entry == nullptr || entry()->interface_version != kBackendInterfaceVersion) {
    why_not = path + " belongs to another version of quire";
    return nullptr;
  }
  return entry();
}

std::unique_ptr<Backend> create_gpu(const GpuBackend& gpu, int ordinal, const BackendOptions& options) {
  std::string why_not;
  const LoadableBackend* const backend = open_backend(gpu, why_not);
  QUIRE_REQUIRE(backend != nullptr, ErrorKind::kUnsupported, "[device] this build of quire has no ", gpu.device,
                " backend: ", why_not, ": ", gpu.remedy, ", or use device=\"cpu\"");
  return backend->create(ordinal, options);
}

/// "cuda:1" -> 1, "cuda" -> 0; nothing for other devices.
std::optional<int> ordinal_of(const std::string& device, const GpuBackend& gpu) {
  if (device == gpu.device) return 0;
  const std::string prefix = std::string(gpu.device) + ":";
  if (!device.starts_with(prefix)) return std::nullopt;
  int ordinal = -1;
  const char* const end = device.data() + device.size();
  const auto [stop, error] = std::from_chars(device.data() + prefix.size(), end, ordinal);
  return error == std::errc() && stop == end && ordinal >= 0 ? std::optional(ordinal) : std::nullopt;
}

/// A GPU of any kind, or null.
std::unique_ptr<Backend> create_any_gpu(const BackendOptions& options) {
  for (const GpuBackend& gpu : kGpuBackends) {
    std::string why_not;
    const LoadableBackend* const backend = open_backend(gpu, why_not);
    if (backend == nullptr) continue;  // a build for the CPU alone
    if (backend->count_devices(why_not) > 0) return backend->create(0, options);
    log(LogLevel::kInfo, detail::join_message("[device] computing on the CPU: ", why_not));
  }
  return nullptr;
}

}  // namespace

std::unique_ptr<Backend> create_backend(const std::string& device, const BackendOptions& options) {
  if (device == "auto") {
    if (auto gpu = create_any_gpu(options)) return gpu;
  }
  if (device == "auto" || device == "cpu") {
    return std::make_unique<cpu::CpuBackend>(cpu::best_isa(), options.num_threads);
  }
  for (const cpu::Isa isa : {cpu::Isa::kPortable, cpu::Isa::kAvx2, cpu::Isa::kAvx512}) {
    if (device == "cpu:" + std::string(cpu::isa_name(isa))) {
      return std::make_unique<cpu::CpuBackend>(isa, options.num_threads);
    }
  }
  for (const GpuBackend& gpu : kGpuBackends) {
    if (const auto ordinal = ordinal_of(device, gpu)) return create_gpu(gpu, *ordinal, options);
  }
  throw Error(ErrorKind::kInvalidArgument,
              detail::join_message("[device] unknown device: device=", in_quotes(device),
                                   ", expected=auto, cpu, cpu:portable, cpu:avx2, cpu:avx512, cuda or cuda:N"));
}

}  // namespace quire
