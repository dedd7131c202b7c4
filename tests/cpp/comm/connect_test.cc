#include "comm/connect.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "runtime/host_backend.h"

namespace quire {
namespace {

/// A backend that brings communicators of its own.
class ConnectedBackend final : public HostBackend {
 public:
  Communicators connect(std::span<Backend* const> ranks) override {
    num_connected = static_cast<int>(ranks.size());
    Communicators communicators;
    for (int rank = 0; rank < num_connected; ++rank) communicators.push_back(std::make_unique<Own>());
    return communicators;
  }

  struct Own final : Communicator {
    int rank() const override { return 70; }
    int num_ranks() const override { return 80; }
    void all_reduce(const AllReduceArgs&, Stream&) override {}
    void all_gather(const AllGatherArgs&, Stream&) override {}
    void abort() noexcept override {}
  };
  int num_connected = 0;
};

TEST(Connect, takes_what_the_backend_brings) {
  ConnectedBackend first, second;
  const std::vector<Backend*> backends = {&first, &second};
  const Communicators ranks = connect(backends);
  EXPECT_EQ(first.num_connected, 2);
  EXPECT_EQ(second.num_connected, 0);
  ASSERT_EQ(ranks.size(), 2u);
  EXPECT_EQ(ranks[0]->rank(), 70);
}

TEST(Connect, uses_the_hosts_memory_where_the_backend_brings_nothing) {
  HostBackend first, second;
  const std::vector<Backend*> backends = {&first, &second};
  const Communicators ranks = connect(backends);
  ASSERT_EQ(ranks.size(), 2u);
  float values[2] = {1.0f, 2.0f};
  const auto stream = first.create_stream();
  const auto reduce = [&](int rank) {
    ranks[rank]->all_reduce({.x = Tensor(&values[rank], DType::kFloat32, {1, 1})}, *stream);
  };
  std::thread other(reduce, 1);
  reduce(0);
  other.join();
  EXPECT_EQ(values[0], 3.0f);
  EXPECT_EQ(values[1], 3.0f);
}

}  // namespace
}  // namespace quire
