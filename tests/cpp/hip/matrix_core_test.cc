// What kernels on AMD's matrix cores do between memory and the instructions: the functions of the kernels, run by
// threads that stand for the lanes of a wave (lanes/kernels_hip/common/instructions.h has the instructions), against
// plain arithmetic; and which places of shared memory they touch.
#include "kernels_hip/common/matrix_core.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>

#include "kernels_hip/attention/query_rows.h"
#include "kernels_hip/gemm/tile_stage.h"

namespace quire::gpu {
namespace {

/// Small multiples of 1/8, whose products and sums of up to some thousand are exact in float32, in any order.
template <typename T>
std::vector<T> exact_numbers(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> eighths(-16, 16);
  std::vector<T> numbers(count);
  for (T& number : numbers) number = number_from<T>(static_cast<float>(eighths(random)) / 8.0f);
  return numbers;
}

template <typename T>
Chunk chunk_at(const T* numbers) {
  Chunk chunk;
  std::memcpy(&chunk, numbers, sizeof(chunk));
  return chunk;
}

// Bank conflicts. Shared memory gives 128 bytes at a time, of 32 banks. An access of 16 bytes by all lanes goes by
// groups of 8 lanes, of 8 bytes by groups of 16; lanes that read the same bytes count once.

/// By how much the i-th accesses of the lanes take longer than they need to: rounds more than the least.
int extra_rounds(const std::vector<std::vector<Access>>& accesses) {
  int extra = 0;
  for (size_t i = 0; i < accesses.front().size(); ++i) {
    const size_t group = 128 / static_cast<size_t>(accesses.front()[i].bytes);
    for (size_t first = 0; first < accesses.size(); first += group) {
      std::map<uintptr_t, std::set<uintptr_t>> by_bank;
      for (size_t lane = first; lane < std::min(first + group, accesses.size()); ++lane) {
        if (i >= accesses[lane].size()) continue;  // a lane that has no part in it
        const auto address = reinterpret_cast<uintptr_t>(accesses[lane][i].address) / 4;
        for (int word = 0; word < accesses[lane][i].bytes / 4; ++word) {
          by_bank[(address + static_cast<uintptr_t>(word)) % 32].insert(address + static_cast<uintptr_t>(word));
        }
      }
      size_t rounds = 1;
      for (const auto& [bank, words] : by_bank) rounds = std::max(rounds, words.size());
      extra += static_cast<int>(rounds) - 1;
    }
  }
  return extra;
}

/// Shared memory, with what was written where.
class Written {
 public:
  void take(const std::vector<std::vector<Access>>& accesses) {
    for (const auto& lane : accesses) {
      for (const Access& access : lane) {
        if (access.is_write) {
          EXPECT_TRUE(places_.insert({access.address, access.bytes}).second) << "written twice";
        } else {
          EXPECT_TRUE(places_.contains({access.address, access.bytes})) << "read, but not written";
        }
      }
    }
  }
  size_t count() const { return places_.size(); }

 private:
  std::set<std::pair<const void*, int>> places_;
};

TEST(MatrixCore, layouts_are_those_of_the_published_tables) {
  // Cells of the calculator's tables for V_MFMA_F32_16X16X16F16: A[3][13] is v0{51}.[31:16], D[6][9] v2{25}.
  EXPECT_EQ((MatrixCore<64>::left_row(51)), 3);
  EXPECT_EQ((MatrixCore<64>::right_row(25)), 9);
  EXPECT_EQ((MatrixCore<64>::first_row(25)) + 2, 6);
  // V_WMMA_F32_16X16X16_F16, waves of 32: D[i][j] is GPR floor(i / 2) of lane 16 * i % 32 + j. Our rows come in another
  // order: row left_row(i) is given to it as row i.
  for (int i = 0; i < 16; ++i) {
    const int lane = 16 * i % 32, gpr = i / 2;
    EXPECT_EQ((MatrixCore<32>::left_row(i)), (MatrixCore<32>::first_row(lane)) + gpr);
  }
}

template <typename T, int kLanes>
void check_product(int steps) {
  using Core = MatrixCore<kLanes>;
  const size_t depth = static_cast<size_t>(steps * Core::kStep);
  const auto a = exact_numbers<T>(16 * depth, 1), b = exact_numbers<T>(16 * depth, 2);
  std::array<std::array<float, 16>, 16> result{};
  run_wave(kLanes, [&](int lane) {
    Result<kLanes> d{};
    for (int step = 0; step < steps; ++step) {
      Operand<kLanes> left, right;
      for (int i = 0; i < Core::kLaneChunks; ++i) {
        const auto k = static_cast<size_t>((step * Core::kStepChunks + Core::chunk(lane, i)) * 8);
        left.set(i, chunk_at(&a[static_cast<size_t>(Core::left_row(lane)) * depth + k]));
        right.set(i, chunk_at(&b[static_cast<size_t>(Core::right_row(lane)) * depth + k]));
      }
      multiply_step<T, kLanes>(d, left, right);
    }
    for (int i = 0; i < Core::kValues; ++i) {
      result[static_cast<size_t>(Core::first_row(lane) + i)][static_cast<size_t>(Core::right_row(lane))] = d.values[i];
    }
  });
  for (size_t i = 0; i < 16; ++i) {
    for (size_t j = 0; j < 16; ++j) {
      float expected = 0.0f;
      for (size_t k = 0; k < depth; ++k) expected += to_float(a[i * depth + k]) * to_float(b[j * depth + k]);
      EXPECT_EQ(result[i][j], expected) << i << " " << j;
    }
  }
}

TEST(MatrixCore, products_of_whole_fragments) {
  check_product<BFloat, 64>(1);
  check_product<Half, 64>(3);
  check_product<BFloat, 32>(1);
  check_product<Half, 32>(3);
}

template <int kLanes>
void check_weights() {
  using Core = MatrixCore<kLanes>;
  // d[i, j] as operand b: row j, k = i. Times the unit matrix it is the transposed.
  std::array<std::array<float, 16>, 16> result{};
  run_wave(kLanes, [&](int lane) {
    uint32_t packed[Core::kValues / 2] = {};
    for (int i = 0; i < Core::kValues; ++i) {
      const int element = (Core::first_row(lane) + i) * 16 + Core::right_row(lane);
      packed[i / 2] |= uint32_t{half_from(static_cast<float>(element)).bits} << i % 2 * 16;
    }
    const Weights<kLanes> weights = weights_of<kLanes>(packed);
    Weights<kLanes> unit{};
    const int row = Core::left_row(lane);
    for (int k = 0; k < 16; ++k) {
      const bool own = kLanes == 32 || k / 4 == lane / 16;
      const int at = kLanes == 64 ? k % 4 : k;
      if (own && k == row) unit.words[at / 2] |= uint32_t{half_from(1.0f).bits} << at % 2 * 16;
    }
    Result<kLanes> d{};
    multiply_add<Half, kLanes>(d.values, unit.words, weights.words);
    for (int i = 0; i < Core::kValues; ++i) {
      result[static_cast<size_t>(Core::first_row(lane) + i)][static_cast<size_t>(Core::right_row(lane))] = d.values[i];
    }
  });
  for (size_t i = 0; i < 16; ++i) {
    for (size_t j = 0; j < 16; ++j) EXPECT_EQ(result[i][j], static_cast<float>(i * 16 + j));
  }
}

TEST(MatrixCore, results_become_operands_without_change) {
  check_weights<64>();
  check_weights<32>();
}

// Tiles.

template <typename T, int kRows, int kLanes>
void check_tile() {
  using Shape = TileShape<kRows, kLanes>;
  constexpr size_t kDepth = kStageDepth;
  const auto x = exact_numbers<T>(kRows * kDepth, 3), weights = exact_numbers<T>(kStageColumns * kDepth, 4);
  const auto stage = std::make_unique<std::array<Chunk, Shape::kStageChunks>>();
  std::memset(stage.get(), 0xff, sizeof(*stage));  // not numbers
  Written written;
  for (int wave = 0; wave < kTileWaves; ++wave) {
    const auto accesses = run_wave(kLanes, [&](int lane) {
      const int thread = wave * kLanes + lane;
      const auto row = static_cast<size_t>(thread / kRowChunks), k = static_cast<size_t>(thread % kRowChunks * 8);
      StageChunks<kRows, kLanes> chunks;
      for (size_t i = 0; i < Shape::kRowCopies; ++i) {
        const size_t at = i * Shape::kRowsAtOnce + row;
        if (at < kRows) chunks.x[i] = chunk_at(&x[at * kDepth + k]);
      }
      for (size_t i = 0; i < Shape::kColumnCopies; ++i) {
        chunks.weights[i] = chunk_at(&weights[(i * Shape::kRowsAtOnce + row) * kDepth + k]);
      }
      chunks.store(stage->data(), thread);
    });
    written.take(accesses);
    EXPECT_EQ(extra_rounds(accesses), 0) << "writes, wave " << wave;
  }
  EXPECT_EQ(written.count(), static_cast<size_t>(Shape::kStageChunks));

  std::vector<float> result(kRows * kStageColumns, NAN);
  for (int wave = 0; wave < kTileWaves; ++wave) {
    const auto accesses = run_wave(kLanes, [&](int lane) {
      using Core = MatrixCore<kLanes>;
      TileSums<kRows, kLanes> sums;
      sums.clear();
      multiply_stage<T, kRows, kLanes>(sums, stage->data(), wave, lane);
      sums.each([&](float value, int r, int c, int i) {
        const int row = Shape::first_row(wave) + r * 16 + Core::right_row(lane);
        const int column = Shape::first_column(wave) + c * 16 + Core::first_row(lane) + i;
        float& to = result[static_cast<size_t>(row * kStageColumns + column)];
        EXPECT_TRUE(std::isnan(to)) << "computed twice";
        to = value;
      });
    });
    written.take(accesses);
    EXPECT_EQ(extra_rounds(accesses), 0) << "reads, wave " << wave;
  }
  for (size_t row = 0; row < kRows; ++row) {
    for (size_t column = 0; column < kStageColumns; ++column) {
      float expected = 0.0f;
      for (size_t k = 0; k < kDepth; ++k) {
        expected += to_float(x[row * kDepth + k]) * to_float(weights[column * kDepth + k]);
      }
      ASSERT_EQ(result[row * kStageColumns + column], expected) << row << " " << column;
    }
  }
}

TEST(MatrixCore, a_tile_of_the_gemm_waves_of_64) {
  check_tile<BFloat, 16, 64>();
  check_tile<Half, 32, 64>();
  check_tile<BFloat, 64, 64>();
  check_tile<Half, 128, 64>();
}

TEST(MatrixCore, a_tile_of_the_gemm_waves_of_32) {
  check_tile<BFloat, 16, 32>();
  check_tile<Half, 32, 32>();
  check_tile<BFloat, 64, 32>();
}

// Attention.

/// Sixteen rows with keys and values of their own kv head.
template <typename T, int kDim>
struct Heads {
  static constexpr int kTileKeys = 32;
  int keys;
  std::vector<T> q, k, v;
  std::vector<RowView> views;
  float scale, softcap, slope;

  Heads(int count, float cap, float alibi, int window)
      : keys(count),
        q(exact_numbers<T>(16 * kDim, 5)),
        k(exact_numbers<T>(static_cast<size_t>(count) * kDim, 6)),
        v(exact_numbers<T>(static_cast<size_t>(count) * kDim, 7)),
        scale(1.0f / std::sqrt(static_cast<float>(kDim))),
        softcap(cap),
        slope(alibi) {
    for (int row = 0; row < 16; ++row) {
      const int position = count - 16 + row;
      views.push_back(
          {window > 0 ? std::max(0, position - window + 1) : 0, position + 1, slope * static_cast<float>(row)});
    }
  }

  std::vector<double> expected(int row) const {
    std::vector<double> weights, out(kDim);
    double total = 0.0;
    const RowView& view = views[static_cast<size_t>(row)];
    for (int key = view.first; key < view.end; ++key) {
      double score = 0.0;
      for (int i = 0; i < kDim; ++i) score += number(q, row, i) * number(k, key, i);
      score *= scale;
      if (softcap > 0.0f) score = softcap * std::tanh(score / softcap);
      score += view.slope * (key - view.end + 1);
      weights.push_back(std::exp(score));
      total += weights.back();
    }
    for (int key = view.first; key < view.end; ++key) {
      for (int i = 0; i < kDim; ++i) {
        out[static_cast<size_t>(i)] += weights[static_cast<size_t>(key - view.first)] / total * number(v, key, i);
      }
    }
    return out;
  }

 private:
  static double number(const std::vector<T>& from, int row, int i) {
    return static_cast<double>(to_float(from[static_cast<size_t>(row * kDim + i)]));
  }
};

/// One tile of keys and values in shared memory.
template <int kDim, int kKeys>
struct KvTile {
  std::array<Chunk, kKeys * kDim / 8> keys;
  std::array<HalfChunk, kKeys / kQuadKeys * kDim> values;
};

/// As prefill stores a tile, with waves of kLanes; returns rounds lost to bank conflicts.
template <typename T, int kDim, int kKeys, int kLanes>
int store_tile(KvTile<kDim, kKeys>& tile, const Heads<T, kDim>& heads, int first_key, Written& written) {
  constexpr int kChunks = kDim / 8, kUnits = kKeys / kQuadKeys * kChunks;
  int extra = 0;
  for (int first = 0; first < kUnits; first += kLanes) {
    const auto accesses = run_wave(kLanes, [&](int lane) {
      const int unit = first + lane, quad = unit / kChunks, chunk = unit % kChunks;
      if (unit >= kUnits) return;
      Chunk values[kQuadKeys];
      for (int i = 0; i < kQuadKeys; ++i) {
        const int key = quad * kQuadKeys + i;
        const size_t from = static_cast<size_t>((first_key + key) * kDim + chunk * 8);
        const bool real = first_key + key < heads.keys;
        write_shared(tile.keys.data() + key_place<kDim, kKeys, kLanes>(key, chunk),
                     real ? chunk_at(&heads.k[from]) : Chunk{});
        values[i] = real ? chunk_at(&heads.v[from]) : Chunk{};
      }
      store_quad<kDim>(tile.values.data(), values, quad, chunk);
    });
    written.take(accesses);
    extra += extra_rounds(accesses);
  }
  EXPECT_EQ(written.count(), tile.keys.size() + tile.values.size());
  return extra;
}

/// `most_extra_rounds`: where rows of keys are not whole runs of 128 bytes, some writes of a tile meet.
template <typename T, int kDim, int kLanes>
void check_attention(const Heads<T, kDim>& heads, int most_extra_rounds) {
  using Core = MatrixCore<kLanes>;
  constexpr int kKeys = 32, kCells = kKeys / kCellKeys, kSteps = (kDim + Core::kStep - 1) / Core::kStep;
  const auto tile = std::make_unique<KvTile<kDim, kKeys>>();
  std::vector<RowSums<kDim, kLanes>> sums(kLanes);
  for (auto& lane : sums) lane.clear();
  std::vector<float> result(16 * kDim, NAN);
  for (int key = 0; key < heads.keys; key += kKeys) {
    Written written;
    EXPECT_LE((store_tile<T, kDim, kKeys, kLanes>(*tile, heads, key, written)), most_extra_rounds) << "writes";
    const auto accesses = run_wave(kLanes, [&](int lane) {
      auto& own = sums[static_cast<size_t>(lane)];
      const RowView& view = heads.views[static_cast<size_t>(Core::right_row(lane))];
      Result<kLanes> scores[kCells] = {};
      for (int c = 0; c < kCells; ++c) {
        for (int step = 0; step < kSteps; ++step) {
          Operand<kLanes> q{};
          for (int i = 0; i < Core::kLaneChunks; ++i) {
            const int chunk = step * Core::kStepChunks + Core::chunk(lane, i);
            if (chunk < kDim / 8)
              q.set(i, chunk_at(&heads.q[static_cast<size_t>(Core::right_row(lane) * kDim + chunk * 8)]));
          }
          const auto keys = key_operand<kDim, kKeys, kLanes>(tile->keys.data(), c * kCellKeys, step, lane);
          multiply_step<T, kLanes>(scores[c], keys, q);
        }
      }
      const ScoreRules rules(heads.scale, heads.softcap, heads.slope != 0.0f);
      Weights<kLanes> weights[kCells];
      own.template add_scores<T, kCells>(scores, key, view, /*masked=*/true, rules, lane, weights);
      for (int c = 0; c < kCells; ++c) {
        for (int n = 0; n < kDim / 16; ++n) {
          const auto values = value_operand<kDim, kLanes>(tile->values.data(), c * kCellKeys / kQuadKeys, n * 16, lane);
          multiply_add<T, kLanes>(own.out[n].values, values.words, weights[c].words);
        }
      }
    });
    written.take(accesses);
    EXPECT_EQ(extra_rounds(accesses), 0) << "reads";
  }
  run_wave(kLanes, [&](int lane) {
    const auto& own = sums[static_cast<size_t>(lane)];
    const float scale = own.normaliser(nullptr);
    for (int n = 0; n < kDim / 16; ++n) {
      for (int i = 0; i < Core::kValues; ++i) {
        result[static_cast<size_t>(Core::right_row(lane) * kDim + n * 16 + Core::first_row(lane) + i)] =
            own.out[n].values[i] * scale;
      }
    }
  });
  // Weights are rounded to 16 bits.
  const double tolerance = std::is_same_v<T, BFloat> ? 8e-3 : 1e-3;
  for (int row = 0; row < 16; ++row) {
    const std::vector<double> expected = heads.expected(row);
    for (int i = 0; i < kDim; ++i) {
      ASSERT_NEAR(static_cast<double>(result[static_cast<size_t>(row * kDim + i)]), expected[static_cast<size_t>(i)],
                  tolerance)
          << "row " << row << ", component " << i;
    }
  }
}

TEST(MatrixCore, attention_waves_of_64) {
  check_attention<BFloat, 64, 64>({70, 0.0f, 0.0f, 0}, 0);
  check_attention<Half, 128, 64>({50, 2.0f, 0.0f, 0}, 0);
  check_attention<BFloat, 256, 64>({40, 0.0f, 0.0f, 20}, 0);
  check_attention<Half, 80, 64>({64, 0.0f, 0.25f, 0}, 32);
  check_attention<Half, 96, 64>({64, 0.0f, 0.0f, 33}, 16);
  check_attention<BFloat, 112, 64>({33, 0.0f, 0.0f, 0}, 40);
}

TEST(MatrixCore, attention_waves_of_32) {
  check_attention<Half, 64, 32>({70, 0.0f, 0.0f, 0}, 0);
  check_attention<BFloat, 128, 32>({50, 2.0f, 0.25f, 0}, 0);
  check_attention<Half, 80, 32>({64, 0.0f, 0.0f, 9}, 24);
  check_attention<BFloat, 96, 32>({64, 0.0f, 0.0f, 0}, 16);
  check_attention<BFloat, 112, 32>({33, 0.0f, 0.0f, 0}, 40);
}

TEST(MatrixCore, a_tile_that_a_row_does_not_see_leaves_it_as_it_was) {
  run_wave(64, [](int lane) {
    RowSums<64, 64> sums;
    sums.clear();
    const ScoreRules rules(0.3f, 0.0f, false);
    const RowView view{3, 11, 0.0f};
    Weights<64> weights[1];
    Result<64> scores[1] = {{{0.7f, -1.3f, 2.9f, 0.1f}}};
    sums.add_scores<BFloat, 1>(scores, 0, view, true, rules, lane, weights);
    sums.out[0].values[0] = 0.3f;
    const RowSums<64, 64> before = sums;
    for (const int key : {16, 32, -16}) {
      Result<64> others[1] = {{{5.0f, NAN, INFINITY, 1.0f}}};
      sums.add_scores<BFloat, 1>(others, key, view, true, rules, lane, weights);
      EXPECT_EQ(weights[0].words[0] | weights[0].words[1], 0u);
    }
    EXPECT_EQ(sums.best, before.best);
    EXPECT_EQ(sums.sum, before.sum);
    EXPECT_EQ(sums.out[0].values[0], before.out[0].values[0]);
  });
}

TEST(MatrixCore, a_sink_takes_its_share) {
  run_wave(64, [](int lane) {
    RowSums<64, 64> sums;
    sums.clear();
    const ScoreRules rules(1.0f, 0.0f, false);
    Weights<64> weights[1];
    Result<64> scores[1] = {};  // sixteen keys alike
    sums.add_scores<Half, 1>(scores, 0, {0, 16, 0.0f}, false, rules, lane, weights);
    const float sink = std::log(16.0f);
    EXPECT_NEAR(sums.normaliser(nullptr), 1.0f / 16.0f, 1e-6f);
    EXPECT_NEAR(sums.normaliser(&sink), 1.0f / 32.0f, 1e-6f);
  });
}

}  // namespace
}  // namespace quire::gpu
