#include "weights/read_ahead.h"

#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "weights/loader.h"
#include "weights/model_files.h"
#include "weights/plain_backend.h"

namespace quire {
namespace {

/// Some tensors of several pieces, and small ones between.
std::vector<FileTensor> tensors_of(int first, int count) {
  std::vector<FileTensor> tensors;
  for (int i = first; i < first + count; ++i) {
    const int64_t size = i % 2 == 0 ? 5'000'000 : 3;
    const std::string data(static_cast<size_t>(size) * sizeof(float), static_cast<char>('a' + i));
    tensors.push_back({.name = "t" + std::to_string(i), .dtype = "F32", .shape = {size}, .data = data});
  }
  return tensors;
}

TEST(ReadAhead, brings_tensors_in_while_others_are_copied_or_dropped) {
  const TemporaryFolder folder;
  folder.write("model.safetensors", safetensors_bytes(tensors_of(0, 9)));
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  std::vector<std::string> names;
  for (int i = 8; i >= 0; --i) names.push_back("t" + std::to_string(i));
  for (const int num_threads : {0, 1, 3}) {
    ReadAhead ahead(checkpoint, names, num_threads);
    for (size_t i = 0; i < names.size(); ++i) {
      ahead.come_to(i);
      const Tensor& tensor = *checkpoint.find(names[i]);
      const std::string bytes(tensor.as<const char>(), static_cast<size_t>(tensor.bytes()));
      EXPECT_EQ(bytes.find_first_not_of(static_cast<char>('a' + (8 - i))), std::string::npos);
      checkpoint.drop(names[i]);
    }
  }
}

TEST(ReadAhead, may_end_before_anything_was_wanted) {
  const TemporaryFolder folder;
  folder.write("model.safetensors", safetensors_bytes(tensors_of(0, 3)));
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  for (int i = 0; i < 20; ++i) {
    const ReadAhead ahead(checkpoint, {"t0", "t1", "t2"}, 2);
    const ReadAhead idle(checkpoint, {}, 2);
  }
}

TEST(ReadAhead, survives_a_file_that_shrank) {
  const TemporaryFolder folder;
  folder.write("model.safetensors", safetensors_bytes(tensors_of(0, 3)));
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  ASSERT_EQ(truncate(folder.file("model.safetensors").c_str(), 5000), 0);
  ReadAhead ahead(checkpoint, {"t0", "t1", "t2"}, 2);
  ahead.come_to(3);
}

TEST(ReadAhead, weights_are_the_same_with_threads_and_without) {
  const TemporaryFolder folder;
  write_model(folder, tiny_llama_config(), tiny_llama_tensors(DType::kFloat32));
  const ModelFolder model = read_model_folder(folder.path());
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  PlainBackend backend;
  PlainBackend::PlainStream stream;
  const ModelWeights expected = load_weights(model, checkpoint, std::nullopt, backend, stream);
  backend.behind = true;
  const ModelWeights got = load_weights(model, checkpoint, std::nullopt, backend, stream);
  for (size_t layer = 0; layer < expected.layers.size(); ++layer) {
    const PackedLinear& a = expected.layers[layer].ffn.down;
    const PackedLinear& b = got.layers[layer].ffn.down;
    ASSERT_EQ(a.data.bytes(), b.data.bytes());
    EXPECT_EQ(std::memcmp(a.data.data(), b.data.data(), a.data.bytes()), 0);
  }
}

}  // namespace
}  // namespace quire
