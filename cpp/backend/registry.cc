#include "backend/registry.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "backend/cpu/backend.h"
#include "backend/cpu/cpu_features.h"
#include "backend/loadable.h"
#include "core/check.h"
#include "core/host.h"
#include "core/log.h"
#include "core/quote.h"

namespace quire {
namespace {

/// A GPU backend: what users call it, the file it is in, how a build gets it, and how a machine gets what it needs.
struct GpuBackend {
  std::string_view device;
  const char* file;
  const char* remedy;
  const char* needs;
  const char* standing;
};

constexpr std::array<GpuBackend, 2> kGpuBackends = {
    {{"cuda", "libquire_cuda.so", "build quire where nvcc is on the PATH (CMake option QUIRE_CUDA)",
      "it needs a C++ runtime as new as the compiler that built it",
      "run and measured on compute capability 9.0 (H100, H200); the others are compiled only"},
     {"hip", "libquire_hip.so", "build quire with QUIRE_HIP=1 where hipcc is on the PATH",
      "it needs ROCm's runtime (Debian: libamdhip64-5, ROCm's own packages: hip-runtime-amd)",
      "compiled only: not run, and not measured, on AMD's GPUs; the same sources pass on the CPU and on an NVIDIA "
      "GPU"}}};

/// The folder that this library, or the program or Python module it is part of, lies in.
std::string own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&create_backend), &info) == 0 || info.dli_fname == nullptr) return "";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash + 1);
}

/// Why a backend cannot be opened, and what to do. `is_there`: its file is, but cannot be loaded.
struct Refusal {
  bool is_there = false;
  std::string text;
};

/// Null, with the reason, if there is no such library or not all that it needs. The loader's message begins with the
/// file that it looked for.
void* open_library(const GpuBackend& gpu, const std::string& path, Refusal& refusal) {
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library != nullptr) return library;
  const std::string reason = dlerror();
  const bool is_there = !reason.starts_with(path + ": cannot open shared object file");
  if (is_there || refusal.text.empty()) {
    refusal = {is_there, reason + ": " + (is_there ? gpu.needs : gpu.remedy)};
  }
  return nullptr;
}

/// Opened once and never closed: its objects may live as long as the process. Null, with the reason, if that fails.
const LoadableBackend* open_backend(const GpuBackend& gpu, Refusal& refusal) {
  const char* const folder = std::getenv("QUIRE_BACKEND_PATH");
  const std::string path = (folder != nullptr ? std::string(folder) + "/" : own_folder()) + gpu.file;
  void* library = open_library(gpu, path, refusal);
  // A program that has this library linked in lies elsewhere than what was installed with it.
  if (library == nullptr && folder == nullptr && !refusal.is_there) library = open_library(gpu, gpu.file, refusal);
  if (library == nullptr) return nullptr;
  const auto entry = reinterpret_cast<LoadableBackendFn>(dlsym(library, "quire_backend"));
  if (entry == nullptr || entry()->interface_version != kBackendInterfaceVersion) {
    refusal = {true, path + " belongs to another version of quire: " + gpu.remedy};
    return nullptr;
  }
  return entry();
}

std::unique_ptr<Backend> create_gpu(const GpuBackend& gpu, int ordinal, const BackendOptions& options) {
  Refusal refusal;
  const LoadableBackend* const backend = open_backend(gpu, refusal);
  QUIRE_REQUIRE(backend != nullptr, ErrorKind::kUnsupported, "[device] ",
                refusal.is_there ? "quire cannot open its " : "this build of quire has no ", gpu.device,
                " backend: ", refusal.text, ", or use device=\"cpu\"");
  return backend->create(ordinal, options);
}

/// "cuda:1" -> 1, "cuda" -> 0 for CUDA's backend; nothing for other devices.
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
  std::string why_none;
  for (const GpuBackend& gpu : kGpuBackends) {
    Refusal refusal;
    std::string reason;
    if (const LoadableBackend* const backend = open_backend(gpu, refusal)) {
      if (backend->count_devices(reason) > 0) return backend->create(0, options);
    } else if (refusal.is_there) {
      reason = refusal.text;
    }  // else the build is without
    if (!reason.empty()) why_none += (why_none.empty() ? "" : "; ") + reason;
  }
  if (!why_none.empty()) log(LogLevel::kInfo, "[device] computing on the CPU: " + why_none);
  return nullptr;
}

void require_devices(const GpuBackend& gpu, int first, int32_t num_ranks) {
  Refusal refusal;
  std::string why_none;
  const LoadableBackend* const backend = open_backend(gpu, refusal);
  const int num_devices = backend == nullptr ? 0 : backend->count_devices(why_none);
  QUIRE_REQUIRE(first + num_ranks <= num_devices, ErrorKind::kInvalidArgument,
                "[device] fewer devices than ranks: tensor_parallel_size=", num_ranks, ", devices from ", gpu.device,
                ":", first, " on=", std::max(0, num_devices - first), ": set tensor_parallel_size to at most that");
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
  throw Error(
      ErrorKind::kInvalidArgument,
      detail::join_message("[device] unknown device: device=", in_quotes(device),
                           ", expected=auto, cpu, cpu:portable, cpu:avx2, cpu:avx512, cuda, cuda:N, hip or hip:N"));
}

std::vector<std::unique_ptr<Backend>> create_backends(const std::string& device, const BackendOptions& options,
                                                      int32_t num_ranks) {
  std::vector<std::unique_ptr<Backend>> backends;
  if (num_ranks == 1) {
    backends.push_back(create_backend(device, options));
    return backends;
  }
  const int num_threads = options.num_threads > 0 ? options.num_threads : physical_core_count();
  BackendOptions of_each = options;
  of_each.num_threads = std::max(1, num_threads / num_ranks);
  backends.push_back(create_backend(device, of_each));
  const std::string name = backends.front()->name();
  const std::string first = name.substr(0, name.find(' '));
  const auto* const gpu =
      std::ranges::find_if(kGpuBackends, [&](const GpuBackend& kind) { return ordinal_of(first, kind).has_value(); });
  const bool is_gpu = gpu != kGpuBackends.end();
  if (is_gpu) require_devices(*gpu, *ordinal_of(first, *gpu), num_ranks);
  for (int32_t rank = 1; rank < num_ranks; ++rank) {
    const std::string next = is_gpu ? detail::join_message(gpu->device, ":", *ordinal_of(first, *gpu) + rank)
                             : device == "auto" ? first
                                                : device;
    backends.push_back(create_backend(next, of_each));
  }
  return backends;
}

std::vector<KnownDevice> known_devices() {
  std::vector<KnownDevice> known;
  std::string isas;
  for (const cpu::Isa isa : {cpu::Isa::kPortable, cpu::Isa::kAvx2, cpu::Isa::kAvx512}) {
    if (cpu::isa_supported(isa)) isas += (isas.empty() ? "" : " ") + std::string(cpu::isa_name(isa));
  }
  known.push_back(
      {.name = "cpu", .num_devices = 1, .targets = isas, .standing = "run and measured with AVX2 and AVX-512"});
  for (const GpuBackend& gpu : kGpuBackends) {
    KnownDevice& device = known.emplace_back(KnownDevice{.name = std::string(gpu.device), .standing = gpu.standing});
    Refusal refusal;
    if (const LoadableBackend* const backend = open_backend(gpu, refusal)) {
      device.targets = backend->targets;
      device.num_devices = backend->count_devices(device.why_none);
    } else {
      device.why_none = refusal.text;
    }
  }
  return known;
}

}  // namespace quire
