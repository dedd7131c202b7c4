#include "weights/checkpoint.h"

#include <filesystem>
#include <string>

#include "core/mapped_file.h"
#include "core/refusal.h"
#include "gtest/gtest.h"
#include "weights/elements.h"
#include "weights/model_files.h"

namespace quire {
namespace {

std::vector<float> floats(const Checkpoint& checkpoint, const std::string& name) {
  std::vector<float> values;
  append_as_float(*checkpoint.find(name), values);
  return values;
}

std::string one_tensor(const std::string& name, float value) {
  return safetensors_bytes({{name, "F32", {1}, encode({value}, DType::kFloat32)}});
}

TEST(Checkpoint, prefers_safetensors_and_one_file_before_shards) {
  const TemporaryFolder folder;
  folder.write("pytorch_model.bin", read_text_file(data_path("pytorch/state_dict.bin")));
  EXPECT_NE(Checkpoint::open(folder.path()).find("transposed"), nullptr);
  folder.write("model.safetensors.index.json", R"({"weight_map": {"a": "shard"}})");
  folder.write("shard", one_tensor("a", 1));
  EXPECT_EQ(floats(Checkpoint::open(folder.path()), "a"), std::vector<float>{1});
  folder.write("model.safetensors", one_tensor("a", 2));
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  EXPECT_EQ(floats(checkpoint, "a"), std::vector<float>{2});
  EXPECT_EQ(checkpoint.file_of("a"), "model.safetensors");
  EXPECT_EQ(checkpoint.find("absent"), nullptr);
}

TEST(Checkpoint, joins_the_shards_of_an_index) {
  const TemporaryFolder folder;
  folder.write("model.safetensors.index.json",
               R"({"metadata": {"total_size": 8}, "weight_map": {"a": "x.safetensors", "b": "y.safetensors"}})");
  folder.write("x.safetensors", one_tensor("a", 1));
  folder.write("y.safetensors", one_tensor("b", 2));
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  EXPECT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_EQ(checkpoint.file_of("b"), "y.safetensors");
  EXPECT_EQ(floats(checkpoint, "b"), std::vector<float>{2});
}

TEST(Checkpoint, joins_the_shards_of_a_pytorch_index) {
  const TemporaryFolder folder;
  folder.write("pytorch_model.bin.index.json", R"({"weight_map": {"slice": "part.bin"}})");
  folder.write("part.bin", read_text_file(data_path("pytorch/protocol_4.bin")));
  EXPECT_EQ(floats(Checkpoint::open(folder.path()), "slice"), (std::vector<float>{4, 5, 6, 7}));
}

// The layout of a hub cache: the folder holds links to blobs beside it.
TEST(Checkpoint, follows_links_out_of_the_folder) {
  const TemporaryFolder cache;
  std::filesystem::create_directories(cache.file("snapshots/1"));
  std::filesystem::create_directories(cache.file("blobs"));
  cache.write("blobs/0a1b", one_tensor("a", 3));
  std::filesystem::create_symlink("../../blobs/0a1b", cache.file("snapshots/1/model.safetensors"));
  EXPECT_EQ(floats(Checkpoint::open(cache.file("snapshots/1")), "a"), std::vector<float>{3});
}

TEST(Checkpoint, tensors_can_be_read_again_after_their_pages_were_dropped) {
  const TemporaryFolder folder;
  folder.write("model.safetensors", safetensors_bytes({tiny_tensor("a", {5000}, DType::kFloat32),
                                                       tiny_tensor("b", {5000}, DType::kFloat32)}));
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  const std::vector<float> before = floats(checkpoint, "a");
  EXPECT_EQ(checkpoint.stored_bytes("b"), 20000u);
  checkpoint.will_need("b", 0, 20000);
  checkpoint.bring_in("b", 4096, 15904);
  checkpoint.drop("a");
  checkpoint.check_unchanged("a");
  EXPECT_EQ(floats(checkpoint, "a"), before);
}

}  // namespace
}  // namespace quire
