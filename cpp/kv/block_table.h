#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/check.h"

namespace quire {

/// The blocks of one sequence: token t lives in block [t / block_size] at offset t % block_size. Only numbers; the
/// references that stand behind them are counted by BlockPool.
class BlockTable {
 public:
  int32_t size() const { return static_cast<int32_t>(blocks_.size()); }
  bool empty() const { return blocks_.empty(); }
  std::span<const int32_t> blocks() const { return blocks_; }

  int32_t operator[](int32_t index) const {
    check_index(index);
    return blocks_[static_cast<size_t>(index)];
  }

  /// Make room for so many blocks, so that append() allocates nothing.
  void reserve(int32_t num_blocks) { blocks_.reserve(static_cast<size_t>(num_blocks)); }

  void append(int32_t block) { blocks_.push_back(block); }

  /// Put another block in the place of one.
  void replace(int32_t index, int32_t block) {
    check_index(index);
    blocks_[static_cast<size_t>(index)] = block;
  }

  /// Take the last block off and return it.
  int32_t pop() {
    const int32_t last = (*this)[size() - 1];
    blocks_.pop_back();
    return last;
  }

 private:
  void check_index(int32_t index) const {
    QUIRE_CHECK(index >= 0 && index < size(), "index=", index, ", num_blocks=", size());
  }

  std::vector<int32_t> blocks_;
};

}  // namespace quire
