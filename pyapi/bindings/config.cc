#include "quire/config.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include "pyapi/bindings/bindings.h"

namespace nb = nanobind;

namespace quire::python {

void bind_config(nb::module_& module) {
  nb::enum_<LogprobsMode>(module, "LogprobsMode", "Which distribution log-probabilities are taken from.")
      .value("PROCESSED", LogprobsMode::kProcessed, "After bias, penalties, temperature and truncation.")
      .value("RAW", LogprobsMode::kRaw, "Of the model's own logits.");

  nb::class_<EngineConfig>(module, "EngineConfig", "What an engine is built from; see include/quire/config.h.")
      .def(nb::init<>())
      .def_rw("model", &EngineConfig::model)
      .def_rw("tokenizer", &EngineConfig::tokenizer)
      .def_rw("load_format", &EngineConfig::load_format)
      .def_rw("with_vocabulary", &EngineConfig::with_vocabulary)
      .def_rw("device", &EngineConfig::device)
      .def_rw("tensor_parallel_size", &EngineConfig::tensor_parallel_size)
      .def_rw("dtype", &EngineConfig::dtype)
      .def_rw("max_model_len", &EngineConfig::max_model_len)
      .def_rw("fit_max_model_len", &EngineConfig::fit_max_model_len)
      .def_rw("block_size", &EngineConfig::block_size)
      .def_rw("max_num_seqs", &EngineConfig::max_num_seqs)
      .def_rw("max_num_batched_tokens", &EngineConfig::max_num_batched_tokens)
      .def_rw("gpu_memory_utilization", &EngineConfig::gpu_memory_utilization)
      .def_rw("kv_cache_memory_bytes", &EngineConfig::kv_cache_memory_bytes)
      .def_rw("swap_space_bytes", &EngineConfig::swap_space_bytes)
      .def_rw("num_blocks_override", &EngineConfig::num_blocks_override)
      .def_rw("enable_prefix_caching", &EngineConfig::enable_prefix_caching)
      .def_rw("enforce_eager", &EngineConfig::enforce_eager)
      .def_rw("deterministic", &EngineConfig::deterministic)
      .def_rw("num_threads", &EngineConfig::num_threads)
      .def_rw("seed", &EngineConfig::seed)
      .def_rw("max_logprobs", &EngineConfig::max_logprobs)
      .def_rw("logprobs_mode", &EngineConfig::logprobs_mode)
      .def_rw("max_queued_requests", &EngineConfig::max_queued_requests)
      .def("validate", &EngineConfig::validate, "Check all that can be checked without reading the model.");
}

}  // namespace quire::python
