#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace quire {

/// A tensor as a checkpoint's pickle describes it.
struct PickledTensor {
  std::string name;
  std::string storage;           ///< name of the record that holds the elements
  int64_t storage_elements = 0;  ///< as the pickle says
  int64_t offset = 0;            ///< of the first element, in elements; not negative
  Tensor layout;                 ///< type, shape and strides, none negative; no data
};

/// The tensors of a pickled dictionary, as torch.save writes a state_dict.
///
/// Interprets the few opcodes that it takes on values of its own: no global is looked up anywhere, nothing is called.
/// Time and memory are linear in the pickle's size.
/// Raises: kInvalidArgument for any global that is not on the list of tensor constructors (naming it), any other
/// opcode, and whatever is no dictionary of tensors.
std::vector<PickledTensor> read_pickled_tensors(std::string_view pickle, std::string_view where);

}  // namespace quire
