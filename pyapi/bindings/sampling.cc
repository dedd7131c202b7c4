#include "quire/sampling.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "pyapi/bindings/bindings.h"

namespace nb = nanobind;

namespace quire::python {

void bind_sampling(nb::module_& module) {
  nb::class_<SamplingParams>(module, "SamplingParams", "How tokens are chosen; see include/quire/sampling.h.")
      .def(nb::init<>())
      .def_rw("n", &SamplingParams::n)
      .def_rw("presence_penalty", &SamplingParams::presence_penalty)
      .def_rw("frequency_penalty", &SamplingParams::frequency_penalty)
      .def_rw("repetition_penalty", &SamplingParams::repetition_penalty)
      .def_rw("temperature", &SamplingParams::temperature)
      .def_rw("top_p", &SamplingParams::top_p)
      .def_rw("top_k", &SamplingParams::top_k)
      .def_rw("min_p", &SamplingParams::min_p)
      .def_rw("seed", &SamplingParams::seed)
      .def_rw("stop", &SamplingParams::stop)
      .def_rw("stop_token_ids", &SamplingParams::stop_token_ids)
      .def_rw("include_stop_str_in_output", &SamplingParams::include_stop_str_in_output)
      .def_rw("ignore_eos", &SamplingParams::ignore_eos)
      .def_rw("max_tokens", &SamplingParams::max_tokens)
      .def_rw("min_tokens", &SamplingParams::min_tokens)
      .def_rw("logprobs", &SamplingParams::logprobs)
      .def_rw("prompt_logprobs", &SamplingParams::prompt_logprobs)
      .def_rw("logit_bias", &SamplingParams::logit_bias)
      .def_rw("skip_special_tokens", &SamplingParams::skip_special_tokens)
      .def_rw("text_continues_prompt", &SamplingParams::text_continues_prompt)
      .def("validate", &SamplingParams::validate, "Check all that can be checked without a model.");
}

}  // namespace quire::python
