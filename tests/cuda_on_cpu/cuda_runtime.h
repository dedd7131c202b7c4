// What quire uses of CUDA's runtime, done by the CPU at once: so that the sources of kernels_cuda run, in tests, on any
// machine. It pretends to be GPUs of compute capability 9.0, or of what CUDA_ON_CPU_CAPABILITY says: 80, say, whose
// kernels the host then chooses.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "gpu_on_cpu/kernel_language.h"
#include "gpu_on_cpu/runtime.h"
#include "warp_language.h"

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorMemoryAllocation = 2,
  cudaErrorStubLibrary = 34,
  cudaErrorInsufficientDriver = 35,
  cudaErrorInvalidDeviceFunction = 98,
  cudaErrorNoDevice = 100,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorPeerAccessUnsupported = 217,
  cudaErrorNotReady = 600,
  cudaErrorPeerAccessAlreadyEnabled = 704,
  cudaErrorTooManyPeers = 711,
  cudaErrorStreamCaptureUnsupported = 900,
};

using cudaStream_t = gpu_on_cpu::Stream*;
using cudaEvent_t = void*;
using cudaGraph_t = gpu_on_cpu::Recording*;
using cudaGraphExec_t = gpu_on_cpu::Recording*;
struct cudaFuncAttributes {};

enum cudaMemcpyKind { cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
enum cudaDeviceAttr { cudaDevAttrCanUseHostPointerForRegisteredMem };
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize,
  cudaFuncAttributePreferredSharedMemoryCarveout,
};
constexpr int cudaSharedmemCarveoutMaxShared = 100;
constexpr unsigned cudaHostAllocPortable = 0, cudaHostAllocMapped = 0;
constexpr unsigned cudaHostRegisterPortable = 0, cudaHostRegisterMapped = 0;
constexpr unsigned cudaStreamNonBlocking = 0, cudaEventDisableTiming = 0;

inline const char* cudaGetErrorName(cudaError_t error) {
  if (error == cudaErrorStreamCaptureUnsupported) return "cudaErrorStreamCaptureUnsupported";
  return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaError";
}
inline const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorStreamCaptureUnsupported) return "operation not permitted when stream is capturing";
  return error == cudaErrorMemoryAllocation ? "out of memory" : "error";
}
inline cudaError_t cudaGetLastError() {
  return cudaSuccess;
}

// Devices.

inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
inline cudaError_t cudaRuntimeGetVersion(int* version) {
  return cudaDriverGetVersion(version);
}

struct cudaDeviceProp {
  char name[256];
  int major, minor;
  int multiProcessorCount;
  size_t sharedMemPerBlockOptin;
  int l2CacheSize;
};

inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  const char* const wanted = std::getenv("CUDA_ON_CPU_CAPABILITY");
  const int capability = wanted != nullptr ? std::atoi(wanted) : 90;
  std::snprintf(properties->name, sizeof(properties->name), "CPU as sm_%d", capability);
  properties->major = capability / 10;
  properties->minor = capability % 10;
  properties->multiProcessorCount = gpu_on_cpu::kMultiprocessors;
  properties->sharedMemPerBlockOptin = gpu_on_cpu::kMostSharedBytes;
  properties->l2CacheSize = gpu_on_cpu::kL2Bytes;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = gpu_on_cpu::num_devices();
  return cudaSuccess;
}
inline thread_local int device_of_thread = 0;
inline cudaError_t cudaSetDevice(int ordinal) {
  device_of_thread = ordinal;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* ordinal) {
  *ordinal = device_of_thread;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 1;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() {
  return cudaSuccess;
}
inline cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 1;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) {
  return cudaSuccess;
}

// Memory.

inline cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = gpu_on_cpu::allocate(bytes);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
inline cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  return cudaMalloc(memory, bytes);
}
inline cudaError_t cudaFreeHost(void* memory) {
  return cudaFree(memory);
}
inline cudaError_t cudaHostRegister(void*, size_t, unsigned) {
  return cudaSuccess;
}
inline cudaError_t cudaHostUnregister(void*) {
  return cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = gpu_on_cpu::kFreeBytes;
  *total_bytes = gpu_on_cpu::kMemoryBytes;
  return cudaSuccess;
}
inline cudaError_t cudaMemset(void* memory, int value, size_t bytes) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  gpu_on_cpu::copy(to, from, bytes, stream);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                                     size_t height, cudaMemcpyKind, cudaStream_t stream) {
  gpu_on_cpu::copy_rows(to, to_pitch, from, from_pitch, width, height, stream);
  return cudaSuccess;
}

// Streams, events, recorded work.

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new gpu_on_cpu::Stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return stream == nullptr || stream->wait() ? cudaSuccess : cudaErrorStreamCaptureUnsupported;
}
inline cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return cudaStreamSynchronize(stream);
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  static char any;
  *event = &any;
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t) {
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t) {
  return cudaSuccess;
}
inline cudaError_t cudaEventQuery(cudaEvent_t) {
  return cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  stream->begin_recording();
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = stream->end_recording();
  return *graph == nullptr ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new gpu_on_cpu::Recording(*graph);
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
  gpu_on_cpu::launch_graph(*executable);
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

// Kernels.

enum cudaLaunchAttributeID {
  cudaLaunchAttributeCooperative,
  cudaLaunchAttributePreferredSharedMemoryCarveout,
  cudaLaunchAttributeProgrammaticStreamSerialization,
  cudaLaunchAttributeClusterDimension,
};
union cudaLaunchAttributeValue {
  int cooperative;
  unsigned sharedMemCarveout;
  int programmaticStreamSerializationAllowed;
  struct {
    unsigned x, y, z;
  } clusterDim;
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

template <typename... Params>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, void (*)(Params...)) {
  return cudaSuccess;
}
template <typename... Params>
cudaError_t cudaFuncSetAttribute(void (*)(Params...), cudaFuncAttribute, int) {
  return cudaSuccess;
}
template <typename... Params>
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, void (*)(Params...), const cudaLaunchConfig_t* config) {
  *clusters = gpu_on_cpu::kMultiprocessors / static_cast<int>(config->attrs[0].val.clusterDim.x);
  return cudaSuccess;
}
template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args&&... args) {
  gpu_on_cpu::Together together;
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = config->attrs[i];
    if (attribute.id == cudaLaunchAttributeCooperative) together.blocks = config->gridDim.x;
    if (attribute.id == cudaLaunchAttributeClusterDimension) together.cluster = attribute.val.clusterDim.x;
  }
  together.blocks = std::max(together.blocks, together.cluster);
  gpu_on_cpu::launch<Params...>(kernel, config->gridDim, config->blockDim, config->dynamicSmemBytes, together,
                                config->stream, static_cast<Params>(std::forward<Args>(args))...);
  return cudaSuccess;
}
