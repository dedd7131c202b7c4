#include "pyapi/bindings/bindings.h"
#include "quire/version.h"

NB_MODULE(_core, module) {
  module.doc() = "The engine: what include/quire offers to C++, without any logic of its own. Users import quire.";
  module.attr("__version__") = QUIRE_VERSION;
  quire::python::bind_errors();
  quire::python::bind_config(module);
  quire::python::bind_sampling(module);
  quire::python::bind_outputs(module);
  quire::python::bind_engine(module);
  quire::python::bind_log(module);
}
