#include "weights/loader.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/refusal.h"
#include "gtest/gtest.h"
#include "weights/elements.h"
#include "weights/model_files.h"
#include "weights/plain_backend.h"

namespace quire {
namespace {

class LoaderTest : public testing::Test {
 protected:
  ModelWeights load(std::optional<DType> dtype = std::nullopt, const std::function<void(double)>& progress = {}) {
    const ModelFolder model = read_model_folder(folder_.path());
    return load_weights(model, Checkpoint::open(folder_.path()), dtype, backend_, stream_, progress);
  }

  WeightSummary check(std::optional<DType> dtype = std::nullopt) {
    return check_weights(read_model_folder(folder_.path()), Checkpoint::open(folder_.path()), dtype);
  }

  TemporaryFolder folder_;
  PlainBackend backend_;
  PlainBackend::PlainStream stream_;
};

std::vector<float> values(const PackedLinear& packed) {
  const float* data = static_cast<const float*>(packed.data.data());
  return {data, data + packed.groups * packed.n * packed.k};
}

std::vector<float> values(const Tensor& tensor) {
  std::vector<float> result;
  append_as_float(tensor, result);
  return result;
}

/// The elements of one tensor of a tiny model after the other.
std::vector<float> tiny(const std::vector<std::string>& names, int64_t count_of_each) {
  std::vector<float> result;
  for (const std::string& name : names) {
    for (int64_t i = 0; i < count_of_each; ++i) result.push_back(tiny_value(name, i));
  }
  return result;
}

/// A tensor stored as [inputs, outputs], in the order of [outputs, inputs].
std::vector<float> tiny_transposed(const std::string& name, int64_t inputs, int64_t outputs) {
  std::vector<float> result;
  for (int64_t n = 0; n < outputs; ++n) {
    for (int64_t k = 0; k < inputs; ++k) result.push_back(tiny_value(name, k * outputs + n));
  }
  return result;
}

void expect_tiny_llama(const ModelWeights& weights) {
  EXPECT_EQ(values(weights.embedding), tiny({"model.embed_tokens.weight"}, 80));
  ASSERT_EQ(weights.layers.size(), 2u);
  const std::string layer = "model.layers.1.";
  const LayerWeights& own = weights.layers[1];
  EXPECT_EQ(values(own.attention_norm.weight), tiny({layer + "input_layernorm.weight"}, 8));
  EXPECT_EQ(own.attention.qkv.n, 16);
  EXPECT_EQ(own.attention.qkv.k, 8);
  std::vector<float> qkv = tiny({layer + "self_attn.q_proj.weight"}, 64);
  const std::vector<float> kv = tiny({layer + "self_attn.k_proj.weight", layer + "self_attn.v_proj.weight"}, 32);
  qkv.insert(qkv.end(), kv.begin(), kv.end());
  EXPECT_EQ(values(own.attention.qkv), qkv);
  EXPECT_FALSE(own.attention.qkv_bias);
  EXPECT_EQ(values(own.attention.out), tiny({layer + "self_attn.o_proj.weight"}, 64));
  EXPECT_EQ(values(own.ffn_norm.weight), tiny({layer + "post_attention_layernorm.weight"}, 8));
  EXPECT_EQ(values(own.ffn.up), tiny({layer + "mlp.gate_proj.weight", layer + "mlp.up_proj.weight"}, 96));
  EXPECT_EQ(values(own.ffn.down), tiny({layer + "mlp.down_proj.weight"}, 96));
  EXPECT_EQ(values(weights.final_norm.weight), tiny({"model.norm.weight"}, 8));
  EXPECT_FALSE(weights.final_norm.bias);
  EXPECT_EQ(values(weights.head), tiny({"lm_head.weight"}, 80));
}

TEST_F(LoaderTest, brings_every_weight_of_a_llama_to_its_place) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    write_model(folder_, tiny_llama_config(), tiny_llama_tensors(dtype));
    const ModelWeights weights = load();
    expect_tiny_llama(weights);
    EXPECT_EQ(weights.embedding.dtype, dtype);
    EXPECT_EQ(weights.head.dtype, dtype);
    EXPECT_EQ(weights.final_norm.weight.dtype, DType::kFloat32);
  }
}

TEST_F(LoaderTest, tensors_that_are_not_aligned_are_read_correctly) {
  write_model(folder_, tiny_llama_config(), tiny_llama_tensors(DType::kFloat32), 1);
  expect_tiny_llama(load());
}

TEST_F(LoaderTest, biases_are_stacked_like_their_matrices) {
  ConfigFields config = tiny_llama_config();
  config["attention_bias"] = config["mlp_bias"] = "true";
  std::vector<FileTensor> tensors = tiny_llama_tensors(DType::kBFloat16);
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    const std::pair<const char*, int64_t> biases[] = {
        {"self_attn.q_proj", 8}, {"self_attn.k_proj", 4}, {"self_attn.v_proj", 4}, {"self_attn.o_proj", 8},
        {"mlp.gate_proj", 12},   {"mlp.up_proj", 12},     {"mlp.down_proj", 8}};
    for (const auto& [module, size] : biases) {
      tensors.push_back(tiny_tensor(layer + module + ".bias", {size}, DType::kBFloat16));
    }
  }
  write_model(folder_, config, tensors);
  const ModelWeights weights = load();
  const AttentionWeights& attention = weights.layers[0].attention;
  ASSERT_EQ(attention.qkv_bias.shape[0], 16);
  EXPECT_EQ(attention.qkv_bias.as<float>()[8], tiny_value("model.layers.0.self_attn.k_proj.bias", 0));
  EXPECT_EQ(values(attention.out_bias), tiny({"model.layers.0.self_attn.o_proj.bias"}, 8));
  EXPECT_EQ(values(weights.layers[0].ffn.up_bias),
            tiny({"model.layers.0.mlp.gate_proj.bias", "model.layers.0.mlp.up_proj.bias"}, 12));
  EXPECT_EQ(values(weights.layers[1].ffn.down_bias), tiny({"model.layers.1.mlp.down_proj.bias"}, 8));
}

TEST_F(LoaderTest, a_tied_head_is_packed_from_the_embedding_and_held_once) {
  ConfigFields config = tiny_llama_config();
  std::vector<FileTensor> tensors = tiny_llama_tensors(DType::kFloat32);
  write_model(folder_, config, tensors);
  const WeightSummary untied = check();
  config["tie_word_embeddings"] = "true";
  write_model(folder_, config, tensors);  // still with a head, as some files have it
  const ModelWeights weights = load();
  EXPECT_EQ(values(weights.head), tiny({"model.embed_tokens.weight"}, 80));
  const WeightSummary tied = check();
  EXPECT_EQ(tied.num_parameters, untied.num_parameters - 80);
  EXPECT_EQ(tied.bytes, untied.bytes - 80 * 4);
  EXPECT_FALSE(weights.embedding);
  tensors.pop_back();
  write_model(folder_, config, tensors);
  EXPECT_EQ(values(load().head), tiny({"model.embed_tokens.weight"}, 80));
}

TEST_F(LoaderTest, gpt2_is_transposed_and_its_buffers_are_ignored) {
  for (const std::string prefix : {"", "transformer."}) {
    write_model(folder_, tiny_gpt2_config(), tiny_gpt2_tensors(DType::kFloat16, prefix));
    const ModelWeights weights = load();
    const std::string layer = prefix + "h.1.";
    EXPECT_EQ(values(weights.position_embedding), tiny({prefix + "wpe.weight"}, 128));
    EXPECT_EQ(weights.position_embedding.dtype, DType::kFloat16);
    EXPECT_EQ(values(weights.layers[1].attention.qkv), tiny_transposed(layer + "attn.c_attn.weight", 8, 24));
    EXPECT_EQ(values(weights.layers[1].attention.qkv_bias), tiny({layer + "attn.c_attn.bias"}, 24));
    EXPECT_EQ(values(weights.layers[1].attention.out), tiny_transposed(layer + "attn.c_proj.weight", 8, 8));
    EXPECT_EQ(values(weights.layers[1].ffn.up), tiny_transposed(layer + "mlp.c_fc.weight", 8, 12));
    EXPECT_EQ(values(weights.layers[1].ffn.down), tiny_transposed(layer + "mlp.c_proj.weight", 12, 8));
    EXPECT_EQ(values(weights.layers[1].ffn_norm.bias), tiny({layer + "ln_2.bias"}, 8));
    EXPECT_EQ(values(weights.head), tiny({prefix + "wte.weight"}, 80));
  }
}

TEST_F(LoaderTest, dtype_converts_matrices_but_never_widens_16_bits) {
  const auto held = [&](DType stored, std::optional<DType> asked) {
    write_model(folder_, tiny_llama_config(), tiny_llama_tensors(stored));
    const ModelWeights weights = load(asked);
    expect_tiny_llama(weights);  // values that every type holds exactly
    EXPECT_EQ(weights.head.dtype, weights.embedding.dtype);
    EXPECT_EQ(check(asked).dtype, weights.embedding.dtype);
    return weights.embedding.dtype;
  };
  EXPECT_EQ(held(DType::kFloat32, DType::kBFloat16), DType::kBFloat16);
  EXPECT_EQ(held(DType::kFloat32, DType::kFloat32), DType::kFloat32);
  EXPECT_EQ(held(DType::kBFloat16, DType::kFloat32), DType::kBFloat16);
  EXPECT_EQ(held(DType::kFloat16, DType::kFloat32), DType::kFloat16);
  EXPECT_EQ(held(DType::kBFloat16, DType::kFloat16), DType::kFloat16);
  EXPECT_EQ(refusal_of([&] { check(DType::kInt8); }).kind, ErrorKind::kInvalidArgument);
}

TEST_F(LoaderTest, norms_that_are_stored_as_offsets_get_one_added) {
  write_model(folder_, tiny_llama_config(), tiny_llama_tensors(DType::kFloat32));
  ModelFolder model = read_model_folder(folder_.path());
  model.spec.final_norm.unit_offset = true;
  const ModelWeights weights =
      load_weights(model, Checkpoint::open(folder_.path()), std::nullopt, backend_, stream_, {});
  EXPECT_EQ(weights.final_norm.weight.as<float>()[3], 1.0f + tiny_value("model.norm.weight", 3));
}

TEST_F(LoaderTest, norms_of_queries_and_keys_are_read_where_the_spec_asks_for_them) {
  std::vector<FileTensor> tensors = tiny_llama_tensors(DType::kFloat32);
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    tensors.push_back(tiny_tensor(layer + "self_attn.q_norm.weight", {4}, DType::kFloat32));
    tensors.push_back(tiny_tensor(layer + "self_attn.k_norm.weight", {4}, DType::kFloat32));
  }
  write_model(folder_, tiny_llama_config(), tensors);
  ModelFolder model = read_model_folder(folder_.path());
  model.spec.for_attention([](Attention& attention) { attention.qk_norm = Attention::QkNorm::kHead; });
  const ModelWeights weights =
      load_weights(model, Checkpoint::open(folder_.path()), std::nullopt, backend_, stream_, {});
  EXPECT_EQ(values(weights.layers[1].attention.k_norm.weight), tiny({"model.layers.1.self_attn.k_norm.weight"}, 4));
}

TEST_F(LoaderTest, summary_counts_parameters_and_bytes) {
  write_model(folder_, tiny_llama_config(), tiny_llama_tensors(DType::kBFloat16));
  const int64_t matrices = 2 * 80 + 2 * (64 + 32 + 32 + 64 + 3 * 96);
  const int64_t vectors = 8 + 2 * 16;
  const WeightSummary summary = check();
  EXPECT_EQ(summary.num_parameters, matrices + vectors);
  EXPECT_EQ(summary.bytes, 2 * matrices + 4 * vectors);
  EXPECT_EQ(summary.dtype, DType::kBFloat16);
}

TEST_F(LoaderTest, progress_rises_to_one) {
  write_model(folder_, tiny_llama_config(), tiny_llama_tensors(DType::kFloat32));
  std::vector<double> shares;
  load(std::nullopt, [&](double share) { shares.push_back(share); });
  EXPECT_GT(shares.size(), 10u);
  EXPECT_TRUE(std::is_sorted(shares.begin(), shares.end()));
  EXPECT_EQ(shares.back(), 1.0);
}

TEST_F(LoaderTest, missing_and_left_over_tensors_are_counted_and_the_first_named) {
  std::vector<FileTensor> tensors = tiny_llama_tensors(DType::kFloat32);
  tensors.erase(tensors.begin() + 1, tensors.begin() + 9);
  tensors.push_back(tiny_tensor("score.weight", {2, 8}, DType::kFloat32));
  write_model(folder_, tiny_llama_config(), tensors);
  const Refusal refusal = refusal_of([&] { check(); });
  EXPECT_EQ(refusal.kind, ErrorKind::kInvalidArgument);
  EXPECT_TRUE(refusal.names("missing=8 ('model.layers.0.input_layernorm.weight'") && refusal.names(", ...") &&
              refusal.names("left over=1 ('score.weight')"))
      << refusal.message;
}

TEST_F(LoaderTest, a_file_that_shrank_is_an_error_and_no_crash) {
  write_model(folder_, tiny_llama_config(), tiny_llama_tensors(DType::kFloat32));
  const ModelFolder model = read_model_folder(folder_.path());
  const Checkpoint checkpoint = Checkpoint::open(folder_.path());
  const std::string path = folder_.file("model.safetensors");
  ASSERT_EQ(truncate(path.c_str(), static_cast<off_t>(std::filesystem::file_size(path) - 4)), 0);
  const Refusal refusal = refusal_of([&] { load_weights(model, checkpoint, std::nullopt, backend_, stream_, {}); });
  EXPECT_EQ(refusal.kind, ErrorKind::kInvalidArgument);
  EXPECT_TRUE(refusal.names("model.safetensors") && refusal.names("shorter")) << refusal.message;
}

/// Bytes of files that are mapped into this process and in memory.
int64_t resident_file_bytes() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.starts_with("RssFile:")) return std::stoll(line.substr(8)) * 1024;
  }
  return -1;
}

/// Remembers how much of the files was in memory at most while weights were packed.
class WatchingBackend : public PlainBackend {
 public:
  PackedLinear pack_linear(const LinearSource& source, Stream& stream) override {
    const PackedLinear read = PlainBackend::pack_linear(source, stream);
    most_resident_ = std::max(most_resident_, resident_file_bytes());
    PackedLinear packed;
    packed.n = read.n;
    packed.k = read.k;
    return packed;
  }
  int64_t most_resident() const { return most_resident_; }

 private:
  int64_t most_resident_ = 0;
};

TEST_F(LoaderTest, pages_of_the_file_are_given_back_while_loading) {
  if (resident_file_bytes() < 0) GTEST_SKIP() << "this system does not tell";
  constexpr int64_t kFfn = 40'000;
  ConfigFields config = tiny_llama_config();
  config["intermediate_size"] = std::to_string(kFfn);
  config["num_hidden_layers"] = "12";
  std::vector<FileTensor> tensors = tiny_llama_tensors(DType::kFloat32);
  std::vector<FileTensor> many = {tensors.front(), tensors[tensors.size() - 2], tensors.back()};
  const std::string matrix(kFfn * kTinyWidth * sizeof(float), '\0');
  for (int i = 0; i < 12; ++i) {
    for (size_t t = 1; t < 10; ++t) {
      FileTensor tensor = tensors[t];
      tensor.name.replace(std::string("model.layers.").size(), 1, std::to_string(i));
      if (tensor.name.find("mlp.") != std::string::npos) {
        std::replace(tensor.shape.begin(), tensor.shape.end(), kTinyFfn, kFfn);
        tensor.data = matrix;
      }
      many.push_back(std::move(tensor));
    }
  }
  write_model(folder_, config, many);
  const ModelFolder model = read_model_folder(folder_.path());
  const Checkpoint checkpoint = Checkpoint::open(folder_.path());
  WatchingBackend backend;
  const int64_t before = resident_file_bytes();
  load_weights(model, checkpoint, std::nullopt, backend, stream_, {});
  const auto matrix_bytes = static_cast<int64_t>(matrix.size());
  EXPECT_GT(backend.most_resident() - before, matrix_bytes);      // the measure works
  EXPECT_LT(backend.most_resident() - before, 5 * matrix_bytes);  // of 36 in the file
}

}  // namespace
}  // namespace quire
