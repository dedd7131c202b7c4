#include "model/workspace.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <utility>
#include <vector>

#include "runtime/host_backend.h"

namespace quire {
namespace {

ModelSpec small_spec() {
  ModelSpec spec;
  spec.width = 24;
  spec.layers.resize(2);
  spec.layers[0].attention = {.heads = 3, .kv_heads = 1, .head_dim = 8};
  spec.layers[0].ffn.width = 40;
  spec.layers[1].attention = {.heads = 3, .kv_heads = 3, .head_dim = 8, .v_head_dim = 16};
  spec.layers[1].ffn.width = 20;
  return spec;
}

/// Of a backend that asks for some bytes per token and expert.
Workspace workspace_of(const ModelSpec& spec, int64_t num_tokens, int64_t num_logit_rows, void* base) {
  HostBackend backend;
  backend.moe_bytes = 84;
  return Workspace(spec, backend, DType::kFloat32, num_tokens, num_logit_rows, base);
}

using Extent = std::pair<std::ptrdiff_t, std::ptrdiff_t>;

Extent extent(const Tensor& tensor, const std::byte* base) {
  const std::ptrdiff_t begin = static_cast<const std::byte*>(tensor.data) - base;
  return {begin, begin + tensor.bytes()};
}

TEST(Workspace, holds_every_tensor_inside_the_bytes_it_counts) {
  const ModelSpec spec = small_spec();
  const int64_t bytes = workspace_of(spec, 5, 3, nullptr).bytes;
  std::vector<std::byte> memory(static_cast<size_t>(bytes));
  const Workspace workspace = workspace_of(spec, 5, 3, memory.data());
  EXPECT_EQ(workspace.bytes, bytes);
  for (const Tensor& tensor : {workspace.hidden, workspace.normed, workspace.qkv, workspace.attention, workspace.up,
                               workspace.activated, workspace.gathered}) {
    const auto [begin, end] = extent(tensor, memory.data());
    EXPECT_GE(begin, 0);
    EXPECT_LE(end, bytes);
    EXPECT_EQ(begin % 256, 0);
  }
}

TEST(Workspace, never_lets_tensors_overlap_that_live_at_the_same_time) {
  std::vector<std::byte> memory(1 << 16);
  const Workspace w = workspace_of(small_spec(), 7, 4, memory.data());
  const std::vector<std::vector<Tensor>> alive = {
      {w.hidden, w.normed, w.qkv, w.attention}, {w.hidden, w.normed, w.up, w.activated}, {w.hidden, w.gathered}};
  for (const std::vector<Tensor>& group : alive) {
    for (size_t i = 0; i < group.size(); ++i) {
      for (size_t j = i + 1; j < group.size(); ++j) {
        const Extent a = extent(group[i], memory.data());
        const Extent b = extent(group[j], memory.data());
        EXPECT_TRUE(a.second <= b.first || b.second <= a.first) << i << " and " << j;
      }
    }
  }
}

/// A model with experts, latent attention, parts that are normed before they are added, and embeddings of their own
/// width.
ModelSpec rich_spec() {
  ModelSpec spec = small_spec();
  spec.embed_width = 12;
  spec.layers[0].attention = {.heads = 2, .kv_heads = 2, .head_dim = 12, .v_head_dim = 8};
  spec.layers[0].attention.latent = Latent{.q_rank = 10, .kv_rank = 16, .rope_dim = 4};
  spec.layers[0].wiring = Wiring::kParallelTwoNorms;
  spec.layers[1].ffn.moe = Moe{.num_experts = 6, .top_k = 2, .shared_width = 30, .shared_gate = true};
  spec.layers[1].residual_scale = 0.5f;
  return spec;
}

TEST(Workspace, what_a_rich_model_needs_does_not_overlap_either) {
  std::vector<std::byte> memory(1 << 20);
  ModelSpec spec = rich_spec();
  spec.vocab = 30;
  spec.rank = {1, 2};
  EXPECT_EQ(workspace_of(rich_spec(), 7, 4, nullptr).head_share.size(), 0) << "one rank's logits go where they belong";
  const Workspace w = workspace_of(spec, 7, 4, memory.data());
  EXPECT_EQ(w.bytes, workspace_of(spec, 7, 4, nullptr).bytes);
  EXPECT_EQ(w.head_share.shape[1], 15);
  EXPECT_EQ(w.qkv.shape[1], 3 * 8 + 3 * 8 + 3 * 16) << "wider than 10 + 16 + 4";
  EXPECT_EQ(w.q.shape[1], 24);
  EXPECT_EQ(w.latent_q.shape[1], 2 * 20);
  EXPECT_EQ(w.latent_out.shape[1], 2 * 16);
  EXPECT_EQ(w.up.shape[1], 80);
  EXPECT_EQ(w.moe_scratch.bytes(), 84 * 7 * 2);
  const std::vector<std::vector<Tensor>> alive = {
      {w.hidden, w.embedded},
      {w.hidden, w.normed, w.normed_ffn, w.branch, w.qkv, w.attention, w.q, w.latent_q, w.latent_out},
      {w.hidden, w.normed, w.normed_ffn, w.branch, w.up, w.activated, w.router_logits, w.experts, w.expert_weights,
       w.moe_scratch, w.shared_gate, w.shared_out},
      {w.hidden, w.gathered, w.final_norms, w.projected, w.head_share}};
  for (const std::vector<Tensor>& group : alive) {
    for (size_t i = 0; i < group.size(); ++i) {
      const Extent a = extent(group[i], memory.data());
      EXPECT_GT(a.second, a.first) << i;
      EXPECT_LE(a.second, w.bytes);
      for (size_t j = i + 1; j < group.size(); ++j) {
        const Extent b = extent(group[j], memory.data());
        EXPECT_TRUE(a.second <= b.first || b.second <= a.first) << i << " and " << j;
      }
    }
  }
}

/// Whose activations are of 16 bits.
class NarrowBackend final : public HostBackend {
 public:
  DType activation_dtype(DType) const override { return DType::kBFloat16; }
};

TEST(Workspace, what_ranks_sum_is_of_the_activations_type_but_for_experts_and_parts_side_by_side) {
  const NarrowBackend backend;
  const auto branch = [&](const ModelSpec& spec) {
    return Workspace(spec, backend, DType::kBFloat16, 5, 3, nullptr).branch;
  };
  ModelSpec spec = small_spec();
  spec.vocab = 30;
  EXPECT_EQ(branch(spec).size(), 0) << "one rank adds as it computes";
  spec.rank = {0, 2};
  EXPECT_EQ(branch(spec).dtype, DType::kBFloat16);
  EXPECT_EQ(branch(spec).size(), 5 * 24);
  ModelSpec parallel = spec;
  parallel.layers[1].wiring = Wiring::kParallel;
  EXPECT_EQ(branch(parallel).dtype, DType::kFloat32);
  parallel.layers[1].residual_scale = 0.5f;
  EXPECT_EQ(branch(parallel).dtype, DType::kBFloat16) << "each part is summed by itself";
  spec.layers[0].ffn.moe = Moe{.num_experts = 6, .top_k = 2};
  EXPECT_EQ(branch(spec).dtype, DType::kFloat32);
}

TEST(Workspace, is_as_wide_as_the_widest_layer) {
  const Workspace workspace = workspace_of(small_spec(), 1, 1, nullptr);
  EXPECT_EQ(workspace.qkv.shape[1], 3 * 8 + 3 * 8 + 3 * 16);
  EXPECT_EQ(workspace.attention.shape[1], 3 * 16);
  EXPECT_EQ(workspace.up.shape[1], 80);
  EXPECT_EQ(workspace.activated.shape[1], 40);
}

}  // namespace
}  // namespace quire
