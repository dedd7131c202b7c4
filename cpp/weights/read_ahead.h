#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "weights/checkpoint.h"

namespace quire {

/// Reads a checkpoint ahead of the one who copies its tensors, so that reading and copying overlap.
class ReadAhead {
 public:
  /// `names`: the tensors in the order in which they will be wanted. With threads these bring pages in and map them,
  /// several pieces at a time, of several files where the order says so; with 0 the system is told what comes next.
  ReadAhead(const Checkpoint& checkpoint, std::vector<std::string> names, int num_threads);
  ~ReadAhead();
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  /// All before `names[index]` has been copied; that one comes next.
  void come_to(size_t index);

 private:
  /// A part of a tensor, and how many bytes of the whole order stand before it.
  struct Piece {
    size_t name = 0;
    size_t offset = 0;
    size_t bytes = 0;
    size_t begin = 0;
  };
  void work();
  std::optional<Piece> take();

  const Checkpoint& checkpoint_;
  const std::vector<std::string> names_;
  std::vector<size_t> begins_;  ///< of the names, and of the end
  std::vector<Piece> pieces_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable moved_;
  // Under the mutex.
  size_t next_ = 0;      ///< of pieces_
  size_t position_ = 0;  ///< of the one who copies
  bool ended_ = false;
};

}  // namespace quire
