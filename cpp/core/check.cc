#include "core/check.h"

#include <string_view>

namespace quire::detail {

void throw_check_failure(const char* condition, const char* file, int line, const std::string& message) {
  std::string_view path(file);
  if (const size_t slash = path.find_last_of('/'); slash != std::string_view::npos) path.remove_prefix(slash + 1);
  throw Error(ErrorKind::kInternal, join_message("[", path, ":", line, "] internal check failed: ", condition,
                                                 message.empty() ? "" : ", ", message));
}

}  // namespace quire::detail
