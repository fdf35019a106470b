// SPDX-License-Identifier: MIT
#pragma once
/// The file around a state: compressed, hashed, replaced in one step.
///
///   zstd frame of a safetensors file   with zstd's own checksum; `zstd -d` gives the safetensors
///   skippable zstd frame, 48 bytes     5D 2A 4D 18 | 28 00 00 00 | "dsv4st/1" | SHA-256 of every byte before it
///
/// The hash is checked before anything is decompressed, so a file that was cut or changed by accident never
/// reaches a parser.  Who can write a file can write its hash: what is behind it is still not trusted.
/// Memory: writing needs a few MB beyond the state; reading the file's content once, decompressed.
/// @throws format_error naming the file: truncated, changed, not such a file, larger than the limit
/// @throws error        the file cannot be written; what was there before is still there
#include <array>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "../io/atomic_file.hpp"
#include "../io/safetensors_writer.hpp"
#include "../io/sha256.hpp"
#include "../io/zstd_encoder.hpp"

namespace dsv4::detail {

/// Everything of the trailer but the hash: the head of a skippable frame (RFC 8878, 3.1.2) and a tag.
inline constexpr std::string_view state_trailer_head(
    "\x5D\x2A\x4D\x18\x28\x00\x00\x00"
    "dsv4st/1",
    16);
inline constexpr std::size_t state_trailer_bytes =
    state_trailer_head.size() + std::tuple_size_v<io::sha256_digest>;

/// @throws error; the old file, or none, is there as before
inline void write_state_container(const std::filesystem::path& path, const io::safetensors_writer& content) {
  io::atomic_file file(path, io::new_file::owner_only);  // what was said is nobody else's
  io::sha256 hash;
  const io::byte_sink out = [&](const void* data, std::size_t bytes) {
    hash.update(data, bytes);
    file.write(data, bytes);
  };
  io::zstd_encoder encoder(io::zstd_encoder::fast, out);
  content.write_to([&](const void* data, std::size_t bytes) { encoder.write(data, bytes); });
  encoder.finish();
  out(state_trailer_head.data(), state_trailer_head.size());
  const io::sha256_digest digest = hash.digest();
  file.write(digest.data(), digest.size());
  file.commit();
}

/// The safetensors bytes of a file that is whole.  @throws format_error
inline io::owned_bytes read_state_container(const std::filesystem::path& name,
                                            std::span<const std::byte> file, std::size_t max_bytes) {
  if (file.size() < state_trailer_bytes)
    io::fail_format(name, std::to_string(file.size()) + " bytes: too short for a saved state (truncated?)");
  const std::size_t body = file.size() - state_trailer_bytes, hashed = body + state_trailer_head.size();
  if (std::memcmp(file.data() + body, state_trailer_head.data(), state_trailer_head.size()) != 0)
    io::fail_format(name, "does not end as a saved state does (truncated, or another kind of file)");
  io::sha256_digest expected;
  std::memcpy(expected.data(), file.data() + hashed, expected.size());
  const io::sha256_digest found = io::sha256_of(file.data(), hashed);
  if (found != expected)
    io::fail_format(name, "damaged: its bytes have SHA-256 " + io::hex(found) + ", it was written with " +
                              io::hex(expected));
  return io::zstd_decompress(name, file.data(), body, max_bytes);
}

}  // namespace dsv4::detail
