#include "comm/shared_memory.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/host.h"
#include "core/spin.h"

namespace quire {
namespace {

/// How long a rank spins for the others before it sleeps. They compute the same, so they come within microseconds if
/// each has a core; waking a sleeper costs more.
constexpr auto kSpin = std::chrono::microseconds(200);
constexpr auto kSpinOversubscribed = std::chrono::microseconds(2);

/// Where all ranks meet, again and again. Who comes last lets the others go.
class Barrier {
 public:
  Barrier(int num_ranks, std::chrono::milliseconds patience)
      : num_ranks_(num_ranks),
        patience_(patience),
        spin_(num_ranks > physical_core_count() ? kSpinOversubscribed : kSpin) {}

  /// Raises: kDevice after abort(), or if a rank does not come.
  void wait() {
    require_unbroken();
    const uint32_t round = round_.load();
    if (num_arrived_.fetch_add(1) + 1 == num_ranks_) {
      num_arrived_.store(0);
      // Under the lock: who has looked for the last time before it sleeps holds it until it sleeps.
      const std::lock_guard lock(mutex_);
      round_.store(round + 1);
      all_came_.notify_all();
      return;
    }
    const auto is_over = [&] { return round_.load() != round || broken_.load(); };
    if (!spin_until(spin_, is_over)) {
      std::unique_lock lock(mutex_);
      if (!all_came_.wait_for(lock, patience_, is_over)) {
        lock.unlock();
        abort();
        throw Error(ErrorKind::kDevice, detail::join_message("[comm] a rank has not come to the others for ",
                                                             patience_.count(), " ms: it must be lost"));
      }
    }
    // Who was let go may still see a break that came afterwards, and meets it at the next barrier.
    if (round_.load() == round) require_unbroken();
  }

  void abort() noexcept {
    const std::lock_guard lock(mutex_);
    broken_.store(true);
    all_came_.notify_all();
  }

 private:
  void require_unbroken() const {
    QUIRE_REQUIRE(!broken_.load(), ErrorKind::kDevice, "[comm] another rank has failed");
  }

  const int num_ranks_;
  const std::chrono::milliseconds patience_;
  const std::chrono::microseconds spin_;
  alignas(64) std::atomic<int> num_arrived_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
  std::atomic<bool> broken_{false};
  std::mutex mutex_;
  std::condition_variable all_came_;
};

/// Calls of so few elements of each rank are made by way of copies.
constexpr int64_t kMostCopied = 64 << 10;

/// What a rank shows to the others of a call.
struct Call {
  AllReduceArgs reduction;
  AllGatherArgs gathering;
  std::vector<float> copy;  ///< of few elements
};

/// What the ranks see of each other: of the call they are in, and of the one before it. Who shows the next call but one
/// has met the others in between, so that none of them reads the one it takes the place of.
struct Table {
  Table(int num_ranks, std::chrono::milliseconds patience) : barrier(num_ranks, patience) {
    for (std::vector<Call>& own : calls) own.resize(static_cast<size_t>(num_ranks));
  }

  Barrier barrier;
  std::array<std::vector<Call>, 2> calls;
};

bool same_shape(const Tensor& left, const Tensor& right) {
  return left.rank == right.rank && left.shape == right.shape;
}

/// Ranks show their tensors and meet. Of few elements each has made a copy, and works on its own tensors from there:
/// one meeting is enough. Of many each does its share of the work on everybody's, and all meet again.
class SharedMemoryCommunicator final : public Communicator {
 public:
  SharedMemoryCommunicator(std::shared_ptr<Table> table, int rank) : table_(std::move(table)), rank_(rank) {}

  int rank() const override { return rank_; }
  int num_ranks() const override { return static_cast<int>(table_->calls[0].size()); }

  void all_reduce(const AllReduceArgs& args, Stream&) override {
    QUIRE_CHECK(args.x.dtype == DType::kFloat32 && (!args.add_to || same_shape(args.x, args.add_to)),
                "dtype=", dtype_name(args.x.dtype), ", elements=", args.x.size(), ", of add_to=", args.add_to.size());
    const bool copies = args.x.size() <= kMostCopied;
    const std::vector<Call>& calls = show({.reduction = args, .gathering = {}}, copies ? args.x : Tensor());
    for (const Call& call : calls) {
      const AllReduceArgs& other = call.reduction;
      QUIRE_CHECK(same_shape(args.x, other.x) && same_shape(args.add_to, other.add_to) && args.scale == other.scale,
                  "the ranks do not make the same calls: elements=", args.x.size(), ", of another=", other.x.size());
    }
    if (copies) {
      reduce(calls, {0, args.x.size()}, true);
    } else {
      reduce(calls, share_of_rank(args.x.size(), rank_, num_ranks()), false);
      table_->barrier.wait();
    }
  }

  void all_gather(const AllGatherArgs& args, Stream&) override {
    const Tensor& out = args.out;
    QUIRE_CHECK(args.x.dtype == DType::kFloat32 && out.dtype == DType::kFloat32 && args.x.shape[0] == out.shape[0] &&
                    args.x.shape[1] == share_of_rank(out.shape[1], rank_, num_ranks()).count,
                "rows=", args.x.shape[0], ", columns=", args.x.shape[1], ", out=", out.shape[0], " x ", out.shape[1]);
    const bool copies = out.shape[0] * share_of_rank(out.shape[1], 0, num_ranks()).count <= kMostCopied;
    const std::vector<Call>& calls = show({.reduction = {}, .gathering = args}, copies ? args.x : Tensor());
    for (const Call& call : calls) {
      QUIRE_CHECK(same_shape(out, call.gathering.out), "the ranks do not make the same calls: elements=", out.size(),
                  ", of another=", call.gathering.out.size());
    }
    for (int rank = 0; rank < num_ranks(); ++rank) {
      const Call& call = calls[static_cast<size_t>(rank)];
      const float* const x = copies ? call.copy.data() : call.gathering.x.as<const float>();
      const Share share = share_of_rank(out.shape[1], rank, num_ranks());
      for (int64_t row = 0; share.count > 0 && row < out.shape[0]; ++row) {
        std::copy_n(x + row * share.count, share.count, out.as<float>() + row * out.shape[1] + share.first);
      }
    }
    if (!copies) table_->barrier.wait();
  }

  void abort() noexcept override { table_->barrier.abort(); }

 private:
  /// Show a call, with a copy of a tensor if there is one, and return those of all ranks.
  const std::vector<Call>& show(const Call& call, const Tensor& copied) {
    std::vector<Call>& calls = table_->calls[num_calls_++ % 2];
    Call& own = calls[static_cast<size_t>(rank_)];
    own.reduction = call.reduction;
    own.gathering = call.gathering;
    own.copy.assign(copied.as<const float>(), copied.as<const float>() + copied.size());
    table_->barrier.wait();
    return calls;
  }

  /// Sum some elements, in the order of the ranks: of the copies for this rank, or of the tensors themselves for all,
  /// since nobody else reads or writes those elements.
  void reduce(const std::vector<Call>& calls, Share share, bool copies) const {
    // So many elements at a time that all ranks' fit into the nearest cache.
    constexpr int64_t kPiece = 1024;
    float sum[kPiece];
    const auto values = [&](const Call& call) {
      return copies ? call.copy.data() : call.reduction.x.as<const float>();
    };
    for (int64_t first = share.first; first < share.first + share.count; first += kPiece) {
      const int64_t count = std::min(kPiece, share.first + share.count - first);
      std::copy_n(values(calls.front()) + first, count, sum);
      for (size_t rank = 1; rank < calls.size(); ++rank) {
        const float* const x = values(calls[rank]) + first;
        for (int64_t i = 0; i < count; ++i) sum[i] += x[i];
      }
      if (copies) {
        put(sum, first, count, calls[static_cast<size_t>(rank_)].reduction);
      } else {
        for (const Call& call : calls) put(sum, first, count, call.reduction);
      }
    }
  }

  static void put(const float* sum, int64_t first, int64_t count, const AllReduceArgs& args) {
    if (!args.add_to) {
      std::copy_n(sum, count, args.x.as<float>() + first);
      return;
    }
    float* const out = args.add_to.as<float>() + first;
    for (int64_t i = 0; i < count; ++i) out[i] += args.scale * sum[i];
  }

  const std::shared_ptr<Table> table_;
  const int rank_;
  size_t num_calls_ = 0;
};

}  // namespace

Communicators connect_shared_memory(int num_ranks, std::chrono::milliseconds patience) {
  QUIRE_REQUIRE(num_ranks > 0, ErrorKind::kInvalidArgument, "[comm] no ranks to connect: num_ranks=", num_ranks);
  const auto table = std::make_shared<Table>(num_ranks, patience);
  Communicators communicators;
  for (int rank = 0; rank < num_ranks; ++rank) {
    communicators.push_back(std::make_unique<SharedMemoryCommunicator>(table, rank));
  }
  return communicators;
}

}  // namespace quire
