#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "quire/error.h"

namespace quire {

/// Makes broken inputs out of good ones: flips, cuts, repeats, overwrites and splices, always the same for one seed.
class Mutator {
 public:
  Mutator(std::vector<std::string> seeds, std::vector<std::string> tokens, uint64_t seed)
      : seeds_(std::move(seeds)), tokens_(std::move(tokens)), random_(seed) {}

  std::string next() {
    std::string input = pick(seeds_);
    const uint64_t changes = 1 + below(4);
    for (uint64_t i = 0; i < changes; ++i) change(input);
    return input;
  }

 private:
  uint64_t below(uint64_t bound) { return random_() % bound; }
  const std::string& pick(const std::vector<std::string>& list) { return list[below(list.size())]; }

  void change(std::string& input) {
    const size_t at = below(input.size() + 1);
    const size_t count = std::min<size_t>(below(16), input.size() - at);
    switch (below(6)) {
      case 0:
        if (at < input.size()) input[at] = static_cast<char>(input[at] ^ (1 << below(8)));
        break;
      case 1: input.erase(at, count); break;
      case 2: input.insert(at, input.substr(at, count)); break;
      case 3: input.replace(at, count, pick(tokens_)); break;
      case 4: input.resize(at); break;
      default: {
        const std::string& other = pick(seeds_);
        input = input.substr(0, at) + other.substr(below(other.size() + 1));
      }
    }
  }

  std::vector<std::string> seeds_;
  std::vector<std::string> tokens_;
  std::mt19937_64 random_;
};

/// What a reader may do with a hostile input: take it, or refuse it with a one-line Error that is not kInternal.
template <typename Read>
void expect_read_or_refused(Read&& read) {
  try {
    read();
  } catch (const Error& error) {
    EXPECT_NE(error.kind(), ErrorKind::kInternal) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
  }
}

/// How a test drives an entry point of the form that fuzzers know, `int one_input(const uint8_t*, size_t)`.
inline void run_mutations(Mutator mutator, int count, int (*one_input)(const uint8_t*, size_t)) {
  for (int i = 0; i < count && !testing::Test::HasFailure(); ++i) {
    const std::string input = mutator.next();
    SCOPED_TRACE(testing::Message() << "mutation " << i << ": " << testing::PrintToString(input.substr(0, 400)));
    one_input(reinterpret_cast<const uint8_t*>(input.data()), input.size());
  }
}

}  // namespace quire
