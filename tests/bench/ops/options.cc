#include "ops/options.h"

#include <algorithm>
#include <sstream>

#include "core/check.h"

namespace quire::bench {
namespace {

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

}  // namespace

Options parse_options(int argc, char** argv, Options options) {
  const auto require = [](bool good, const char* what) {
    QUIRE_REQUIRE(good, ErrorKind::kInvalidArgument, "[bench] bad option: ", what);
  };
  for (int i = 1; i < argc; i += 2) {
    require(i + 1 < argc, argv[i]);
    const std::string name = argv[i];
    const std::string value = argv[i + 1];
    if (name == "--isa") {
      options.isas = split(value);
    } else if (name == "--dtype") {
      options.dtypes = split(value);
    } else if (name == "--tokens") {
      options.tokens = split(value);
    } else if (name == "--shape") {
      options.shape = value;
    } else {
      require(name == "--threads", argv[i]);
      options.threads = std::stoi(value);
    }
  }
  return options;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace quire::bench
