// The ops that treat tokens one by one, over the names of simd_*.h; included inside the namespace of an instruction
// set, behind the .inl of each. What only moves bytes is the portable code.

void embed(const EmbedArgs& args, Stream& stream) {
  // In a packed matrix a row lies scattered, with nothing for vectors to do.
  if (args.packed != nullptr) return portable::embed(args, stream);
  split_items(stream, args.out.shape[0], args.out.shape[1],
              [&](int64_t begin, int64_t end) { embed_any(args, begin, end); });
}

void norm(const NormArgs& args, Stream& stream) {
  for_each_norm_row(args, stream, [&](const NormRow& row) { norm_row(row, args); });
}

void rope(const RopeArgs& args, Stream& stream) {
  const int64_t pairs = args.cos.shape[1];
  for_each_head(args, stream, [&](const HeadToTurn& head) {
    if (args.layout == RopeLayout::kHalf) {
      rotate_half(head.x, head.out, head.cos, head.sin, pairs);
    } else {
      rotate_interleaved(head.x, head.out, head.cos, head.sin, pairs);
    }
  });
}

void kv_write(const KvWriteArgs& args, Stream& stream) {
  const int64_t token_elements = int64_t{args.kv.num_kv_heads} * (args.kv.head_dim + args.kv.v_head_dim);
  split_items(stream, args.k.shape[0], token_elements,
              [&](int64_t begin, int64_t end) { write_any(args, begin, end); });
}

void copy_blocks(const CopyBlocksArgs& args, Stream& stream) {
  portable::copy_blocks(args, stream);
}

void activation(const ActivationArgs& args, Stream& stream) {
  const int64_t width = args.out.shape[1];
  const ActivateRowFn activate_piece = activate_row_of(args.rule);
  for_each_piece(stream, args.out.shape[0], width, [&](int64_t row, int64_t begin, int64_t end) {
    const float* const x = args.x.as<const float>() + row * args.x.strides[0] + begin;
    float* const out = args.out.as<float>() + row * args.out.strides[0] + begin;
    activate_piece(args.rule, x, x + width, out, end - begin);
  });
}

ActivateRowFn activate_row_of(const ActivationRule& rule) {
  const ActivationForm form = activation_form(rule);
  switch (rule.kind) {
    case Activation::kGelu: return activate_row_of<Activation::kGelu>(form);
    case Activation::kGeluTanh: return activate_row_of<Activation::kGeluTanh>(form);
    case Activation::kGeluQuick: return activate_row_of<Activation::kGeluQuick>(form);
    case Activation::kRelu: return activate_row_of<Activation::kRelu>(form);
    case Activation::kRelu2: return activate_row_of<Activation::kRelu2>(form);
    default: return activate_row_of<Activation::kSilu>(form);
  }
}

void route(const RouteArgs& args, Stream& stream) {
  portable::route(args, stream);
}

void moe(const MoeArgs& args, Stream& stream) {
  run_moe(args, stream,
          {.linear = linear_kernel(), .activate_row = activate_row_of(args.activation), .join_row = join_row});
}

void gather(const GatherArgs& args, Stream& stream) {
  portable::gather(args, stream);
}

void logit_scale(const LogitScaleArgs& args, Stream& stream) {
  for_each_piece(stream, args.x.shape[0], args.x.shape[1], [&](int64_t row, int64_t begin, int64_t end) {
    scale_piece(args.x.as<float>() + row * args.x.strides[0] + begin, end - begin, args.scale, args.softcap);
  });
}

void add(const AddArgs& args, Stream& stream) {
  for_each_piece(stream, args.out.shape[0], args.out.shape[1], [&](int64_t row, int64_t begin, int64_t end) {
    add_piece(args.x.as<const float>() + row * args.x.strides[0] + begin, add_factor(args, row),
              args.out.as<float>() + row * args.out.strides[0] + begin, end - begin);
  });
}

void clip(const ClipArgs& args, Stream& stream) {
  for_each_piece(stream, args.x.shape[0], args.x.shape[1], [&](int64_t row, int64_t begin, int64_t end) {
    clip_piece(args.x.as<float>() + row * args.x.strides[0] + begin, args.limit, end - begin);
  });
}
