#pragma once

#include <cstdint>

#include "quire/request.h"

namespace quire {

/// What a model and its engine allow a request to ask for.
struct RequestLimits {
  int32_t vocab_size = 0;
  int32_t max_model_len = 0;
  int32_t max_num_seqs = 0;
  int32_t max_logprobs = 0;
  bool has_vocabulary = false;
};

/// Check a request in full, SamplingParams::validate included, so that nothing of it can fail on the engine thread.
/// Raises: kInvalidArgument naming field and value.
void check_request(const Request& request, const RequestLimits& limits);

}  // namespace quire
