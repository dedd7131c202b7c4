#include "kernels_cuda/comm/group.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <thread>

#include "kernels_cuda/comm/join.h"
#include "kernels_cuda/memory.h"
#include "kernels_cuda/ops.h"

namespace quire::gpu {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLateBy{10000};
/// In the first calls ranks load code, and record what others run already. The library's work can only be told from
/// other work of a stream by how long all of it takes.
constexpr int kFirstTimes = 6;
/// What is enqueued ends that soon once the ranks have been stopped.
constexpr milliseconds kEndsWithin{10000};

/// From how many bytes on the library is faster than our own kernels, which use half of what goes over the link:
/// between two H200s (NVLink 4) 4 MiB take 29 and 33 us, 8 MiB 58 and 45. Between more an estimate.
constexpr int64_t library_from_bytes(int num_ranks) {
  return int64_t{num_ranks <= 2 ? 6 : 4} << 20;
}

constexpr int64_t kScratchBytes = int64_t{32} << 20;

std::string_view variable(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr ? value : "";
}

bool are_different(std::vector<int> devices) {
  std::sort(devices.begin(), devices.end());
  return std::adjacent_find(devices.begin(), devices.end()) == devices.end();
}

class GpuCommunicator final : public Communicator {
 public:
  GpuCommunicator(std::shared_ptr<RankGroup> group, int rank) : group_(std::move(group)), rank_(rank) {}
  int rank() const override { return rank_; }
  int num_ranks() const override { return group_->num_ranks(); }
  void all_reduce(const AllReduceArgs& args, Stream& stream) override {
    group_->all_reduce(rank_, args, as_gpu(stream));
  }
  void all_gather(const AllGatherArgs& args, Stream& stream) override {
    group_->all_gather(rank_, args, as_gpu(stream));
  }
  void abort() noexcept override { group_->abort(); }

 private:
  const std::shared_ptr<RankGroup> group_;
  const int rank_;
};

}  // namespace

Communicators communicators_of(const std::shared_ptr<RankGroup>& group) {
  Communicators made;
  for (int rank = 0; rank < group->num_ranks(); ++rank) made.push_back(std::make_unique<GpuCommunicator>(group, rank));
  return made;
}

std::shared_ptr<RankGroup> RankGroup::make(std::vector<int> devices, bool deterministic) {
  const size_t count = devices.size();
  QUIRE_REQUIRE(count >= 1 && count <= kMostRanks, ErrorKind::kUnsupported,
                "[device] that many GPUs cannot be connected: ranks=", count, ", expected=1 to ", kMostRanks);
  const std::shared_ptr<RankGroup> group(new RankGroup(std::move(devices), deterministic));
  gpu::check(vendor::use_device(group->devices_[0]), "choosing the device");
  group->words_memory_ = allocate_page_locked(sizeof(RankWords));
  group->words_ = new (group->words_memory_.data()) RankWords;
  group->read_limits();
  group->open_ways();
  return group;
}

void RankGroup::read_limits() {
  milliseconds limit = kLateBy;
  int first_times = kFirstTimes;
  if (const std::string_view text = variable("QUIRE_COMM_TIMEOUT_MS"); !text.empty()) {
    limit = milliseconds(std::atoll(text.data()));
    first_times = 1;  // who has set it means it
    QUIRE_REQUIRE(limit.count() > 0, ErrorKind::kInvalidArgument,
                  "[device] QUIRE_COMM_TIMEOUT_MS is not a number of milliseconds: got=", text);
  }
  const std::chrono::nanoseconds limit_ns = limit;
  words_->limit_ns = static_cast<uint64_t>(limit_ns.count());
  words_->first_limit_ns = words_->limit_ns * static_cast<uint64_t>(first_times);
  library_limit_ = limit * first_times;
}

void RankGroup::open_ways() {
  const std::string_view way = variable("QUIRE_ALL_REDUCE");
  QUIRE_REQUIRE(way.empty() || way == "own" || way == "library", ErrorKind::kInvalidArgument,
                "[device] QUIRE_ALL_REDUCE is neither \"own\" nor \"library\": got=", way);
  std::string why_no_peers = "the library alone was asked for", why_no_library;
  if (way != "library") peers_ = PeerExchange::open(devices_, words_, why_no_peers);
  if (way == "own") {
    QUIRE_REQUIRE(peers_ != nullptr, ErrorKind::kUnsupported, "[device] the GPUs cannot be connected: ", why_no_peers,
                  ", and QUIRE_ALL_REDUCE=own asks for it");
    return;
  }
  if (peers_ != nullptr && is_fixed_) return;
  if (are_different(devices_)) {
    library_ = CollectiveLibrary::open(devices_, why_no_library);
  } else {
    why_no_library = detail::join_message(vendor::kCollectivesName, " wants a GPU for each rank");
  }
  QUIRE_REQUIRE(peers_ != nullptr || library_ != nullptr, ErrorKind::kUnsupported, "[device] the GPUs cannot be ",
                "connected: ", why_no_peers, "; ", why_no_library);
  if (peers_ != nullptr) return;
  for (const int device : devices_) scratch_.push_back(allocate_device(kScratchBytes, device));
}

void RankGroup::ready() {
  if (library_ == nullptr) return;
  try {
    library_->ready();
  } catch (const Error& error) {
    if (peers_ == nullptr) throw;
    throw Error(error.kind(), detail::join_message(error.what(), "; QUIRE_ALL_REDUCE=own does without it"));
  }
}

void RankGroup::stop(StopReason reason) noexcept {
  uint32_t expected = kGoOn;
  std::atomic_ref(words_->stop).compare_exchange_strong(expected, reason);
  if (library_ != nullptr) library_->abort();
}

std::string RankGroup::why_stopped() const {
  const auto read = [](uint32_t& word) { return std::atomic_ref(word).load(); };
  const std::string place = detail::join_message("[", vendor::kName, "] ");
  if (read(words_->stop) == kAborted) return place + "a rank has failed, and the others were told to stop";
  // Whoever is waited for and waits for nobody is the one that is lost. The others wait for each other too.
  int waiting = -1, lost = -1;
  for (int rank = 0; rank < num_ranks(); ++rank) {
    const int missing = static_cast<int>(read(words_->missing[rank])) - 1;
    if (missing < 0) continue;
    if (lost < 0 || read(words_->missing[missing]) == 0) waiting = rank, lost = missing;
  }
  const char* const remedy = "; QUIRE_COMM_TIMEOUT_MS sets the limit";
  if (lost < 0) {
    return place + detail::join_message("a rank did not come: limit_ms=", library_limit_.count(), remedy);
  }
  return place + detail::join_message("rank ", lost, " did not come: waiting=rank ", waiting,
                                      ", limit_ms=", words_->limit_ns / 1000000, remedy);
}

void RankGroup::check() {
  if (std::atomic_ref(words_->stop).load(std::memory_order_relaxed) == kGoOn) [[likely]] {
    return;
  }
  stop(kAborted);  // the library's part of it
  throw Error(ErrorKind::kDevice, why_stopped());
}

template <typename Ask>
void RankGroup::wait_watchfully(Ask ask) {
  constexpr milliseconds kSpins{100};
  constexpr std::chrono::microseconds kNap{200};
  const Clock::time_point begin = Clock::now();
  Clock::time_point end = begin + library_limit_;
  bool is_stopped = false;
  for (vendor::Result result = ask(); result != vendor::kSuccess; result = ask()) {
    if (!vendor::is_not_ready(result)) gpu::check(result, "waiting for the device");
    const Clock::time_point now = Clock::now();
    if (!is_stopped && (now > end || std::atomic_ref(words_->stop).load() != kGoOn)) {
      stop(kWaitedTooLong);
      is_stopped = true;
      end = Clock::now() + kEndsWithin;
    } else if (is_stopped && now > end) {
      break;
    }
    if (now - begin < kSpins) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(kNap);
    }
  }
  vendor::forget_error();  // "not ready" is one to the runtime
}

void RankGroup::wait_for_stream(vendor::StreamHandle stream) {
  if (library_ != nullptr) {
    wait_watchfully([&] { return vendor::ask_stream(stream); });
  } else {
    gpu::check(vendor::wait_for_stream(stream), "waiting for the device");
  }
  check();
}

void RankGroup::wait_for_event(vendor::EventHandle event) {
  if (library_ != nullptr) {
    wait_watchfully([&] { return vendor::ask_event(event); });
  } else {
    gpu::check(vendor::wait_for_event(event), "waiting for the device");
  }
  check();
}

bool RankGroup::takes_library(int64_t bytes) const {
  if (peers_ == nullptr) return true;
  return library_ != nullptr && !is_fixed_ && bytes >= library_from_bytes(num_ranks());
}

void RankGroup::all_reduce(int rank, const AllReduceArgs& args, GpuStream& stream) {
  check();
  ready();
  if (args.x.size() == 0) return;
  gpu::check(vendor::use_device(stream.device().ordinal), "choosing the device");
  if (!takes_library(args.x.bytes())) return peers_->all_reduce(rank, args, stream);
  if (is_fixed_) return sum_gathered(rank, args, stream);
  library_->all_reduce(rank, args.x.data, static_cast<size_t>(args.x.size()), args.x.dtype, stream.handle());
  if (args.add_to) add({.x = args.x, .scale = args.scale, .out = args.add_to}, stream);
}

void RankGroup::all_gather(int rank, const AllGatherArgs& args, GpuStream& stream) {
  check();
  ready();
  if (args.out.size() == 0) return;
  gpu::check(vendor::use_device(stream.device().ordinal), "choosing the device");
  if (peers_ != nullptr) return peers_->all_gather(rank, args, stream);
  gather_by_library(rank, args, stream);
}

/// The library's own sums come in an order that depends on how much is summed up; these in that of ranks.
void RankGroup::sum_gathered(int rank, const AllReduceArgs& args, GpuStream& stream) {
  const int64_t element_bytes = dtype_bytes(args.x.dtype);
  const int64_t most = kScratchBytes / (num_ranks() * element_bytes) / 64 * 64;
  void* const gathered = scratch_[static_cast<size_t>(rank)].data();
  for (int64_t done = 0; done < args.x.size(); done += most) {
    const int64_t count = std::min(most, args.x.size() - done);
    void* const x = static_cast<std::byte*>(args.x.data) + done * element_bytes;
    library_->all_gather(rank, x, gathered, static_cast<size_t>(count * element_bytes), stream.handle());
    sum_parts(args.x.dtype,
              {.parts = gathered,
               .num_ranks = num_ranks(),
               .count = count,
               .x = x,
               .add_to = args.add_to ? args.add_to.as<float>() + done : nullptr,
               .scale = args.scale},
              stream);
  }
}

void RankGroup::gather_by_library(int rank, const AllGatherArgs& args, GpuStream& stream) {
  const int64_t rows = args.out.shape[0], columns = args.out.shape[1];
  const int64_t each = share_of_rank(columns, 0, num_ranks()).count;
  const int64_t own = share_of_rank(columns, rank, num_ranks()).count;
  const int64_t row_bytes = (num_ranks() + 1) * each * static_cast<int64_t>(sizeof(float));
  QUIRE_REQUIRE(row_bytes <= kScratchBytes, ErrorKind::kUnsupported, "[", vendor::kName,
                "] a row is too long to be gathered: columns=", columns);
  const int64_t most = kScratchBytes / row_bytes;
  auto* const gathered = static_cast<float*>(scratch_[static_cast<size_t>(rank)].data());
  for (int64_t row = 0; row < rows; row += most) {
    const int64_t count = std::min(most, rows - row), part = count * each;
    const float* from = args.x.as<const float>() + row * own;
    if (own != each) {
      // The library takes as much from all: behind this rank's rows goes what lies there.
      float* const padded = gathered + num_ranks() * part;
      const auto own_bytes = static_cast<size_t>(count * own) * sizeof(float);
      if (own_bytes > 0) gpu::check(vendor::copy(padded, from, own_bytes, stream.handle()), "all_gather");
      from = padded;
    }
    library_->all_gather(rank, from, gathered, static_cast<size_t>(part) * sizeof(float), stream.handle());
    join_columns({.parts = gathered,
                  .rows = count,
                  .columns = columns,
                  .each = each,
                  .out = args.out.as<float>() + row * args.out.strides[0],
                  .out_stride = args.out.strides[0]},
                 stream);
  }
}

void wait_for_stream(const Resources& resources, vendor::StreamHandle stream) {
  if (const auto ranks = resources.ranks.lock()) return ranks->wait_for_stream(stream);
  check(vendor::wait_for_stream(stream), "waiting for the device");
}

void wait_for_event(const Resources& resources, vendor::EventHandle event) {
  if (const auto ranks = resources.ranks.lock()) return ranks->wait_for_event(event);
  check(vendor::wait_for_event(event), "waiting for the device");
}

void check_ranks(const Resources& resources) {
  if (const auto ranks = resources.ranks.lock()) ranks->check();
}

}  // namespace quire::gpu
