#include <algorithm>
#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "core/refusal.h"
#include "gtest/gtest.h"
#include "weights/loader.h"
#include "weights/model_files.h"

namespace quire {
namespace {

constexpr ErrorKind kInvalid = ErrorKind::kInvalidArgument;
constexpr ErrorKind kUnsupported = ErrorKind::kUnsupported;
constexpr ErrorKind kNotFound = ErrorKind::kNotFound;

/// A whole tiny Llama before it is broken.
struct Model {
  ConfigFields config = tiny_llama_config();
  std::vector<FileTensor> tensors = tiny_llama_tensors(DType::kFloat32);

  FileTensor& tensor(const std::string& name) {
    return *std::find_if(tensors.begin(), tensors.end(), [&](const FileTensor& t) { return t.name == name; });
  }
  void remove(const std::string& name) {
    std::erase_if(tensors, [&](const FileTensor& t) { return t.name == name; });
  }
};

/// One way to break a folder, and what the refusal must say: the file, and the field or the tensor.
struct Breakage {
  std::string name;
  std::function<void(Model&)> change;                        ///< before the model is written
  std::function<void(const TemporaryFolder&)> change_files;  ///< afterwards
  ErrorKind kind = kInvalid;
  std::string file;
  std::string field;
};

void open_folder(const std::string& path) {
  const ModelFolder model = read_model_folder(path);
  check_weights(model, Checkpoint::open(path), std::nullopt);
}

void expect_refused(const Breakage& breakage) {
  SCOPED_TRACE(breakage.name);
  const TemporaryFolder folder;
  Model model;
  if (breakage.change) breakage.change(model);
  write_model(folder, model.config, model.tensors);
  if (breakage.change_files) breakage.change_files(folder);

  const auto start = std::chrono::steady_clock::now();
  const Refusal refusal = refusal_of([&] { open_folder(folder.path()); });
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
  EXPECT_EQ(refusal.kind, breakage.kind) << refusal.message;
  EXPECT_TRUE(refusal.names(breakage.file) && refusal.names(breakage.field)) << refusal.message;
}

/// Every required integer with every value that is none, and the other fields with what is absurd for them.
std::vector<Breakage> broken_fields() {
  std::vector<Breakage> cases;
  const auto set = [&](const std::string& field, const std::string& value, ErrorKind kind = kInvalid) {
    cases.push_back({.name = field + "=" + value,
                     .change = [=](Model& model) { model.config[field] = value; },
                     .kind = kind,
                     .file = "[config.json",
                     .field = field});
  };
  for (const char* field :
       {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}) {
    for (const char* value : {"-1", "0", "1099511627776", "9223372036854775808", "-9223372036854775808", "8.0", "1e2",
                              "\"8\"", "true", "[8]", "{}", "null"}) {
      set(field, value);
    }
    cases.push_back({.name = std::string("no ") + field,
                     .change = [=](Model& model) { model.config.erase(field); },
                     .file = "[config.json]",
                     .field = field});
  }
  for (const char* value : {"-1", "0", "3", "\"1\"", "1.5"}) set("num_key_value_heads", value);
  for (const char* value : {"-4", "0", "7", "1000000000", "\"4\""}) set("head_dim", value);
  for (const char* value : {"-1e-5", "2", "\"1e-5\"", "true"}) set("rms_norm_eps", value);
  for (const char* value : {"0", "-10000", "1", "1e300", "\"10000\""}) set("rope_theta", value);
  for (const char* value : {"0", "-16", "1099511627776", "16.5", "\"16\""}) set("max_position_embeddings", value);
  for (const char* value : {"\"linear\"", "[]", "4.0"}) set("rope_scaling", value);
  for (const char* value : {"1", "\"yes\"", "[]"}) set("tie_word_embeddings", value);
  for (const char* value : {"0", "\"false\""}) set("attention_bias", value);
  for (const char* value : {"5", "[]", "\"float128\""}) set("torch_dtype", value);
  for (const char* value : {"-1", "\"</s>\"", "1.5", "[2, \"x\"]", "[2, -7]", "99999999999"})
    set("eos_token_id", value);
  for (const char* value : {"5", "\"LlamaForCausalLM\"", "[5]", "[]", "null", "{}"}) set("architectures", value);
  set("hidden_act", "3");
  set("hidden_act", "\"softplus\"", kUnsupported);
  set("quantization_config", "[]");
  set("num_attention_heads", "3");  // divides no width
  set("rope_scaling", "{\"type\": 3, \"factor\": 2}");
  set("rope_scaling", "{\"type\": \"linear\", \"factor\": null}");
  set("rope_scaling", "{\"type\": \"linear\", \"factor\": -2}");
  set("rope_scaling", "{\"type\": \"linear\", \"factor\": 1e300}");
  set("rope_scaling", "{\"type\": \"cubic\", \"factor\": 2}", kUnsupported);
  return cases;
}

std::vector<Breakage> broken_json_files() {
  std::vector<Breakage> cases;
  for (const char* file : {"config.json", "generation_config.json"}) {
    const std::pair<const char*, std::string> texts[] = {
        {"empty", ""},
        {"truncated", "{\"architectures\": [\"Llama"},
        {"two documents", "{}{}"},
        {"no object", "[1, 2]"},
        {"NaN", "{\"rms_norm_eps\": NaN}"},
        {"infinite", "{\"rms_norm_eps\": 1e999}"},
        {"duplicate key", "{\"a\": 1, \"a\": 2}"},
        {"not UTF-8", "{\"a\": \"\xff\"}"},
        {"UTF-16", std::string("\xff\xfe{\0}\0", 6)},
        {"deep", std::string(100'000, '[')},
        {"binary", std::string(1'000, '\0')},
    };
    for (const auto& [name, text] : texts) {
      cases.push_back({.name = std::string(file) + ": " + name,
                       .change_files = [=](const TemporaryFolder& folder) { folder.write(file, text); },
                       .file = std::string("[") + file});
    }
  }
  const auto replace_config = [](const std::function<void(const std::string&)>& put) {
    return [=](const TemporaryFolder& folder) {
      std::filesystem::remove(folder.file("config.json"));
      put(folder.file("config.json"));
    };
  };
  cases.push_back({.name = "no config",
                   .change_files = replace_config([](const std::string&) {}),
                   .kind = kNotFound,
                   .file = "config.json"});
  cases.push_back(
      {.name = "config is a folder",
       .change_files = replace_config([](const std::string& path) { std::filesystem::create_directory(path); }),
       .file = "config.json"});
  cases.push_back(
      {.name = "config is a link to nothing",
       .change_files = replace_config([](const std::string& path) { std::filesystem::create_symlink("absent", path); }),
       .kind = kNotFound,
       .file = "config.json"});
  return cases;
}

std::vector<Breakage> misfitting_weights() {
  const std::string q = "model.layers.1.self_attn.q_proj.weight";
  const std::string embedding = "model.embed_tokens.weight";
  const auto with = [](std::string name, std::function<void(Model&)> change, std::string field) {
    return Breakage{
        .name = std::move(name), .change = std::move(change), .file = "model.safetensors", .field = std::move(field)};
  };
  const auto set = [](const char* field, const char* value) {
    return [=](Model& model) { model.config[field] = value; };
  };
  return {
      with(
          "tensor missing", [=](Model& m) { m.remove(q); }, q),
      with(
          "embedding missing", [=](Model& m) { m.remove(embedding); }, embedding),
      with(
          "head missing", [](Model& m) { m.remove("lm_head.weight"); }, "lm_head.weight"),
      with(
          "tensor left over", [](Model& m) { m.tensors.push_back(tiny_tensor("x", {1}, DType::kFloat32)); }, "'x'"),
      with(
          "name with a line break", [](Model& m) { m.tensors.push_back(tiny_tensor("x\\ny", {1}, DType::kFloat32)); },
          "'x\\ny'"),
      with(
          "bias left over",
          [](Model& m) {
            m.tensors.push_back(tiny_tensor("model.layers.0.self_attn.q_proj.bias", {8}, DType::kFloat32));
          },
          "q_proj.bias"),
      with(
          "all names with a prefix",
          [](Model& m) {
            for (FileTensor& tensor : m.tensors) tensor.name = "base." + tensor.name;
          },
          "base."),
      with(
          "rank 1 for a matrix", [=](Model& m) { m.tensor(q).shape = {64}; }, q),
      with(
          "rank 3 for a matrix", [=](Model& m) { m.tensor(q).shape = {1, 8, 8}; }, q),
      with(
          "matrix of other shape", [=](Model& m) { m.tensor(q).shape = {4, 16}; }, q),
      with(
          "rank 2 for a norm", [](Model& m) { m.tensor("model.norm.weight").shape = {1, 8}; }, "model.norm.weight"),
      with(
          "integers", [=](Model& m) { m.tensor(q).dtype = "I32"; }, q),
      with(
          "doubles",
          [=](Model& m) {
            m.tensor(q).dtype = "F64";
            m.tensor(q).data += m.tensor(q).data;
          },
          q),
      with(
          "parts of two types", [=](Model& m) { m.tensor(q) = tiny_tensor(q, {8, 8}, DType::kBFloat16); }, "q_proj"),
      with("vocabulary larger than the embedding", set("vocab_size", "12"), "[12, 8] (by vocab_size"),
      with("vocabulary smaller than the embedding", set("vocab_size", "9"), "[9, 8] (by vocab_size"),
      with("fewer layers than in the file", set("num_hidden_layers", "1"), "left over=9"),
      with("more layers than in the file", set("num_hidden_layers", "3"), "missing=9"),
      with("other width", set("hidden_size", "16"), "hidden_size"),
      with("other ffn width", set("intermediate_size", "16"), "intermediate_size"),
      with("other kv heads", set("num_key_value_heads", "2"), "num_key_value_heads"),
      with("other head size", set("head_dim", "8"), "head_dim"),
      with("biases that are not there", set("attention_bias", "true"), "q_proj.bias"),
      with(
          "no tensor at all", [](Model& m) { m.tensors.clear(); }, "missing=21"),
  };
}

/// What is done to the weight files once they are there.
std::vector<Breakage> broken_weight_files() {
  std::vector<Breakage> cases;
  const auto with = [&](std::string name, std::function<void(const TemporaryFolder&)> change, std::string file,
                        std::string said = "", ErrorKind kind = kInvalid) {
    cases.push_back({.name = std::move(name),
                     .change_files = std::move(change),
                     .kind = kind,
                     .file = std::move(file),
                     .field = std::move(said)});
  };
  const std::string st = "model.safetensors";
  const auto resize = [](const std::string& file, const std::function<size_t(size_t)>& size) {
    return [=](const TemporaryFolder& folder) {
      std::filesystem::resize_file(folder.file(file), size(std::filesystem::file_size(folder.file(file))));
    };
  };
  with("empty", resize(st, [](size_t) { return 0; }), st, "too short");
  with("seven bytes", resize(st, [](size_t) { return 7; }), st, "too short");
  with("half of the header", resize(st, [](size_t) { return 500; }), st, "truncated");
  with("half of the data", resize(st, [](size_t size) { return size - 2000; }), st, "truncated");
  with("last byte gone", resize(st, [](size_t size) { return size - 1; }), st, "truncated");
  with("one byte more", resize(st, [](size_t size) { return size + 1; }), st, "behind the last tensor");
  with(
      "pointer of git lfs",
      [=](const TemporaryFolder& f) { f.write(st, "version https://git-lfs.github.com/spec/v1\n"); }, st,
      "git lfs pull");
  with(
      "a folder",
      [=](const TemporaryFolder& f) {
        std::filesystem::remove(f.file(st));
        std::filesystem::create_directory(f.file(st));
      },
      st, "not a regular file");
  with(
      "no weights", [=](const TemporaryFolder& f) { std::filesystem::remove(f.file(st)); }, st, "no weights",
      kNotFound);
  with(
      "a link to nothing",
      [=](const TemporaryFolder& f) {
        std::filesystem::remove(f.file(st));
        std::filesystem::create_symlink("absent", f.file(st));
      },
      st, "no weights", kNotFound);

  // From here on the index counts, as the single file has moved to "shard".
  const std::string index = "model.safetensors.index.json";
  const auto with_index = [=](const std::string& text) {
    return [=](const TemporaryFolder& f) {
      std::filesystem::rename(f.file(st), f.file("shard"));
      f.write(index, text);
    };
  };
  with("index is no JSON", with_index("{"), index);
  with("index without a map", with_index("{}"), index, "weight_map");
  with("index with a list", with_index(R"({"weight_map": []})"), index, "weight_map");
  with("index with a number", with_index(R"({"weight_map": {"lm_head.weight": 1}})"), index, "lm_head.weight");
  with("index with an empty name", with_index(R"({"weight_map": {"lm_head.weight": ""}})"), index, "lm_head.weight");
  with("index leading out", with_index(R"({"weight_map": {"lm_head.weight": "../shard"}})"), index, "'../shard'");
  with("index with a path", with_index(R"({"weight_map": {"lm_head.weight": "/etc/passwd"}})"), index, "/etc/passwd");
  with("index with a NUL", with_index(R"({"weight_map": {"lm_head.weight": "shard\u0000x"}})"), index, "\\x00");
  with("index with a folder", with_index(R"({"weight_map": {"lm_head.weight": ".."}})"), index, "'..'");
  with("shard missing", with_index(R"({"weight_map": {"lm_head.weight": "absent"}})"), index, "'absent'", kNotFound);
  with("tensor missing from its shard", with_index(R"({"weight_map": {"nonsense": "shard"}})"), index, "'nonsense'");
  with("empty map", with_index(R"({"weight_map": {}})"), "", "missing=21");
  with(
      "tensor in two shards",
      [=](const TemporaryFolder& f) {
        with_index(R"({"weight_map": {"lm_head.weight": "shard", "model.norm.weight": "copy"}})")(f);
        std::filesystem::copy_file(f.file("shard"), f.file("copy"));
      },
      "shard", "tensor twice");
  with(
      "tensor in another shard",
      [=](const TemporaryFolder& f) {
        with_index(R"({"weight_map": {"lm_head.weight": "other", "model.norm.weight": "shard"}})")(f);
        f.write("other", safetensors_bytes(std::vector<FileTensor>{}));
      },
      index, "lm_head.weight");

  const std::string bin = "pytorch_model.bin";
  const auto with_bin = [=](const std::string& contents) {
    return [=](const TemporaryFolder& f) {
      std::filesystem::remove(f.file(st));
      f.write(bin, contents);
    };
  };
  with("bin of old torch", with_bin(read_text_file(data_path("pytorch/legacy.bin"))), bin, "safetensors");
  with("bin that is empty", with_bin(""), bin, "not a zip file");
  with("bin that is truncated", with_bin(read_text_file(data_path("pytorch/state_dict.bin")).substr(0, 2000)), bin,
       "truncated");
  with("bin with code", with_bin(zip_bytes({{"m/data.pkl", "cos\nsystem\nX\4\0\0\0true\x85R."}})), bin, "os.system");
  with("bin of other tensors", with_bin(read_text_file(data_path("pytorch/state_dict.bin"))), bin, "missing=21");
  return cases;
}

TEST(BrokenFolders, every_kind_is_refused_in_one_line_that_names_file_and_field) {
  size_t count = 0;
  for (const auto& list : {broken_fields(), broken_json_files(), misfitting_weights(), broken_weight_files()}) {
    for (const Breakage& breakage : list) expect_refused(breakage);
    count += list.size();
  }
  EXPECT_GE(count, 150u);
  RecordProperty("kinds", static_cast<int>(count));
}

TEST(BrokenFolders, the_folder_that_they_are_made_from_is_whole) {
  const TemporaryFolder folder;
  const Model model;
  write_model(folder, model.config, model.tensors);
  EXPECT_NO_THROW(open_folder(folder.path()));
}

}  // namespace
}  // namespace quire
