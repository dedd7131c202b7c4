#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "accelerator.h"

namespace quire {
namespace {

using test::accelerator;
using test::near;
using test::Numbers;
using test::rounding_of;
using test::Shared;

constexpr std::array kTypes = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class SmallOpsTest : public testing::Test {
 protected:
  void SetUp() override {
    QUIRE_NEED_ACCELERATOR();
    stream_ = accelerator()->create_stream();
  }

  const Ops& ops() { return accelerator()->ops(); }

  std::unique_ptr<Stream> stream_;
};

// ---- norm

struct NormCase {
  NormKind kind = NormKind::kRms;
  int64_t tokens = 1, heads = 1, width = 1;
  DType x = DType::kFloat32, out = DType::kFloat32;
  bool weight = true, bias = false, per_head = false, in_place = false;
  int64_t gap = 0;
  float shift = 0.0f;
};

void check_norm(const NormCase& c, Stream& stream) {
  SCOPED_TRACE(testing::Message() << "layer=" << (c.kind == NormKind::kLayer) << " T=" << c.tokens << " H=" << c.heads
                                  << " K=" << c.width << " x=" << dtype_name(c.x) << " out=" << dtype_name(c.out)
                                  << " weight=" << c.weight << " bias=" << c.bias << " gap=" << c.gap);
  const int64_t columns = c.heads * c.width;
  Numbers x = Numbers::random(c.x, c.tokens, columns, 1, c.gap, 2.0f);
  for (int64_t t = 0; t < c.tokens; ++t) {
    for (int64_t i = 0; i < columns; ++i) x.set(t, i, x.get(t, i) + c.shift);
  }
  Numbers before = x;
  const int64_t sets = c.per_head ? c.heads : 1;
  Numbers weight = Numbers::random(DType::kFloat32, sets, c.width, 2);
  Numbers bias = Numbers::random(DType::kFloat32, sets, c.width, 3);
  Numbers out(c.out, c.tokens, columns, c.gap);
  Numbers& written = c.in_place ? x : out;
  const auto rows = [&](Numbers& numbers) {
    return c.heads > 1 ? numbers.tensor().heads(c.heads, c.width) : numbers.tensor();
  };
  const auto parameter = [&](Numbers& numbers) { return c.per_head ? numbers.tensor() : numbers.vector(); };
  const float eps = 1e-5f;
  accelerator()->ops().norm({.kind = c.kind,
                             .eps = eps,
                             .x = rows(x),
                             .weight = c.weight ? parameter(weight) : Tensor{},
                             .bias = c.bias ? parameter(bias) : Tensor{},
                             .out = rows(written)},
                            stream);
  stream.synchronize();
  ASSERT_TRUE(x.gaps_untouched() && out.gaps_untouched());
  const double tolerance = rounding_of(c.out) + std::abs(c.shift) * 1e-6;
  for (int64_t t = 0; t < c.tokens; ++t) {
    for (int64_t h = 0; h < c.heads; ++h) {
      double mean = 0.0, variance = 0.0;
      if (c.kind == NormKind::kLayer) {
        for (int64_t i = 0; i < c.width; ++i) mean += before.get(t, h * c.width + i);
        mean /= static_cast<double>(c.width);
      }
      for (int64_t i = 0; i < c.width; ++i) variance += std::pow(before.get(t, h * c.width + i) - mean, 2);
      variance /= static_cast<double>(c.width);
      for (int64_t i = 0; i < c.width; ++i) {
        double expected = (before.get(t, h * c.width + i) - mean) / std::sqrt(variance + eps);
        const int64_t set = c.per_head ? h : 0;
        if (c.weight) expected *= weight.get(set, i);
        if (c.bias) expected += bias.get(set, i);
        ASSERT_TRUE(near(written.get(t, h * c.width + i), expected, tolerance)) << t << " " << h << " " << i;
      }
    }
  }
}

TEST_F(SmallOpsTest, norm_of_rows_of_any_width_and_type) {
  for (const int64_t width : {1, 2, 7, 64, 257, 511, 512, 516, 896, 4096, 4097, 5120, 8192, 16384, 20004}) {
    for (const DType x : kTypes) {
      for (const DType out : kTypes) {
        check_norm({.kind = NormKind::kRms, .tokens = 3, .width = width, .x = x, .out = out}, *stream_);
        check_norm({.kind = NormKind::kLayer, .tokens = 2, .width = width, .x = x, .out = out, .bias = true, .gap = 3},
                   *stream_);
      }
    }
  }
}

TEST_F(SmallOpsTest, norm_of_heads_with_weights_of_all_or_each) {
  for (const int64_t width : {5, 32, 64, 80, 128, 256, 640}) {
    for (const DType type : kTypes) {
      for (const bool per_head : {false, true}) {
        for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
          check_norm({.kind = kind,
                      .tokens = 9,
                      .heads = 3,
                      .width = width,
                      .x = type,
                      .out = type,
                      .bias = per_head,
                      .per_head = per_head,
                      .in_place = true,
                      .gap = 8},
                     *stream_);
          check_norm({.kind = kind,
                      .tokens = 1,
                      .heads = 7,
                      .width = width,
                      .x = type,
                      .out = DType::kFloat32,
                      .per_head = per_head,
                      .gap = 1},
                     *stream_);
        }
      }
    }
  }
}

TEST_F(SmallOpsTest, norm_in_place_without_weights_and_of_many_rows) {
  for (const DType type : kTypes) {
    check_norm({.tokens = 5, .width = 4096, .x = type, .out = type, .weight = false, .in_place = true}, *stream_);
    check_norm({.kind = NormKind::kLayer,
                .tokens = 5,
                .width = 130,
                .x = type,
                .out = type,
                .weight = false,
                .bias = true,
                .in_place = true},
               *stream_);
  }
  check_norm({.tokens = 70001, .width = 8, .x = DType::kFloat32, .out = DType::kBFloat16}, *stream_);
}

TEST_F(SmallOpsTest, layer_norm_stands_a_large_mean) {
  for (const int64_t width : {64, 1023, 4096}) {
    check_norm({.kind = NormKind::kLayer, .tokens = 4, .width = width, .bias = true, .shift = 1000.0f}, *stream_);
  }
}

TEST_F(SmallOpsTest, norm_of_a_row_depends_on_nothing_else) {
  Numbers x = Numbers::random(DType::kFloat32, 65, 4096, 7);
  Numbers all(DType::kBFloat16, 65, 4096), one(DType::kBFloat16, 1, 4096);
  ops().norm({.x = x.tensor(), .out = all.tensor()}, *stream_);
  for (const int64_t row : {0, 17, 64}) {
    ops().norm({.x = x.tensor().rows(row, 1), .out = one.tensor()}, *stream_);
    stream_->synchronize();
    EXPECT_TRUE(one.row_bits_equal(0, all, row));
  }
}

// ---- rope

void check_rope(DType type, RopeLayout layout, int64_t width, int64_t rotated, bool in_place, int64_t gap,
                Stream& stream) {
  SCOPED_TRACE(testing::Message() << dtype_name(type) << " half=" << (layout == RopeLayout::kHalf) << " K=" << width
                                  << " R=" << rotated << " in_place=" << in_place << " gap=" << gap);
  constexpr int64_t kTokens = 5, kHeads = 3, kPositions = 40;
  Numbers x = Numbers::random(type, kTokens, kHeads * width, 1, gap);
  Numbers before = x;
  Numbers out(type, kTokens, kHeads * width, 2 * gap);
  Numbers& written = in_place ? x : out;
  Numbers cos = Numbers::random(DType::kFloat32, kPositions, rotated / 2, 2);
  Numbers sin = Numbers::random(DType::kFloat32, kPositions, rotated / 2, 3);
  Shared<int32_t> rows = {0, 39, 7, 7, 20};
  accelerator()->ops().rope({.x = x.tensor().heads(kHeads, width),
                             .rows = rows.data(),
                             .cos = cos.tensor(),
                             .sin = sin.tensor(),
                             .layout = layout,
                             .out = written.tensor().heads(kHeads, width)},
                            stream);
  stream.synchronize();
  ASSERT_TRUE(x.gaps_untouched() && out.gaps_untouched());
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t h = 0; h < kHeads; ++h) {
      std::vector<double> expected(static_cast<size_t>(width));
      for (int64_t i = 0; i < width; ++i) expected[static_cast<size_t>(i)] = before.get(t, h * width + i);
      for (int64_t p = 0; p < rotated / 2; ++p) {
        const int64_t a = layout == RopeLayout::kHalf ? p : 2 * p;
        const int64_t b = layout == RopeLayout::kHalf ? p + rotated / 2 : 2 * p + 1;
        const double first = before.get(t, h * width + a), second = before.get(t, h * width + b);
        const int64_t row = rows[static_cast<size_t>(t)];
        expected[static_cast<size_t>(a)] = first * cos.get(row, p) - second * sin.get(row, p);
        expected[static_cast<size_t>(b)] = second * cos.get(row, p) + first * sin.get(row, p);
      }
      for (int64_t i = 0; i < width; ++i) {
        ASSERT_TRUE(near(written.get(t, h * width + i), expected[static_cast<size_t>(i)], rounding_of(type)))
            << t << " " << h << " " << i;
      }
    }
  }
}

TEST_F(SmallOpsTest, rope_of_both_layouts_of_whole_heads_and_parts) {
  const std::array<std::array<int64_t, 2>, 9> shapes = {
      {{2, 2}, {64, 64}, {128, 128}, {128, 64}, {80, 20}, {80, 32}, {10, 6}, {256, 256}, {5, 4}}};
  for (const auto [width, rotated] : shapes) {
    for (const DType type : kTypes) {
      for (const RopeLayout layout : {RopeLayout::kHalf, RopeLayout::kInterleaved}) {
        for (const int64_t gap : {0, 3, 16}) {
          check_rope(type, layout, width, rotated, true, gap, *stream_);
          check_rope(type, layout, width, rotated, false, gap, *stream_);
        }
      }
    }
  }
}

// ---- embed, gather, add, clip

TEST_F(SmallOpsTest, embed_takes_rows_of_tables_and_packed_heads) {
  for (const int64_t width : {1, 7, 256, 4096, 1030}) {
    for (const DType type : kTypes) {
      for (const DType out_type : kTypes) {
        for (const bool accumulate : {false, true}) {
          Numbers table = Numbers::random(type, 50, width, 1);
          PackedLinear packed{.n = 50, .k = width, .dtype = type};
          packed.data = Buffer(table.tensor().data, static_cast<size_t>(50 * width * dtype_bytes(type)), {});
          Numbers out = Numbers::random(out_type, 4, width, 2, 5);
          const Numbers before = out;
          Shared<int32_t> ids = {47, 0, -2, 13};
          ops().embed({.table = accumulate ? table.tensor() : Tensor{},
                       .packed = accumulate ? nullptr : &packed,
                       .ids = ids.data(),
                       .offset = 2,
                       .scale = 1.5f,
                       .accumulate = accumulate,
                       .out = out.tensor()},
                      *stream_);
          stream_->synchronize();
          ASSERT_TRUE(out.gaps_untouched());
          for (int64_t t = 0; t < 4; ++t) {
            for (int64_t i = 0; i < width; ++i) {
              const double expected =
                  1.5 * table.get(ids[static_cast<size_t>(t)] + 2, i) + (accumulate ? before.get(t, i) : 0.0);
              ASSERT_TRUE(near(out.get(t, i), expected, rounding_of(out_type))) << t << " " << i;
            }
          }
        }
      }
    }
  }
}

TEST_F(SmallOpsTest, embed_of_an_id_outside_the_table_reads_nothing_outside) {
  Numbers table = Numbers::random(DType::kFloat32, 3, 8, 1);
  Numbers out(DType::kFloat32, 2, 8);
  Shared<int32_t> ids = {-2000000000, 2000000000};
  ops().embed({.table = table.tensor(), .ids = ids.data(), .out = out.tensor()}, *stream_);
  stream_->synchronize();
  EXPECT_FALSE(std::isnan(out.get(0, 0)));
}

TEST_F(SmallOpsTest, gather_copies_rows) {
  for (const int64_t width : {1, 9, 4096, 2050}) {
    Numbers x = Numbers::random(DType::kFloat32, 11, width, 1, 3);
    Numbers out(DType::kFloat32, 4, width, 1);
    Shared<int32_t> rows = {10, 0, 10, 4};
    ops().gather({.x = x.tensor(), .rows = rows.data(), .out = out.tensor()}, *stream_);
    stream_->synchronize();
    ASSERT_TRUE(out.gaps_untouched());
    for (int64_t r = 0; r < 4; ++r) EXPECT_TRUE(out.row_bits_equal(r, x, rows[static_cast<size_t>(r)]));
  }
}

TEST_F(SmallOpsTest, add_scales_and_gates) {
  for (const DType type : kTypes) {
    for (const int64_t width : {1, 5, 1024, 4097}) {
      for (const bool gated : {false, true}) {
        Numbers x = Numbers::random(type, 6, width, 1, 4);
        Numbers gate = Numbers::random(DType::kFloat32, 6, 1, 2, 2, 3.0f);
        Numbers out = Numbers::random(DType::kFloat32, 6, width, 3, 8);
        const Numbers before = out;
        ops().add({.x = x.tensor(), .scale = 0.7f, .gate = gated ? gate.tensor() : Tensor{}, .out = out.tensor()},
                  *stream_);
        stream_->synchronize();
        ASSERT_TRUE(out.gaps_untouched());
        for (int64_t t = 0; t < 6; ++t) {
          const double factor = gated ? 0.7 / (1.0 + std::exp(-gate.get(t, 0))) : 0.7;
          for (int64_t i = 0; i < width; ++i) {
            ASSERT_TRUE(near(out.get(t, i), before.get(t, i) + factor * x.get(t, i), 1e-6)) << t << " " << i;
          }
        }
      }
    }
  }
}

TEST_F(SmallOpsTest, clip_limits_and_keeps_nan) {
  for (const DType type : kTypes) {
    for (const int64_t width : {1, 13, 768}) {
      Numbers x = Numbers::random(type, 3, width, 1, 5, 3.0f);
      x.set(1, width - 1, kNan);
      x.set(2, 0, std::numeric_limits<float>::infinity());
      const Numbers before = x;
      ops().clip({.x = x.tensor(), .limit = 2.0f}, *stream_);
      stream_->synchronize();
      ASSERT_TRUE(x.gaps_untouched());
      for (int64_t t = 0; t < 3; ++t) {
        for (int64_t i = 0; i < width; ++i) {
          const float value = before.get(t, i);
          ASSERT_TRUE(near(x.get(t, i), std::isnan(value) ? value : std::clamp(value, -2.0f, 2.0f), 0.0));
        }
      }
    }
  }
}

// ---- activation

double activate(Activation kind, double x) {
  switch (kind) {
    case Activation::kSilu: return x / (1.0 + std::exp(-x));
    case Activation::kGelu: return 0.5 * x * (1.0 + std::erf(x / std::numbers::sqrt2));
    case Activation::kGeluTanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Activation::kGeluQuick: return x / (1.0 + std::exp(-1.702 * x));
    case Activation::kRelu: return std::max(x, 0.0);
    default: return std::pow(std::max(x, 0.0), 2);
  }
}

void check_activation(const ActivationRule& rule, DType type, int64_t width, bool in_place, Stream& stream) {
  SCOPED_TRACE(testing::Message() << "kind=" << static_cast<int>(rule.kind) << " gated=" << rule.gated << " limit="
                                  << rule.limit << " " << dtype_name(type) << " F=" << width << " " << in_place);
  Numbers x = Numbers::random(type, 3, rule.gated ? 2 * width : width, 1, 8, 3.0f);
  x.set(0, 0, 60.0f);
  x.set(1, 0, -60.0f);
  x.set(2, 0, kNan);
  const Numbers before = x;
  Numbers out(type, 3, width, 16);
  Numbers& written = in_place ? x : out;
  accelerator()->ops().activation({.rule = rule, .x = x.tensor(), .out = written.tensor()}, stream);
  stream.synchronize();
  ASSERT_TRUE(x.gaps_untouched() && out.gaps_untouched());
  for (int64_t t = 0; t < 3; ++t) {
    for (int64_t i = 0; i < width; ++i) {
      double gate = before.get(t, i);
      double other = rule.gated ? before.get(t, width + i) : 1.0;
      if (rule.limit > 0.0f) {
        gate = std::isnan(gate) ? gate : std::min<double>(gate, rule.limit);
        other = std::clamp<double>(other, -rule.limit, rule.limit);
      }
      if (rule.gated) other += rule.offset;
      const double expected = std::isnan(gate) ? gate : activate(rule.kind, gate) * other;
      ASSERT_TRUE(near(written.get(t, i), expected, rounding_of(type))) << t << " " << i;
    }
  }
}

TEST_F(SmallOpsTest, activation_of_every_kind_plain_gated_and_limited) {
  for (const Activation kind : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kGeluQuick,
                                Activation::kRelu, Activation::kRelu2}) {
    for (const DType type : kTypes) {
      for (const int64_t width : {1, 7, 264, 2048, 4100}) {
        check_activation({.kind = kind}, type, width, false, *stream_);
        check_activation({.kind = kind}, type, width, true, *stream_);
        check_activation({.kind = kind, .gated = true}, type, width, false, *stream_);
        check_activation({.kind = kind, .gated = true, .limit = 2.5f, .offset = 1.0f}, type, width, false, *stream_);
      }
    }
  }
}

// ---- logits, ids, blocks

TEST_F(SmallOpsTest, logit_scale_with_and_without_cap) {
  for (const int64_t width : {1, 1021, 32000}) {
    for (const float cap : {0.0f, 30.0f}) {
      Numbers x = Numbers::random(DType::kFloat32, 3, width, 1, 4, 50.0f);
      const Numbers before = x;
      ops().logit_scale({.x = x.tensor(), .scale = 0.25f, .softcap = cap}, *stream_);
      stream_->synchronize();
      ASSERT_TRUE(x.gaps_untouched());
      for (int64_t r = 0; r < 3; ++r) {
        for (int64_t i = 0; i < width; ++i) {
          const double scaled = before.get(r, i) * 0.25;
          ASSERT_TRUE(near(x.get(r, i), cap > 0 ? cap * std::tanh(scaled / cap) : scaled, 1e-5));
        }
      }
    }
  }
}

TEST_F(SmallOpsTest, resolve_replaces_negative_ids_up_to_the_count) {
  for (const int32_t count : {0, 1, 3, 2000}) {
    Shared<int32_t> ids(2100), number = {count};
    Shared<SampledToken> tokens(300);
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i].token = static_cast<int32_t>(1000 + i);
    for (size_t i = 0; i < ids.size(); ++i)
      ids[i] = i % 3 == 0 ? static_cast<int32_t>(i) : -1 - static_cast<int32_t>(i % 300);
    const Shared<int32_t> before = ids;
    ops().resolve({.ids = ids.data(), .count = number.data(), .tokens = tokens.data()}, *stream_);
    stream_->synchronize();
    for (size_t i = 0; i < ids.size(); ++i) {
      const bool replaced = i < static_cast<size_t>(count) && before[i] < 0;
      EXPECT_EQ(ids[i], replaced ? 1000 + static_cast<int32_t>(i % 300) : before[i]) << i;
    }
  }
}

TEST_F(SmallOpsTest, copy_blocks_copies_in_every_layer_and_nowhere_else) {
  constexpr int64_t kBlocks = 700;
  for (const auto& [num_layers, num_pairs, block_bytes] :
       {std::array<int64_t, 3>{1, 1, 16}, {2, 1, 20000}, {3, 300, 4112}, {130, 5, 48}, {2, 0, 64}}) {
    const auto layer_bytes = static_cast<size_t>(kBlocks * block_bytes);
    Shared<std::byte> memory(layer_bytes * static_cast<size_t>(num_layers));
    std::mt19937 generator(3);
    for (std::byte& byte : memory) byte = static_cast<std::byte>(generator());
    Shared<std::byte> expected = memory;
    std::vector<KvLayer> layers(static_cast<size_t>(num_layers));
    std::vector<int32_t> from, to;
    for (int32_t pair = 0; pair < num_pairs; ++pair) {
      from.push_back(static_cast<int32_t>(generator() % 350));
      to.push_back(699 - pair);
    }
    for (size_t layer = 0; layer < layers.size(); ++layer) {
      layers[layer] = {.data = memory.data() + layer * layer_bytes, .num_blocks = kBlocks, .block_bytes = block_bytes};
      std::byte* const blocks = expected.data() + layer * layer_bytes;
      for (size_t pair = 0; pair < from.size(); ++pair) {
        std::memcpy(blocks + to[pair] * block_bytes, blocks + from[pair] * block_bytes,
                    static_cast<size_t>(block_bytes));
      }
    }
    ops().copy_blocks({.layers = layers, .from = from, .to = to}, *stream_);
    stream_->synchronize();
    EXPECT_TRUE(std::memcmp(memory.data(), expected.data(), memory.size()) == 0)
        << num_layers << " " << num_pairs << " " << block_bytes;
  }
}

TEST_F(SmallOpsTest, copy_blocks_moves_blocks_to_page_locked_memory_and_back) {
  constexpr int64_t kLayers = 70, kBlockBytes = 20496;
  constexpr int32_t kBlocks = 12, kHostBlocks = 9;
  const Buffer device = accelerator()->allocate(kLayers * kBlocks * kBlockBytes, MemoryKind::kKvCache);
  const Buffer host = accelerator()->allocate_host(kLayers * kHostBlocks * kBlockBytes);
  std::vector<std::byte> before(device.bytes());
  std::mt19937 generator(4);
  for (std::byte& byte : before) byte = static_cast<std::byte>(generator());
  accelerator()->copy_to_device(device.data(), before.data(), before.size(), *stream_);
  std::memset(host.data(), 0xee, host.bytes());
  const auto layers_of = [](const Buffer& memory, int32_t num_blocks) {
    std::vector<KvLayer> layers;
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      layers.push_back({.data = static_cast<std::byte*>(memory.data()) + layer * num_blocks * kBlockBytes,
                        .num_blocks = num_blocks,
                        .block_bytes = kBlockBytes});
    }
    return layers;
  };
  const auto on_device = layers_of(device, kBlocks), on_host = layers_of(host, kHostBlocks);
  const std::vector<int32_t> here = {11, 0, 4, 5}, there = {2, 8, 3, 0};
  const auto is_block = [&](const std::vector<KvLayer>& layers, int64_t layer, int32_t block,
                            const std::byte* expected) {
    const auto* const stored = static_cast<const std::byte*>(layers[layer].data) + block * kBlockBytes;
    std::vector<std::byte> read(kBlockBytes);
    accelerator()->copy_to_host(read.data(), stored, read.size(), *stream_);
    return std::memcmp(read.data(), expected, read.size()) == 0;
  };
  const auto original = [&](int64_t layer, int32_t block) {
    return before.data() + (layer * kBlocks + block) * kBlockBytes;
  };
  ops().copy_blocks({.layers = on_device, .from = here, .to = there, .to_layers = on_host}, *stream_);
  // To other places than they came from, without the host having waited.
  const std::vector<int32_t> elsewhere = {1, 2, 3, 7};
  ops().copy_blocks({.layers = on_host, .from = there, .to = elsewhere, .to_layers = on_device}, *stream_);
  stream_->synchronize();
  const std::vector<std::byte> untouched(kBlockBytes, std::byte{0xee});
  for (const int64_t layer : {int64_t{0}, int64_t{63}, int64_t{64}, kLayers - 1}) {
    for (size_t i = 0; i < here.size(); ++i) {
      EXPECT_TRUE(is_block(on_host, layer, there[i], original(layer, here[i]))) << layer << " " << i;
      EXPECT_TRUE(is_block(on_device, layer, elsewhere[i], original(layer, here[i]))) << layer << " " << i;
    }
    EXPECT_TRUE(is_block(on_host, layer, 1, untouched.data()));
    EXPECT_TRUE(is_block(on_device, layer, 8, original(layer, 8)));
  }
}

// ---- rope_kv_write

TEST(RopeKvWrite, turns_in_place_and_stores_what_it_has_turned) {
  QUIRE_NEED_ACCELERATOR();
  Backend& backend = *accelerator();
  const std::unique_ptr<Stream> stream = backend.create_stream();
  constexpr int32_t kTokens = 19, kHeads = 6, kKvHeads = 2, kBlock = 16, kBlocks = 5, kPositions = 70;
  for (const auto& [dtype, cache_dtype] : std::vector<std::pair<DType, DType>>{{DType::kBFloat16, DType::kBFloat16},
                                                                               {DType::kFloat16, DType::kFloat16},
                                                                               {DType::kFloat32, DType::kFloat32},
                                                                               {DType::kFloat32, DType::kBFloat16}}) {
    for (const auto& [dim, turned] :
         std::vector<std::pair<int32_t, int32_t>>{{128, 128}, {64, 32}, {80, 32}, {96, 48}, {40, 10}, {33, 8}}) {
      for (const RopeLayout layout : {RopeLayout::kHalf, RopeLayout::kInterleaved}) {
        SCOPED_TRACE(std::string(dtype_name(dtype)) + ", dim " + std::to_string(dim) + ", turned " +
                     std::to_string(turned));
        const int64_t columns = int64_t{kHeads + 2 * kKvHeads} * dim;
        Numbers qkv = Numbers::random(dtype, kTokens, columns, 5, 8);
        const Numbers before = qkv;
        Numbers cos = Numbers::random(DType::kFloat32, kPositions, turned / 2, 6);
        Numbers sin = Numbers::random(DType::kFloat32, kPositions, turned / 2, 7);
        Shared<int32_t> rows;
        Shared<int64_t> slots;
        for (int32_t t = 0; t < kTokens; ++t) {
          rows.push_back(t * 11 % kPositions);
          slots.push_back(t == 4 ? -1 : t * 29 % (kBlock * kBlocks));
        }
        KvLayer kv{.dtype = cache_dtype,
                   .num_blocks = kBlocks,
                   .block_size = kBlock,
                   .num_kv_heads = kKvHeads,
                   .head_dim = dim,
                   .v_head_dim = dim};
        kv.block_bytes = backend.kv_block_bytes(kv);
        Shared<std::byte> pages(static_cast<size_t>(kBlocks * kv.block_bytes), std::byte{0xff}), expected_pages = pages;
        const auto cut = [&](Numbers& all, int64_t first, int64_t heads) {
          return all.tensor().columns(first * dim, heads * dim).heads(heads, dim);
        };
        RopeKvWriteArgs args;
        args.q = cut(qkv, 0, kHeads);
        args.rope.rows = rows.data();
        args.rope.cos = cos.tensor();
        args.rope.sin = sin.tensor();
        args.rope.layout = layout;
        args.kv = {.k = cut(qkv, kHeads, kKvHeads),
                   .v = cut(qkv, kHeads + kKvHeads, kKvHeads),
                   .kv = kv,
                   .slots = slots.data()};
        args.kv.kv.data = pages.data();
        backend.ops().rope_kv_write(args, *stream);
        args.kv.kv.data = expected_pages.data();
        backend.ops().kv_write(args.kv, *stream);
        stream->synchronize();
        EXPECT_TRUE(qkv.gaps_untouched());
        EXPECT_EQ(std::memcmp(pages.data(), expected_pages.data(), pages.size()), 0);
        for (int32_t t = 0; t < kTokens; ++t) {
          for (int32_t h = 0; h < kHeads + 2 * kKvHeads; ++h) {
            for (int32_t i = 0; i < dim; ++i) {
              double expected = before.get(t, h * dim + i);
              if (i < turned && h < kHeads + kKvHeads) {
                const bool half = layout == RopeLayout::kHalf;
                const int32_t pair = half ? i % (turned / 2) : i / 2;
                const bool first = half ? i < turned / 2 : i % 2 == 0;
                const int32_t other = half ? (first ? i + turned / 2 : i - turned / 2) : (first ? i + 1 : i - 1);
                const double c = cos.get(rows[static_cast<size_t>(t)], pair),
                             s = sin.get(rows[static_cast<size_t>(t)], pair);
                expected = expected * c + (first ? -1.0 : 1.0) * before.get(t, h * dim + other) * s;
              }
              ASSERT_TRUE(near(qkv.get(t, h * dim + i), expected, rounding_of(dtype))) << t << ", " << h << ", " << i;
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace quire
