#include "runtime/decode_graphs.h"

#include "core/check.h"
#include "core/log.h"

namespace quire {
int32_t padded_size(int32_t num_sequences) {
  const auto up_to_multiple_of = [num_sequences](int32_t step) { return (num_sequences + step - 1) / step * step; };
  for (const int32_t size : {1, 2, 4}) {
    if (num_sequences <= size) return size;
  }
  return up_to_multiple_of(num_sequences <= 64 ? 8 : num_sequences <= 256 ? 16 : 32);
}

void DecodeGraphs::run(const RaggedBatch& batch, Stream& stream, const std::function<void()>& enqueue) {
  const auto found = graphs_.find(batch.num_sequences);
  if (!works_ || found == graphs_.end()) {
    enqueue();
    graphs_.emplace(batch.num_sequences, nullptr);
    return;
  }
  if (found->second == nullptr) found->second = record(stream, enqueue);
  if (found->second == nullptr) {
    enqueue();
  } else {
    found->second->launch(stream);
  }
}

std::unique_ptr<Graph> DecodeGraphs::record(Stream& stream, const std::function<void()>& enqueue) {
  backend_.begin_recording(stream);
  try {
    enqueue();
  } catch (...) {
    try {
      backend_.end_recording(stream);
    } catch (const Error&) {  // what has been raised first says more
    }
    throw;
  }
  try {
    auto graph = backend_.end_recording(stream);
    ++num_recorded_;
    return graph;
  } catch (const Error& error) {
    log(LogLevel::kWarning, detail::join_message("[runtime] steps are not recorded: ", error.what()));
    works_ = false;
    return nullptr;
  }
}

}  // namespace quire
