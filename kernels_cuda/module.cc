#include "backend/loadable.h"
#include "kernels_cuda/backend.h"

namespace {

std::unique_ptr<quire::Backend> create(int ordinal, const quire::BackendOptions& options) {
  return std::make_unique<quire::gpu::GpuBackend>(ordinal, options);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const quire::LoadableBackend* quire_backend() {
  static const quire::LoadableBackend backend{
      .targets = quire::gpu::vendor::targets(), .count_devices = quire::gpu::count_devices, .create = create};
  return &backend;
}
