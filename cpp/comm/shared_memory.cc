#include "comm/shared_memory.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <utility>

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

/// What the ranks see of each other: the tensors of the call they are in.
struct Table {
  Table(int num_ranks, std::chrono::milliseconds patience)
      : barrier(num_ranks, patience), reductions(static_cast<size_t>(num_ranks)), columns(reductions.size()) {}

  Barrier barrier;
  std::vector<AllReduceArgs> reductions;
  std::vector<Tensor> columns;
};

bool same_shape(const Tensor& left, const Tensor& right) {
  return left.rank == right.rank && left.shape == right.shape;
}

class SharedMemoryCommunicator final : public Communicator {
 public:
  SharedMemoryCommunicator(std::shared_ptr<Table> table, int rank) : table_(std::move(table)), rank_(rank) {}

  int rank() const override { return rank_; }
  int num_ranks() const override { return static_cast<int>(table_->reductions.size()); }

  void all_reduce(const AllReduceArgs& args, Stream&) override {
    QUIRE_CHECK(args.x.dtype == DType::kFloat32 && (!args.add_to || same_shape(args.x, args.add_to)),
                "dtype=", dtype_name(args.x.dtype), ", elements=", args.x.size(), ", of add_to=", args.add_to.size());
    table_->reductions[static_cast<size_t>(rank_)] = args;
    table_->barrier.wait();
    const AllReduceArgs& first = table_->reductions.front();
    QUIRE_CHECK(same_shape(args.x, first.x) && same_shape(args.add_to, first.add_to) && args.scale == first.scale,
                "the ranks do not make the same calls: elements=", args.x.size(), ", of rank 0=", first.x.size());
    // A rank sums its share of the elements for all: nobody else reads or writes those.
    reduce(share_of_rank(args.x.size(), rank_, num_ranks()));
    table_->barrier.wait();
  }

  void all_gather(const AllGatherArgs& args, Stream&) override {
    const Tensor& out = args.out;
    QUIRE_CHECK(args.x.dtype == DType::kFloat32 && out.dtype == DType::kFloat32 && args.x.shape[0] == out.shape[0] &&
                    args.x.shape[1] == share_of_rank(out.shape[1], rank_, num_ranks()).count,
                "rows=", args.x.shape[0], ", columns=", args.x.shape[1], ", out=", out.shape[0], " x ", out.shape[1]);
    table_->columns[static_cast<size_t>(rank_)] = args.x;
    table_->barrier.wait();
    for (int rank = 0; rank < num_ranks(); ++rank) {
      const Share share = share_of_rank(out.shape[1], rank, num_ranks());
      const Tensor& x = table_->columns[static_cast<size_t>(rank)];
      QUIRE_CHECK(x.shape[0] == out.shape[0] && x.shape[1] == share.count,
                  "the ranks do not make the same calls: rank=", rank, ", rows=", x.shape[0], ", columns=", x.shape[1],
                  ", expected=", out.shape[0], " x ", share.count);
      if (share.count == 0) continue;
      for (int64_t row = 0; row < out.shape[0]; ++row) {
        std::memcpy(out.as<float>() + row * out.shape[1] + share.first, x.as<float>() + row * share.count,
                    static_cast<size_t>(share.count) * sizeof(float));
      }
    }
    table_->barrier.wait();
  }

  void abort() noexcept override { table_->barrier.abort(); }

 private:
  void reduce(Share share) {
    // So many elements at a time that all ranks' fit into the nearest cache.
    constexpr int64_t kPiece = 1024;
    float sum[kPiece];
    const std::vector<AllReduceArgs>& all = table_->reductions;
    const float scale = all.front().scale;
    for (int64_t first = share.first; first < share.first + share.count; first += kPiece) {
      const int64_t count = std::min(kPiece, share.first + share.count - first);
      std::copy_n(all.front().x.as<const float>() + first, count, sum);
      for (size_t rank = 1; rank < all.size(); ++rank) {
        const float* const x = all[rank].x.as<const float>() + first;
        for (int64_t i = 0; i < count; ++i) sum[i] += x[i];
      }
      for (const AllReduceArgs& args : all) {
        if (args.add_to) {
          float* const out = args.add_to.as<float>() + first;
          for (int64_t i = 0; i < count; ++i) out[i] += scale * sum[i];
        } else {
          std::copy_n(sum, count, args.x.as<float>() + first);
        }
      }
    }
  }

  const std::shared_ptr<Table> table_;
  const int rank_;
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
