#include "kernels_cuda/backend.h"

#include <algorithm>

#include "core/check.h"
#include "kernels_cuda/comm/group.h"
#include "kernels_cuda/comm/peers.h"
#include "kernels_cuda/layouts.h"
#include "kernels_cuda/ops.h"
#include "kernels_cuda/portable/probe.h"

namespace quire::gpu {
namespace {

constexpr size_t kBlasWorkspaceBytes = 32 << 20;

Device open_device(int ordinal) {
  std::string why_none;
  const int count = count_devices(why_none);
  QUIRE_REQUIRE(count > 0, ErrorKind::kUnsupported, "[device] ", why_none);
  QUIRE_REQUIRE(ordinal >= 0 && ordinal < count, ErrorKind::kInvalidArgument,
                "[device] there is no such GPU: device=", vendor::kName, ":", ordinal, ", expected=", vendor::kName,
                ":0 to ", vendor::kName, ":", count - 1);
  check(vendor::use_device(ordinal), "opening the device");
  Device device{.ordinal = ordinal};
  check(vendor::look_at_device(ordinal, device), "opening the device");
  const vendor::Result code = probe_code();
  if (vendor::is_missing_code(code)) {
    vendor::forget_error();
    throw Error(ErrorKind::kUnsupported,
                detail::join_message("[device] this build has no code for ", vendor::explain_missing_code(device),
                                     ", or use device=\"cpu\""));
  }
  check(code, "opening the device");
  return device;
}

class GpuEvent final : public Event {
 public:
  GpuEvent(const Resources& resources, vendor::EventHandle handle) : resources_(resources), handle_(handle) {}
  ~GpuEvent() override { vendor::destroy_event(handle_); }
  GpuEvent(const GpuEvent&) = delete;
  GpuEvent& operator=(const GpuEvent&) = delete;

  void record(Stream& stream) override {
    check(vendor::record_event(handle_, as_gpu(stream).handle()), "marking a place");
  }
  void wait() override { wait_for_event(resources_, handle_); }

 private:
  const Resources& resources_;
  vendor::EventHandle handle_;
};

class GpuGraph final : public Graph {
 public:
  GpuGraph(const Resources& resources, vendor::GraphHandle handle) : resources_(resources), handle_(handle) {}
  ~GpuGraph() override { vendor::destroy_graph(handle_); }
  GpuGraph(const GpuGraph&) = delete;
  GpuGraph& operator=(const GpuGraph&) = delete;

  void launch(Stream& stream) override {
    check_ranks(resources_);
    check(vendor::launch_graph(handle_, as_gpu(stream).handle()), "launching recorded work");
  }

 private:
  const Resources& resources_;
  vendor::GraphHandle handle_;
};

}  // namespace

int count_devices(std::string& why_none) {
  int count = 0;
  const vendor::Result result = vendor::count_devices(&count);
  if (result != vendor::kSuccess) {
    vendor::forget_error();
    count = 0;
  }
  if (count == 0) why_none = vendor::explain_no_device(result);
  return count;
}

GpuBackend::GpuBackend(int ordinal, const BackendOptions& options)
    : resources_{.device = open_device(ordinal), .deterministic = options.deterministic}, weights_(ordinal) {
  const Device& device = resources_.device;
  resources_.scratch_bytes =
      std::max({attention_scratch_bytes(device), linear_scratch_bytes(device), chain_scratch_bytes(device)});
  resources_.num_counters = std::max({attention_counters(device), linear_counters(device), chain_counters(device)});
  scratch_ = allocate_device(resources_.scratch_bytes, ordinal);
  counters_ = allocate_zeroed(resources_.num_counters * sizeof(unsigned));
  resources_.scratch = scratch_.data();
  resources_.counters = static_cast<unsigned*>(counters_.data());
  resources_.exchange_entries = chain_exchange_entries(device);
  exchange_ = allocate_zeroed(resources_.exchange_entries * sizeof(uint64_t));
  resources_.exchange = static_cast<uint64_t*>(exchange_.data());
  blas_workspace_ = allocate_device(kBlasWorkspaceBytes, ordinal);
  blas_ = Blas::open(device, blas_workspace_.data(), blas_workspace_.bytes(), why_no_blas_);
  if (blas_ == nullptr) blas_workspace_ = {};
  resources_.blas = blas_.get();
}

GpuBackend::~GpuBackend() = default;

/// A thread starts on device 0: whatever an engine's thread calls first makes this one its own.
void GpuBackend::use_device() const {
  check(vendor::use_device(resources_.device.ordinal), "choosing the device");
}

std::string GpuBackend::name() const {
  const Device& device = resources_.device;
  return detail::join_message(
      vendor::kName, ":", device.ordinal, " (", device.name, ", ", device.target,
      blas_ == nullptr ? detail::join_message(", without ", vendor::kBlasName, ": ", why_no_blas_) : "", ")");
}

const Ops& GpuBackend::ops() const {
  return gpu::ops();
}

std::unique_ptr<Stream> GpuBackend::create_stream() {
  use_device();
  vendor::StreamHandle handle = nullptr;
  check(vendor::create_stream(&handle), "creating a stream");
  return std::make_unique<GpuStream>(resources_, handle);
}

std::unique_ptr<Event> GpuBackend::create_event() {
  use_device();
  vendor::EventHandle handle = nullptr;
  check(vendor::create_event(&handle), "creating an event");
  return std::make_unique<GpuEvent>(resources_, handle);
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
  check(vendor::clear(buffer.data(), bytes), "clearing memory");
  // Our streams do not wait for the one that this ran on.
  check(vendor::wait_for_stream(nullptr), "clearing memory");
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
  check(vendor::copy(destination, source, bytes, as_gpu(stream).handle()), "copying to the device");
}

void GpuBackend::enqueue_to_host(void* destination, const void* source, size_t bytes, Stream& stream) {
  if (bytes == 0) return;
  use_device();
  check(vendor::copy(destination, source, bytes, as_gpu(stream).handle()), "copying from the device");
}

void GpuBackend::begin_recording(Stream& stream) {
  use_device();
  check(vendor::begin_recording(as_gpu(stream).handle()), "starting to record");
}

std::unique_ptr<Graph> GpuBackend::end_recording(Stream& stream) {
  use_device();
  vendor::RecordingHandle recording = nullptr;
  check(vendor::end_recording(as_gpu(stream).handle(), &recording), "recording work");
  vendor::GraphHandle graph = nullptr;
  const vendor::Result result = vendor::make_graph(&graph, recording);
  vendor::destroy_recording(recording);
  check(result, "preparing recorded work");
  auto recorded = std::make_unique<GpuGraph>(resources_, graph);
  check(vendor::upload_graph(graph, as_gpu(stream).handle()), "preparing recorded work");
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
  // The library for collectives takes memory of its own while it starts.
  if (const auto ranks = resources_.ranks.lock()) ranks->ready();
  use_device();
  size_t free_bytes = 0, total_bytes = 0;
  check(vendor::free_and_total(&free_bytes, &total_bytes), "asking for free memory");
  return static_cast<int64_t>(free_bytes);
}

int64_t GpuBackend::total_memory() const {
  use_device();
  size_t free_bytes = 0, total_bytes = 0;
  check(vendor::free_and_total(&free_bytes, &total_bytes), "asking for free memory");
  return static_cast<int64_t>(total_bytes);
}

Communicators GpuBackend::connect(std::span<Backend* const> ranks) {
  std::vector<int> devices;
  bool deterministic = false;
  for (Backend* const rank : ranks) {
    const Resources& resources = static_cast<GpuBackend*>(rank)->resources_;
    devices.push_back(resources.device.ordinal);
    deterministic = deterministic || resources.deterministic;
  }
  const auto group = RankGroup::make(std::move(devices), deterministic);
  for (Backend* const rank : ranks) static_cast<GpuBackend*>(rank)->resources_.ranks = group;
  return communicators_of(group);
}

int64_t GpuBackend::connection_bytes(int num_ranks) const {
  return num_ranks > 1 ? PeerExchange::bytes_of_rank() : 0;
}

}  // namespace quire::gpu
