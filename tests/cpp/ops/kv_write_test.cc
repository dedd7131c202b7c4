#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <tuple>
#include <vector>

#include "backend/cpu/kv_layout.h"
#include "ops/op_machine.h"

namespace quire {
namespace {

using test::Floats;
using test::OpMachine;
using test::OpVector;

using KvWriteTest = test::OpTest;
QUIRE_TEST_EVERY_DEVICE(KvWriteTest);

/// A cache of some pages with every byte set.
struct Pages {
  Pages(OpMachine& machine, DType dtype, int32_t blocks, int32_t block_size, int32_t heads, int32_t dim, int32_t v_dim)
      : kv{.data = nullptr,
           .dtype = dtype,
           .num_blocks = blocks,
           .block_size = block_size,
           .num_kv_heads = heads,
           .head_dim = dim,
           .v_head_dim = v_dim},
        bytes() {
    kv.block_bytes = machine.backend->kv_block_bytes(kv);
    bytes.assign(static_cast<size_t>(kv.block_bytes * blocks), kFresh);
    kv.data = bytes.data();
  }

  /// The stored bits of the element at that place of a block; one of the cache's type.
  uint32_t bits(int64_t block, int64_t element) const {
    const size_t size = kv.dtype == DType::kFloat32 ? 4 : 2;
    uint32_t stored = 0;
    std::memcpy(&stored,
                bytes.data() + static_cast<size_t>(block * kv.block_bytes) + static_cast<size_t>(element) * size, size);
    return stored;
  }

  static constexpr std::byte kFresh{0xee};
  KvLayer kv;
  OpVector<std::byte> bytes;
};

uint32_t rounded_bits(DType dtype, float value) {
  if (dtype == DType::kBFloat16) return to_bfloat16(value).bits;
  if (dtype == DType::kFloat16) return to_float16(value).bits;
  return std::bit_cast<uint32_t>(value);
}

TEST_P(KvWriteTest, tokens_go_to_their_slots_rounded_and_nothing_else_is_touched) {
  QUIRE_CPU_ONLY(machine, "the inside of a page is the backend's own");
  constexpr int32_t kBlocks = 6;
  const OpVector<int64_t> slot_numbers = {3, 70, 71, 17, 0};
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const auto& [block_size, heads, dim, v_dim] : std::vector<std::tuple<int32_t, int32_t, int32_t, int32_t>>{
             {16, 3, 64, 64}, {16, 2, 80, 24}, {32, 1, 33, 7}, {128, 2, 8, 120}}) {
      Pages pages(machine, dtype, kBlocks, block_size, heads, dim, v_dim);
      // Some numbers that the small types cannot hold: infinity, or subnormal.
      Floats k = Floats::random({5, heads, dim}, 1, 3, 1000.0f);
      Floats v = Floats::random({5, heads, v_dim}, 2, 5, 1e-6f);
      k.at(1, 2) = 1e6f;
      v.at(2, 3) = test::kNan;
      KvWriteArgs args{.k = k.tensor(), .v = v.tensor(), .kv = pages.kv, .slots = slot_numbers.data()};
      machine.run(&Ops::kv_write, args);

      const cpu::KvLayout layout = cpu::kv_layout(pages.kv);
      std::map<std::pair<int64_t, int64_t>, float> expected;
      for (int64_t token = 0; token < 5; ++token) {
        const int64_t block = slot_numbers[static_cast<size_t>(token)] / block_size;
        const int64_t slot = slot_numbers[static_cast<size_t>(token)] % block_size;
        for (int64_t head = 0; head < heads; ++head) {
          for (int64_t i = 0; i < dim; ++i) expected[{block, layout.key(head, i, slot)}] = k.at(token, head * dim + i);
          for (int64_t i = 0; i < v_dim; ++i) {
            expected[{block, layout.value(head, slot) + i}] = v.at(token, head * v_dim + i);
          }
        }
      }
      const uint32_t fresh = dtype == DType::kFloat32 ? 0xeeeeeeeeu : 0xeeeeu;
      for (int64_t block = 0; block < kBlocks; ++block) {
        for (int64_t element = 0; element < pages.kv.block_bytes / dtype_bytes(dtype); ++element) {
          const auto found = expected.find({block, element});
          const uint32_t bits = pages.bits(block, element);
          if (found != expected.end() && std::isnan(found->second)) {
            ASSERT_TRUE(bits != fresh && bits != 0);
            continue;
          }
          ASSERT_EQ(bits, found == expected.end() ? fresh : rounded_bits(dtype, found->second))
              << "block " << block << ", element " << element << ", " << dtype_name(dtype);
        }
      }
    }
  }
}

TEST_P(KvWriteTest, a_page_has_room_for_every_element_once) {
  QUIRE_CPU_ONLY(machine, "the inside of a page is the backend's own");
  for (const int32_t block_size : {8, 16, 128}) {
    for (const int32_t dim : {1, 64, 100}) {
      const cpu::KvLayout layout = cpu::kv_layout(block_size, dim, dim + 3);
      const int64_t elements = cpu::kv_page_bytes(DType::kBFloat16, block_size, 3, dim, dim + 3) / 2;
      std::vector<int> uses(static_cast<size_t>(elements));
      for (int64_t head = 0; head < 3; ++head) {
        EXPECT_EQ(layout.key(head, 0, 0) * 2 % 64, 0);
        EXPECT_EQ(layout.value(head, 0) * 2 % 64, 0);
        for (int64_t slot = 0; slot < block_size; ++slot) {
          for (int64_t i = 0; i < dim; ++i) ++uses.at(static_cast<size_t>(layout.key(head, i, slot)));
          for (int64_t i = 0; i < dim + 3; ++i) ++uses.at(static_cast<size_t>(layout.value(head, slot) + i));
        }
      }
      for (const int count : uses) ASSERT_LE(count, 1);
    }
  }
}

TEST_P(KvWriteTest, blocks_are_copied_within_every_layer) {
  Pages first(machine, DType::kBFloat16, 5, 16, 2, 64, 64);
  Pages second(machine, DType::kBFloat16, 5, 16, 2, 64, 64);
  uint8_t next = 0;
  for (std::byte& byte : first.bytes) byte = std::byte{next += 3};
  for (std::byte& byte : second.bytes) byte = std::byte{next += 7};
  const OpVector<std::byte> before[] = {first.bytes, second.bytes};
  const std::vector<KvLayer> layers = {first.kv, second.kv};
  const std::vector<int32_t> from = {0, 3};
  const std::vector<int32_t> to = {4, 1};
  machine.run(&Ops::copy_blocks, {.layers = layers, .from = from, .to = to});
  const size_t size = static_cast<size_t>(first.kv.block_bytes);
  const size_t source_of[] = {0, 3, 2, 3, 0};
  for (size_t block = 0; block < 5; ++block) {
    EXPECT_EQ(std::memcmp(&first.bytes[block * size], &before[0][source_of[block] * size], size), 0) << block;
    EXPECT_EQ(std::memcmp(&second.bytes[block * size], &before[1][source_of[block] * size], size), 0) << block;
  }
  machine.run(&Ops::copy_blocks, {});
}

TEST_P(KvWriteTest, blocks_are_copied_to_other_layers_of_the_same_pages) {
  std::vector<Pages> device, host;
  std::vector<KvLayer> device_layers, host_layers;
  for (int layer = 0; layer < 2; ++layer) {
    Pages& pages = device.emplace_back(machine, DType::kFloat16, 4, 8, 3, 32, 32);
    for (size_t i = 0; i < pages.bytes.size(); ++i) pages.bytes[i] = static_cast<std::byte>(i * 7 + i / 251 + layer);
    host.emplace_back(machine, DType::kFloat16, 6, 8, 3, 32, 32);
  }
  for (int layer = 0; layer < 2; ++layer) {
    device_layers.push_back(device[layer].kv);
    host_layers.push_back(host[layer].kv);
  }
  const std::vector<OpVector<std::byte>> before = {device[0].bytes, device[1].bytes};
  const std::vector<int32_t> here = {3, 0, 1}, there = {0, 5, 3};
  machine.run(&Ops::copy_blocks, {.layers = device_layers, .from = here, .to = there, .to_layers = host_layers});
  const auto size = static_cast<size_t>(device_layers[0].block_bytes);
  for (int layer = 0; layer < 2; ++layer) {
    EXPECT_EQ(device[layer].bytes, before[layer]);
    for (size_t pair = 0; pair < here.size(); ++pair) {
      const auto* const copy = &host[layer].bytes[there[pair] * size];
      EXPECT_EQ(std::memcmp(copy, &before[layer][here[pair] * size], size), 0) << layer << " " << pair;
    }
  }
  for (Pages& pages : device) std::fill(pages.bytes.begin(), pages.bytes.end(), std::byte{0});
  machine.run(&Ops::copy_blocks, {.layers = host_layers, .from = there, .to = here, .to_layers = device_layers});
  for (int layer = 0; layer < 2; ++layer) {
    for (const int32_t block : here) {
      EXPECT_EQ(std::memcmp(&device[layer].bytes[block * size], &before[layer][block * size], size), 0);
    }
  }
}

}  // namespace
}  // namespace quire
