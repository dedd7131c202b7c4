#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "spec/spec.h"
#include "weights/model_weights.h"

namespace quire {

/// The one layer loop: tokens in, logits out, over a backend's ops. Reads the spec, never a family's name.
///
/// Of several ranks, each of which has a share of the model (weights/shard.h), every rank has the same hidden states
/// and gets the same logits. What they say to each other in one step: a sum per part of a layer, or one per layer where
/// its parts stand side by side, and in logits() the columns of all. Thread safety: one caller at a time.
class Decoder {
 public:
  /// All arguments must outlive the decoder. `dtype`: what is computed in; `max_model_len`: longest sequence, rows of
  /// the rope tables; `ranks`: null if the spec is of a whole model. Raises: kOutOfMemory.
  Decoder(const ModelSpec& spec, const ModelWeights& weights, Backend& backend, Stream& stream, DType dtype,
          int32_t max_model_len, Communicator* ranks = nullptr);
  ~Decoder();

  /// Bytes of activations for a step of that size; nothing is computed, and no weight is needed, so that the memory
  /// plan can be made before any is read. Covers forward() with `max_tokens` and logits() with `max_logit_rows` rows at
  /// a time; the logits themselves are the caller's memory.
  static int64_t workspace_bytes(const ModelSpec& spec, const Backend& backend, DType dtype, int32_t max_tokens,
                                 int32_t max_logit_rows);

  /// Bytes that a decoder for sequences of up to `max_model_len` tokens takes for itself.
  static int64_t table_bytes(const ModelSpec& spec, int32_t max_model_len);

  /// Compute one step up to the last layer. Returns the hidden states before the final norm, [T, D] float32, inside
  /// `workspace`: valid until the next forward() with the same workspace.
  Tensor forward(const RaggedBatch& batch, std::span<const KvLayer> kv, void* workspace, Stream& stream) const;

  /// Final norm and head of chosen rows. `hidden` is what forward() returned for the same `workspace`; `rows`: [R]
  /// indices into its T, in the backend's memory, R <= max_logit_rows; `out`: [R, V] float32. May be called any number
  /// of times after one forward(), so that the logits of a long prompt are had in slices.
  void logits(Tensor hidden, const int32_t* rows, int32_t num_rows, Tensor out, void* workspace, Stream& stream) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quire
