#include <cstdlib>
#include <filesystem>
#include <string>

#include "core/json.h"
#include "core/mapped_file.h"
#include "core/refusal.h"
#include "gtest/gtest.h"
#include "weights/loader.h"
#include "weights/plain_backend.h"

namespace quire {
namespace {

/// Checkpoints that are not part of the repository: QUIRE_SHARED, or "shared" beside it.
std::string shared_folder() {
  if (const char* folder = std::getenv("QUIRE_SHARED")) return folder;
  return data_path("../../../shared");
}

/// Read a folder as the engine does, weights and all.
void load_all(const std::string& path) {
  const ModelFolder model = read_model_folder(path);
  const Checkpoint checkpoint = Checkpoint::open(path);
  const WeightSummary summary = check_weights(model, checkpoint, std::nullopt);
  EXPECT_EQ(summary.dtype, model.config_dtype.value_or(summary.dtype));
  PlainBackend backend;
  PlainBackend::PlainStream stream;
  const ModelWeights weights = load_weights(model, checkpoint, std::nullopt, backend, stream, {});
  EXPECT_EQ(weights.layers.size(), model.spec.layers.size());
  EXPECT_EQ(weights.head.n, model.spec.vocab);
}

TEST(GoldenFolders, every_folder_loads_but_for_quantised_ones) {
  const std::string golden = shared_folder() + "/golden";
  if (!std::filesystem::is_directory(golden)) GTEST_SKIP() << "no golden checkpoints here";
  size_t num_loaded = 0;
  for (const auto& entry : std::filesystem::directory_iterator(golden)) {
    const std::string path = entry.path().string();
    SCOPED_TRACE(path);
    if (!std::filesystem::exists(path + "/config.json")) continue;
    const Json config = parse_json(read_text_file(path + "/config.json"), "config.json");
    if (config.find("quantization_config") == nullptr && !entry.path().filename().string().starts_with("quant_")) {
      EXPECT_NO_THROW(load_all(path));
      ++num_loaded;
    } else {
      const Refusal refusal = refusal_of([&] { load_all(path); });
      EXPECT_TRUE(refusal.kind == ErrorKind::kUnsupported || refusal.kind == ErrorKind::kInvalidArgument)
          << refusal.message;
    }
  }
  EXPECT_GE(num_loaded, 80u);
}

TEST(GoldenFolders, the_small_trained_model_loads) {
  const std::string path = shared_folder() + "/models/stories260k";
  if (!std::filesystem::is_directory(path)) GTEST_SKIP() << "no trained model here";
  EXPECT_NO_THROW(load_all(path));
}

}  // namespace
}  // namespace quire
