#include "runtime/decode_graphs.h"

#include "core/check.h"
#include "core/log.h"

namespace quire {
namespace {

/// Kinds that are kept. A backend whose plans differ all the time would fill the memory with graphs of no use.
constexpr size_t kMostGraphs = 128;

}  // namespace

int32_t padded_size(int32_t num_sequences) {
  const auto up_to_multiple_of = [num_sequences](int32_t step) { return (num_sequences + step - 1) / step * step; };
  for (const int32_t size : {1, 2, 4}) {
    if (num_sequences <= size) return size;
  }
  return up_to_multiple_of(num_sequences <= 64 ? 8 : num_sequences <= 256 ? 16 : 32);
}

void DecodeGraphs::run(const RaggedBatch& batch, Stream& stream, const std::function<void()>& enqueue) {
  const Kind kind{batch.num_sequences, batch.plan.counts};
  const auto found = graphs_.find(kind);
  if (!works_ || found == graphs_.end()) {
    enqueue();
    if (graphs_.size() < kMostGraphs) graphs_.emplace(kind, nullptr);
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
