// SPDX-License-Identifier: MIT
#pragma once
/// SHA-256 of tensors and files, by OpenSSL's libcrypto (it uses the processor's SHA instructions: 1.7 GB/s
/// where this was written, and hashing is most of the work of checking a bundle).
#include <openssl/evp.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "../core/error.hpp"

namespace dsv4::io {

using sha256_digest = std::array<std::uint8_t, 32>;

/// Hash of what `update` was given, piece after piece.
class sha256 {
 public:
  sha256() : context_(EVP_MD_CTX_new()) {
    if (!context_ || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1)
      throw internal_error("sha256: libcrypto gives no SHA-256");
  }
  void update(const void* data, std::size_t bytes) { EVP_DigestUpdate(context_.get(), data, bytes); }
  /// The hash of everything; call it once, at the end.
  sha256_digest digest() {
    sha256_digest d;
    EVP_DigestFinal_ex(context_.get(), d.data(), nullptr);
    return d;
  }

 private:
  struct free_context {
    void operator()(EVP_MD_CTX* c) const { EVP_MD_CTX_free(c); }
  };
  std::unique_ptr<EVP_MD_CTX, free_context> context_;
};

inline sha256_digest sha256_of(const void* data, std::size_t bytes) {
  sha256 h;
  h.update(data, bytes);
  return h.digest();
}
inline sha256_digest sha256_of(std::string_view text) { return sha256_of(text.data(), text.size()); }

/// 64 lower-case hexadecimal digits.
inline std::string hex(const sha256_digest& d) {
  constexpr char digits[] = "0123456789abcdef";
  std::string out;
  for (const std::uint8_t b : d) {
    out += digits[b >> 4];
    out += digits[b & 15];
  }
  return out;
}
/// The inverse; nothing if `text` is anything else.
inline std::optional<sha256_digest> digest_of_hex(std::string_view text) {
  sha256_digest d{};
  if (text.size() != 2 * d.size()) return std::nullopt;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const int v = '0' <= c && c <= '9' ? c - '0' : 'a' <= c && c <= 'f' ? c - 'a' + 10 : -1;
    if (v < 0) return std::nullopt;
    d[i / 2] = static_cast<std::uint8_t>(d[i / 2] << 4 | v);
  }
  return d;
}

}  // namespace dsv4::io
