// The attention op; included inside the namespace of an instruction set, behind the .inl files that it needs.

void attention(const AttentionArgs& args, Stream& stream) {
  AttentionPlan& plan = AttentionPlan::of_this_thread();
  CpuStream& cpu = as_cpu(stream);
  const int64_t value_stride = kv_layout(args.kv).value_stride;
  plan.build(args, cpu.pool().size(), kMostRows, static_cast<int32_t>(value_stride) + kRowHeader);
  Workspace sizes;
  cpu.reserve_scratch(sizes.assign(nullptr, plan, args.kv.head_dim, value_stride));

  std::atomic<size_t> next{0};
  const auto work = [&](int worker) {
    Workspace workspace;
    workspace.assign(cpu.scratch(worker), plan, args.kv.head_dim, value_stride);
    const auto take = [&]() -> const AttentionItem* {
      const size_t index = next.fetch_add(1, std::memory_order_relaxed);
      return index < plan.items.size() ? &plan.items[index] : nullptr;
    };
    const AttentionItem* item = take();
    while (item != nullptr) {
      const AttentionItem* const following = take();
      ItemRun(args, plan, *item, following, workspace).run();
      item = following;
    }
  };
  if (plan.work < kMinWorkPerWorker) {
    work(0);
  } else {
    cpu.pool().run_sharing(work);
  }
}
