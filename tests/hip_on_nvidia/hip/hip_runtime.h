// What quire uses of the HIP API, spelled in CUDA's: so that the sources of kernels_hip run, in tests, on an NVIDIA
// GPU. It pretends to be one of AMD's with waves of QUIRE_HIP_WAVE lanes.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>

using hipStream_t = cudaStream_t;
using hipEvent_t = cudaEvent_t;
using hipGraph_t = cudaGraph_t;
using hipGraphExec_t = cudaGraphExec_t;
using hipError_t = cudaError_t;
using hipFuncAttributes = cudaFuncAttributes;

constexpr hipError_t hipSuccess = cudaSuccess;
constexpr hipError_t hipErrorOutOfMemory = cudaErrorMemoryAllocation;
constexpr hipError_t hipErrorNoDevice = cudaErrorNoDevice;
constexpr hipError_t hipErrorNotReady = cudaErrorNotReady;
constexpr hipError_t hipErrorNoBinaryForGpu = cudaErrorNoKernelImageForDevice;
constexpr hipError_t hipErrorInvalidDeviceFunction = cudaErrorInvalidDeviceFunction;
constexpr hipError_t hipErrorInvalidImage = cudaErrorInvalidKernelImage;

constexpr unsigned hipHostMallocPortable = cudaHostAllocPortable;
constexpr unsigned hipHostMallocMapped = cudaHostAllocMapped;
constexpr unsigned hipHostRegisterPortable = cudaHostRegisterPortable;
constexpr unsigned hipHostRegisterMapped = cudaHostRegisterMapped;
constexpr unsigned hipStreamNonBlocking = cudaStreamNonBlocking;
constexpr unsigned hipEventDisableTiming = cudaEventDisableTiming;
constexpr cudaMemcpyKind hipMemcpyDefault = cudaMemcpyDefault;
constexpr cudaMemcpyKind hipMemcpyDeviceToDevice = cudaMemcpyDeviceToDevice;
constexpr cudaStreamCaptureMode hipStreamCaptureModeThreadLocal = cudaStreamCaptureModeThreadLocal;
constexpr cudaDeviceAttr hipDeviceAttributeCanUseHostPointerForRegisteredMem =
    cudaDevAttrCanUseHostPointerForRegisteredMem;
constexpr cudaFuncAttribute hipFuncAttributeMaxDynamicSharedMemorySize = cudaFuncAttributeMaxDynamicSharedMemorySize;

inline const char* hipGetErrorString(hipError_t error) {
  return cudaGetErrorString(error);
}
inline const char* hipGetErrorName(hipError_t error) {
  return cudaGetErrorName(error);
}
inline hipError_t hipGetLastError() {
  return cudaGetLastError();
}

struct hipDeviceProp_t {
  char name[256];
  char gcnArchName[256];
  int multiProcessorCount;
  size_t sharedMemPerBlock;
  int l2CacheSize;
};

inline hipError_t hipGetDeviceProperties(hipDeviceProp_t* properties, int ordinal) {
  cudaDeviceProp real{};
  const cudaError_t error = cudaGetDeviceProperties(&real, ordinal);
  if (error != cudaSuccess) return error;
  std::snprintf(properties->name, sizeof(properties->name), "%s", real.name);
  std::snprintf(properties->gcnArchName, sizeof(properties->gcnArchName), "%s",
                QUIRE_HIP_WAVE == 64 ? "gfx90a:sramecc+:xnack-" : "gfx1100");
  properties->multiProcessorCount = real.multiProcessorCount;
  properties->sharedMemPerBlock = 64 << 10;  // AMD's, of which kernels may not take more
  properties->l2CacheSize = real.l2CacheSize;
  return error;
}

inline hipError_t hipGetDeviceCount(int* count) {
  return cudaGetDeviceCount(count);
}
inline hipError_t hipSetDevice(int ordinal) {
  return cudaSetDevice(ordinal);
}
inline hipError_t hipGetDevice(int* ordinal) {
  return cudaGetDevice(ordinal);
}
inline hipError_t hipDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int ordinal) {
  return cudaDeviceGetAttribute(value, attribute, ordinal);
}

inline hipError_t hipMalloc(void** memory, size_t bytes) {
  return cudaMalloc(memory, bytes);
}
inline hipError_t hipFree(void* memory) {
  return cudaFree(memory);
}
inline hipError_t hipHostMalloc(void** memory, size_t bytes, unsigned flags) {
  return cudaHostAlloc(memory, bytes, flags);
}
inline hipError_t hipHostFree(void* memory) {
  return cudaFreeHost(memory);
}
inline hipError_t hipHostRegister(void* memory, size_t bytes, unsigned flags) {
  return cudaHostRegister(memory, bytes, flags);
}
inline hipError_t hipHostUnregister(void* memory) {
  return cudaHostUnregister(memory);
}
inline hipError_t hipMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  return cudaMemGetInfo(free_bytes, total_bytes);
}
inline hipError_t hipMemset(void* memory, int value, size_t bytes) {
  return cudaMemset(memory, value, bytes);
}
inline hipError_t hipMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, hipStream_t stream) {
  return cudaMemcpyAsync(to, from, bytes, kind, stream);
}
inline hipError_t hipMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                                   size_t height, cudaMemcpyKind kind, hipStream_t stream) {
  return cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, height, kind, stream);
}

inline hipError_t hipStreamCreateWithFlags(hipStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithFlags(stream, flags);
}
inline hipError_t hipStreamDestroy(hipStream_t stream) {
  return cudaStreamDestroy(stream);
}
inline hipError_t hipStreamSynchronize(hipStream_t stream) {
  return cudaStreamSynchronize(stream);
}
inline hipError_t hipStreamQuery(hipStream_t stream) {
  return cudaStreamQuery(stream);
}
inline hipError_t hipEventCreateWithFlags(hipEvent_t* event, unsigned flags) {
  return cudaEventCreateWithFlags(event, flags);
}
inline hipError_t hipEventDestroy(hipEvent_t event) {
  return cudaEventDestroy(event);
}
inline hipError_t hipEventRecord(hipEvent_t event, hipStream_t stream) {
  return cudaEventRecord(event, stream);
}
inline hipError_t hipEventSynchronize(hipEvent_t event) {
  return cudaEventSynchronize(event);
}
inline hipError_t hipEventQuery(hipEvent_t event) {
  return cudaEventQuery(event);
}
inline hipError_t hipStreamBeginCapture(hipStream_t stream, cudaStreamCaptureMode mode) {
  return cudaStreamBeginCapture(stream, mode);
}
inline hipError_t hipStreamEndCapture(hipStream_t stream, hipGraph_t* graph) {
  return cudaStreamEndCapture(stream, graph);
}
inline hipError_t hipGraphInstantiate(hipGraphExec_t* executable, hipGraph_t graph, void*, char*, size_t) {
  return cudaGraphInstantiate(executable, graph, 0);
}
inline hipError_t hipGraphDestroy(hipGraph_t graph) {
  return cudaGraphDestroy(graph);
}
inline hipError_t hipGraphLaunch(hipGraphExec_t executable, hipStream_t stream) {
  return cudaGraphLaunch(executable, stream);
}
inline hipError_t hipGraphExecDestroy(hipGraphExec_t executable) {
  return cudaGraphExecDestroy(executable);
}

inline hipError_t hipFuncGetAttributes(hipFuncAttributes* attributes, const void* kernel) {
  return cudaFuncGetAttributes(attributes, kernel);
}
inline hipError_t hipFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(kernel, attribute, value);
}
inline hipError_t hipLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared_bytes,
                                  hipStream_t stream) {
  return cudaLaunchKernel(kernel, grid, block, arguments, shared_bytes, stream);
}
