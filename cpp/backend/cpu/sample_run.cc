#include "backend/cpu/sample_passes.h"
#include "backend/cpu/sample_row.h"
#include "backend/cpu/stream.h"

namespace quire::cpu {

void run_sample(const SampleArgs& args, Stream& stream, const SamplePasses& passes) {
  CpuStream& cpu = as_cpu(stream);
  const int64_t num_rows = args.logits.shape[0];
  const int64_t vocabulary = args.logits.shape[1];
  cpu.reserve_scratch(SampleMemory::bytes(vocabulary));
  // A row's result is the same either way: chunks are fixed, and joined in order.
  const bool rows_share = num_rows < cpu.pool().size();
  const auto sample_rows = [&](int64_t begin, int64_t end, int worker) {
    SampleMemory memory;
    memory.assign(cpu.scratch(worker), vocabulary);
    for (int64_t r = begin; r < end; ++r) {
      const SampleRow& row = args.rows[r];
      const SampleLists lists(row, args.ids, args.biases);
      args.tokens[r] = {};
      RowSampler(args.logits.as<float>() + r * args.logits.strides[0], vocabulary, row, lists, memory, passes,
                 rows_share ? &cpu.pool() : nullptr)
          .sample(args.tokens[r], args.candidates + r * args.max_candidates);
    }
  };
  if (rows_share) {
    sample_rows(0, num_rows, 0);
  } else {
    cpu.pool().parallel_for(num_rows, 1, sample_rows);
  }
}

}  // namespace quire::cpu
