// What quire uses of the HIP API, done by the CPU at once: so that the sources of kernels_hip run, in tests, on any
// machine. It pretends to be one of AMD's GPUs with waves of QUIRE_HIP_WAVE lanes.
#pragma once

#include <cstdio>
#include <cstring>

#include "gpu_on_cpu/kernel_language.h"
#include "gpu_on_cpu/runtime.h"

enum hipError_t {
  hipSuccess = 0,
  hipErrorOutOfMemory = 2,
  hipErrorNoDevice = 100,
  hipErrorNotReady = 600,
  hipErrorInvalidImage = 200,
  hipErrorNoBinaryForGpu = 209,
  hipErrorInvalidDeviceFunction = 98,
  hipErrorStreamCaptureUnsupported = 900,
};
enum hipMemcpyKind { hipMemcpyDeviceToDevice, hipMemcpyDefault };
enum hipStreamCaptureMode { hipStreamCaptureModeThreadLocal };
enum hipDeviceAttribute_t { hipDeviceAttributeCanUseHostPointerForRegisteredMem };
enum hipFuncAttribute { hipFuncAttributeMaxDynamicSharedMemorySize };
constexpr unsigned hipHostMallocPortable = 0, hipHostMallocMapped = 0;
constexpr unsigned hipHostRegisterPortable = 0, hipHostRegisterMapped = 0;
constexpr unsigned hipStreamNonBlocking = 0, hipEventDisableTiming = 0;

using hipStream_t = gpu_on_cpu::Stream*;
using hipEvent_t = void*;
using hipGraph_t = gpu_on_cpu::Recording*;
using hipGraphExec_t = gpu_on_cpu::Recording*;
struct hipFuncAttributes {};

inline const char* hipGetErrorString(hipError_t error) {
  if (error == hipErrorStreamCaptureUnsupported) return "not while a stream is recorded";
  return error == hipErrorOutOfMemory ? "out of memory" : "error";
}
inline const char* hipGetErrorName(hipError_t error) {
  if (error == hipErrorStreamCaptureUnsupported) return "hipErrorStreamCaptureUnsupported";
  return error == hipErrorOutOfMemory ? "hipErrorOutOfMemory" : "hipError";
}
inline hipError_t hipGetLastError() {
  return hipSuccess;
}

struct hipDeviceProp_t {
  char name[256];
  char gcnArchName[256];
  int multiProcessorCount;
  size_t sharedMemPerBlock;
  int l2CacheSize;
};

inline hipError_t hipGetDeviceProperties(hipDeviceProp_t* properties, int) {
  std::snprintf(properties->name, sizeof(properties->name), "CPU, waves of %d", QUIRE_HIP_WAVE);
  std::snprintf(properties->gcnArchName, sizeof(properties->gcnArchName), "%s",
                QUIRE_HIP_WAVE == 64 ? "gfx90a:sramecc+:xnack-" : "gfx1100");
  properties->multiProcessorCount = gpu_on_cpu::kMultiprocessors;
  properties->sharedMemPerBlock = 64 << 10;
  properties->l2CacheSize = gpu_on_cpu::kL2Bytes;
  return hipSuccess;
}

inline hipError_t hipGetDeviceCount(int* count) {
  *count = gpu_on_cpu::num_devices();
  return hipSuccess;
}
inline hipError_t hipSetDevice(int) {
  return hipSuccess;
}
inline hipError_t hipGetDevice(int* ordinal) {
  *ordinal = 0;
  return hipSuccess;
}
inline hipError_t hipDeviceGetAttribute(int* value, hipDeviceAttribute_t, int) {
  *value = 1;
  return hipSuccess;
}

inline hipError_t hipMalloc(void** memory, size_t bytes) {
  *memory = gpu_on_cpu::allocate(bytes);
  return *memory == nullptr ? hipErrorOutOfMemory : hipSuccess;
}
inline hipError_t hipFree(void* memory) {
  std::free(memory);
  return hipSuccess;
}
inline hipError_t hipHostMalloc(void** memory, size_t bytes, unsigned) {
  return hipMalloc(memory, bytes);
}
inline hipError_t hipHostFree(void* memory) {
  return hipFree(memory);
}
inline hipError_t hipHostRegister(void*, size_t, unsigned) {
  return hipSuccess;
}
inline hipError_t hipHostUnregister(void*) {
  return hipSuccess;
}
inline hipError_t hipMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = gpu_on_cpu::kFreeBytes;
  *total_bytes = gpu_on_cpu::kMemoryBytes;
  return hipSuccess;
}
inline hipError_t hipMemset(void* memory, int value, size_t bytes) {
  std::memset(memory, value, bytes);
  return hipSuccess;
}
inline hipError_t hipMemcpyAsync(void* to, const void* from, size_t bytes, hipMemcpyKind, hipStream_t stream) {
  gpu_on_cpu::copy(to, from, bytes, stream);
  return hipSuccess;
}
inline hipError_t hipMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                                   size_t height, hipMemcpyKind, hipStream_t stream) {
  gpu_on_cpu::copy_rows(to, to_pitch, from, from_pitch, width, height, stream);
  return hipSuccess;
}

inline hipError_t hipStreamCreateWithFlags(hipStream_t* stream, unsigned) {
  *stream = new gpu_on_cpu::Stream;
  return hipSuccess;
}
inline hipError_t hipStreamDestroy(hipStream_t stream) {
  delete stream;
  return hipSuccess;
}
inline hipError_t hipStreamSynchronize(hipStream_t stream) {
  return stream == nullptr || stream->wait() ? hipSuccess : hipErrorStreamCaptureUnsupported;
}
inline hipError_t hipEventCreateWithFlags(hipEvent_t* event, unsigned) {
  static char any;
  *event = &any;
  return hipSuccess;
}
inline hipError_t hipEventDestroy(hipEvent_t) {
  return hipSuccess;
}
inline hipError_t hipEventRecord(hipEvent_t, hipStream_t) {
  return hipSuccess;
}
inline hipError_t hipEventSynchronize(hipEvent_t) {
  return hipSuccess;
}
inline hipError_t hipStreamQuery(hipStream_t stream) {
  return hipStreamSynchronize(stream);
}
inline hipError_t hipEventQuery(hipEvent_t) {
  return hipSuccess;
}
inline hipError_t hipStreamBeginCapture(hipStream_t stream, hipStreamCaptureMode) {
  stream->begin_recording();
  return hipSuccess;
}
inline hipError_t hipStreamEndCapture(hipStream_t stream, hipGraph_t* graph) {
  *graph = stream->end_recording();
  return *graph == nullptr ? hipErrorStreamCaptureUnsupported : hipSuccess;
}
inline hipError_t hipGraphInstantiate(hipGraphExec_t* executable, hipGraph_t graph, void*, char*, size_t) {
  *executable = new gpu_on_cpu::Recording(*graph);
  return hipSuccess;
}
inline hipError_t hipGraphDestroy(hipGraph_t graph) {
  delete graph;
  return hipSuccess;
}
inline hipError_t hipGraphLaunch(hipGraphExec_t executable, hipStream_t) {
  gpu_on_cpu::launch_graph(*executable);
  return hipSuccess;
}
inline hipError_t hipGraphExecDestroy(hipGraphExec_t executable) {
  delete executable;
  return hipSuccess;
}

inline hipError_t hipFuncGetAttributes(hipFuncAttributes*, const void*) {
  return hipSuccess;
}
inline hipError_t hipFuncSetAttribute(const void*, hipFuncAttribute, int) {
  return hipSuccess;
}
// A kernel's address and those of its arguments do not say what types a call here must give it. They are taken from
// the names that the only caller has for both, launch() of kernels_hip/compat.h.
#define hipLaunchKernel(address, grid, block, arguments, shared_bytes, stream)                                 \
  (static_cast<void>(arguments), gpu_on_cpu::launch(kernel, grid, block, shared_bytes, {}, stream, params...), \
   hipSuccess)
