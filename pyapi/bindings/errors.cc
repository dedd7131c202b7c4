#include <exception>

#include "pyapi/bindings/bindings.h"
#include "quire/error.h"

namespace quire::python {
namespace {

PyObject* exception_type(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalidArgument: return PyExc_ValueError;
    case ErrorKind::kNotFound: return PyExc_FileNotFoundError;
    case ErrorKind::kUnsupported: return PyExc_NotImplementedError;
    case ErrorKind::kOutOfMemory: return PyExc_MemoryError;
    case ErrorKind::kDevice:
    case ErrorKind::kInternal: break;
  }
  return PyExc_RuntimeError;
}

}  // namespace

void bind_errors() {
  nanobind::register_exception_translator([](const std::exception_ptr& pointer, void*) {
    try {
      std::rethrow_exception(pointer);
    } catch (const Error& error) {
      PyErr_SetString(exception_type(error.kind()), error.what());
    }
  });
}

}  // namespace quire::python
