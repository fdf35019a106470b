// SPDX-License-Identifier: MIT
#pragma once
/// A saved state from its uncompressed bytes.
/// Order: identity, lengths, then every array's type and shape against what configuration and lengths imply,
/// and only then is memory for a sequence made, of the size that the caller asked for.
/// @throws format_error naming the file, the array or field, what was expected and found
#include "sampler.hpp"
#include "state.hpp"
#include "state_identity.hpp"
#include "state_reader.hpp"

namespace dsv4 {

/// What a program needs beside the sequence to go on.
template <numerics_policy P, execution E>
struct state_extras {
  std::vector<std::int32_t>
      ids;                 ///< of the conversation: the sequence's first, then those no call has read yet
  std::uint64_t seed = 0;  ///< of the sampler; its other settings are the program's
  sampler_state sampler;   ///< draws and remembered ids: sampler::state()
  std::vector<wide_t<E>> logits;  ///< of the last token, or empty
  tensor<act_t<P>, 3>
      streams;              ///< [t, n, D] of the last t tokens, for MTP (mtp_drafter::last_streams), or empty
  std::string application;  ///< the program's own bytes, e.g. the chat as JSON
};

template <numerics_policy P, execution E>
struct loaded_state {
  dsv4::sequence<P, E> sequence;
  state_extras<P, E> extras;
};

/// The sequence to be made, and what a file may ask for at most.
struct state_limits {
  index_t max_tokens = 0, max_rewind = 0;              ///< of the new sequence, as for new_sequence()
  std::size_t max_application = std::size_t{1} << 26;  ///< bytes
};

namespace detail {

inline constexpr const char* state_format = "dsv4-state/1";

/// Refuses a state that is not this model's.  The caller compares the executor.
inline void expect_identity(const state_reader& in, const char* format, const state_identity& own) {
  in.expect("format", format, "this is another kind of file");
  in.expect("config_sha256", own.config, "it belongs to a model of another configuration");
  in.expect("weights_sha256", own.weights, "it belongs to other weights");
  in.expect("policy", own.policy, "load it with the numerics that saved it");
}

template <numerics_policy P, execution E>
state_extras<P, E> read_extras(state_reader& in, const config& c, index_t length,
                               const state_limits& limits) {
  state_extras<P, E> r;
  r.seed = in.number("seed");
  r.ids = in.ids("ids", c.vocab_size);
  if (static_cast<index_t>(r.ids.size()) < length)
    in.fail("ids: " + std::to_string(r.ids.size()) + ", but the sequence has read " + std::to_string(length));
  r.sampler = {in.number("draws"), in.ids("sampler_ids", c.vocab_size)};

  r.logits = in.values<wide_t<E>>("logits", in.rows("logits", 1) ? c.vocab_size : 0);
  const index_t t = in.rows("streams", 3);
  in.array("streams", dtype_of<act_t<P>>, {t, c.hc_mult, c.hidden_size});
  r.streams = tensor<act_t<P>, 3>(t, c.hc_mult, c.hidden_size);
  in.copy("streams", r.streams.data(), r.streams.size());

  const index_t n = in.rows("application", 1);
  if (static_cast<std::size_t>(n) > limits.max_application)
    in.fail("application: " + std::to_string(n) + " bytes, expected at most " +
            std::to_string(limits.max_application));
  const io::tensor_info& a = in.array("application", dtype::u8, {n});
  r.application.assign(reinterpret_cast<const char*>(a.data), a.bytes);
  return r;
}

}  // namespace detail

/// From the uncompressed bytes; `name` is for messages, `e` the executor in whose memory the sequence is made.
/// @throws format_error
template <numerics_policy P, execution E>
loaded_state<P, E> decode_state(const std::filesystem::path& name, std::span<const std::byte> bytes,
                                const state_identity& identity, const config& c, const state_limits& limits,
                                E e = {}) {
  detail::state_reader in(name, bytes);
  detail::expect_identity(in, detail::state_format, identity);
  in.expect("executor", identity.executor,
            "load it with the executor that saved it: another one sums open blocks to other bits");
  sequence_extent x;
  x.length = in.position("length", limits.max_tokens);
  x.floor = in.position("floor", x.length);
  x.mtp_length = in.position("mtp_length", limits.max_tokens);
  x.mtp_floor = in.position("mtp_floor", x.mtp_length);
  loaded_state<P, E> r{{}, detail::read_extras<P, E>(in, c, x.length, limits)};

  // Sizes first, memory second.
  using access = sequence_access<P, E>;
  sequence<P, E> none(c, 0, 0);
  access::each_array(none, c, x, [&](const std::string& n, auto& rows, position_range range) {
    in.array(n, dtype_of<element_of<decltype(rows)>>, {range.count(), width_of(rows)});
  });
  in.expect_no_more();

  r.sequence = {c, limits.max_tokens, limits.max_rewind};
  access::each_array(r.sequence, c, x, [&](const std::string& n, auto& rows, position_range range) {
    using T = element_of<decltype(rows)>;
    tensor<T, 2> values(range.count(), width_of(rows));
    in.copy(n, values.data(), values.size());
    write_rows(e, rows, range, view<const T, 2>(values));
  });
  access::set_extent(r.sequence, x);
  return r;
}

}  // namespace dsv4
