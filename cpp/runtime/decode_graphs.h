#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "backend/backend.h"

namespace quire {

/// The size that a step of so many sequences, with one token each, is padded to: 1, 2, 4, 8, then steps of 8 to 64, of
/// 16 to 256, of 32 above. Few sizes to record, and little computed in vain.
int32_t padded_size(int32_t num_sequences);

/// Recorded steps of one token per sequence, by their size.
///
/// The first step of a size is computed op by op, so that what is made ready at first use is; the second is recorded.
class DecodeGraphs {
 public:
  explicit DecodeGraphs(Backend& backend) : backend_(backend) {}

  /// Compute a padded step, whose ops `enqueue` gives to the stream. Everything that `enqueue` refers to must stay
  /// where it is until clear().
  void run(const RaggedBatch& batch, Stream& stream, const std::function<void()>& enqueue);

  /// Forget all, because addresses have changed.
  void clear() { graphs_.clear(); }

  int64_t num_recorded() const { return num_recorded_; }

 private:
  std::unique_ptr<Graph> record(Stream& stream, const std::function<void()>& enqueue);

  Backend& backend_;
  std::map<int32_t, std::unique_ptr<Graph>> graphs_;  ///< null: seen once
  int64_t num_recorded_ = 0;
  bool works_ = true;
};

}  // namespace quire
