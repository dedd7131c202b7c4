#include "comm/connect.h"

#include "comm/shared_memory.h"
#include "core/check.h"

namespace quire {

Communicators connect(std::span<Backend* const> ranks) {
  QUIRE_CHECK(!ranks.empty(), "no ranks");
  Communicators communicators = ranks.front()->connect(ranks);
  if (communicators.empty()) communicators = connect_shared_memory(static_cast<int>(ranks.size()));
  QUIRE_CHECK(communicators.size() == ranks.size(), "communicators=", communicators.size(), ", ranks=", ranks.size());
  return communicators;
}

}  // namespace quire
