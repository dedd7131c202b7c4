#pragma once

#include <nanobind/nanobind.h>

#include <string>

namespace quire::python {

/// One function per subject; each adds its types to the module.
void bind_errors();
void bind_config(nanobind::module_& module);
void bind_sampling(nanobind::module_& module);
void bind_outputs(nanobind::module_& module);
void bind_engine(nanobind::module_& module);
void bind_log(nanobind::module_& module);

/// Text from the engine as a Python string. Bytes that are not UTF-8, which one token by itself may be, become U+FFFD:
/// an output must never be lost to a decoding error.
inline nanobind::str to_python(const std::string& text) {
  return nanobind::steal<nanobind::str>(
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
}

}  // namespace quire::python
