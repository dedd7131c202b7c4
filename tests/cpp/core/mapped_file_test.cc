#include "core/mapped_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <utility>

#include "core/temporary_folder.h"
#include "gtest/gtest.h"
#include "quire/error.h"

namespace quire {
namespace {

ErrorKind kind_of_error(const auto& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.kind();
  }
  ADD_FAILURE() << "nothing was refused";
  return ErrorKind::kInternal;
}

std::string text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST(MappedFile, shows_the_whole_file) {
  const TemporaryFolder folder;
  const MappedFile file(folder.write("a", "some bytes"));
  EXPECT_EQ(text_of(file), "some bytes");
  EXPECT_EQ(file.path(), folder.file("a"));
  EXPECT_NO_THROW(file.check_unchanged());
}

TEST(MappedFile, an_empty_file_is_an_empty_view) {
  const TemporaryFolder folder;
  const MappedFile file(folder.write("a", ""));
  EXPECT_TRUE(file.bytes().empty());
  file.drop(0, 10);
  file.will_need(0, 10);
  file.bring_in(0, 10);
}

TEST(MappedFile, tells_missing_files_from_unreadable_ones) {
  const TemporaryFolder folder;
  EXPECT_EQ(kind_of_error([&] { MappedFile file(folder.file("absent")); }), ErrorKind::kNotFound);
  EXPECT_EQ(kind_of_error([&] { MappedFile file(folder.write("a", "x") + "/b"); }), ErrorKind::kNotFound);
  EXPECT_EQ(kind_of_error([&] { MappedFile file(folder.path()); }), ErrorKind::kInvalidArgument);
  ASSERT_EQ(mkfifo(folder.file("pipe").c_str(), 0600), 0);
  EXPECT_EQ(kind_of_error([&] { MappedFile file(folder.file("pipe")); }), ErrorKind::kInvalidArgument);
}

TEST(MappedFile, follows_links) {
  const TemporaryFolder folder;
  folder.write("blob", "contents");
  std::filesystem::create_symlink("blob", folder.file("link"));
  EXPECT_EQ(text_of(MappedFile(folder.file("link"))), "contents");
}

TEST(MappedFile, dropped_pages_can_be_read_again) {
  const TemporaryFolder folder;
  const std::string contents(100'000, 'q');
  const MappedFile file(folder.write("a", contents));
  EXPECT_EQ(text_of(file), contents);
  file.drop(5'000, 50'000);
  file.drop(0, contents.size() + 1'000'000);
  file.drop(contents.size() + 1, 1);
  EXPECT_EQ(text_of(file), contents);
}

TEST(MappedFile, notices_a_file_that_became_shorter) {
  const TemporaryFolder folder;
  const MappedFile file(folder.write("a", std::string(10'000, 'q')));
  ASSERT_EQ(truncate(folder.file("a").c_str(), 20'000), 0);
  EXPECT_NO_THROW(file.check_unchanged());
  ASSERT_EQ(truncate(folder.file("a").c_str(), 9'999), 0);
  EXPECT_EQ(kind_of_error([&] { file.check_unchanged(); }), ErrorKind::kInvalidArgument);
}

TEST(MappedFile, can_be_moved) {
  const TemporaryFolder folder;
  MappedFile first(folder.write("a", "first"));
  MappedFile second(folder.write("b", "second"));
  MappedFile third(std::move(first));
  second = std::move(third);
  EXPECT_EQ(text_of(second), "first");
  EXPECT_EQ(second.path(), folder.file("a"));
}

TEST(ReadTextFile, reads_small_files_and_refuses_large_ones) {
  const TemporaryFolder folder;
  const std::string path = folder.write("a", std::string("with\0zero", 9));
  EXPECT_EQ(read_text_file(path), std::string("with\0zero", 9));
  EXPECT_EQ(read_text_file(path, 9).size(), 9u);
  EXPECT_EQ(kind_of_error([&] { read_text_file(path, 8); }), ErrorKind::kInvalidArgument);
  EXPECT_EQ(kind_of_error([&] { read_text_file(folder.file("absent")); }), ErrorKind::kNotFound);
}

}  // namespace
}  // namespace quire
