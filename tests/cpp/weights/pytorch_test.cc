#include <cstring>
#include <map>
#include <memory>
#include <string>

#include "core/mapped_file.h"
#include "core/mutation.h"
#include "core/refusal.h"
#include "gtest/gtest.h"
#include "weights/elements.h"
#include "weights/file_formats.h"
#include "weights/model_files.h"
#include "weights/pickle.h"
#include "weights/zip_archive.h"

namespace quire {
namespace {

std::vector<NamedTensor> read(const std::string& file) {
  return read_pytorch(std::as_bytes(std::span(file)), "a.bin");
}

std::vector<float> floats(const Tensor& tensor) {
  std::vector<float> values;
  append_as_float(tensor, values);
  return values;
}

// A pickle is written here as in pickletools: opcodes, with texts by BINUNICODE.
std::string text(const std::string& value) {
  return "X" + std::string(1, static_cast<char>(value.size())) + std::string(3, '\0') + value;
}
const std::string kProto = "\x80\x02";
const std::string kStorage = "(" + text("storage") + "ctorch\nFloatStorage\n" + text("0") + text("cpu") + "K\x06tQ";
const std::string kRebuild = "ctorch._utils\n_rebuild_tensor_v2\n";
const std::string kEnd =
    "\x89"
    "ccollections\nOrderedDict\n)RtR";  // requires_grad, hooks, call

/// A tensor over a storage of six floats, by the opcodes of its offset, sizes and strides.
std::string tensor(const std::string& layout) {
  return kRebuild + "(" + kStorage + layout + kEnd;
}
const std::string kGood = std::string("K\0", 2) + "K\x02K\x03\x86K\x03K\x01\x86";

std::string file_of(const std::string& pickle,
                    const std::string& storage = encode({0, 1, 2, 3, 4, 5}, DType::kFloat32)) {
  return zip_bytes({{"model/data.pkl", pickle}, {"model/data/0", storage}});
}

std::string dict_of(const std::string& value) {
  return kProto + "}" + text("w") + value + "s.";
}

TEST(PytorchBin, reads_what_torch_saves) {
  for (const char* name : {"state_dict.bin", "protocol_4.bin"}) {
    SCOPED_TRACE(name);
    const std::string file = read_text_file(data_path("pytorch/" + std::string(name)));
    std::map<std::string, Tensor> tensors;
    for (const NamedTensor& entry : read(file)) tensors[entry.name] = entry.tensor;
    ASSERT_EQ(tensors.size(), 11u);
    EXPECT_EQ(floats(tensors["parameter"]), (std::vector<float>{0, 1, 2, 3, 4, 5}));
    EXPECT_EQ(tensors["parameter"].shape[1], 3);
    EXPECT_EQ(floats(tensors["transposed"]), (std::vector<float>{0, 3, 1, 4, 2, 5}));
    EXPECT_EQ(tensors["transposed"].shape[0], 3);
    EXPECT_EQ(tensors["whole"].size(), 12);
    EXPECT_EQ(floats(tensors["slice"]), (std::vector<float>{4, 5, 6, 7}));
    EXPECT_EQ(floats(tensors["every_second"]), (std::vector<float>{1, 3, 5, 7, 9, 11}));
    EXPECT_EQ(floats(tensors["in_float16"]), (std::vector<float>{1.5f, -2.0f}));
    EXPECT_EQ(floats(tensors["in_bfloat16"]), (std::vector<float>{1.5f, -2.0f}));
    EXPECT_EQ(tensors["in_int64"].dtype, DType::kInt64);
    EXPECT_EQ(tensors["in_bool"].dtype, DType::kBool);
    EXPECT_EQ(floats(tensors["scalar"]), std::vector<float>{7});
    EXPECT_EQ(tensors["empty"].size(), 0);
  }
}

TEST(PytorchBin, the_hand_made_file_of_these_tests_is_a_good_one) {
  const std::string file = file_of(dict_of(tensor(kGood)));
  const std::vector<NamedTensor> tensors = read(file);
  ASSERT_EQ(tensors.size(), 1u);
  EXPECT_EQ(tensors[0].name, "w");
  EXPECT_EQ(floats(tensors[0].tensor), (std::vector<float>{0, 1, 2, 3, 4, 5}));
}

TEST(PytorchBin, reads_zip_files_with_64_bit_sizes) {
  const std::string file = zip_bytes(
      {{"model/data/0", encode({0, 1, 2, 3, 4, 5}, DType::kFloat32)}, {"model/data.pkl", dict_of(tensor(kGood))}},
      {.zip64 = true});
  EXPECT_EQ(floats(read(file).at(0).tensor), (std::vector<float>{0, 1, 2, 3, 4, 5}));
  // One record's size, as the directory has it, made too large.
  for (const size_t at : {file.rfind("PK\x01\x02") + 46 + std::string("model/data.pkl").size() + 9,
                          file.rfind("PK\x06\x06") + 48, file.rfind("PK\x06\x07") + 8}) {
    std::string broken = file;
    broken.replace(at, 8, std::string(8, '\xff'));
    EXPECT_EQ(refusal_of([&] { read(broken); }).kind, ErrorKind::kInvalidArgument);
  }
}

TEST(PytorchBin, the_format_of_old_versions_is_refused_with_advice) {
  const std::string file = read_text_file(data_path("pytorch/legacy.bin"));
  const Refusal refusal = refusal_of([&] { read(file); });
  EXPECT_EQ(refusal.kind, ErrorKind::kInvalidArgument);
  EXPECT_TRUE(refusal.names("a.bin") && refusal.names("torch before 1.6") && refusal.names("safetensors"))
      << refusal.message;
}

TEST(PytorchBin, pickles_that_name_anything_but_tensors_are_refused_and_nothing_is_run) {
  const std::pair<std::string, std::string> cases[] = {
      {"cos\nsystem\n" + text("touch canary") + "\x85R.", "os.system"},
      {"cposix\nsystem\n" + text("touch canary") + "\x85R.", "posix.system"},
      {"cbuiltins\neval\n" + text("1") + "\x85R.", "builtins.eval"},
      {"cbuiltins\nexec\n" + text("1") + "\x85R.", "builtins.exec"},
      {"c__builtin__\ngetattr\n.", "__builtin__.getattr"},
      {"csubprocess\nPopen\n.", "subprocess.Popen"},
      {"cnumpy.core.multiarray\n_reconstruct\n.", "numpy.core.multiarray._reconstruct"},
      {"ctorch.serialization\nload\n.", "torch.serialization.load"},
      {"ctorch._utils\n_rebuild_sparse_tensor\n.", "torch._utils._rebuild_sparse_tensor"},
      {"ctorch._utils\n_rebuild_tensor_v2 \n.", "torch._utils._rebuild_tensor_v2 "},
      {"ctorch\nFloatStorage.__init__\n.", "torch.FloatStorage.__init__"},
      {"ccodecs\nencode\n.", "codecs.encode"},
      {"cconvincing\nname\xff\n.", "convincing.name\\xff"},
      {text("os") + text("system") + "\x93.", "os.system"},
      {dict_of("cos\nsystem\n").substr(2), "os.system"},
      {"(ios\nsystem\n.", "opcode 105"},                    // INST
      {"(cos\nsystem\no.", "os.system"},                    // OBJ
      {"ccollections\nOrderedDict\n)\x81.", "opcode 129"},  // NEWOBJ
      {"\x82\x01.", "opcode 130"},                          // EXT1
      {"Pos.system\n.", "opcode 80"},                       // PERSID
      {"c\n\n.", "global='.'"},
  };
  for (const auto& [pickle, named] : cases) {
    SCOPED_TRACE(testing::PrintToString(pickle));
    const Refusal refusal = refusal_of([&] { read(file_of(kProto + pickle)); });
    EXPECT_EQ(refusal.kind, ErrorKind::kInvalidArgument);
    EXPECT_TRUE(refusal.names("a.bin") && refusal.names(named) && refusal.names("safetensors")) << refusal.message;
  }
}

TEST(PytorchBin, broken_pickles_are_refused) {
  const std::string zero("K\0", 2);
  const std::string cases[] = {
      "",
      kProto,
      kProto + "}",
      kProto + ".",
      kProto + "N.",
      kProto + "K\x01.",
      kProto + "(.",
      kProto + "t.",
      kProto + "s.",
      kProto + "u.",
      kProto + "}(K\x01u.",
      kProto + "}(s.",
      kProto + "\x86.",
      kProto + "h\x05.",
      kProto + "j\xff\xff\xff\xff.",
      kProto + "q\x01.",
      kProto +
          "X\xff\xff\xff\x7f"
          "abc.",
      kProto +
          "\x8c\xff"
          "abc.",
      kProto +
          "\x8a\x09"
          "123456789.",
      kProto + "\x8a\xff.",
      kProto + "cos",
      kProto + "cos\nsys",
      kProto + "\x93.",
      kProto + "NQ.",
      kProto + ")Q.",
      kProto + "(" + text("storage") + "NNNNtQ.",
      kProto + "ccollections\nOrderedDict\nNR.",
      kProto + "ccollections\nOrderedDict\nK\x01\x85R.",
      kProto + "N)R.",
      kProto + kRebuild + ")R.",
      kProto + "ctorch._utils\n_rebuild_parameter\n)R.",
      kProto + "Nb.",
      kProto + "NNb.",
      dict_of("N"),
      dict_of("}"),
      dict_of("K\x01"),
      kProto + "}K\x01" + tensor(kGood) + "s.",
      dict_of(tensor(std::string("J\xff\xff\xff\xff", 5) + "K\x06\x85K\x01\x85")),       // offset -1
      dict_of(tensor(zero + "J\xff\xff\xff\xff\x85K\x01\x85")),                          // size -1
      dict_of(tensor(zero + "K\x06\x85J\xff\xff\xff\xff\x85")),                          // stride -1
      dict_of(tensor(zero + "K\x06\x85K\x01K\x01\x86")),                                 // ranks differ
      dict_of(tensor(zero + "(K\x01K\x01K\x01K\x01K\x06t(K\x01K\x01K\x01K\x01K\x01t")),  // rank 5
      dict_of(tensor("K\x01"
                     "K\x06\x85K\x01\x85")),                                            // one too far
      dict_of(tensor(zero + "K\x04\x85K\x02\x85")),                                     // stride reaches too far
      dict_of(tensor("K\x07" + zero + "\x85K\x01\x85")),                                // empty, but outside
      dict_of(tensor(zero + "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85K\x01\x85")),  // 2^63 - 1 elements
      dict_of(tensor(zero + "K\x02\x85\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85")),  // stride 2^63 - 1
      dict_of(tensor("\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\x06\x85K\x01\x85")),    // offset 2^63 - 1
      dict_of(tensor(zero + "\x8a\x05" + std::string("\0\0\0\0\x01", 5) + "\x8a\x05" + std::string("\0\0\0\0\x01", 5) +
                     "\x86" + zero + zero + "\x86")),  // 2^64 elements of stride 0
  };
  for (const std::string& pickle : cases) {
    SCOPED_TRACE(testing::PrintToString(pickle));
    const Refusal refusal = refusal_of([&] { read(file_of(pickle)); });
    EXPECT_EQ(refusal.kind, ErrorKind::kInvalidArgument) << refusal.message;
    EXPECT_TRUE(refusal.names("[a.bin]")) << refusal.message;
  }
}

TEST(PytorchBin, broken_zip_files_are_refused) {
  const std::string pickle = dict_of(tensor(kGood));
  const std::string good = file_of(pickle);
  const std::string floats(24, '\0');
  const std::pair<std::string, std::string> cases[] = {
      {"", "not a zip file"},
      {"PK\x03\x04", "not a zip file"},
      {good.substr(0, good.size() - 1), "no directory"},
      {good.substr(0, good.size() / 2), "no directory"},
      {good.substr(0, 4) + good.substr(good.size() - 60), "points outside itself"},
      {zip_bytes({{"m/data.pkl", pickle}, {"m/data/0", floats}}, {.method = 8}), "compressed record"},
      {zip_bytes({{"m/data/0", floats}}), "record missing from the zip file: record='data.pkl'"},
      {zip_bytes({{"m/data.pkl", pickle}}), "record='data/0'"},
      {zip_bytes({{"m/data.pkl", pickle}, {"m/data/0", floats.substr(1)}}), "storage shorter"},
      {zip_bytes({{"m/data.pkl", pickle}, {"m/data/0", floats}, {"m/data/0", floats}}), "record twice"},
      {zip_bytes({{"m/data.pkl", pickle}, {"m/data/0", floats}, {"m/byteorder", "big"}}), "byte order"},
  };
  for (const auto& [file, said] : cases) {
    SCOPED_TRACE(said);
    const Refusal refusal = refusal_of([&] { read(file); });
    EXPECT_EQ(refusal.kind, ErrorKind::kInvalidArgument) << refusal.message;
    EXPECT_TRUE(refusal.names("[a.bin]") && refusal.names(said)) << refusal.message;
  }
}

TEST(PytorchBin, a_pickle_takes_time_linear_in_its_size) {
  // A shape of a million sizes, used a thousand times.
  std::string pickle = kProto + "(";
  for (int i = 0; i < 1'000'000; ++i) pickle += "K\x01";
  pickle += "tq\x01";
  for (int i = 0; i < 1'000; ++i) pickle += kRebuild + "(" + kStorage + "K\x01h\x01h\x01" + kEnd;
  EXPECT_EQ(refusal_of([&] { read(file_of(pickle)); }).kind, ErrorKind::kInvalidArgument);
}

int one_file(const uint8_t* data, size_t size) {
  // Memory of just this size, so that a sanitizer sees every byte that is read beyond it.
  const auto exact = std::make_unique<std::byte[]>(size);
  std::memcpy(exact.get(), data, size);
  expect_read_or_refused([&] {
    std::vector<std::byte> copy;
    for (const NamedTensor& entry : read_pytorch({exact.get(), size}, "input")) {
      if (entry.tensor.size() < 1'000'000) contiguous_copy(entry.tensor, copy);  // strides of 0 can repeat elements
    }
  });
  return 0;
}

int one_pickle(const uint8_t* data, size_t size) {
  expect_read_or_refused([&] { read_pickled_tensors({reinterpret_cast<const char*>(data), size}, "input"); });
  return 0;
}

const std::vector<std::string> kTokens = {"K\xff",
                                          "J\xff\xff\xff\xff",
                                          "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
                                          ")",
                                          "(",
                                          "t",
                                          "R",
                                          "Q",
                                          "\x86",
                                          "q\x01",
                                          "h\x01",
                                          "}",
                                          "u",
                                          "s",
                                          "PK\x01\x02",
                                          "PK\x05\x06",
                                          std::string(8, '\xff'),
                                          std::string(4, '\0')};

TEST(PytorchBin, files_survive_mutations) {
  const std::vector<std::string> seeds = {
      read_text_file(data_path("pytorch/state_dict.bin")), read_text_file(data_path("pytorch/protocol_4.bin")),
      file_of(dict_of(tensor(kGood))),
      zip_bytes({{"m/data.pkl", dict_of(tensor(kGood))}, {"m/data/0", encode({0, 1, 2, 3, 4, 5}, DType::kFloat32)}},
                {.zip64 = true})};
  run_mutations(Mutator(seeds, kTokens, 3), 20'000, one_file);
}

TEST(PytorchBin, pickles_survive_mutations) {
  std::vector<std::string> seeds = {dict_of(tensor(kGood))};
  for (const char* name : {"state_dict.bin", "protocol_4.bin"}) {
    const std::string file = read_text_file(data_path("pytorch/" + std::string(name)));
    for (const ZipRecord& record : read_zip(std::as_bytes(std::span(file)), name)) {
      if (!record.name.ends_with("data.pkl")) continue;
      seeds.emplace_back(reinterpret_cast<const char*>(record.bytes.data()), record.bytes.size());
    }
  }
  ASSERT_EQ(seeds.size(), 3u);
  run_mutations(Mutator(seeds, kTokens, 4), 20'000, one_pickle);
}

}  // namespace
}  // namespace quire
