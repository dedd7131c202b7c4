// The instructions of AMD's matrix cores on a processor, in the place of kernels_hip/common/instructions.h: the lanes
// of a wave are threads, which meet at what they do together. Accesses to shared memory are written down.
//
// Layouts are as AMD's matrix instruction calculator prints them under "register to matrix element mapping", for
// V_MFMA_F32_16X16X16F16 and V_MFMA_F32_16X16X16BF16_1K of CDNA 2 (and their like of CDNA 3), V_WMMA_F32_16X16X16_F16
// and _BF16 of RDNA 3 in waves of 32. Nothing here comes from the functions that are tested.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <thread>
#include <type_traits>
#include <vector>

#define __device__
#define __host__

namespace quire::gpu {

struct BFloat {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

inline float to_float(BFloat value) {
  return __builtin_bit_cast(float, uint32_t{value.bits} << 16);
}
inline float to_float(Half value) {
  return static_cast<float>(__builtin_bit_cast(_Float16, value.bits));
}
inline Half half_from(float value) {
  return {__builtin_bit_cast(uint16_t, static_cast<_Float16>(value))};
}
template <typename T>
T number_from(float value) {
  if constexpr (std::is_same_v<T, Half>) return half_from(value);
  const auto bits = __builtin_bit_cast(uint32_t, value);
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

struct alignas(16) Chunk {
  uint32_t words[4];
  uint32_t& operator[](int i) { return words[i]; }
  const uint32_t& operator[](int i) const { return words[i]; }
};
struct alignas(8) HalfChunk {
  uint32_t words[2];
  const uint32_t& operator[](int i) const { return words[i]; }
};

/// One access of a lane.
struct Access {
  const void* address;
  int bytes;
  bool is_write;
};

/// What the lanes of a wave share. Registers by lane.
struct Lanes {
  explicit Lanes(int count) : number(count), barrier(count), accesses(static_cast<size_t>(count)) {}
  int number;
  std::barrier<> barrier;
  std::array<std::array<uint32_t, 8>, 64> a{}, b{};
  std::array<uint32_t, 64> exchanged{};
  std::vector<std::vector<Access>> accesses;
};

inline thread_local Lanes* own_wave = nullptr;
inline thread_local int own_lane = 0;
/// As kernels ask for it: of the lanes of one wave.
struct ThreadIndex {
  int x;
};
inline thread_local ThreadIndex threadIdx{};

/// work(lane) by all lanes of a wave; returns what they did with shared memory, by lane.
inline std::vector<std::vector<Access>> run_wave(int lanes, const std::function<void(int)>& work) {
  Lanes wave(lanes);
  std::vector<std::thread> threads;
  for (int lane = 0; lane < lanes; ++lane) {
    threads.emplace_back([&wave, &work, lane] {
      own_wave = &wave;
      own_lane = threadIdx.x = lane;
      work(lane);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return std::move(wave.accesses);
}

template <typename Value>
Value read_shared(const Value* from) {
  own_wave->accesses[static_cast<size_t>(own_lane)].push_back({from, sizeof(Value), false});
  return *from;
}
template <typename Value>
void write_shared(Value* to, const Value& value) {
  own_wave->accesses[static_cast<size_t>(own_lane)].push_back({to, sizeof(Value), true});
  *to = value;
}

template <int kLanes>
uint32_t exchange(uint32_t value, int mask) {
  Lanes& wave = *own_wave;
  wave.exchanged[static_cast<size_t>(own_lane)] = value;
  wave.barrier.arrive_and_wait();
  const uint32_t other = wave.exchanged[static_cast<size_t>(own_lane ^ mask)];
  wave.barrier.arrive_and_wait();
  return other;
}

inline float power_of_two(float x) {
  return std::exp2(x);
}
inline float reciprocal(float x) {
  return 1.0f / x;
}

/// A matrix as the registers of all lanes say; an element may come from several, which must agree.
struct Matrix {
  std::array<std::array<float, 16>, 16> of{};
  std::array<std::array<int, 16>, 16> times{};

  void put(int row, int k, float value, int times_wanted) {
    float& to = of[static_cast<size_t>(row)][static_cast<size_t>(k)];
    int& count = times[static_cast<size_t>(row)][static_cast<size_t>(k)];
    if (count++ > 0) {
      EXPECT_TRUE(to == value || (std::isnan(to) && std::isnan(value))) << row << " " << k;
    }
    EXPECT_LE(count, times_wanted);
    to = value;
  }
};

template <typename T, int kLanes>
void multiply_add(float (&d)[256 / kLanes], const uint32_t* a, const uint32_t* b) {
  constexpr int kRegisters = kLanes == 64 ? 2 : 8;
  Lanes& wave = *own_wave;
  ASSERT_EQ(wave.number, kLanes);
  for (int r = 0; r < kRegisters; ++r) {
    wave.a[static_cast<size_t>(own_lane)][static_cast<size_t>(r)] = a[r];
    wave.b[static_cast<size_t>(own_lane)][static_cast<size_t>(r)] = b[r];
  }
  wave.barrier.arrive_and_wait();
  Matrix left, right;
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int gpr = 0; gpr < kRegisters; ++gpr) {
      for (int bits = 0; bits < 32; bits += 16) {
        // A i and B j: lane % 16. MFMA: k = 4 * floor(lane / 16) + 2 * GPR + floor(bits / 16); WMMA: 2 * GPR +
        // floor(bits / 16).
        const int row = lane % 16;
        const int k = (kLanes == 64 ? 4 * (lane / 16) : 0) + 2 * gpr + bits / 16;
        const auto number = [&](const auto& registers) {
          const uint32_t word = registers[static_cast<size_t>(lane)][static_cast<size_t>(gpr)];
          return to_float(T{static_cast<uint16_t>(word >> bits)});
        };
        left.put(row, k, number(wave.a), kLanes == 64 ? 1 : 2);
        right.put(row, k, number(wave.b), kLanes == 64 ? 1 : 2);
      }
    }
  }
  wave.barrier.arrive_and_wait();
  for (int gpr = 0; gpr < 256 / kLanes; ++gpr) {
    // D j: lane % 16. MFMA: i = 4 * floor(lane / 16) + GPR; WMMA: 2 * GPR + floor(lane / 16).
    const int i = kLanes == 64 ? 4 * (own_lane / 16) + gpr : 2 * gpr + own_lane / 16;
    const int j = own_lane % 16;
    for (int k = 0; k < 16; ++k) {
      d[gpr] += left.of[static_cast<size_t>(i)][static_cast<size_t>(k)] *
                right.of[static_cast<size_t>(j)][static_cast<size_t>(k)];
    }
  }
}

}  // namespace quire::gpu
