#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/check.h"
#include "core/quote.h"

namespace quire {
namespace {

/// Closes a descriptor when an error is thrown before somebody else has taken it.
class Descriptor {
 public:
  explicit Descriptor(const std::string& path) : value_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    const int error = errno;
    QUIRE_REQUIRE(value_ >= 0 || (error != ENOENT && error != ENOTDIR), ErrorKind::kNotFound,
                  "[file] no such file: path=", in_quotes(path));
    QUIRE_REQUIRE(value_ >= 0, ErrorKind::kInvalidArgument, "[file] cannot be opened: path=", in_quotes(path),
                  ", error=", std::strerror(error));
  }
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return value_; }
  int release() { return std::exchange(value_, -1); }

 private:
  int value_;
};

size_t regular_file_size(int descriptor, const std::string& path) {
  struct stat status{};
  QUIRE_REQUIRE(::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode), ErrorKind::kInvalidArgument,
                "[file] not a regular file: path=", in_quotes(path));
  return static_cast<size_t>(status.st_size);
}

/// Advice about [offset, offset + size), widened to whole pages: dropping a page too many costs a read, no contents.
/// False if the system does not take the advice.
bool advise(const std::byte* data, size_t file_size, size_t offset, size_t size, int advice) {
  if (offset >= file_size || size == 0) return true;
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t begin = offset / page * page;
  const size_t end = size < file_size - offset ? offset + size : file_size;
  return ::madvise(const_cast<std::byte*>(data) + begin, end - begin, advice) == 0;
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  Descriptor descriptor(path);
  size_ = regular_file_size(descriptor.get(), path);
  if (size_ > 0) {  // an empty file cannot be mapped
    void* const memory = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor.get(), 0);
    QUIRE_REQUIRE(memory != MAP_FAILED, ErrorKind::kInvalidArgument, "[file] cannot be mapped: path=", in_quotes(path),
                  ", bytes=", size_, ", error=", std::strerror(errno));
    data_ = static_cast<const std::byte*>(memory);
  }
  descriptor_ = descriptor.release();
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

void MappedFile::check_unchanged() const {
  const size_t now = regular_file_size(descriptor_, path_);
  QUIRE_REQUIRE(now >= size_, ErrorKind::kInvalidArgument,
                "[file] became shorter while it was being read: path=", in_quotes(path_), ", expected=", size_,
                " bytes, got=", now);
}

void MappedFile::will_need(size_t offset, size_t size) const noexcept {
  advise(data_, size_, offset, size, MADV_WILLNEED);
}

void MappedFile::bring_in(size_t offset, size_t size) const noexcept {
  constexpr int kPopulateRead = 22;  // MADV_POPULATE_READ, which older headers lack
  if (!advise(data_, size_, offset, size, kPopulateRead)) will_need(offset, size);
}

void MappedFile::drop(size_t offset, size_t size) const noexcept {
  advise(data_, size_, offset, size, MADV_DONTNEED);
}

std::string read_text_file(const std::string& path, size_t max_bytes) {
  const Descriptor descriptor(path);
  const size_t size = regular_file_size(descriptor.get(), path);
  QUIRE_REQUIRE(size <= max_bytes, ErrorKind::kInvalidArgument, "[file] too large: path=", in_quotes(path),
                ", expected=at most ", max_bytes, " bytes, got=", size);
  std::string text(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t count = ::read(descriptor.get(), text.data() + done, size - done);
    if (count < 0 && errno == EINTR) continue;
    QUIRE_REQUIRE(count >= 0, ErrorKind::kInvalidArgument, "[file] cannot be read: path=", in_quotes(path),
                  ", error=", std::strerror(errno));
    if (count == 0) break;  // it became shorter meanwhile; what was read is what there is
    done += static_cast<size_t>(count);
  }
  text.resize(done);
  return text;
}

}  // namespace quire
