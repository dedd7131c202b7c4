#include "kernels_cuda/backend.h"

#include <algorithm>
#include <cstdlib>

#include "core/check.h"
#include "kernels_cuda/layouts.h"
#include "kernels_cuda/ops.h"
#include "kernels_cuda/portable/probe.h"

namespace quire::gpu {
namespace {

constexpr size_t kBlasWorkspaceBytes = 32 << 20;

/// 13000 -> "13.0"
std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string capability_text(int capability) {
  return std::to_string(capability / 10) + "." + std::to_string(capability % 10);
}

/// Why the runtime finds no device, and what to do.
std::string explain(cudaError_t error) {
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES");
  switch (error) {
    case cudaSuccess:
    case cudaErrorNoDevice:
      return visible == nullptr ? "no NVIDIA GPU is visible: nvidia-smi lists those that the driver sees"
                                : detail::join_message("no NVIDIA GPU is visible: CUDA_VISIBLE_DEVICES=\"", visible,
                                                       "\"; unset it to use all");
    case cudaErrorInsufficientDriver:
    case cudaErrorStubLibrary:
      if (driver == 0) return "no NVIDIA driver is installed: install one, or use device=\"cpu\"";
      return detail::join_message("the NVIDIA driver is too old for CUDA ", version_text(runtime),
                                  ": installed=", version_text(driver), "; update the driver, or use device=\"cpu\"");
    default:
      return detail::join_message("the NVIDIA driver does not work: error=", cudaGetErrorString(error), " (",
                                  cudaGetErrorName(error), "); see whether nvidia-smi works");
  }
}

Device open_device(int ordinal) {
  std::string why_none;
  const int count = count_devices(why_none);
  QUIRE_REQUIRE(count > 0, ErrorKind::kUnsupported, "[device] ", why_none);
  QUIRE_REQUIRE(ordinal >= 0 && ordinal < count, ErrorKind::kInvalidArgument,
                "[device] there is no such GPU: device=cuda:", ordinal, ", expected=cuda:0 to cuda:", count - 1);
  check(cudaSetDevice(ordinal), "opening the device");
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, ordinal), "opening the device");
  Device device{.ordinal = ordinal,
                .name = properties.name,
                .compute_capability = properties.major * 10 + properties.minor,
                .num_multiprocessors = properties.multiProcessorCount,
                .shared_memory_per_block = properties.sharedMemPerBlockOptin,
                .l2_bytes = static_cast<size_t>(properties.l2CacheSize)};
  const cudaError_t code = probe_code();
  if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorInvalidDeviceFunction) {
    cudaGetLastError();
    throw Error(
        ErrorKind::kUnsupported,
        detail::join_message("[device] this build has no code for compute capability ",
                             capability_text(device.compute_capability), ": device=cuda:", ordinal, " (", device.name,
                             "); build quire with QUIRE_CUDA_ARCHITECTURES=", device.compute_capability,
                             " where the CUDA toolkit still knows it, or use ", "device=\"cpu\""));
  }
  check(code, "opening the device");
  return device;
}

class GpuEvent final : public Event {
 public:
  explicit GpuEvent(cudaEvent_t handle) : handle_(handle) {}
  ~GpuEvent() override { cudaEventDestroy(handle_); }
  GpuEvent(const GpuEvent&) = delete;
  GpuEvent& operator=(const GpuEvent&) = delete;

  void record(Stream& stream) override { check(cudaEventRecord(handle_, as_gpu(stream).handle()), "marking a place"); }
  void wait() override { check(cudaEventSynchronize(handle_), "waiting for the device"); }

 private:
  cudaEvent_t handle_;
};

class GpuGraph final : public Graph {
 public:
  explicit GpuGraph(cudaGraphExec_t handle) : handle_(handle) {}
  ~GpuGraph() override { cudaGraphExecDestroy(handle_); }
  GpuGraph(const GpuGraph&) = delete;
  GpuGraph& operator=(const GpuGraph&) = delete;

  void launch(Stream& stream) override {
    check(cudaGraphLaunch(handle_, as_gpu(stream).handle()), "launching recorded work");
  }

 private:
  cudaGraphExec_t handle_;
};

}  // namespace

int count_devices(std::string& why_none) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    count = 0;
  }
  if (count == 0) why_none = explain(error);
  return count;
}

GpuBackend::GpuBackend(int ordinal, const BackendOptions& options)
    : resources_{.device = open_device(ordinal), .deterministic = options.deterministic}, weights_(ordinal) {
  const Device& device = resources_.device;
  resources_.scratch_bytes = std::max(attention_scratch_bytes(device), linear_scratch_bytes(device));
  resources_.num_counters = std::max(attention_counters(device), linear_counters(device));
  scratch_ = allocate_device(resources_.scratch_bytes, ordinal);
  counters_ = allocate_zeroed(resources_.num_counters * sizeof(unsigned));
  resources_.scratch = scratch_.data();
  resources_.counters = static_cast<unsigned*>(counters_.data());
  blas_workspace_ = allocate_device(kBlasWorkspaceBytes, ordinal);
  blas_ = Blas::open(device, blas_workspace_.data(), blas_workspace_.bytes(), why_no_blas_);
  if (blas_ == nullptr) blas_workspace_ = {};
  resources_.blas = blas_.get();
}

GpuBackend::~GpuBackend() = default;

/// A thread starts on device 0: whatever an engine's thread calls first makes this one its own.
void GpuBackend::use_device() const {
  check(cudaSetDevice(resources_.device.ordinal), "choosing the device");
}

std::string GpuBackend::name() const {
  const Device& device = resources_.device;
  return detail::join_message("cuda:", device.ordinal, " (", device.name, ", sm_", device.compute_capability,
                              blas_ == nullptr ? ", without cuBLASLt: " + why_no_blas_ : "", ")");
}

const Ops& GpuBackend::ops() const {
  return gpu::ops();
}

std::unique_ptr<Stream> GpuBackend::create_stream() {
  use_device();
  cudaStream_t handle = nullptr;
  check(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking), "creating a stream");
  return std::make_unique<GpuStream>(resources_, handle);
}

std::unique_ptr<Event> GpuBackend::create_event() {
  use_device();
  cudaEvent_t handle = nullptr;
  check(cudaEventCreateWithFlags(&handle, cudaEventDisableTiming), "creating an event");
  return std::make_unique<GpuEvent>(handle);
}

Buffer GpuBackend::allocate(size_t bytes, MemoryKind kind) {
  switch (kind) {
    case MemoryKind::kWeights: return weights_.allocate(bytes);
    case MemoryKind::kKvCache: return allocate_zeroed(bytes);
    default: return allocate_device(bytes, resources_.device.ordinal);
  }
}

Buffer GpuBackend::allocate_zeroed(size_t bytes) {
  Buffer buffer = allocate_device(bytes, resources_.device.ordinal);
  if (bytes == 0) return buffer;
  check(cudaMemset(buffer.data(), 0, bytes), "clearing memory");
  // Our streams do not wait for the one that this ran on.
  check(cudaStreamSynchronize(nullptr), "clearing memory");
  return buffer;
}

Buffer GpuBackend::allocate_host(size_t bytes) {
  use_device();
  return allocate_page_locked(bytes);
}

void GpuBackend::copy_to_device(void* destination, const void* source, size_t bytes, Stream& stream) {
  use_device();
  uploader_.copy(destination, source, bytes, as_gpu(stream).handle());
}

void GpuBackend::copy_to_host(void* destination, const void* source, size_t bytes, Stream& stream) {
  enqueue_to_host(destination, source, bytes, stream);
  stream.synchronize();
}

void GpuBackend::enqueue_to_device(void* destination, const void* source, size_t bytes, Stream& stream) {
  if (bytes == 0) return;
  use_device();
  check(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDefault, as_gpu(stream).handle()),
        "copying to the device");
}

void GpuBackend::enqueue_to_host(void* destination, const void* source, size_t bytes, Stream& stream) {
  if (bytes == 0) return;
  use_device();
  check(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDefault, as_gpu(stream).handle()),
        "copying from the device");
}

void GpuBackend::begin_recording(Stream& stream) {
  use_device();
  // Thread-local: other threads may allocate and copy meanwhile.
  check(cudaStreamBeginCapture(as_gpu(stream).handle(), cudaStreamCaptureModeThreadLocal), "starting to record");
}

std::unique_ptr<Graph> GpuBackend::end_recording(Stream& stream) {
  use_device();
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(as_gpu(stream).handle(), &graph), "recording work");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(error, "preparing recorded work");
  auto recorded = std::make_unique<GpuGraph>(executable);
  check(cudaGraphUpload(executable, as_gpu(stream).handle()), "preparing recorded work");
  return recorded;
}

PackedLinear GpuBackend::pack_linear(const LinearSource& source, Stream& stream) {
  use_device();
  return gpu::pack_linear(source, *this, stream);
}

int64_t GpuBackend::kv_block_bytes(const KvLayer& shape) const {
  return kv_page_bytes(shape);
}

size_t GpuBackend::moe_scratch_bytes(const MoeShape& shape) const {
  return gpu::moe_scratch_bytes(shape);
}

size_t GpuBackend::sample_scratch_bytes(int64_t num_rows, int64_t vocabulary) const {
  return gpu::sample_scratch_bytes(num_rows, vocabulary);
}

int64_t GpuBackend::available_memory() const {
  use_device();
  size_t free_bytes = 0, total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes), "asking for free memory");
  return static_cast<int64_t>(free_bytes);
}

int64_t GpuBackend::total_memory() const {
  use_device();
  size_t free_bytes = 0, total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes), "asking for free memory");
  return static_cast<int64_t>(total_bytes);
}

}  // namespace quire::gpu
