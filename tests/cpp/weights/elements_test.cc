#include "weights/elements.h"

#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "weights/layout.h"
#include "weights/model_files.h"

namespace quire {
namespace {

TEST(Layout, bytes_reach_to_the_last_element_and_never_overflow) {
  EXPECT_EQ(layout_bytes(contiguous_layout(DType::kFloat32, std::vector<int64_t>{2, 3})), 24);
  EXPECT_EQ(layout_bytes(contiguous_layout(DType::kFloat32, std::vector<int64_t>{})), 4);
  EXPECT_EQ(layout_bytes(contiguous_layout(DType::kFloat32, std::vector<int64_t>{0, 5})), 0);
  EXPECT_EQ(layout_bytes(contiguous_layout(DType::kFloat32, std::vector<int64_t>{INT64_MAX, 4, 0})), std::nullopt);
  EXPECT_EQ(layout_bytes(contiguous_layout(DType::kFloat64, std::vector<int64_t>{INT64_MAX / 8})), INT64_MAX / 8 * 8);
  EXPECT_EQ(layout_bytes(contiguous_layout(DType::kFloat64, std::vector<int64_t>{INT64_MAX / 8 + 1})), std::nullopt);
  Tensor strided = contiguous_layout(DType::kFloat16, std::vector<int64_t>{3, 2});
  strided.strides = {10, 4};
  EXPECT_EQ(layout_bytes(strided), 2 * (2 * 10 + 4 + 1));
  strided.strides[0] = INT64_MAX / 2;
  EXPECT_EQ(layout_bytes(strided), std::nullopt);
}

TEST(Layout, shapes_are_written_as_in_python) {
  EXPECT_EQ(shape_text(std::vector<int64_t>{}), "[]");
  EXPECT_EQ(shape_text(contiguous_layout(DType::kFloat32, std::vector<int64_t>{2, 30, 4})), "[2, 30, 4]");
}

/// Elements 0 to 5 as a [2, 3] matrix, at an odd address.
class Elements : public testing::TestWithParam<DType> {
 protected:
  Elements() : bytes_("x" + encode({0, 1, 2, 3, 4, 5}, GetParam())) {
    matrix_ = contiguous_layout(GetParam(), std::vector<int64_t>{2, 3});
    matrix_.data = bytes_.data() + 1;
  }
  std::string bytes_;
  Tensor matrix_;
};

TEST_P(Elements, misaligned_ones_are_copied_to_aligned_memory) {
  EXPECT_FALSE(is_aligned(matrix_));
  EXPECT_TRUE(is_contiguous(matrix_));
  std::vector<std::byte> memory;
  const Tensor copy = contiguous_copy(matrix_, memory);
  EXPECT_TRUE(is_aligned(copy));
  EXPECT_EQ(std::memcmp(copy.data, bytes_.data() + 1, bytes_.size() - 1), 0);
}

TEST_P(Elements, strided_ones_come_in_row_major_order) {
  Tensor transposed = matrix_;
  std::swap(transposed.shape[0], transposed.shape[1]);
  std::swap(transposed.strides[0], transposed.strides[1]);
  EXPECT_FALSE(is_contiguous(transposed));
  std::vector<float> values;
  append_as_float(transposed, values);
  EXPECT_EQ(values, (std::vector<float>{0, 3, 1, 4, 2, 5}));
  std::vector<std::byte> memory;
  values.clear();
  append_as_float(contiguous_copy(transposed, memory), values);
  EXPECT_EQ(values, (std::vector<float>{0, 3, 1, 4, 2, 5}));
}

TEST_P(Elements, conversion_keeps_values_that_fit) {
  for (const DType to : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    std::vector<std::byte> memory;
    const Tensor converted = converted_copy(matrix_, to, memory);
    EXPECT_EQ(converted.dtype, to);
    std::vector<float> values;
    append_as_float(converted, values);
    EXPECT_EQ(values, (std::vector<float>{0, 1, 2, 3, 4, 5}));
  }
}

INSTANTIATE_TEST_SUITE_P(types, Elements, testing::Values(DType::kFloat32, DType::kFloat16, DType::kBFloat16));

TEST(ElementsOfRank4, are_visited_in_order) {
  const std::string bytes = encode({0, 1, 2, 3, 4, 5, 6, 7}, DType::kFloat32);
  Tensor tensor = contiguous_layout(DType::kFloat32, std::vector<int64_t>{2, 1, 2, 2});
  tensor.data = const_cast<char*>(bytes.data());
  std::swap(tensor.strides[0], tensor.strides[3]);
  std::vector<float> values;
  append_as_float(tensor, values);
  EXPECT_EQ(values, (std::vector<float>{0, 4, 2, 6, 1, 5, 3, 7}));
}

}  // namespace
}  // namespace quire
