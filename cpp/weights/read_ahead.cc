#include "weights/read_ahead.h"

#include <algorithm>
#include <system_error>
#include <utility>

namespace quire {
namespace {

constexpr size_t kAheadBytes = 256 << 20;
constexpr size_t kPieceBytes = 8 << 20;

}  // namespace

ReadAhead::ReadAhead(const Checkpoint& checkpoint, std::vector<std::string> names, int num_threads)
    : checkpoint_(checkpoint), names_(std::move(names)) {
  size_t begin = 0;
  for (size_t i = 0; i < names_.size(); ++i) {
    begins_.push_back(begin);
    const size_t size = checkpoint_.stored_bytes(names_[i]);
    for (size_t offset = 0; offset < size; offset += kPieceBytes) {
      pieces_.push_back({i, offset, std::min(kPieceBytes, size - offset), begin + offset});
    }
    begin += size;
  }
  begins_.push_back(begin);
  try {
    for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { work(); });
  } catch (const std::system_error&) {
    // As many as the system gives; reading ahead only saves time.
  }
}

ReadAhead::~ReadAhead() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  moved_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ReadAhead::come_to(size_t index) {
  {
    const std::lock_guard lock(mutex_);
    position_ = begins_[index];
  }
  if (!threads_.empty()) return moved_.notify_all();
  while (const auto piece = take()) checkpoint_.will_need(names_[piece->name], piece->offset, piece->bytes);
}

/// The next piece that is near and has not been copied meanwhile.
std::optional<ReadAhead::Piece> ReadAhead::take() {
  while (next_ < pieces_.size() && pieces_[next_].begin < position_) ++next_;
  if (next_ == pieces_.size() || pieces_[next_].begin >= position_ + kAheadBytes) return std::nullopt;
  return pieces_[next_++];
}

void ReadAhead::work() {
  std::unique_lock lock(mutex_);
  while (!ended_ && next_ < pieces_.size()) {
    const std::optional<Piece> piece = take();
    if (!piece) {
      moved_.wait(lock);
      continue;
    }
    lock.unlock();
    checkpoint_.bring_in(names_[piece->name], piece->offset, piece->bytes);
    lock.lock();
  }
}

}  // namespace quire
