#include "kernels_hip/topology.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "core/temporary_folder.h"

namespace quire::gpu {
namespace {

void add_node(const TemporaryFolder& folder, int node, const std::string& properties) {
  std::filesystem::create_directory(folder.file(std::to_string(node)));
  folder.write(std::to_string(node) + "/properties", properties);
}

TEST(TopologyTest, targets_are_named_as_the_compiler_names_them) {
  const TemporaryFolder folder;
  add_node(folder, 0, "cpu_cores_count 64\nsimd_count 0\ngfx_target_version 0\n");
  add_node(folder, 1, "cpu_cores_count 0\nsimd_count 440\ngfx_target_version 90010\nvendor_id 4098\n");
  add_node(folder, 2, "gfx_target_version 90402\n");
  add_node(folder, 3, "gfx_target_version 100300\n");
  add_node(folder, 4, "gfx_target_version 110001\nunique_id 18446744073709551615\n");
  EXPECT_EQ(gpu_targets(folder.path()), (std::vector<std::string>{"gfx90a", "gfx942", "gfx1030", "gfx1101"}));
}

TEST(TopologyTest, without_a_driver_or_with_a_file_that_makes_no_sense_there_are_none) {
  const TemporaryFolder folder;
  EXPECT_TRUE(gpu_targets(folder.path()).empty());
  EXPECT_TRUE(gpu_targets(folder.file("nowhere")).empty());
  add_node(folder, 0, "");
  add_node(folder, 1, "gfx_target_version many\n\xff\n");
  EXPECT_TRUE(gpu_targets(folder.path()).empty());
}

}  // namespace
}  // namespace quire::gpu
