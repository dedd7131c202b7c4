#pragma once

#include <stdexcept>
#include <string>

namespace quire {

/// What went wrong, and whose fault it is. Python sees the exception type named on each line.
enum class ErrorKind {
  kInvalidArgument,  ///< the caller or a file is wrong: ValueError
  kNotFound,         ///< a file or folder is missing: FileNotFoundError
  kUnsupported,      ///< understood, but not offered: NotImplementedError
  kOutOfMemory,      ///< MemoryError
  kDevice,           ///< a device failed: RuntimeError
  kInternal,         ///< a bug of ours, or an engine that has stopped: RuntimeError
};

/// The only exception type that leaves the library.
/// Message: one line, "[place] what is wrong: name=value, expected=..., got=...", with the remedy where there is one.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}

  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace quire
