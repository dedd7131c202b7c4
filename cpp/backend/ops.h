#pragma once

#include "backend/ops/activation.h"
#include "backend/ops/add.h"
#include "backend/ops/attention.h"
#include "backend/ops/embed.h"
#include "backend/ops/fused.h"
#include "backend/ops/gather.h"
#include "backend/ops/kv_write.h"
#include "backend/ops/linear.h"
#include "backend/ops/moe.h"
#include "backend/ops/norm.h"
#include "backend/ops/rope.h"
#include "backend/ops/sample.h"

namespace quire {

/// All that a model asks of a device. Every backend fills every entry but the optional ones.
///
/// Types: what the contracts leave open is Backend::activation_dtype() or float32; of vectors (norm weights, biases)
/// and tables (cosines, slopes) it is always float32.
struct Ops {
  EmbedFn embed = nullptr;
  NormFn norm = nullptr;
  LinearFn linear = nullptr;
  GroupedLinearFn grouped_linear = nullptr;
  RopeFn rope = nullptr;
  KvWriteFn kv_write = nullptr;
  CopyBlocksFn copy_blocks = nullptr;
  AttentionFn attention = nullptr;
  ActivationFn activation = nullptr;
  RouteFn route = nullptr;
  MoeFn moe = nullptr;
  AddFn add = nullptr;
  ClipFn clip = nullptr;
  GatherFn gather = nullptr;
  LogitScaleFn logit_scale = nullptr;
  ResolveFn resolve = nullptr;
  SampleFn sample = nullptr;

  // Optional: null where the parts one after the other are as good.
  NormedLinearFn normed_linear = nullptr;
  RopeKvWriteFn rope_kv_write = nullptr;
};

}  // namespace quire
