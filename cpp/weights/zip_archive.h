#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quire {

/// A record of a zip file, as a view into it.
struct ZipRecord {
  std::string name;
  std::span<const std::byte> bytes;
};

/// Does the file begin like a zip?
bool looks_like_zip(std::span<const std::byte> bytes);

/// The records of a zip file that holds them stored, not compressed, as torch.save writes it; zip64 included.
/// `where` (the file's name) opens the messages. Raises: kInvalidArgument.
std::vector<ZipRecord> read_zip(std::span<const std::byte> bytes, std::string_view where);

}  // namespace quire
