#include <algorithm>

#include "backend/cpu/sample_passes.h"
#include "backend/cpu/sample_row.h"
#include "backend/cpu/stream.h"

namespace quire::cpu {

void run_sample(const SampleArgs& args, Stream& stream, const SamplePasses& passes) {
  CpuStream& cpu = as_cpu(stream);
  const int64_t vocabulary = args.logits.shape[1];
  const int64_t num_rows = static_cast<int64_t>(args.rows.size());
  cpu.reserve_scratch(SampleMemory::bytes(vocabulary));
  for (int64_t r = 0; r < num_rows; ++r) {
    SampleResult& result = args.results[static_cast<size_t>(r)];
    result = {};
    const int32_t wanted = args.rows[static_cast<size_t>(r)].num_logprobs;
    if (wanted >= 0) result.candidates.reserve(static_cast<size_t>(std::min<int64_t>(wanted, vocabulary)) + 1);
  }
  // A row's result is the same either way: chunks are fixed, and joined in order.
  const bool rows_share = num_rows < cpu.pool().size();
  const auto sample_rows = [&](int64_t begin, int64_t end, int worker) {
    SampleMemory memory;
    memory.assign(cpu.scratch(worker), vocabulary);
    for (int64_t r = begin; r < end; ++r) {
      const size_t index = static_cast<size_t>(r);
      RowSampler(args.logits.as<float>() + r * args.logits.strides[0], vocabulary, args.rows[index], memory, passes,
                 rows_share ? &cpu.pool() : nullptr)
          .sample(args.results[index]);
    }
  };
  if (rows_share) {
    sample_rows(0, num_rows, 0);
  } else {
    cpu.pool().parallel_for(num_rows, 1, sample_rows);
  }
}

}  // namespace quire::cpu
