#pragma once

#include <ostream>
#include <string>

#include "gtest/gtest.h"
#include "quire/error.h"

namespace quire {

/// How an action was refused.
struct Refusal {
  ErrorKind kind = ErrorKind::kInternal;
  std::string message;

  bool names(const std::string& text) const { return message.find(text) != std::string::npos; }
};

/// Run an action that must throw Error with a message of one line.
template <typename Action>
Refusal refusal_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    const Refusal refusal{error.kind(), error.what()};
    EXPECT_FALSE(refusal.names("\n")) << refusal.message;
    EXPECT_TRUE(refusal.message.starts_with("[")) << refusal.message;
    return refusal;
  }
  ADD_FAILURE() << "nothing was refused";
  return {};
}

/// The repository's small fixtures: data_path("rope/cases.json").
inline std::string data_path(const std::string& name) {
  const std::string here = __FILE__;
  return here.substr(0, here.rfind("cpp/core/")) + "data/" + name;
}

}  // namespace quire
