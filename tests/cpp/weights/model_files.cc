#include "weights/model_files.h"

#include <cstring>
#include <functional>
#include <numeric>
#include <utility>

namespace quire {
namespace {

std::string little_endian(uint64_t value, int width) {
  std::string bytes;
  for (int i = 0; i < width; ++i) bytes += static_cast<char>(i < 8 ? value >> (8 * i) : 0);
  return bytes;
}

std::string file_type_name(DType dtype) {
  return dtype == DType::kFloat32 ? "F32" : dtype == DType::kFloat16 ? "F16" : "BF16";
}

}  // namespace

std::string safetensors_bytes(std::string_view header, std::string_view data) {
  return little_endian(header.size(), 8) + std::string(header) + std::string(data);
}

std::string safetensors_bytes(const std::vector<FileTensor>& tensors, int padding) {
  std::string header = R"({"__metadata__": {"format": "pt"})";
  std::string data;
  for (const FileTensor& tensor : tensors) {
    std::string shape;
    for (const int64_t size : tensor.shape) shape += (shape.empty() ? "" : ", ") + std::to_string(size);
    header += ", \"" + tensor.name + "\": {\"dtype\": \"" + tensor.dtype + "\", \"shape\": [" + shape +
              "], \"data_offsets\": [" + std::to_string(data.size()) + ", " +
              std::to_string(data.size() + tensor.data.size()) + "]}";
    data += tensor.data;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8 + padding, ' ');
  return safetensors_bytes(header, data);
}

std::string zip_bytes(const std::vector<std::pair<std::string, std::string>>& records, const ZipOptions& options) {
  const auto number = little_endian;
  const std::string elsewhere(4, '\xff');  // the value is in the zip64 field
  std::string file;
  std::string directory;
  for (const auto& [name, data] : records) {
    const uint64_t offset = file.size();
    const std::string size = number(data.size(), 4);
    const std::string head = number(0, 2) + number(options.method, 2) + number(0, 4) + number(0, 4);
    file += "PK\x03\x04" + number(0, 2) + head + size + size + number(name.size(), 2) + number(0, 2) + name + data;

    // A field of another kind stands before the zip64 one.
    const std::string extra = !options.zip64 ? ""
                                             : number(7, 2) + number(1, 2) + "x" + number(1, 2) + number(24, 2) +
                                                   number(data.size(), 8) + number(data.size(), 8) + number(offset, 8);
    const std::string sizes = options.zip64 ? elsewhere + elsewhere : size + size;
    directory += "PK\x01\x02" + number(0, 2) + number(0, 2) + head + sizes + number(name.size(), 2) +
                 number(extra.size(), 2) + number(0, 10) + (options.zip64 ? elsewhere : number(offset, 4)) + name +
                 extra;
  }
  const uint64_t start = file.size();
  file += directory;
  if (options.zip64) {
    const uint64_t end = file.size();
    file += "PK\x06\x06" + number(44, 8) + number(0, 12) + number(records.size(), 8) + number(records.size(), 8) +
            number(directory.size(), 8) + number(start, 8);
    file += "PK\x06\x07" + number(0, 4) + number(end, 8) + number(1, 4);
  }
  const std::string count = options.zip64 ? std::string(2, '\xff') : number(records.size(), 2);
  return file + "PK\x05\x06" + number(0, 4) + count + count + number(directory.size(), 4) +
         (options.zip64 ? elsewhere : number(start, 4)) + number(0, 2);
}

float tiny_value(std::string_view name, int64_t index) {
  const int64_t start = std::accumulate(name.begin(), name.end(), int64_t{0}, [](int64_t sum, char c) {
    return (sum * 3 + static_cast<unsigned char>(c)) % 10007;
  });
  return static_cast<float>((start + 7 * index) % 31 - 15) / 8.0f;
}

std::string encode(const std::vector<float>& values, DType dtype) {
  std::string bytes;
  const auto put = [&](auto value) { bytes.append(reinterpret_cast<const char*>(&value), sizeof value); };
  for (const float value : values) {
    switch (dtype) {
      case DType::kFloat16: put(to_float16(value)); break;
      case DType::kBFloat16: put(to_bfloat16(value)); break;
      default: put(value);
    }
  }
  return bytes;
}

FileTensor tiny_tensor(const std::string& name, std::vector<int64_t> shape, DType dtype) {
  const int64_t count = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(tiny_value(name, i));
  return {name, file_type_name(dtype), std::move(shape), encode(values, dtype)};
}

std::string config_text(const ConfigFields& fields) {
  std::string text;
  for (const auto& [name, value] : fields) text += (text.empty() ? "{\"" : ",\n \"") + name + "\": " + value;
  return text + "}\n";
}

ConfigFields tiny_llama_config() {
  return {{"architectures", "[\"LlamaForCausalLM\"]"},
          {"vocab_size", "10"},
          {"hidden_size", "8"},
          {"intermediate_size", "12"},
          {"num_hidden_layers", "2"},
          {"num_attention_heads", "2"},
          {"num_key_value_heads", "1"},
          {"max_position_embeddings", "16"},
          {"rms_norm_eps", "1e-5"},
          {"eos_token_id", "2"}};
}

std::vector<FileTensor> tiny_llama_tensors(DType dtype) {
  std::vector<FileTensor> tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    tensors.push_back(tiny_tensor(name + ".weight", std::move(shape), dtype));
  };
  add("model.embed_tokens", {kTinyVocab, kTinyWidth});
  for (int64_t i = 0; i < kTinyLayers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    add(layer + "input_layernorm", {kTinyWidth});
    add(layer + "self_attn.q_proj", {8, kTinyWidth});
    add(layer + "self_attn.k_proj", {4, kTinyWidth});
    add(layer + "self_attn.v_proj", {4, kTinyWidth});
    add(layer + "self_attn.o_proj", {kTinyWidth, 8});
    add(layer + "post_attention_layernorm", {kTinyWidth});
    add(layer + "mlp.gate_proj", {kTinyFfn, kTinyWidth});
    add(layer + "mlp.up_proj", {kTinyFfn, kTinyWidth});
    add(layer + "mlp.down_proj", {kTinyWidth, kTinyFfn});
  }
  add("model.norm", {kTinyWidth});
  add("lm_head", {kTinyVocab, kTinyWidth});
  return tensors;
}

ConfigFields tiny_gpt2_config() {
  return {{"architectures", "[\"GPT2LMHeadModel\"]"},
          {"vocab_size", "10"},
          {"n_embd", "8"},
          {"n_inner", "12"},
          {"n_layer", "2"},
          {"n_head", "2"},
          {"n_positions", "16"}};
}

std::vector<FileTensor> tiny_gpt2_tensors(DType dtype, const std::string& prefix) {
  std::vector<FileTensor> tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    tensors.push_back(tiny_tensor(prefix + name, std::move(shape), dtype));
  };
  const auto add_both = [&](const std::string& name, std::vector<int64_t> shape) {
    add(name + ".bias", {shape.back()});
    add(name + ".weight", std::move(shape));
  };
  add("wte.weight", {kTinyVocab, kTinyWidth});
  add("wpe.weight", {kTinyPositions, kTinyWidth});
  for (int64_t i = 0; i < kTinyLayers; ++i) {
    const std::string layer = "h." + std::to_string(i) + ".";
    add_both(layer + "ln_1", {kTinyWidth});
    add(layer + "attn.bias", {1, 1, kTinyPositions, kTinyPositions});
    add(layer + "attn.masked_bias", {});
    add_both(layer + "attn.c_attn", {kTinyWidth, 3 * kTinyWidth});
    add_both(layer + "attn.c_proj", {kTinyWidth, kTinyWidth});
    add_both(layer + "ln_2", {kTinyWidth});
    add_both(layer + "mlp.c_fc", {kTinyWidth, kTinyFfn});
    add_both(layer + "mlp.c_proj", {kTinyFfn, kTinyWidth});
  }
  add_both("ln_f", {kTinyWidth});
  return tensors;
}

void write_model(const TemporaryFolder& folder, const ConfigFields& config, const std::vector<FileTensor>& tensors,
                 int padding) {
  folder.write("config.json", config_text(config));
  folder.write("model.safetensors", safetensors_bytes(tensors, padding));
}

}  // namespace quire
