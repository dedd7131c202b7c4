// The vendor's runtime under the names of ours: CUDA. kernels_hip/compat.h has the same for HIP.
#pragma once

#include <cuda_runtime.h>

#include <string>
#include <utility>

namespace quire::gpu {
struct Device;
}

namespace quire::gpu::vendor {

using StreamHandle = cudaStream_t;
using EventHandle = cudaEvent_t;
using RecordingHandle = cudaGraph_t;
using GraphHandle = cudaGraphExec_t;
/// What every function of the runtime returns.
using Result = cudaError_t;

constexpr Result kSuccess = cudaSuccess;
/// As users call its devices.
constexpr const char* kName = "cuda";
constexpr const char* kBlasName = "cuBLASLt";

/// The library for collectives: as users call it, its files, the variables that name its folder and its file (the
/// second one is vLLM's), where pip puts it, seen from the Python package's folder, and how a machine gets it.
constexpr const char* kCollectivesName = "NCCL";
constexpr const char* kCollectivesFiles[] = {"libnccl.so.2"};
constexpr const char* kCollectivesFolder = "QUIRE_NCCL_PATH";
constexpr const char* kCollectivesFile = "VLLM_NCCL_SO_PATH";
constexpr const char* kCollectivesOfPip = "../nvidia/nccl/lib/libnccl.so.2";
constexpr const char* kCollectivesRemedy = "install it (pip install nvidia-nccl-cu13, or NVIDIA's package libnccl2)";

/// What this build's code is for.
const char* targets();

// Errors.

/// "out of memory (cudaErrorMemoryAllocation)"
std::string describe(Result result);
inline bool is_out_of_memory(Result result) {
  return result == cudaErrorMemoryAllocation;
}
/// What the questions for a stream's or an event's state say meanwhile.
inline bool is_not_ready(Result result) {
  return result == cudaErrorNotReady;
}
/// The runtime reports an error once more, to whoever asks next, unless it is forgotten.
inline void forget_error() {
  cudaGetLastError();
}

// Devices.

inline Result count_devices(int* count) {
  return cudaGetDeviceCount(count);
}
/// Of the calling thread.
inline Result use_device(int ordinal) {
  return cudaSetDevice(ordinal);
}
inline Result current_device(int* ordinal) {
  return cudaGetDevice(ordinal);
}
/// Fills in what `device` says of the GPU of that ordinal.
Result look_at_device(int ordinal, Device& device);
/// Why count_devices() finds none, having returned `result`, and what to do.
std::string explain_no_device(Result result);
/// Whether `result` says that this build has no machine code for the device.
bool is_missing_code(Result result);
/// For the message then: what the device would need, and how a build gets it.
std::string explain_missing_code(const Device& device);

/// Whether a library that was opened has brought another runtime into the process, to which ours means nothing; empty
/// if not. NVIDIA's libraries have theirs linked in, and know our streams.
inline std::string explain_second_runtime() {
  return "";
}

// Memory.

inline Result allocate(void** memory, size_t bytes) {
  return cudaMalloc(memory, bytes);
}
inline Result release(void* memory) {
  return cudaFree(memory);
}
/// Page-locked memory of the host that every device sees at the same address.
inline Result allocate_host(void** memory, size_t bytes) {
  return cudaHostAlloc(memory, bytes, cudaHostAllocPortable | cudaHostAllocMapped);
}
inline Result release_host(void* memory) {
  return cudaFreeHost(memory);
}
/// The same of memory that there is already, on devices that have `sees_locked_memory`.
inline Result lock_host(void* memory, size_t bytes) {
  return cudaHostRegister(memory, bytes, cudaHostRegisterPortable | cudaHostRegisterMapped);
}
inline Result unlock_host(void* memory) {
  return cudaHostUnregister(memory);
}
inline bool sees_locked_memory(int ordinal) {
  int sees = 0;
  return cudaDeviceGetAttribute(&sees, cudaDevAttrCanUseHostPointerForRegisteredMem, ordinal) == cudaSuccess &&
         sees != 0;
}
inline Result free_and_total(size_t* free_bytes, size_t* total_bytes) {
  return cudaMemGetInfo(free_bytes, total_bytes);
}
inline Result clear(void* memory, size_t bytes) {
  return cudaMemset(memory, 0, bytes);
}
/// Between host and device in any direction.
inline Result copy(void* to, const void* from, size_t bytes, StreamHandle stream) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream);
}
/// Rows of `row_bytes` within the device.
inline Result copy_rows(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t row_bytes, size_t rows,
                        StreamHandle stream) {
  return cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, row_bytes, rows, cudaMemcpyDeviceToDevice, stream);
}

// Streams, events, recorded work.

inline Result create_stream(StreamHandle* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking);
}
inline void destroy_stream(StreamHandle stream) {
  cudaStreamDestroy(stream);
}
inline Result wait_for_stream(StreamHandle stream) {
  return cudaStreamSynchronize(stream);
}
/// Whether all that has been enqueued is done.
inline Result ask_stream(StreamHandle stream) {
  return cudaStreamQuery(stream);
}
inline Result create_event(EventHandle* event) {
  return cudaEventCreateWithFlags(event, cudaEventDisableTiming);
}
inline void destroy_event(EventHandle event) {
  cudaEventDestroy(event);
}
inline Result record_event(EventHandle event, StreamHandle stream) {
  return cudaEventRecord(event, stream);
}
inline Result wait_for_event(EventHandle event) {
  return cudaEventSynchronize(event);
}
/// Whether the recorded place has been reached.
inline Result ask_event(EventHandle event) {
  return cudaEventQuery(event);
}
/// Other threads may allocate and copy meanwhile.
inline Result begin_recording(StreamHandle stream) {
  return cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
}
inline Result end_recording(StreamHandle stream, RecordingHandle* recording) {
  return cudaStreamEndCapture(stream, recording);
}
inline Result make_graph(GraphHandle* graph, RecordingHandle recording) {
  return cudaGraphInstantiate(graph, recording, 0);
}
inline void destroy_recording(RecordingHandle recording) {
  cudaGraphDestroy(recording);
}
/// Ahead of the first launch, which would do it otherwise.
inline Result upload_graph(GraphHandle graph, StreamHandle stream) {
  return cudaGraphUpload(graph, stream);
}
inline Result launch_graph(GraphHandle graph, StreamHandle stream) {
  return cudaGraphLaunch(graph, stream);
}
inline void destroy_graph(GraphHandle graph) {
  cudaGraphExecDestroy(graph);
}

// Kernels.

/// An error that is_missing_code() if there is no code of `kernel` for the current device.
template <typename... Params>
Result find_code(void (*kernel)(Params...)) {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, kernel);
}

template <typename... Params>
Result allow_shared_memory(void (*kernel)(Params...), size_t bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

/// `cluster`: blocks, one behind the other, that see each other's shared memory (compute capability 9.0), or 1; the
/// grid is a multiple of it. `early`: the kernel may start while the one before it still runs.
template <typename... Params>
Result launch_clusters(void (*kernel)(Params...), dim3 grid, int cluster, dim3 block, size_t shared_bytes,
                       StreamHandle stream, bool early, Params... params) {
  cudaLaunchAttribute attributes[3]{};
  // All kernels want the same split between shared memory and cache: a multiprocessor must run empty to change it,
  // which would part a kernel from the next one's early start.
  attributes[0].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
  attributes[0].val.sharedMemCarveout = 100;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = early ? 1 : 0;
  attributes[2].id = cudaLaunchAttributeClusterDimension;
  attributes[2].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = cluster > 1 ? 3 : early ? 2 : 1;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Params>(params)...);
}

/// How many clusters of so many blocks the device holds at a time. Its multiprocessors come in groups that a cluster
/// does not cross, so this is less than one might think.
template <typename... Params>
Result most_clusters(int* clusters, void (*kernel)(Params...), int cluster, dim3 block, size_t shared_bytes) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(cluster));
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaOccupancyMaxActiveClusters(clusters, kernel, &config);
}

/// All blocks run at the same time, so that they can wait for each other.
template <typename... Params>
Result launch_together(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, StreamHandle stream,
                       const Params&... params) {
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeCooperative;
  attributes[0].val.cooperative = 1;
  attributes[1].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
  attributes[1].val.sharedMemCarveout = 100;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, kernel, params...);
}

template <typename... Params>
Result launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, StreamHandle stream, bool early,
              Params... params) {
  return launch_clusters(kernel, grid, 1, block, shared_bytes, stream, early, std::forward<Params>(params)...);
}

}  // namespace quire::gpu::vendor
