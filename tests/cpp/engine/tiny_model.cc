#include "engine/tiny_model.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <fstream>
#include <limits>
#include <random>
#include <sstream>
#include <vector>

namespace quire {
namespace {

/// Collects float32 tensors and writes them as one safetensors file: header length, JSON header, data.
class SafetensorsWriter {
 public:
  void add(const std::string& name, const std::vector<int64_t>& shape, const std::vector<float>& values) {
    header_ << (data_.empty() ? "{" : ",") << '"' << name << "\":{\"dtype\":\"F32\",\"shape\":[";
    for (size_t i = 0; i < shape.size(); ++i) header_ << (i > 0 ? "," : "") << shape[i];
    const size_t begin = data_.size();
    data_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    header_ << "],\"data_offsets\":[" << begin << "," << data_.size() << "]}";
  }

  void write(const std::filesystem::path& path) const {
    std::string header = header_.str() + "}";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    const uint64_t length = header.size();
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(&length), sizeof(length));
    file << header << data_;
  }

 private:
  std::ostringstream header_;
  std::string data_;
};

/// Uniform numbers with the given standard deviation; the same on every standard library.
class Weights {
 public:
  explicit Weights(uint32_t seed) : engine_(seed) {}

  std::vector<float> matrix(int64_t count, float deviation) {
    std::vector<float> values(count);
    for (float& value : values) {
      value = (static_cast<float>(engine_() >> 8) * 0x1p-24f * 2.0f - 1.0f) * deviation * std::sqrt(3.0f);
    }
    return values;
  }

 private:
  std::mt19937 engine_;
};

void write_weights(const TinyModel& model, const std::filesystem::path& path) {
  Weights random(model.seed);
  SafetensorsWriter writer;
  const int64_t width = model.width, ffn = model.ffn;
  const int64_t head_dim = width / model.heads;
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t columns, float deviation) {
    writer.add(name, {rows, columns}, random.matrix(rows * columns, deviation));
  };
  const auto norm = [&](const std::string& name) { writer.add(name, {width}, std::vector<float>(width, 1.0f)); };

  std::vector<float> embedding = random.matrix(int64_t{model.vocab} * width, 1.0f);
  if (model.nan_token) embedding[*model.nan_token * width] = std::numeric_limits<float>::quiet_NaN();
  writer.add("model.embed_tokens.weight", {model.vocab, width}, embedding);
  for (int32_t i = 0; i < model.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    norm(layer + "input_layernorm.weight");
    matrix(layer + "self_attn.q_proj.weight", width, width, 0.3f);
    matrix(layer + "self_attn.k_proj.weight", model.kv_heads * head_dim, width, 0.3f);
    matrix(layer + "self_attn.v_proj.weight", model.kv_heads * head_dim, width, 0.3f);
    matrix(layer + "self_attn.o_proj.weight", width, width, 0.3f);
    norm(layer + "post_attention_layernorm.weight");
    matrix(layer + "mlp.gate_proj.weight", ffn, width, 0.3f);
    matrix(layer + "mlp.up_proj.weight", ffn, width, 0.3f);
    matrix(layer + "mlp.down_proj.weight", width, ffn, 0.3f);
  }
  norm("model.norm.weight");
  matrix("lm_head.weight", model.vocab, width, 0.4f);
  writer.write(path / "model.safetensors");
}

void write_config(const TinyModel& model, const std::filesystem::path& path) {
  std::ofstream(path / "config.json") << "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", "
                                      << "\"hidden_size\": " << model.width << ", \"intermediate_size\": " << model.ffn
                                      << ", \"num_hidden_layers\": " << model.layers
                                      << ", \"num_attention_heads\": " << model.heads
                                      << ", \"num_key_value_heads\": " << model.kv_heads
                                      << ", \"vocab_size\": " << model.vocab
                                      << ", \"max_position_embeddings\": " << model.max_positions
                                      << ", \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"hidden_act\": \"silu\", "
                                      << "\"tie_word_embeddings\": false, \"torch_dtype\": \"float32\"}";
  std::ofstream(path / "generation_config.json")
      << "{\"eos_token_id\": [" << std::min(kTinyEndToken, model.vocab - 1) << "]}";
}

void write_tokenizer(const std::filesystem::path& path) {
  std::ofstream file(path / "tokenizer.json");
  file << R"({"version": "1.0", "added_tokens": [{"id": )" << kTinyEndToken
       << R"(, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, )"
       << R"("special": true}], "normalizer": null, "pre_tokenizer": null, "post_processor": null, )"
       << R"("decoder": {"type": "Fuse"}, "model": {"type": "BPE", "vocab": {)";
  for (int32_t id = 0; id < kTinyEndToken; ++id) {
    const char character = static_cast<char>(' ' + id);
    file << '"' << (character == '"' || character == '\\' ? "\\" : "") << character << "\": " << id << ", ";
  }
  file << "\"<end>\": " << kTinyEndToken << R"(}, "merges": []}})";
}

}  // namespace

TinyModelFolder::TinyModelFolder(const TinyModel& model) {
  static std::atomic<int> count{0};
  path_ = std::filesystem::temp_directory_path() /
          ("quire_tiny_" + std::to_string(::getpid()) + "_" + std::to_string(count++));
  std::filesystem::create_directories(path_);
  write_config(model, path_);
  write_weights(model, path_);
  write_tokenizer(path_);
}

TinyModelFolder::~TinyModelFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace quire
