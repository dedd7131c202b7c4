#include "weights/model_folder.h"

#include <string>

#include "core/log.h"
#include "core/refusal.h"
#include "gtest/gtest.h"
#include "weights/model_files.h"

namespace quire {
namespace {

ModelFolder read(const ConfigFields& config, const std::string& generation = "") {
  const TemporaryFolder folder;
  folder.write("config.json", config_text(config));
  if (!generation.empty()) folder.write("generation_config.json", generation);
  return read_model_folder(folder.path());
}

TEST(ModelFolder, reads_config_and_generation_defaults) {
  ConfigFields config = tiny_llama_config();
  config["bos_token_id"] = "1";
  const ModelFolder folder = read(config);
  EXPECT_EQ(folder.spec.architecture, "LlamaForCausalLM");
  EXPECT_EQ(folder.generation.eos_token_ids, std::vector<int32_t>{2});
  EXPECT_EQ(folder.generation.bos_token_id, 1);
  EXPECT_EQ(folder.config_dtype, std::nullopt);
}

TEST(ModelFolder, generation_config_goes_before_config_where_it_speaks) {
  ConfigFields config = tiny_llama_config();
  config["bos_token_id"] = "1";
  const ModelFolder folder = read(config, R"({"eos_token_id": [7, 2, 7], "bos_token_id": null})");
  EXPECT_EQ(folder.generation.eos_token_ids, (std::vector<int32_t>{2, 7}));
  EXPECT_EQ(folder.generation.bos_token_id, 1);
}

TEST(ModelFolder, ids_beyond_the_vocabulary_are_left_out_with_a_line_in_the_log) {
  std::string logged;
  set_log_sink([&](LogLevel, std::string_view message) { logged += message; });
  const ModelFolder folder = read(tiny_llama_config(), R"({"eos_token_id": [2, 10]})");
  set_log_sink({});
  EXPECT_EQ(folder.generation.eos_token_ids, std::vector<int32_t>{2});
  EXPECT_NE(logged.find("generation_config.json"), std::string::npos);
}

TEST(ModelFolder, knows_the_stored_type_by_either_field) {
  const auto dtype = [](const std::string& field, const std::string& value) {
    ConfigFields config = tiny_llama_config();
    config[field] = value;
    return read(config).config_dtype;
  };
  EXPECT_EQ(dtype("torch_dtype", "\"bfloat16\""), DType::kBFloat16);
  EXPECT_EQ(dtype("dtype", "\"float16\""), DType::kFloat16);
  EXPECT_EQ(dtype("torch_dtype", "\"torch.float32\""), DType::kFloat32);
}

TEST(ModelFolder, a_missing_folder_or_config_is_not_found) {
  const TemporaryFolder folder;
  EXPECT_EQ(refusal_of([&] { read_model_folder(folder.file("absent")); }).kind, ErrorKind::kNotFound);
  const Refusal no_config = refusal_of([&] { read_model_folder(folder.path()); });
  EXPECT_EQ(no_config.kind, ErrorKind::kNotFound);
  EXPECT_TRUE(no_config.names("config.json") && no_config.names(folder.path())) << no_config.message;
  EXPECT_EQ(refusal_of([&] { read_model_folder(folder.write("file", "")); }).kind, ErrorKind::kInvalidArgument);
}

}  // namespace
}  // namespace quire
