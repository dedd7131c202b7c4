#pragma once

#include "backend/ops.h"

/// The ops of cpp/backend/ops/, one function each. See there for what they compute.
namespace quire::gpu {

void embed(const EmbedArgs& args, Stream& stream);
void norm(const NormArgs& args, Stream& stream);
void linear(const LinearArgs& args, Stream& stream);
void grouped_linear(const GroupedLinearArgs& args, Stream& stream);
void rope(const RopeArgs& args, Stream& stream);
void kv_write(const KvWriteArgs& args, Stream& stream);
void copy_blocks(const CopyBlocksArgs& args, Stream& stream);
void attention(const AttentionArgs& args, Stream& stream);
void activation(const ActivationArgs& args, Stream& stream);
void route(const RouteArgs& args, Stream& stream);
void moe(const MoeArgs& args, Stream& stream);
void add(const AddArgs& args, Stream& stream);
void clip(const ClipArgs& args, Stream& stream);
void gather(const GatherArgs& args, Stream& stream);
void logit_scale(const LogitScaleArgs& args, Stream& stream);
void resolve(const ResolveArgs& args, Stream& stream);
void sample(const SampleArgs& args, Stream& stream);
void normed_linear(const NormedLinearArgs& args, Stream& stream);
void rope_kv_write(const RopeKvWriteArgs& args, Stream& stream);

const Ops& ops();

}  // namespace quire::gpu
