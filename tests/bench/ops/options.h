#pragma once

#include <string>
#include <vector>

namespace quire::bench {

/// What the benchmarks of linear ops are run over; each program has its own defaults.
struct Options {
  std::vector<std::string> isas;
  std::vector<std::string> dtypes;
  std::vector<std::string> tokens;
  std::string shape;  ///< part of a name
  int threads = 0;
};

/// --isa, --dtype, --tokens (lists with commas), --shape, --threads. Raises: kInvalidArgument.
Options parse_options(int argc, char** argv, Options options);

double median(std::vector<double> values);

}  // namespace quire::bench
