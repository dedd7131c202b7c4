// The vendor's runtime under the names of ours: HIP. kernels_cuda/common/nvidia.h has the same for CUDA, and says what
// the functions do.
#pragma once

#include <hip/hip_runtime.h>

#include <string>

// A word of nvcc's for arguments that a kernel reads where they lie, which AMD's compiler does without being asked.
#if !defined(__grid_constant__)
#define __grid_constant__
#endif

namespace quire::gpu {
struct Device;
}

namespace quire::gpu::vendor {

using StreamHandle = hipStream_t;
using EventHandle = hipEvent_t;
using RecordingHandle = hipGraph_t;
using GraphHandle = hipGraphExec_t;
using Result = hipError_t;

constexpr Result kSuccess = hipSuccess;
constexpr const char* kName = "hip";
constexpr const char* kBlasName = "hipBLASLt";

constexpr const char* kCollectivesName = "RCCL";
constexpr const char* kCollectivesFiles[] = {"librccl.so.1", "librccl.so"};
constexpr const char* kCollectivesFolder = "QUIRE_RCCL_PATH";
constexpr const char* kCollectivesFile = "VLLM_NCCL_SO_PATH";
constexpr const char* kCollectivesOfPip = nullptr;
constexpr const char* kCollectivesRemedy = "install it (ROCm's package rccl)";

const char* targets();

// Errors.

std::string describe(Result result);
inline bool is_out_of_memory(Result result) {
  return result == hipErrorOutOfMemory;
}
inline bool is_not_ready(Result result) {
  return result == hipErrorNotReady;
}
inline void forget_error() {
  static_cast<void>(hipGetLastError());
}

// Devices.

Result count_devices(int* count);
inline Result use_device(int ordinal) {
  return hipSetDevice(ordinal);
}
inline Result current_device(int* ordinal) {
  return hipGetDevice(ordinal);
}
Result look_at_device(int ordinal, Device& device);
std::string explain_no_device(Result result);
bool is_missing_code(Result result);
std::string explain_missing_code(const Device& device);
std::string explain_second_runtime();

// Memory.

inline Result allocate(void** memory, size_t bytes) {
  return hipMalloc(memory, bytes);
}
inline Result release(void* memory) {
  return hipFree(memory);
}
inline Result allocate_host(void** memory, size_t bytes) {
  return hipHostMalloc(memory, bytes, hipHostMallocPortable | hipHostMallocMapped);
}
inline Result release_host(void* memory) {
  return hipHostFree(memory);
}
inline Result lock_host(void* memory, size_t bytes) {
  return hipHostRegister(memory, bytes, hipHostRegisterPortable | hipHostRegisterMapped);
}
inline Result unlock_host(void* memory) {
  return hipHostUnregister(memory);
}
inline bool sees_locked_memory(int ordinal) {
  int sees = 0;
  if (hipDeviceGetAttribute(&sees, hipDeviceAttributeCanUseHostPointerForRegisteredMem, ordinal) == hipSuccess) {
    return sees != 0;
  }
  forget_error();  // AMD's runtime may not know the question
  return false;
}
inline Result free_and_total(size_t* free_bytes, size_t* total_bytes) {
  return hipMemGetInfo(free_bytes, total_bytes);
}
inline Result clear(void* memory, size_t bytes) {
  return hipMemset(memory, 0, bytes);
}
inline Result copy(void* to, const void* from, size_t bytes, StreamHandle stream) {
  return hipMemcpyAsync(to, from, bytes, hipMemcpyDefault, stream);
}
inline Result copy_rows(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t row_bytes, size_t rows,
                        StreamHandle stream) {
  return hipMemcpy2DAsync(to, to_pitch, from, from_pitch, row_bytes, rows, hipMemcpyDeviceToDevice, stream);
}

// Streams, events, recorded work.

inline Result create_stream(StreamHandle* stream) {
  return hipStreamCreateWithFlags(stream, hipStreamNonBlocking);
}
inline void destroy_stream(StreamHandle stream) {
  static_cast<void>(hipStreamDestroy(stream));
}
inline Result wait_for_stream(StreamHandle stream) {
  return hipStreamSynchronize(stream);
}
inline Result ask_stream(StreamHandle stream) {
  return hipStreamQuery(stream);
}
inline Result create_event(EventHandle* event) {
  return hipEventCreateWithFlags(event, hipEventDisableTiming);
}
inline void destroy_event(EventHandle event) {
  static_cast<void>(hipEventDestroy(event));
}
inline Result record_event(EventHandle event, StreamHandle stream) {
  return hipEventRecord(event, stream);
}
inline Result wait_for_event(EventHandle event) {
  return hipEventSynchronize(event);
}
inline Result ask_event(EventHandle event) {
  return hipEventQuery(event);
}
inline Result begin_recording(StreamHandle stream) {
  return hipStreamBeginCapture(stream, hipStreamCaptureModeThreadLocal);
}
inline Result end_recording(StreamHandle stream, RecordingHandle* recording) {
  return hipStreamEndCapture(stream, recording);
}
inline Result make_graph(GraphHandle* graph, RecordingHandle recording) {
  return hipGraphInstantiate(graph, recording, nullptr, nullptr, 0);
}
inline void destroy_recording(RecordingHandle recording) {
  static_cast<void>(hipGraphDestroy(recording));
}
/// HIP 5 has no call for it: the first launch does it.
inline Result upload_graph(GraphHandle, StreamHandle) {
  return kSuccess;
}
inline Result launch_graph(GraphHandle graph, StreamHandle stream) {
  return hipGraphLaunch(graph, stream);
}
inline void destroy_graph(GraphHandle graph) {
  static_cast<void>(hipGraphExecDestroy(graph));
}

// Kernels.

template <typename... Params>
Result find_code(void (*kernel)(Params...)) {
  hipFuncAttributes attributes{};
  return hipFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel));
}

template <typename... Params>
Result allow_shared_memory(void (*kernel)(Params...), size_t bytes) {
  return hipFuncSetAttribute(reinterpret_cast<const void*>(kernel), hipFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes));
}

/// Kernels follow each other: none starts early.
template <typename... Params>
Result launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, StreamHandle stream, bool,
              Params... params) {
  void* arguments[] = {static_cast<void*>(&params)..., nullptr};
  return hipLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, arguments, shared_bytes, stream);
}

}  // namespace quire::gpu::vendor
