#include "quire/engine.h"

#include <nanobind/stl/function.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <utility>

#include "pyapi/bindings/bindings.h"
#include "quire/output_queue.h"

namespace nb = nanobind;

namespace quire::python {
namespace {

/// Seconds between two looks at pending signals, so that Ctrl-C ends a wait soon.
constexpr double kSignalCheckInterval = 0.05;

using ReleaseGil = nb::call_guard<nb::gil_scoped_release>;

std::vector<Output> take(OutputQueue& queue, double timeout_seconds) {
  const double deadline = Engine::now() + timeout_seconds;
  for (;;) {
    const double left = timeout_seconds < 0 ? kSignalCheckInterval : std::max(0.0, deadline - Engine::now());
    std::vector<Output> outputs;
    {
      nb::gil_scoped_release release;
      outputs = queue.take(std::min(left, kSignalCheckInterval));
    }
    if (!outputs.empty() || left <= 0.0) {
      return outputs;
    }
    if (PyErr_CheckSignals() != 0) {
      throw nb::python_error();
    }
  }
}

void bind_descriptions(nb::module_& module) {
  nb::class_<ModelInfo>(module, "ModelInfo", "What a model folder says, read without its weights.")
      .def_ro("architecture", &ModelInfo::architecture)
      .def_ro("family", &ModelInfo::family)
      .def_ro("dtype", &ModelInfo::dtype)
      .def_ro("num_parameters", &ModelInfo::num_parameters)
      .def_ro("weight_bytes", &ModelInfo::weight_bytes)
      .def_ro("vocab_size", &ModelInfo::vocab_size)
      .def_ro("num_layers", &ModelInfo::num_layers)
      .def_ro("hidden_size", &ModelInfo::hidden_size)
      .def_ro("num_heads", &ModelInfo::num_heads)
      .def_ro("num_kv_heads", &ModelInfo::num_kv_heads)
      .def_ro("head_dim", &ModelInfo::head_dim)
      .def_ro("max_position_embeddings", &ModelInfo::max_position_embeddings)
      .def_ro("eos_token_ids", &ModelInfo::eos_token_ids)
      .def_ro("bos_token_id", &ModelInfo::bos_token_id);

  nb::class_<MemoryPlan>(module, "MemoryPlan", "Where the memory of each rank goes, in bytes.")
      .def_ro("num_ranks", &MemoryPlan::num_ranks)
      .def_ro("weight_bytes", &MemoryPlan::weight_bytes)
      .def_ro("kv_cache_bytes", &MemoryPlan::kv_cache_bytes)
      .def_ro("kv_bytes_per_token", &MemoryPlan::kv_bytes_per_token)
      .def_ro("workspace_bytes", &MemoryPlan::workspace_bytes)
      .def_ro("swap_space_bytes", &MemoryPlan::swap_space_bytes)
      .def_ro("num_swap_blocks", &MemoryPlan::num_swap_blocks)
      .def_ro("num_blocks", &MemoryPlan::num_blocks)
      .def_ro("block_size", &MemoryPlan::block_size)
      .def_ro("max_model_len", &MemoryPlan::max_model_len)
      .def_ro("available_bytes", &MemoryPlan::available_bytes)
      .def_ro("total_bytes", &MemoryPlan::total_bytes);

  nb::class_<ModelDescription>(module, "ModelDescription", "A folder looked at without reading weights.")
      .def_ro("model", &ModelDescription::model)
      .def_ro("memory", &ModelDescription::memory)
      .def_ro("backend", &ModelDescription::backend)
      .def_ro("num_threads", &ModelDescription::num_threads);

  nb::class_<DeviceKind>(module, "DeviceKind", "A kind of device, and what is to be had of it here.")
      .def_ro("name", &DeviceKind::name)
      .def_ro("num_devices", &DeviceKind::num_devices)
      .def_ro("why_none", &DeviceKind::why_none)
      .def_ro("targets", &DeviceKind::targets)
      .def_ro("standing", &DeviceKind::standing);

  nb::class_<EngineStats>(module, "EngineStats", "Counters of a running engine.")
      .def_ro("num_running", &EngineStats::num_running)
      .def_ro("num_waiting", &EngineStats::num_waiting)
      .def_ro("num_swapped", &EngineStats::num_swapped)
      .def_ro("num_blocks", &EngineStats::num_blocks)
      .def_ro("num_free_blocks", &EngineStats::num_free_blocks)
      .def_ro("num_swap_blocks", &EngineStats::num_swap_blocks)
      .def_ro("num_free_swap_blocks", &EngineStats::num_free_swap_blocks)
      .def_ro("num_steps", &EngineStats::num_steps)
      .def_ro("num_preemptions", &EngineStats::num_preemptions)
      .def_ro("num_swap_preemptions", &EngineStats::num_swap_preemptions)
      .def_ro("num_prompt_tokens", &EngineStats::num_prompt_tokens)
      .def_ro("num_cached_tokens", &EngineStats::num_cached_tokens)
      .def_ro("num_generated_tokens", &EngineStats::num_generated_tokens)
      .def_ro("num_finished_requests", &EngineStats::num_finished_requests);
}

/// The text that a call of a Detokenizer's method appends.
template <typename Call>
nb::str appended(Call&& call) {
  std::string text;
  call(text);
  return to_python(text);
}

void bind_vocabulary(nb::module_& module) {
  nb::class_<Detokenizer>(module, "Detokenizer", "Text of a sequence that grows token by token.")
      .def(
          "append",
          [](Detokenizer& self, int32_t id) { return appended([&](std::string& out) { self.append(id, out); }); },
          nb::arg("id"), "Add a token and return what has become final.")
      .def("pending", [](const Detokenizer& self) { return to_python(self.pending()); })
      .def("finish", [](Detokenizer& self) { return appended([&](std::string& out) { self.finish(out); }); });

  nb::class_<Vocabulary>(module, "Vocabulary", "Token ids to text, as outputs carry it.")
      .def_static("from_folder", &Vocabulary::from_folder, nb::arg("folder"), ReleaseGil())
      .def_prop_ro("size", &Vocabulary::size)
      .def("is_special", &Vocabulary::is_special, nb::arg("id"))
      .def(
          "token_text", [](const Vocabulary& self, int32_t id) { return to_python(self.token_text(id)); },
          nb::arg("id"))
      .def(
          "decode",
          [](const Vocabulary& self, const std::vector<int32_t>& ids, bool skip_special_tokens) {
            return to_python(self.decode(ids, skip_special_tokens));
          },
          nb::arg("ids"), nb::arg("skip_special_tokens") = true)
      .def(
          "detokenizer",
          [](const Vocabulary& self, const std::vector<int32_t>& context, bool skip_special_tokens) {
            return self.detokenizer(context, skip_special_tokens);
          },
          nb::arg("context") = std::vector<int32_t>(), nb::arg("skip_special_tokens") = true, nb::keep_alive<0, 1>());
}

RequestId submit(Engine& engine, std::vector<int32_t> prompt_token_ids, const SamplingParams& sampling,
                 OutputKind output_kind, OutputQueue& queue) {
  Request request{.prompt_token_ids = std::move(prompt_token_ids), .sampling = sampling, .output_kind = output_kind};
  return engine.submit(std::move(request), queue.callback());
}

}  // namespace

void bind_engine(nb::module_& module) {
  bind_descriptions(module);
  bind_vocabulary(module);

  nb::class_<OutputQueue>(module, "OutputQueue", "Collects the outputs of any number of requests.")
      .def_static("create", &OutputQueue::create)
      .def("take", &take, nb::arg("timeout_seconds") = -1.0,
           "Wait until there is something, at most timeout_seconds (negative: for ever), and take all of it.")
      .def("fileno", &OutputQueue::fileno,
           "A file descriptor that is readable while there is something; it becomes so once per step at most.");

  nb::class_<Engine>(module, "Engine", "Runs one model on a thread of its own; see include/quire/engine.h.")
      .def_static("create", &Engine::create, nb::arg("config"), nb::arg("progress") = nb::none(), ReleaseGil())
      .def_static("describe", &Engine::describe, nb::arg("config"), ReleaseGil())
      .def_static("families", &Engine::families)
      .def_static("devices", &Engine::devices, ReleaseGil())
      .def_static("now", &Engine::now)
      .def("submit", &submit, nb::arg("prompt_token_ids"), nb::arg("sampling"), nb::arg("output_kind"),
           nb::arg("queue"), ReleaseGil())
      .def("cancel", &Engine::cancel, nb::arg("id"), ReleaseGil())
      .def("close", &Engine::close, ReleaseGil())
      .def("stats", &Engine::stats, ReleaseGil())
      .def_prop_ro("failure", &Engine::failure)
      .def_prop_ro("description", &Engine::description)
      .def_prop_ro("config", &Engine::config)
      .def_prop_ro("vocabulary", &Engine::vocabulary);
}

}  // namespace quire::python
