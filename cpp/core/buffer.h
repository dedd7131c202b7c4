#pragma once

#include <cstddef>
#include <functional>
#include <utility>

namespace quire {

/// Owns a piece of some device's memory and gives it back when it goes. Move only.
class Buffer {
 public:
  using Release = std::function<void(void* data, size_t bytes)>;

  Buffer() = default;
  Buffer(void* data, size_t bytes, Release release) : data_(data), bytes_(bytes), release_(std::move(release)) {}
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer(std::move(other)).swap(*this);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr && release_) release_(data_, bytes_);
  }

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(release_, other.release_);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
  Release release_;
};

}  // namespace quire
