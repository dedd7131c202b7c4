#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include "pyapi/bindings/bindings.h"
#include "quire/request.h"

namespace nb = nanobind;

namespace quire::python {
namespace {

/// One list per position of tuples (token_id, logprob, rank, decoded_token): built in one go, because there may be
/// tens of thousands of them and a bound object for each would cost more than the tuple.
nb::list to_python(const std::vector<PositionLogprobs>& positions) {
  nb::list result;
  for (const PositionLogprobs& position : positions) {
    nb::list candidates;
    for (const TokenLogprob& candidate : position) {
      candidates.append(nb::make_tuple(candidate.token_id, candidate.logprob, candidate.rank,
                                       python::to_python(candidate.decoded_token)));
    }
    result.append(candidates);
  }
  return result;
}

void bind_enums(nb::module_& module) {
  nb::enum_<FinishReason>(module, "FinishReason", "Why a sequence ended.")
      .value("NONE", FinishReason::kNone)
      .value("STOP", FinishReason::kStop)
      .value("LENGTH", FinishReason::kLength)
      .value("ABORT", FinishReason::kAbort)
      .value("ERROR", FinishReason::kError);

  nb::enum_<OutputKind>(module, "OutputKind", "When outputs come, and with what.")
      .value("DELTA", OutputKind::kDelta, "After every step that adds something, with what is new.")
      .value("FINAL_ONLY", OutputKind::kFinalOnly, "Once, with everything.");
}

}  // namespace

void bind_outputs(nb::module_& module) {
  bind_enums(module);

  nb::class_<SequenceOutput>(module, "SequenceOutput", "One completion, or what is new of it.")
      .def_ro("index", &SequenceOutput::index)
      .def_prop_ro("text", [](const SequenceOutput& output) { return python::to_python(output.text); })
      .def_ro("token_ids", &SequenceOutput::token_ids)
      .def_prop_ro(
          "logprobs", [](const SequenceOutput& output) { return to_python(output.logprobs); },
          nb::sig("def logprobs(self) -> list[list[tuple[int, float, int, str]]]"))
      .def_ro("cumulative_logprob", &SequenceOutput::cumulative_logprob)
      .def_ro("finish_reason", &SequenceOutput::finish_reason)
      .def_ro("stop_reason", &SequenceOutput::stop_reason);

  nb::class_<RequestMetrics>(module, "RequestMetrics", "Seconds on the clock of Engine.now().")
      .def_ro("arrival_time", &RequestMetrics::arrival_time)
      .def_ro("first_scheduled_time", &RequestMetrics::first_scheduled_time)
      .def_ro("first_token_time", &RequestMetrics::first_token_time)
      .def_ro("last_token_time", &RequestMetrics::last_token_time)
      .def_ro("finished_time", &RequestMetrics::finished_time);

  nb::class_<Output>(module, "Output", "What one request has to tell; see include/quire/request.h.")
      .def_ro("request_id", &Output::request_id)
      .def_ro("sequences", &Output::sequences)
      .def_prop_ro(
          "prompt_logprobs", [](const Output& output) { return to_python(output.prompt_logprobs); },
          nb::sig("def prompt_logprobs(self) -> list[list[tuple[int, float, int, str]]]"))
      .def_ro("finished", &Output::finished)
      .def_prop_ro("error", [](const Output& output) { return python::to_python(output.error); })
      .def_ro("num_cached_tokens", &Output::num_cached_tokens)
      .def_ro("metrics", &Output::metrics);
}

}  // namespace quire::python
