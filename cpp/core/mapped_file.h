#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace quire {

/// A read-only view of a whole file. Move only.
class MappedFile {
 public:
  /// Raises: kNotFound if there is no such file, kInvalidArgument if it cannot be read or is no regular file.
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

  /// Raise kInvalidArgument if the file has become shorter than the view, where reading would be a bus error.
  void check_unchanged() const;

  /// Tell the system that [offset, offset + size) is needed soon, or not any more (pages are dropped, contents stay).
  void will_need(size_t offset, size_t size) const noexcept;
  /// Read that range and map it, where the system knows how (Linux 5.14); else as will_need(). Never fails.
  void bring_in(size_t offset, size_t size) const noexcept;
  void drop(size_t offset, size_t size) const noexcept;

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  int descriptor_ = -1;
};

/// The contents of a small text file.
/// Raises: kNotFound; kInvalidArgument above `max_bytes`.
std::string read_text_file(const std::string& path, size_t max_bytes = 64 << 20);

}  // namespace quire
