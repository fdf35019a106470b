// SPDX-License-Identifier: MIT
#pragma once
/// SHA-256 of a bundle's files: the hash of io/sha256.hpp, with a bundle's own errors when a file is missing or damaged.
#include <filesystem>
#include <fstream>
#include <vector>

#include "../../io/config_identity.hpp"
#include "../../io/sha256.hpp"
#include "error.hpp"

namespace dsv4::golden {

using io::digest_of_hex;
using io::hex;
using io::sha256;
using io::sha256_digest;
using io::sha256_of;

/// Of a whole file, read in pieces.  @throws missing_input, damaged
inline sha256_digest sha256_of_file(const std::filesystem::path& path) {
  constexpr std::size_t piece = std::size_t{1} << 20;
  std::ifstream file(path, std::ios::binary);
  if (!file) throw missing_input(path.string() + ": cannot be opened");
  std::vector<char> buffer(piece);
  sha256 h;
  while (file.read(buffer.data(), static_cast<std::streamsize>(piece)) || file.gcount() > 0)
    h.update(buffer.data(), usize(file.gcount()));
  if (file.bad()) throw damaged(path.string() + ": cannot be read");
  return h.digest();
}

}  // namespace dsv4::golden
