// SPDX-License-Identifier: MIT
#pragma once
/// A stored prefix on disk, in the container of states (state_container.hpp; docs/state-file.md).
/// It holds stored values only, which exec::ref and exec::cpu make alike: either may load the other's.
/// @throws format_error naming the file: damaged, of another model, policy or kind of sums, too long
#include "../io/mapped_file.hpp"
#include "prefix_cache.hpp"
#include "state_container.hpp"
#include "state_decode.hpp"

namespace dsv4 {

namespace detail {

inline constexpr const char* prefix_format = "dsv4-prefix/1";

/// Executors of one name here store the same bits.
inline std::string stored_bits_of(const std::string& executor) {
  return executor == "ref" || executor == "cpu" ? "exact" : executor;
}

}  // namespace detail

/// @throws error the file cannot be written; the old one is as it was
template <numerics_policy P>
void save_prefix(const std::filesystem::path& path, const state_identity& identity,
                 const stored_prefix<P>& prefix) {
  io::safetensors_writer w;
  w.metadata = {{"format", detail::prefix_format},
                {"config_sha256", identity.config},
                {"weights_sha256", identity.weights},
                {"policy", identity.policy},
                {"stored_bits", detail::stored_bits_of(identity.executor)}};
  w.add("ids", dtype::i32, {prefix.length()}, prefix.ids().data());
  tensor<std::int32_t, 2> runs(static_cast<index_t>(prefix.runs().size()), 2);
  for (index_t i = 0; i < runs.extent(0); ++i) {
    const position_range& run = prefix.runs()[static_cast<std::size_t>(i)];
    runs(i, 0) = static_cast<std::int32_t>(run.from);
    runs(i, 1) = static_cast<std::int32_t>(run.to);
  }
  w.add("runs", dtype::i32, {runs.extent(0), 2}, runs.data());
  stored_prefix<P>::each_array(prefix,
                               [&](const std::string& name, const auto& values, index_t rows, index_t width) {
                                 w.add(name, dtype_of<act_t<P>>, {rows, width}, values.data());
                               });
  detail::write_state_container(path, w);
}

/// From the uncompressed bytes; `name` is for messages.  @throws format_error
template <numerics_policy P>
stored_prefix<P> decode_prefix(const std::filesystem::path& name, std::span<const std::byte> bytes,
                               const state_identity& identity, const config& c, index_t max_tokens) {
  detail::state_reader in(name, bytes);
  detail::expect_identity(in, detail::prefix_format, identity);
  in.expect("stored_bits", detail::stored_bits_of(identity.executor), "it was computed with other sums");
  std::vector<std::int32_t> ids = in.ids("ids", c.vocab_size);
  const auto length = static_cast<index_t>(ids.size());
  if (length > max_tokens)
    in.fail("ids: " + std::to_string(length) + ", expected at most " + std::to_string(max_tokens));

  const index_t n_runs = in.rows("runs", 2);
  in.array("runs", dtype::i32, {n_runs, 2});
  tensor<std::int32_t, 2> bounds(n_runs, 2);
  in.copy("runs", bounds.data(), bounds.size());
  std::vector<position_range> runs;
  for (index_t i = 0, before = -1; i < n_runs; ++i) {
    const position_range run{bounds(i, 0), bounds(i, 1)};
    if (run.from <= before || run.count() <= 0 || run.to > length)
      in.fail("runs: [" + std::to_string(run.from) + ", " + std::to_string(run.to) +
              ") is empty, out of order or beyond the " + std::to_string(length) + " tokens");
    before = run.to;
    runs.push_back(run);
  }

  stored_prefix<P> prefix(c, std::move(ids), std::move(runs));
  stored_prefix<P>::each_array(prefix, [&](const std::string& n, auto& values, index_t rows, index_t width) {
    in.array(n, dtype_of<act_t<P>>, {rows, width});
    values.resize(static_cast<std::size_t>(rows * width));
    in.copy(n, values.data(), rows * width);
  });
  in.expect_no_more();
  return prefix;
}

/// max_tokens: of the longest prefix to accept; bounds the memory, too.  @throws format_error
template <numerics_policy P>
stored_prefix<P> load_prefix(const std::filesystem::path& path, const state_identity& identity,
                             const config& c, index_t max_tokens) {
  // All rows and entries of max_tokens tokens: one window row, one entry and one key a token and layer are more.
  constexpr index_t header = index_t{1} << 20, per_token = 64;
  const index_t row = (2 * c.head_dim + c.index_head_dim) * index_t{sizeof(act_t<P>)};
  const auto most = static_cast<std::size_t>(header + max_tokens * (per_token + c.num_hidden_layers * row));
  const io::mapped_file file(path);
  const io::owned_bytes content = detail::read_state_container(path, {file.data(), file.size()}, most);
  return decode_prefix<P>(path, {content.data(), content.size}, identity, c, max_tokens);
}

}  // namespace dsv4
