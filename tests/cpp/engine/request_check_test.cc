#include "engine/request_check.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "quire/error.h"

namespace quire {
namespace {

constexpr RequestLimits kLimits = {
    .vocab_size = 100, .max_model_len = 8, .max_num_seqs = 4, .max_logprobs = 5, .has_vocabulary = true};

struct Case {
  std::string field;
  Request request;
};

TEST(CheckRequest, accepts_every_field_at_its_limit) {
  const std::vector<Request> rows = {
      {.prompt_token_ids = {0}},
      {.prompt_token_ids = {99}},
      {.prompt_token_ids = std::vector<int32_t>(7, 1)},
      {.prompt_token_ids = {1}, .sampling = {.n = 4}},
      {.prompt_token_ids = {1}, .sampling = {.stop = {"x"}}},
      {.prompt_token_ids = {1}, .sampling = {.stop_token_ids = {0, 99}}},
      {.prompt_token_ids = {1}, .sampling = {.logprobs = 5}},
      {.prompt_token_ids = {1}, .sampling = {.prompt_logprobs = 5}},
      {.prompt_token_ids = {1}, .sampling = {.logit_bias = {{0, 1.0f}, {99, 1.0f}}}},
  };
  for (const Request& request : rows) EXPECT_NO_THROW(check_request(request, kLimits));
}

TEST(CheckRequest, refuses_every_field_beyond_its_limit_by_name_and_value) {
  const std::vector<Case> rows = {
      {"prompt_token_ids=[]", {}},
      {"prompt_token_ids[1]=100", {.prompt_token_ids = {1, 100}}},
      {"prompt_token_ids[0]=-1", {.prompt_token_ids = {-1}}},
      {"len(prompt_token_ids)=8, expected=at most 7", {.prompt_token_ids = std::vector<int32_t>(8, 1)}},
      {"n=5", {.prompt_token_ids = {1}, .sampling = {.n = 5}}},
      {"stop_token_ids=100", {.prompt_token_ids = {1}, .sampling = {.stop_token_ids = {100}}}},
      {"stop_token_ids=-1", {.prompt_token_ids = {1}, .sampling = {.stop_token_ids = {-1}}}},
      {"logprobs=6", {.prompt_token_ids = {1}, .sampling = {.logprobs = 6}}},
      {"prompt_logprobs=6", {.prompt_token_ids = {1}, .sampling = {.prompt_logprobs = 6}}},
      {"logit_bias=100", {.prompt_token_ids = {1}, .sampling = {.logit_bias = {{100, 1.0f}}}}},
      {"logit_bias=-1", {.prompt_token_ids = {1}, .sampling = {.logit_bias = {{-1, 1.0f}}}}},
      {"temperature=-1", {.prompt_token_ids = {1}, .sampling = {.temperature = -1.0f}}},
  };
  for (const auto& [field, request] : rows) {
    try {
      check_request(request, kLimits);
      ADD_FAILURE() << field << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
      EXPECT_NE(std::string(error.what()).find(field), std::string::npos) << error.what();
    }
  }
}

TEST(CheckRequest, needs_a_vocabulary_for_stop_strings) {
  RequestLimits limits = kLimits;
  limits.has_vocabulary = false;
  EXPECT_NO_THROW(check_request({.prompt_token_ids = {1}}, limits));
  EXPECT_THROW(check_request({.prompt_token_ids = {1}, .sampling = {.stop = {"x"}}}, limits), Error);
}

}  // namespace
}  // namespace quire
