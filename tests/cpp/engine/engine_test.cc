// What one request gets back: tokens, text, log-probabilities, reasons to end.
#include "quire/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "engine/generate.h"
#include "engine/tiny_model.h"

namespace quire {
namespace {

class EngineTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TinyModelFolder>();
    engine_ = create_engine({.model = folder_->path(), .num_threads = 1, .max_logprobs = 5});
  }
  static void TearDownTestSuite() {
    engine_.reset();
    folder_.reset();
  }

  /// A greedy request whose tokens are known, because a first run has told them.
  static Request greedy(int32_t max_tokens) {
    Request request{.prompt_token_ids = random_prompt(11, 9)};
    request.sampling.temperature = 0.0f;
    request.sampling.ignore_eos = true;
    request.sampling.max_tokens = max_tokens;
    return request;
  }

  static SequenceOutput first(const Request& request) { return generate(*engine_, request).sequences.at(0); }

  static inline std::unique_ptr<TinyModelFolder> folder_;
  static inline std::unique_ptr<Engine> engine_;
};

TEST_F(EngineTest, describes_the_model_without_its_weights) {
  const ModelDescription description = Engine::describe({.model = folder_->path()});
  EXPECT_EQ(description.model.architecture, "LlamaForCausalLM");
  EXPECT_EQ(description.model.dtype, "float32");
  EXPECT_EQ(description.model.vocab_size, 96);
  EXPECT_EQ(description.model.num_layers, 2);
  EXPECT_EQ(description.model.num_kv_heads, 2);
  EXPECT_EQ(description.model.head_dim, 8);
  EXPECT_EQ(description.model.eos_token_ids, (std::vector<int32_t>{kTinyEndToken}));
  EXPECT_EQ(description.model.num_parameters, 2 * 96 * 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32 + 64) + 32);
  EXPECT_EQ(description.memory.max_model_len, 128);
  EXPECT_EQ(description.memory.num_blocks, 16 * 8);
  EXPECT_NE(description.backend.find("cpu"), std::string::npos);
  EXPECT_GE(description.num_threads, 1);
}

TEST_F(EngineTest, resolves_its_configuration) {
  const EngineConfig& config = engine_->config();
  EXPECT_EQ(config.device, "cpu");
  EXPECT_EQ(config.dtype, "float32");
  EXPECT_EQ(config.tokenizer, folder_->path());
  EXPECT_EQ(config.max_model_len, 128);
  EXPECT_EQ(config.max_num_batched_tokens, 512);
  EXPECT_EQ(config.kv_cache_memory_bytes, engine_->description().memory.kv_cache_bytes);
  EXPECT_EQ(config.num_threads, 1);
  EXPECT_EQ(engine_->vocabulary()->size(), 96);
  const auto [family, architectures] = Engine::families().front();
  EXPECT_EQ(family, "llama");
  EXPECT_EQ(architectures, (std::vector<std::string>{"LlamaForCausalLM", "LLaMAForCausalLM"}));
}

TEST_F(EngineTest, tells_how_much_of_the_weights_has_been_read) {
  std::vector<double> shares;
  const auto engine = Engine::create({.model = folder_->path()}, [&](double share) { shares.push_back(share); });
  EXPECT_GT(shares.size(), 3u);
  EXPECT_TRUE(std::ranges::is_sorted(shares));
  EXPECT_GT(shares.front(), 0.0);
  EXPECT_EQ(shares.back(), 1.0);
}

TEST_F(EngineTest, what_leaves_the_progress_of_loading_ends_it_as_it_is) {
  struct EnoughOfIt {};
  int calls = 0;
  const LoadProgress stop = [&](double) {
    ++calls;
    throw EnoughOfIt{};
  };
  EXPECT_THROW(Engine::create({.model = folder_->path()}, stop), EnoughOfIt);
  EXPECT_EQ(calls, 1);
}

TEST_F(EngineTest, ends_at_max_tokens_with_the_text_of_its_tokens) {
  const SequenceOutput output = first(greedy(10));
  EXPECT_EQ(output.token_ids.size(), 10u);
  EXPECT_EQ(output.finish_reason, FinishReason::kLength);
  EXPECT_EQ(output.text, engine_->vocabulary()->decode(output.token_ids, true));
  EXPECT_TRUE(std::holds_alternative<std::monostate>(output.stop_reason));
}

TEST_F(EngineTest, ends_at_max_model_len_without_max_tokens) {
  Request request = greedy(1);
  request.sampling.max_tokens = std::nullopt;
  const SequenceOutput output = first(request);
  EXPECT_EQ(output.token_ids.size(), 128u - 9u);
  EXPECT_EQ(output.finish_reason, FinishReason::kLength);
}

TEST_F(EngineTest, ends_at_a_stop_string_and_leaves_it_out) {
  const std::string text = first(greedy(20)).text;
  Request request = greedy(20);
  request.sampling.stop = {"\x01 never", text.substr(7, 3)};
  const size_t found = text.find(request.sampling.stop[1]);
  const SequenceOutput cut = first(request);
  EXPECT_EQ(cut.text, text.substr(0, found));
  EXPECT_EQ(cut.token_ids.size(), found + 3);
  EXPECT_EQ(cut.finish_reason, FinishReason::kStop);
  EXPECT_EQ(std::get<std::string>(cut.stop_reason), request.sampling.stop[1]);

  request.sampling.include_stop_str_in_output = true;
  EXPECT_EQ(first(request).text, text.substr(0, found + 3));
}

TEST_F(EngineTest, shows_no_stop_string_where_the_length_ends_the_sequence) {
  const std::string text = first(greedy(20)).text;
  const std::string stop = text.substr(7, 3);
  const size_t found = text.find(stop);
  Request request = greedy(static_cast<int32_t>(found) + 3);
  request.sampling.stop = {stop};
  const SequenceOutput output = first(request);
  EXPECT_EQ(output.text, text.substr(0, found));
  EXPECT_EQ(output.finish_reason, FinishReason::kLength);
}

TEST_F(EngineTest, ends_at_a_stop_id_and_keeps_the_id_but_not_its_text) {
  const SequenceOutput free = first(greedy(20));
  Request request = greedy(20);
  request.sampling.stop_token_ids = {free.token_ids[5]};
  const auto end = std::find(free.token_ids.begin(), free.token_ids.end(), free.token_ids[5]) + 1;
  const std::vector<int32_t> expected(free.token_ids.begin(), end);

  const SequenceOutput output = first(request);
  EXPECT_EQ(output.token_ids, expected);
  EXPECT_EQ(output.text, free.text.substr(0, expected.size() - 1));
  EXPECT_EQ(output.finish_reason, FinishReason::kStop);
  EXPECT_EQ(std::get<int32_t>(output.stop_reason), free.token_ids[5]);

  request.sampling.include_stop_str_in_output = true;
  EXPECT_EQ(first(request).text, free.text.substr(0, expected.size()));
}

TEST_F(EngineTest, ends_at_end_of_text_unless_that_is_ignored) {
  Request request = greedy(20);
  request.sampling.ignore_eos = false;
  request.sampling.logit_bias = {{kTinyEndToken, 1000.0f}};
  const SequenceOutput output = first(request);
  EXPECT_EQ(output.token_ids, (std::vector<int32_t>{kTinyEndToken}));
  EXPECT_EQ(output.finish_reason, FinishReason::kStop);
  EXPECT_TRUE(std::holds_alternative<std::monostate>(output.stop_reason));
  EXPECT_EQ(output.text, "");

  request.sampling.skip_special_tokens = false;
  EXPECT_EQ(first(request).text, "<end>");
  request.sampling.ignore_eos = true;
  EXPECT_EQ(first(request).token_ids, std::vector<int32_t>(20, kTinyEndToken));
}

TEST_F(EngineTest, masks_ends_before_min_tokens) {
  Request request = greedy(20);
  request.sampling.ignore_eos = false;
  request.sampling.logit_bias = {{kTinyEndToken, 1000.0f}, {7, 900.0f}};
  request.sampling.stop_token_ids = {7};
  request.sampling.min_tokens = 6;
  const SequenceOutput output = first(request);
  // The sixth token is chosen with the mask on, the seventh without it.
  ASSERT_EQ(output.token_ids.size(), 7u);
  EXPECT_EQ(output.token_ids[6], kTinyEndToken);
  for (size_t i = 0; i < 6; ++i) EXPECT_TRUE(output.token_ids[i] != kTinyEndToken && output.token_ids[i] != 7);
}

TEST_F(EngineTest, ignores_stop_strings_before_min_tokens) {
  const std::string text = first(greedy(20)).text;
  Request request = greedy(20);
  request.sampling.stop = {text.substr(3, 2)};
  request.sampling.min_tokens = 12;
  const size_t found = text.find(request.sampling.stop[0], 10);
  EXPECT_EQ(first(request).text, found == std::string::npos ? text : text.substr(0, found));
}

TEST_F(EngineTest, returns_logprobs_with_ranks_and_texts) {
  Request request = greedy(6);
  request.sampling.logprobs = 3;
  const SequenceOutput output = first(request);
  ASSERT_EQ(output.logprobs.size(), 6u);
  double sum = 0.0;
  for (size_t i = 0; i < 6; ++i) {
    const PositionLogprobs& position = output.logprobs[i];
    ASSERT_EQ(position.size(), 3u) << "greedy: the chosen token is the best of three";
    EXPECT_EQ(position[0].token_id, output.token_ids[i]);
    for (size_t rank = 0; rank < 3; ++rank) {
      EXPECT_EQ(position[rank].rank, static_cast<int32_t>(rank) + 1);
      EXPECT_EQ(position[rank].decoded_token, engine_->vocabulary()->token_text(position[rank].token_id));
      EXPECT_LE(position[rank].logprob, position[rank == 0 ? 0 : rank - 1].logprob);
    }
    sum += position[0].logprob;
  }
  EXPECT_DOUBLE_EQ(output.cumulative_logprob, sum);
  request.sampling.logprobs = 0;
  EXPECT_EQ(first(request).logprobs.at(0).size(), 1u);
  request.sampling.logprobs = std::nullopt;
  EXPECT_TRUE(first(request).logprobs.empty());
}

TEST_F(EngineTest, prompt_logprobs_of_generated_tokens_equal_their_logprobs) {
  Request request = greedy(12);
  request.sampling.logprobs = 0;
  const Output generated = generate(*engine_, request);
  const size_t length = request.prompt_token_ids.size();
  for (const int32_t token : generated.sequences[0].token_ids) request.prompt_token_ids.push_back(token);
  request.sampling.max_tokens = 1;
  request.sampling.prompt_logprobs = 0;
  const Output read = generate(*engine_, request);
  ASSERT_EQ(read.prompt_logprobs.size(), length + 12);
  for (size_t i = 0; i < 12; ++i) {
    EXPECT_EQ(read.prompt_logprobs[length + i][0].logprob, generated.sequences[0].logprobs[i][0].logprob);
  }
}

TEST_F(EngineTest, draws_by_seed_and_sequence_index) {
  Request request = greedy(16);
  request.sampling.temperature = 1.0f;
  request.sampling.seed = 42;
  request.sampling.n = 4;
  const Output four = generate(*engine_, request);
  std::set<std::vector<int32_t>> distinct;
  for (int32_t index = 0; index < 4; ++index) {
    EXPECT_EQ(four.sequences.at(index).index, index);
    distinct.insert(four.sequences[index].token_ids);
  }
  EXPECT_EQ(distinct.size(), 4u);
  request.sampling.n = 2;
  const Output two = generate(*engine_, request);
  for (int32_t index = 0; index < 2; ++index) {
    EXPECT_EQ(two.sequences[index].token_ids, four.sequences[index].token_ids);
  }
  request.sampling.seed = 43;
  EXPECT_NE(generate(*engine_, request).sequences[0].token_ids, four.sequences[0].token_ids);
}

TEST_F(EngineTest, repeats_unseeded_draws_with_the_same_engine_seed_and_order) {
  const auto run = [&](int64_t seed) {
    const auto engine = create_engine({.model = folder_->path(), .num_threads = 1, .seed = seed});
    Request request = greedy(16);
    request.sampling.temperature = 1.0f;
    std::vector<std::vector<int32_t>> tokens;
    for (int i = 0; i < 2; ++i) tokens.push_back(generate(*engine, request).sequences[0].token_ids);
    return tokens;
  };
  const auto once = run(5);
  EXPECT_EQ(run(5), once);
  EXPECT_NE(once[0], once[1]) << "two requests of one engine draw differently";
  EXPECT_NE(run(6)[0], once[0]);
}

TEST_F(EngineTest, sequences_of_one_request_end_each_for_itself) {
  Request request = greedy(40);
  request.sampling.temperature = 1.0f;
  request.sampling.seed = 3;
  request.sampling.n = 8;
  request.sampling.stop_token_ids = {10, 20, 30, 40, 50, 60, 70, 80};
  for (const OutputKind kind : {OutputKind::kFinalOnly, OutputKind::kDelta}) {
    request.output_kind = kind;
    const Output output = generate(*engine_, request);
    std::set<size_t> lengths;
    for (const SequenceOutput& sequence : output.sequences) {
      EXPECT_NE(sequence.finish_reason, FinishReason::kNone);
      lengths.insert(sequence.token_ids.size());
    }
    EXPECT_GT(lengths.size(), 2u);
    EXPECT_TRUE(output.finished);
  }
}

TEST_F(EngineTest, calls_back_once_or_after_every_step) {
  Request request = greedy(6);
  request.sampling.temperature = 1.0f;
  request.sampling.n = 3;
  for (const OutputKind kind : {OutputKind::kFinalOnly, OutputKind::kDelta}) {
    request.output_kind = kind;
    const auto queue = OutputQueue::create();
    engine_->submit(request, queue->callback());
    std::vector<Output> calls;
    while (calls.empty() || !calls.back().finished) {
      for (Output& output : queue->take()) calls.push_back(std::move(output));
    }
    ASSERT_EQ(calls.size(), kind == OutputKind::kDelta ? 6u : 1u);
    for (const Output& call : calls) {
      ASSERT_EQ(call.sequences.size(), 3u) << "all sequences of a step come in one call";
      EXPECT_EQ(call.sequences[0].token_ids.size(), kind == OutputKind::kDelta ? 1u : 6u);
    }
  }
}

TEST_F(EngineTest, stamps_the_times_of_a_request_in_order) {
  const double before = Engine::now();
  const RequestMetrics metrics = generate(*engine_, greedy(5)).metrics;
  EXPECT_LE(before, metrics.arrival_time);
  EXPECT_LE(metrics.arrival_time, metrics.first_scheduled_time.value());
  EXPECT_LE(metrics.first_scheduled_time.value(), metrics.first_token_time.value());
  EXPECT_LT(metrics.first_token_time.value(), metrics.last_token_time.value());
  EXPECT_EQ(metrics.last_token_time.value(), metrics.finished_time.value());
  EXPECT_LE(metrics.finished_time.value(), Engine::now());
}

TEST_F(EngineTest, counts_what_it_does) {
  const auto engine = create_engine({.model = folder_->path(), .num_threads = 1});
  Request request = greedy(5);
  request.prompt_token_ids = random_prompt(1, 40);
  generate(*engine, request);
  generate(*engine, request);
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.num_running, 0);
  EXPECT_EQ(stats.num_waiting, 0);
  EXPECT_EQ(stats.num_blocks, stats.num_free_blocks);
  EXPECT_EQ(stats.num_cached_tokens, 32);
  EXPECT_EQ(stats.num_prompt_tokens, 40 + 8);
  EXPECT_EQ(stats.num_generated_tokens, 10);
  EXPECT_EQ(stats.num_finished_requests, 2);
  EXPECT_EQ(stats.num_steps, 10);
}

TEST_F(EngineTest, works_without_a_vocabulary) {
  const auto engine =
      create_engine({.model = folder_->path(), .tokenizer = "/nowhere", .with_vocabulary = false, .num_threads = 1});
  EXPECT_EQ(engine->vocabulary(), nullptr);
  Request request = greedy(4);
  request.sampling.logprobs = 1;
  const SequenceOutput output = generate(*engine, request).sequences.at(0);
  EXPECT_EQ(output.token_ids, first(greedy(4)).token_ids);
  EXPECT_EQ(output.text, "");
  EXPECT_EQ(output.logprobs[0][0].decoded_token, "");
}

TEST_F(EngineTest, raw_logprobs_ignore_what_changes_the_logits) {
  const auto engine = create_engine({.model = folder_->path(), .num_threads = 1, .logprobs_mode = LogprobsMode::kRaw});
  Request request = greedy(1);
  request.sampling.logprobs = 0;
  const float plain = generate(*engine, request).sequences[0].logprobs[0][0].logprob;
  request.sampling.temperature = 0.3f;
  request.sampling.top_k = 1;
  EXPECT_EQ(generate(*engine, request).sequences[0].logprobs[0][0].logprob, plain);
  EXPECT_NEAR(first(request).logprobs[0][0].logprob, 0.0f, 1e-6f) << "processed: one token holds all probability";
}

TEST_F(EngineTest, refuses_a_bad_request_and_goes_on) {
  Request request = greedy(4);
  request.prompt_token_ids = {96};
  EXPECT_THROW(engine_->submit(request, [](Output&&) {}), Error);
  EXPECT_THROW(engine_->submit(greedy(4), nullptr), Error);
  EXPECT_EQ(first(greedy(4)).token_ids.size(), 4u);
}

TEST_F(EngineTest, refuses_folders_and_settings_that_do_not_go_together) {
  const auto kind_of = [](const EngineConfig& config) {
    try {
      create_engine(config);
    } catch (const Error& error) {
      return error.kind();
    }
    return ErrorKind::kInternal;
  };
  EXPECT_EQ(kind_of({.model = folder_->path() + "/nowhere"}), ErrorKind::kNotFound);
  EXPECT_EQ(kind_of({.model = folder_->path(), .device = "abacus"}), ErrorKind::kInvalidArgument);
  EXPECT_EQ(kind_of({.model = folder_->path(), .max_model_len = 129}), ErrorKind::kInvalidArgument);
  EXPECT_EQ(kind_of({.model = folder_->path(), .max_model_len = 128, .num_blocks_override = 7}),
            ErrorKind::kInvalidArgument);
  const TinyModelFolder small({.vocab = 90});
  EXPECT_EQ(kind_of({.model = small.path()}), ErrorKind::kInvalidArgument) << "more tokens than embeddings";
}

}  // namespace
}  // namespace quire
