#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/cpu/rows.h"
#include "backend/ops/rope.h"

namespace quire::cpu {

/// One head of one token with its angles.
struct HeadToTurn {
  const float* x = nullptr;
  float* out = nullptr;
  const float* cos = nullptr;
  const float* sin = nullptr;
};

/// Call body(head) for every head of every token, behind a copy of the components that are not rotated.
template <typename Body>
void for_each_head(const RopeArgs& args, Stream& stream, const Body& body) {
  const int64_t rotated = 2 * args.cos.shape[1];
  const int64_t others = args.out.data == args.x.data ? 0 : args.x.shape[2] - rotated;
  split_items(stream, args.x.shape[0], args.x.shape[1] * args.x.shape[2], [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      HeadToTurn turn;
      turn.cos = args.cos.as<const float>() + args.rows[token] * args.cos.strides[0];
      turn.sin = args.sin.as<const float>() + args.rows[token] * args.sin.strides[0];
      for (int64_t head = 0; head < args.x.shape[1]; ++head) {
        turn.x = args.x.as<const float>() + token * args.x.strides[0] + head * args.x.strides[1];
        turn.out = args.out.as<float>() + token * args.out.strides[0] + head * args.out.strides[1];
        std::copy_n(turn.x + rotated, others, turn.out + rotated);
        body(turn);
      }
    }
  });
}

}  // namespace quire::cpu
