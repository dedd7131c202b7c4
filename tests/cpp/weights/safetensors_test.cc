#include <cstring>
#include <memory>
#include <string>

#include "core/mutation.h"
#include "core/refusal.h"
#include "gtest/gtest.h"
#include "weights/elements.h"
#include "weights/file_formats.h"
#include "weights/model_files.h"

namespace quire {
namespace {

std::vector<NamedTensor> read(const std::string& file) {
  return read_safetensors(std::as_bytes(std::span(file)), "a.safetensors");
}

TEST(Safetensors, gives_views_of_every_type) {
  const std::string file = safetensors_bytes({{"f32", "F32", {2, 1}, encode({1.5f, -2.0f}, DType::kFloat32)},
                                              {"bf16", "BF16", {2}, encode({1.5f, -2.0f}, DType::kBFloat16)},
                                              {"f16", "F16", {1, 2}, encode({1.5f, -2.0f}, DType::kFloat16)},
                                              {"i64", "I64", {1}, std::string(8, '\1')},
                                              {"mask", "BOOL", {1, 1, 2, 2}, std::string(4, '\1')},
                                              {"scalar", "F32", {}, encode({7.0f}, DType::kFloat32)},
                                              {"empty", "F32", {0, 3}, ""}});
  const std::vector<NamedTensor> tensors = read(file);
  ASSERT_EQ(tensors.size(), 7u);
  for (const auto& [name, tensor] : tensors) {
    SCOPED_TRACE(name);
    std::vector<float> values;
    if (name == "f32" || name == "bf16" || name == "f16") {
      append_as_float(tensor, values);
      EXPECT_EQ(values, (std::vector<float>{1.5f, -2.0f}));
    } else if (name == "scalar") {
      append_as_float(tensor, values);
      EXPECT_EQ(values, std::vector<float>{7.0f});
      EXPECT_EQ(tensor.rank, 1);
    } else if (name == "mask") {
      EXPECT_EQ(tensor.rank, 4);
      EXPECT_EQ(tensor.dtype, DType::kBool);
    } else if (name == "empty") {
      EXPECT_EQ(tensor.size(), 0);
    }
  }
}

TEST(Safetensors, a_file_without_tensors_is_no_error) {
  EXPECT_TRUE(read(safetensors_bytes("{}", "")).empty());
  EXPECT_TRUE(read(safetensors_bytes(R"({"__metadata__": {"a": "b"}}   )", "")).empty());
}

TEST(Safetensors, reads_tensors_that_are_not_aligned) {
  for (int padding = 0; padding < 8; ++padding) {
    const std::string file =
        safetensors_bytes({{"a", "U8", {1}, "x"}, tiny_tensor("b", {3, 5}, DType::kFloat32)}, padding);
    for (const auto& [name, tensor] : read(file)) {
      if (name != "b") continue;
      std::vector<float> values;
      append_as_float(tensor, values);
      for (int64_t i = 0; i < 15; ++i) EXPECT_EQ(values[i], tiny_value("b", i));
    }
  }
}

struct BrokenHeader {
  const char* entry;  ///< header entries; the data has 8 bytes
  const char* said;
  ErrorKind kind = ErrorKind::kInvalidArgument;
};

TEST(Safetensors, broken_entries_are_refused_naming_file_tensor_and_problem) {
  const BrokenHeader cases[] = {
      {R"("a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]})", "shape and size disagree"},
      {R"("a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]})", "shape and size disagree"},
      {R"("a": {"dtype": "F16", "shape": [2], "data_offsets": [0, 8]})", "shape and size disagree"},
      {R"("a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]})",
       "shape and size disagree"},
      {R"("a": {"dtype": "F32", "shape": [4611686018427387904, 2], "data_offsets": [0, 8]})",
       "shape and size disagree"},
      {R"("a": {"dtype": "F32", "shape": [9223372036854775807], "data_offsets": [0, 8]})", "shape and size disagree"},
      {R"("a": {"dtype": "F32", "shape": [9223372036854775808], "data_offsets": [0, 8]})", "natural number"},
      {R"("a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]})", "natural number"},
      {R"("a": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]})", "natural number"},
      {R"("a": {"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]})", "natural number"},
      {R"("a": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]})", "shape is missing or no list"},
      {R"("a": {"dtype": "F32", "data_offsets": [0, 8]})", "shape is missing"},
      {R"("a": {"shape": [2], "data_offsets": [0, 8]})", "dtype is missing"},
      {R"("a": {"dtype": 32, "shape": [2], "data_offsets": [0, 8]})", "dtype is missing"},
      {R"("a": {"dtype": "F32", "shape": [2]})", "data_offsets is missing"},
      {R"("a": {"dtype": "F32", "shape": [2], "data_offsets": [0]})", "no pair"},
      {R"("a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]})", "no pair"},
      {R"("a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]})", "ascending"},
      {R"("a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]})", "natural number"},
      {R"("a": {"dtype": "f32", "shape": [2], "data_offsets": [0, 8]})", "unknown element type",
       ErrorKind::kUnsupported},
      {R"("a": {"dtype": "U64", "shape": [1], "data_offsets": [0, 8]})", "unknown element type",
       ErrorKind::kUnsupported},
      {R"("a": {"dtype": "F32", "shape": [1,1,1,1,2], "data_offsets": [0, 8]})", "too many dimensions",
       ErrorKind::kUnsupported},
      {R"("a": [1])", "no object"},
      {R"("a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]})", "behind a gap"},
      {R"("a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]})", "outside the file"},
      {R"("b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
          "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]})",
       "overlaps"},
      {R"("b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
          "a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]})",
       "overlaps"},
      {R"("b": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]},
          "a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]})",
       "behind a gap"},
      {R"("a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
          "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]})",
       "duplicate key 'a'"},
      {R"("a": {"dtype": "F32", "dtype": "F16", "shape": [2], "data_offsets": [0, 8]})", "duplicate key 'dtype'"},
  };
  for (const BrokenHeader& broken : cases) {
    SCOPED_TRACE(broken.entry);
    const Refusal refusal =
        refusal_of([&] { read(safetensors_bytes("{" + std::string(broken.entry) + "}", std::string(8, 'x'))); });
    EXPECT_EQ(refusal.kind, broken.kind) << refusal.message;
    EXPECT_TRUE(refusal.names("a.safetensors") && refusal.names(broken.said)) << refusal.message;
    EXPECT_TRUE(refusal.names("JSON") || refusal.names("'a'")) << refusal.message;
  }
}

TEST(Safetensors, broken_headers_are_refused) {
  const std::string good = safetensors_bytes({tiny_tensor("a", {4}, DType::kFloat32)});
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "too short"},
      {good.substr(0, 7), "too short"},
      {good.substr(0, 8), "outside the file"},
      {good.substr(0, 40), "outside the file"},
      {good.substr(0, good.size() - 1), "truncated"},
      {good + "x", "behind the last tensor"},
      {std::string("\x01\xe1\xf5\x05\0\0\0\0", 8) + good, "header too large"},  // 100,000,001
      {std::string(8, '\xff') + good, "header too large"},
      {safetensors_bytes("[1]", ""), "no object"},
      {safetensors_bytes("{\"a\": ", ""), "not valid JSON"},
      {safetensors_bytes("", ""), "not valid JSON"},
      {safetensors_bytes("{\"__metadata__\": {\"a\": [[[[1]]]]}}", ""), "nested too deeply"},
      {safetensors_bytes("{} {}", ""), "more text"},
  };
  for (const auto& [file, said] : cases) {
    SCOPED_TRACE(said);
    const Refusal refusal = refusal_of([&] { read(file); });
    EXPECT_EQ(refusal.kind, ErrorKind::kInvalidArgument);
    EXPECT_TRUE(refusal.names("a.safetensors") && refusal.names(said)) << refusal.message;
  }
}

int one_input(const uint8_t* data, size_t size) {
  // Memory of just this size, so that a sanitizer sees every byte that is read beyond it.
  const auto exact = std::make_unique<std::byte[]>(size);
  std::memcpy(exact.get(), data, size);
  expect_read_or_refused([&] {
    std::vector<std::byte> copy;
    for (const NamedTensor& entry : read_safetensors({exact.get(), size}, "input")) contiguous_copy(entry.tensor, copy);
  });
  return 0;
}

TEST(Safetensors, survives_mutations) {
  const std::vector<std::string> seeds = {
      safetensors_bytes({tiny_tensor("a", {2, 3}, DType::kFloat32), tiny_tensor("b", {4}, DType::kBFloat16)}),
      safetensors_bytes({{"mask", "BOOL", {1, 1, 2, 2}, std::string(4, '\1')}, {"e", "F32", {0}, ""}}, 3)};
  const std::vector<std::string> tokens = {
      "0", "-1", "9223372036854775807", "4294967296", "[", "]", "\"I64\"", "\"F16\"", "[0,0]", "{}", "\"a\"", ","};
  run_mutations(Mutator(seeds, tokens, 2), 50'000, one_input);
}

}  // namespace
}  // namespace quire
