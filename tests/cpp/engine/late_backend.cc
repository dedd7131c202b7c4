#include "engine/late_backend.h"

#include <cstring>
#include <deque>
#include <functional>
#include <vector>

#include "comm/shared_memory.h"
#include "core/check.h"

namespace quire {

std::atomic<int64_t> LateBackend::num_graph_launches{0};
std::atomic<int> LateBackend::num_failing_waits{0};

namespace {

using Work = std::function<void()>;

struct LateStream final : Stream {
  LateStream(std::unique_ptr<Stream> real_stream, const Ops& real_ops) : real(std::move(real_stream)), ops(real_ops) {}

  void enqueue(Work one) {
    if (recording) {
      recorded.push_back(std::move(one));
    } else {
      work.push_back(std::move(one));
      ++num_enqueued;
    }
  }
  void run_until(int64_t place) {
    QUIRE_CHECK(!recording, "nothing may be waited for while steps are recorded");
    while (num_done < place) {
      const Work next = std::move(work.front());
      work.pop_front();
      ++num_done;
      next();
    }
  }
  void synchronize() override { run_until(num_enqueued); }

  std::unique_ptr<Stream> real;
  const Ops& ops;
  std::deque<Work> work;
  int64_t num_enqueued = 0;
  int64_t num_done = 0;
  bool recording = false;
  std::vector<Work> recorded;
};

LateStream& late(Stream& stream) {
  return static_cast<LateStream&>(stream);
}

struct LateEvent final : Event {
  void record(Stream& on) override {
    stream = &late(on);
    place = stream->num_enqueued;
  }
  void wait() override {
    if (stream != nullptr) stream->run_until(place);
    if (LateBackend::num_failing_waits > 0) {
      --LateBackend::num_failing_waits;
      throw Error(ErrorKind::kOutOfMemory, "[test] a wait fails");
    }
  }
  LateStream* stream = nullptr;
  int64_t place = 0;
};

struct LateGraph final : Graph {
  explicit LateGraph(std::vector<Work> recorded) : work(std::move(recorded)) {}
  void launch(Stream& stream) override {
    for (const Work& one : work) late(stream).enqueue(one);
    ++LateBackend::num_graph_launches;
  }
  std::vector<Work> work;
};

/// What an op has been called with. What it would read of the host at once is kept for it.
template <typename Args>
struct Kept {
  explicit Kept(const Args& given) : args(given) {}
  const Args& get() const { return args; }
  Args args;
};

template <>
struct Kept<AttentionArgs> {
  explicit Kept(const AttentionArgs& given) : args(given), batch(*given.batch) {}
  AttentionArgs get() const {
    AttentionArgs own = args;
    own.batch = &batch;
    return own;
  }
  AttentionArgs args;
  RaggedBatch batch;
};

template <>
struct Kept<CopyBlocksArgs> {
  explicit Kept(const CopyBlocksArgs& given)
      : layers(given.layers),
        to_layers(given.to_layers),
        from(given.from.begin(), given.from.end()),
        to(given.to.begin(), given.to.end()) {}
  CopyBlocksArgs get() const { return {.layers = layers, .from = from, .to = to, .to_layers = to_layers}; }
  std::span<const KvLayer> layers, to_layers;
  std::vector<int32_t> from, to;
};

template <typename Args, void (*Ops::*op)(const Args&, Stream&)>
void enqueue_op(const Args& args, Stream& stream) {
  LateStream& own = late(stream);
  own.enqueue([&own, kept = Kept<Args>(args)] { (own.ops.*op)(kept.get(), *own.real); });
}

/// What ranks say to each other when their streams come to it.
class LateCommunicator final : public Communicator {
 public:
  explicit LateCommunicator(std::unique_ptr<Communicator> real) : real_(std::move(real)) {}
  int rank() const override { return real_->rank(); }
  int num_ranks() const override { return real_->num_ranks(); }
  void all_reduce(const AllReduceArgs& args, Stream& stream) override {
    late(stream).enqueue([this, args, &own = late(stream)] { real_->all_reduce(args, *own.real); });
  }
  void all_gather(const AllGatherArgs& args, Stream& stream) override {
    late(stream).enqueue([this, args, &own = late(stream)] { real_->all_gather(args, *own.real); });
  }
  void abort() noexcept override { real_->abort(); }

 private:
  const std::unique_ptr<Communicator> real_;
};

}  // namespace

LateBackend::LateBackend(std::unique_ptr<Backend> real) : ForwardingBackend(std::move(real)) {
  ops_ = {.embed = enqueue_op<EmbedArgs, &Ops::embed>,
          .norm = enqueue_op<NormArgs, &Ops::norm>,
          .linear = enqueue_op<LinearArgs, &Ops::linear>,
          .grouped_linear = enqueue_op<GroupedLinearArgs, &Ops::grouped_linear>,
          .rope = enqueue_op<RopeArgs, &Ops::rope>,
          .kv_write = enqueue_op<KvWriteArgs, &Ops::kv_write>,
          .copy_blocks = enqueue_op<CopyBlocksArgs, &Ops::copy_blocks>,
          .attention = enqueue_op<AttentionArgs, &Ops::attention>,
          .activation = enqueue_op<ActivationArgs, &Ops::activation>,
          .route = enqueue_op<RouteArgs, &Ops::route>,
          .moe = enqueue_op<MoeArgs, &Ops::moe>,
          .add = enqueue_op<AddArgs, &Ops::add>,
          .clip = enqueue_op<ClipArgs, &Ops::clip>,
          .gather = enqueue_op<GatherArgs, &Ops::gather>,
          .logit_scale = enqueue_op<LogitScaleArgs, &Ops::logit_scale>,
          .resolve = enqueue_op<ResolveArgs, &Ops::resolve>,
          .sample = enqueue_op<SampleArgs, &Ops::sample>};
}

std::unique_ptr<Stream> LateBackend::create_stream() {
  return std::make_unique<LateStream>(real_->create_stream(), real_->ops());
}

std::unique_ptr<Event> LateBackend::create_event() {
  return std::make_unique<LateEvent>();
}

void LateBackend::copy_to_device(void* destination, const void* source, size_t bytes, Stream& stream) {
  stream.synchronize();
  real_->copy_to_device(destination, source, bytes, *late(stream).real);
}

void LateBackend::copy_to_host(void* destination, const void* source, size_t bytes, Stream& stream) {
  stream.synchronize();
  real_->copy_to_host(destination, source, bytes, *late(stream).real);
}

void LateBackend::enqueue_to_device(void* destination, const void* source, size_t bytes, Stream& stream) {
  late(stream).enqueue([destination, source, bytes] { std::memcpy(destination, source, bytes); });
}

void LateBackend::enqueue_to_host(void* destination, const void* source, size_t bytes, Stream& stream) {
  std::memset(destination, 0xfe, bytes);
  late(stream).enqueue([destination, source, bytes] { std::memcpy(destination, source, bytes); });
}

void LateBackend::begin_recording(Stream& stream) {
  late(stream).recording = true;
  late(stream).recorded.clear();
}

std::unique_ptr<Graph> LateBackend::end_recording(Stream& stream) {
  late(stream).recording = false;
  return std::make_unique<LateGraph>(std::move(late(stream).recorded));
}

Communicators LateBackend::connect(std::span<Backend* const> ranks) {
  Communicators communicators = connect_shared_memory(static_cast<int>(ranks.size()));
  for (auto& one : communicators) one = std::make_unique<LateCommunicator>(std::move(one));
  return communicators;
}

PackedLinear LateBackend::pack_linear(const LinearSource& source, Stream& stream) {
  stream.synchronize();
  return real_->pack_linear(source, *late(stream).real);
}

}  // namespace quire
