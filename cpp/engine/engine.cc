#include "quire/engine.h"

#include <chrono>
#include <exception>
#include <mutex>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include "backend/registry.h"
#include "core/check.h"
#include "core/log.h"
#include "core/quote.h"
#include "engine/load_ranks.h"
#include "engine/loop.h"
#include "engine/open_model.h"
#include "engine/request_check.h"
#include "engine/start.h"
#include "spec/families/table.h"
#include "spec/rope.h"

namespace quire {
namespace {

/// Let no other type of exception leave the library.
template <typename Work>
auto with_own_errors(Work&& work) {
  try {
    return work();
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw Error(ErrorKind::kOutOfMemory, "[engine] out of memory: use a smaller model, or lower max_model_len");
  } catch (const std::exception& error) {
    throw Error(ErrorKind::kInternal, detail::join_message("[engine] unexpected failure: ", error.what()));
  }
}

class LocalEngine final : public Engine {
 public:
  LocalEngine(ModelDescription description, EngineConfig config, std::shared_ptr<const Vocabulary> vocabulary,
              std::shared_ptr<Loop> loop)
      : description_(std::move(description)),
        config_(std::move(config)),
        vocabulary_(std::move(vocabulary)),
        loop_(std::move(loop)),
        // The thread shares the loop, so that it can end by itself when a callback lets go of the engine.
        thread_([loop = loop_] { loop->run(); }) {}

  ~LocalEngine() override { stop(); }

  RequestId submit(Request request, OutputCallback callback) override {
    return with_own_errors([&] {
      QUIRE_REQUIRE(callback != nullptr, ErrorKind::kInvalidArgument, "[engine] the callback is empty");
      check_request(request, {.vocab_size = description_.model.vocab_size,
                              .max_model_len = description_.memory.max_model_len,
                              .max_num_seqs = config_.max_num_seqs,
                              .max_logprobs = config_.max_logprobs,
                              .has_vocabulary = vocabulary_ != nullptr});
      return loop_->queue().submit(std::move(request), std::move(callback));
    });
  }

  bool cancel(RequestId id) override {
    return with_own_errors([&] { return loop_->queue().cancel(id); });
  }

  void close() override {
    QUIRE_REQUIRE(std::this_thread::get_id() != thread_id_, ErrorKind::kInvalidArgument,
                  "[engine] close() was called from a callback, which it would wait for");
    stop();
  }

  std::optional<std::string> failure() const override { return loop_->queue().failure(); }
  EngineStats stats() const override { return loop_->stats(); }
  const ModelDescription& description() const override { return description_; }
  const EngineConfig& config() const override { return config_; }
  std::shared_ptr<const Vocabulary> vocabulary() const override { return vocabulary_; }

 private:
  void stop() {
    loop_->queue().close();
    const std::lock_guard lock(thread_mutex_);
    if (!thread_.joinable()) return;
    if (std::this_thread::get_id() == thread_id_) {
      thread_.detach();
    } else {
      thread_.join();
    }
  }

  const ModelDescription description_;
  const EngineConfig config_;
  const std::shared_ptr<const Vocabulary> vocabulary_;
  const std::shared_ptr<Loop> loop_;
  std::mutex thread_mutex_;
  std::thread thread_;
  const std::thread::id thread_id_ = thread_.get_id();
};

std::shared_ptr<const Vocabulary> read_vocabulary(const OpenModel& model) {
  if (!model.config.with_vocabulary) return nullptr;
  auto vocabulary = Vocabulary::from_folder(model.config.tokenizer);
  QUIRE_REQUIRE(vocabulary->size() <= model.folder.spec.vocab, ErrorKind::kInvalidArgument,
                "[engine] the tokenizer has more tokens than the model: tokenizer=", in_quotes(model.config.tokenizer),
                ", tokens=", vocabulary->size(), ", vocab_size of config.json=", model.folder.spec.vocab);
  return vocabulary;
}

SchedulerConfig scheduler_config(const OpenModel& model) {
  std::random_device random;
  return {.block_size = model.config.block_size,
          .num_blocks = model.description.memory.num_blocks,
          .num_swap_blocks = model.description.memory.num_swap_blocks,
          .max_num_seqs = model.config.max_num_seqs,
          .max_num_batched_tokens = *model.config.max_num_batched_tokens,
          .max_model_len = model.description.memory.max_model_len,
          .enable_prefix_caching = model.config.enable_prefix_caching,
          .hash_seed = (uint64_t{random()} << 32) | random(),
          .recompute_length = rope_recompute_length(model.folder.spec).value_or(0)};
}

}  // namespace

std::unique_ptr<Engine> start_engine(OpenModel model, const LoadProgress& progress) {
  auto vocabulary = read_vocabulary(model);
  RequestContext context{.vocabulary = vocabulary,
                         .eos_ids = model.folder.generation.eos_token_ids,
                         .max_model_len = model.description.memory.max_model_len,
                         .logprobs_mode = model.config.logprobs_mode,
                         .seed = model.config.seed};
  auto loop = std::make_shared<Loop>(load_ranks(model, progress), scheduler_config(model), std::move(context),
                                     model.config.max_queued_requests);
  log(LogLevel::kInfo,
      detail::join_message("[engine] ready: ", model.description.model.architecture, " on ", model.description.backend,
                           ", KV cache of ", model.description.memory.num_blocks, " blocks of ",
                           model.config.block_size, " tokens, max_model_len=", model.description.memory.max_model_len));
  return std::make_unique<LocalEngine>(model.description, model.config, std::move(vocabulary), std::move(loop));
}

std::unique_ptr<Engine> Engine::create(const EngineConfig& config, const LoadProgress& progress) {
  std::exception_ptr of_progress;
  const LoadProgress watched = [&](double share) {
    try {
      progress(share);
    } catch (...) {
      of_progress = std::current_exception();
      throw;
    }
  };
  try {
    return with_own_errors([&] { return start_engine(open_model(config), progress ? watched : progress); });
  } catch (...) {
    if (of_progress) std::rethrow_exception(of_progress);
    throw;
  }
}

ModelDescription Engine::describe(const EngineConfig& config) {
  return with_own_errors([&] { return open_model(config).description; });
}

std::vector<std::pair<std::string, std::vector<std::string>>> Engine::families() {
  std::vector<std::pair<std::string, std::vector<std::string>>> rows;
  for (const Family& family : family_table()) {
    rows.emplace_back(family.name, std::vector<std::string>(family.architectures.begin(), family.architectures.end()));
  }
  return rows;
}

std::vector<DeviceKind> Engine::devices() {
  std::vector<DeviceKind> kinds;
  for (KnownDevice& known : known_devices()) {
    kinds.push_back({.name = std::move(known.name),
                     .num_devices = known.num_devices,
                     .why_none = std::move(known.why_none),
                     .targets = std::move(known.targets),
                     .standing = std::move(known.standing)});
  }
  return kinds;
}

double Engine::now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace quire
