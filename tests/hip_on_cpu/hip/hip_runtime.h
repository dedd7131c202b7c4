// What quire uses of the HIP API, done by the CPU at once: so that the sources of kernels_hip run, in tests, on any
// machine. It pretends to be one of AMD's GPUs with waves of QUIRE_HIP_WAVE lanes. Streams have nothing to wait for;
// what is recorded is a list of functions.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "hip/kernel_language.h"

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

namespace hip_on_cpu {

/// What this GPU has, and what of it is free, whoever has asked for how much.
constexpr size_t kMemoryBytes = size_t{1} << 30, kFreeBytes = kMemoryBytes / 16 * 15;

using Recording = std::vector<std::function<void()>>;
struct Stream {
  Recording* recording = nullptr;
  bool is_spoilt = false;  // the recording, by something that may not be in one
};

template <typename Work>
hipError_t enqueue(Stream* stream, Work work) {
  if (stream != nullptr && stream->recording != nullptr) {
    stream->recording->push_back(work);
  } else {
    work();
  }
  return hipSuccess;
}

template <typename... Params>
hipError_t launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, Stream* stream,
                  Params... params) {
  return enqueue(stream, [=] { run(grid, block, shared_bytes, [&] { kernel(params...); }); });
}

}  // namespace hip_on_cpu

using hipStream_t = hip_on_cpu::Stream*;
using hipEvent_t = void*;
using hipGraph_t = hip_on_cpu::Recording*;
using hipGraphExec_t = hip_on_cpu::Recording*;
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
  properties->multiProcessorCount = 4;  // few, so that work is split in tests of small shapes too
  properties->sharedMemPerBlock = hip_on_cpu::kMostSharedBytes;
  properties->l2CacheSize = 1 << 20;
  return hipSuccess;
}

/// All of them are the same; HIP_ON_CPU_DEVICES says how many.
inline hipError_t hipGetDeviceCount(int* count) {
  const char* const wanted = std::getenv("HIP_ON_CPU_DEVICES");
  *count = wanted != nullptr ? std::atoi(wanted) : 1;
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

/// All bits set: NaN in every type, for what is read and was not written. Of large pieces only the beginning: pages
/// that nobody touches cost nothing.
inline hipError_t hipMalloc(void** memory, size_t bytes) {
  constexpr size_t kAlignment = 256, kMostFilled = 4 << 20;
  *memory = bytes > hip_on_cpu::kMemoryBytes ? nullptr
                                             : std::aligned_alloc(kAlignment, (bytes / kAlignment + 1) * kAlignment);
  if (*memory == nullptr) return hipErrorOutOfMemory;
  std::memset(*memory, 0xff, std::min(bytes, kMostFilled));
  return hipSuccess;
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
  *free_bytes = hip_on_cpu::kFreeBytes;
  *total_bytes = hip_on_cpu::kMemoryBytes;
  return hipSuccess;
}
inline hipError_t hipMemset(void* memory, int value, size_t bytes) {
  std::memset(memory, value, bytes);
  return hipSuccess;
}
inline hipError_t hipMemcpyAsync(void* to, const void* from, size_t bytes, hipMemcpyKind, hipStream_t stream) {
  return hip_on_cpu::enqueue(stream, [=] { std::memcpy(to, from, bytes); });
}
inline hipError_t hipMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                                   size_t height, hipMemcpyKind, hipStream_t stream) {
  return hip_on_cpu::enqueue(stream, [=] {
    for (size_t row = 0; row < height; ++row) {
      std::memcpy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch, width);
    }
  });
}

inline hipError_t hipStreamCreateWithFlags(hipStream_t* stream, unsigned) {
  *stream = new hip_on_cpu::Stream;
  return hipSuccess;
}
inline hipError_t hipStreamDestroy(hipStream_t stream) {
  delete stream;
  return hipSuccess;
}
inline hipError_t hipStreamSynchronize(hipStream_t stream) {
  if (stream == nullptr || stream->recording == nullptr) return hipSuccess;
  stream->is_spoilt = true;
  return hipErrorStreamCaptureUnsupported;
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
  stream->recording = new hip_on_cpu::Recording;
  stream->is_spoilt = false;
  return hipSuccess;
}
inline hipError_t hipStreamEndCapture(hipStream_t stream, hipGraph_t* graph) {
  hip_on_cpu::Recording* const recording = stream->recording;
  stream->recording = nullptr;
  if (stream->is_spoilt) {
    delete recording;
    return hipErrorStreamCaptureUnsupported;
  }
  *graph = recording;
  return hipSuccess;
}
inline hipError_t hipGraphInstantiate(hipGraphExec_t* executable, hipGraph_t graph, void*, char*, size_t) {
  *executable = new hip_on_cpu::Recording(*graph);
  return hipSuccess;
}
inline hipError_t hipGraphDestroy(hipGraph_t graph) {
  delete graph;
  return hipSuccess;
}
inline hipError_t hipGraphLaunch(hipGraphExec_t executable, hipStream_t) {
  for (const std::function<void()>& work : *executable) work();
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
#define hipLaunchKernel(address, grid, block, arguments, shared_bytes, stream) \
  (static_cast<void>(arguments), hip_on_cpu::launch(kernel, grid, block, shared_bytes, stream, params...))
