// SPDX-License-Identifier: MIT
// A saved state of a small model.  The first byte says how the rest is read: 'c' the container below hash and
// compression (where all decisions are made), 'z' a body that is given the trailer with its true hash, anything
// else a whole file.  What is accepted must be a state: written again and read again it is the same.
#include <dsv4/gen/state_file.hpp>

#include "fuzz.hpp"

namespace {
using namespace dsv4;
using policy = official;
using executor = exec::ref;

/// Window, CSA, HCA, MTP.  make_corpus.py has the same sizes.
config small() {
  config c;
  c.vocab_size = 16;
  c.hidden_size = 4;
  c.hc_mult = 2;
  c.num_hidden_layers = 3;
  c.head_dim = 4;
  c.index_head_dim = 4;
  c.sliding_window = 4;
  c.max_position_embeddings = 64;
  c.num_nextn_predict_layers = 1;
  c.compress_ratios = {0, 4, 8, 0};
  return c;
}
const state_identity identity{"c", "w", "official/BF16", "ref"};
constexpr state_limits limits{32, 2, 4096};

std::string encoded(const config& c, const loaded_state<policy, executor>& s) {
  std::string out;
  encode_state(identity, c, s.sequence, s.extras).write_to([&](const void* data, std::size_t n) {
    out.append(static_cast<const char*>(data), n);
  });
  return out;
}
std::span<const std::byte> bytes_of(std::string_view s) {
  return {reinterpret_cast<const std::byte*>(s.data()), s.size()};
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view rest = dsv4_fuzz::text_of(data + 1, size - 1);
  dsv4_fuzz::read_or_refuse([&] {
    const config c = small();
    std::span<const std::byte> container = bytes_of(rest);
    std::string file(rest);
    io::owned_bytes content;
    if (data[0] != 'c') {
      if (data[0] == 'z') {
        file += detail::state_trailer_head;
        const io::sha256_digest digest = io::sha256_of(file);
        file.append(reinterpret_cast<const char*>(digest.data()), digest.size());
      }
      content = detail::read_state_container(dsv4_fuzz::file, bytes_of(file),
                                             detail::largest_state<policy, executor>(c, limits));
      container = {content.data(), content.size};
    }
    const auto s = decode_state<policy, executor>(dsv4_fuzz::file, container, identity, c, limits);
    dsv4_fuzz::require(
        s.sequence.length() <= limits.max_tokens && s.sequence.max_tokens() == limits.max_tokens,
        "a longer sequence than asked for");
    dsv4_fuzz::require(s.extras.application.size() <= limits.max_application, "more bytes than allowed");
    const std::string once = encoded(c, s);
    dsv4_fuzz::touch(reinterpret_cast<const std::byte*>(once.data()), once.size());
    const auto again = decode_state<policy, executor>(dsv4_fuzz::file, bytes_of(once), identity, c, limits);
    dsv4_fuzz::require(encoded(c, again) == once, "not the same state when written and read again");
  });
  return 0;
}
