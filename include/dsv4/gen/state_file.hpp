// SPDX-License-Identifier: MIT
#pragma once
/// A conversation on disk: save it, load it, and go on to the same bits as if it had never stopped.
/// docs/state-file.md describes every array; state.hpp says which arrays a state is.
///
/// The file belongs to one model, one numerics policy and one executor (state_identity.hpp): another one is
/// refused.  The wide values of open blocks are written with all their bits (F64; F32 of exec::cpu_fast).
/// What the sequence could take back it can take back after it was loaded, as far as the new sequence's
/// max_rewind allows, and no further.
/// @post (1) after load, the same calls give the same bits as they would have given the saved sequence
///       (2) a save that does not end, for any reason, leaves the file that was there
///       (3) a load that throws has changed nothing, and has allocated no more than a few times the larger of
///           the file and the sequence that the caller asked for
#include "../io/mapped_file.hpp"
#include "state_container.hpp"
#include "state_decode.hpp"

namespace dsv4 {

namespace detail {

/// Rows of `rows` as an array that is read while the file is written.
template <execution E, class Rows>
void add_rows(E e, io::safetensors_writer& w, const std::string& name, const Rows& rows,
              position_range range) {
  using T = element_of<Rows>;
  const index_t width = width_of(rows), row_bytes = width * index_t{sizeof(T)};
  w.add(name, dtype_of<T>, {range.count(), width},
        [e, &rows, range, width, row_bytes](index_t at, std::span<std::byte> out) mutable {
          const index_t first = range.from + at / row_bytes, n = static_cast<index_t>(out.size()) / row_bytes;
          read_rows(e, rows, {first, first + n}, view<T, 2>(reinterpret_cast<T*>(out.data()), n, width));
        });
}

/// The largest state that `limits` allow, in decompressed bytes.
template <numerics_policy P, execution E>
std::size_t largest_state(const config& c, const state_limits& limits) {
  constexpr index_t spare =
      1024;  // positions: more rows to go back, unread ids and streams than a program keeps
  constexpr index_t header = index_t{1} << 20, header_of_array = 256;
  const index_t floor = std::max(index_t{0}, limits.max_tokens - std::max(limits.max_rewind, spare));
  index_t sum = header + 2 * index_t(sizeof(std::int32_t)) * (limits.max_tokens + spare) +
                index_t(sizeof(wide_t<E>)) * c.vocab_size +
                index_t(sizeof(act_t<P>)) * spare * c.hc_mult * c.hidden_size +
                static_cast<index_t>(limits.max_application);
  const sequence<P, E> none(c, 0, 0);
  sequence_access<P, E>::each_array(
      none, c, {limits.max_tokens, floor, limits.max_tokens, floor},
      [&](const std::string&, const auto& rows, position_range range) {
        sum += header_of_array + range.count() * width_of(rows) * index_t(sizeof(element_of<decltype(rows)>));
      });
  return static_cast<std::size_t>(sum);
}

}  // namespace detail

/// The state as a safetensors file; `s` and `extras` must live until it is written.  `e` is the executor in whose
/// memory s lies.
/// @throws contract_violation extras that do not fit the sequence or the model
template <numerics_policy P, execution E>
io::safetensors_writer encode_state(const state_identity& identity, const config& c, const sequence<P, E>& s,
                                    const state_extras<P, E>& extras, E e = {}) {
  // contract
  expects(sequence_access<P, E>::fits(s, c), "save_state: a sequence of another model");
  sequence_access<P, E>::expect_intact(s);
  expects(static_cast<index_t>(extras.ids.size()) >= s.length(),
          "save_state: extras.ids must begin with the tokens of the sequence");
  expects(extras.logits.empty() || static_cast<index_t>(extras.logits.size()) == c.vocab_size,
          "save_state: logits must be [vocabulary] or empty");
  const index_t t = extras.streams.data() ? extras.streams.extent(0) : 0;
  expects(t == 0 || (extras.streams.extent(1) == c.hc_mult && extras.streams.extent(2) == c.hidden_size),
          "save_state: streams must be [t, hc_mult, hidden_size] or empty");

  const sequence_extent x = sequence_access<P, E>::extent(s);
  io::safetensors_writer w;
  w.metadata = {{"format", detail::state_format},
                {"config_sha256", identity.config},
                {"weights_sha256", identity.weights},
                {"policy", identity.policy},
                {"executor", identity.executor},
                {"length", std::to_string(x.length)},
                {"floor", std::to_string(x.floor)},
                {"mtp_length", std::to_string(x.mtp_length)},
                {"mtp_floor", std::to_string(x.mtp_floor)},
                {"seed", std::to_string(extras.seed)},
                {"draws", std::to_string(extras.sampler.draws)}};
  const auto length = [](const auto& v) { return static_cast<index_t>(v.size()); };
  w.add("ids", dtype::i32, {length(extras.ids)}, extras.ids.data());
  w.add("sampler_ids", dtype::i32, {length(extras.sampler.ids)}, extras.sampler.ids.data());
  w.add("logits", dtype_of<wide_t<E>>, {length(extras.logits)}, extras.logits.data());
  w.add("streams", dtype_of<act_t<P>>, {t, c.hc_mult, c.hidden_size}, extras.streams.data());
  w.add("application", dtype::u8, {length(extras.application)}, extras.application.data());
  sequence_access<P, E>::each_array(s, c, x,
                                    [&](const std::string& name, const auto& rows, position_range range) {
                                      detail::add_rows(e, w, name, rows, range);
                                    });
  return w;
}

/// Writes the whole state; the file is there, on the disk, when it returns.
/// @throws error              the disk is full, the folder is not writable, …: the old file is as it was
/// @throws contract_violation as encode_state; a sequence that other weights than the model's have begun
template <numerics_policy P, execution E>
void save_state(const std::filesystem::path& path, const state_identity& identity,
                const transformer<P, E>& model, const sequence<P, E>& s, const state_extras<P, E>& extras) {
  expects(sequence_access<P, E>::can_go_on_with(s, model.fingerprint()),
          "save_state: a sequence that other weights of the same sizes have begun");
  detail::write_state_container(path,
                                encode_state(identity, model.configuration(), s, extras, model.executor()));
}

/// The sequence, made anew with the given limits, and everything that was saved with it.
/// @throws format_error naming the file: damaged, of another model, policy or executor, longer than max_tokens
/// @throws contract_violation limits that the model does not allow (as new_sequence)
template <numerics_policy P, execution E>
loaded_state<P, E> load_state(const std::filesystem::path& path, const state_identity& identity,
                              const transformer<P, E>& model, const state_limits& limits) {
  const config& c = model.configuration();
  const io::mapped_file file(path);
  const io::owned_bytes content =
      detail::read_state_container(path, {file.data(), file.size()}, detail::largest_state<P, E>(c, limits));
  return decode_state<P, E>(path, {content.data(), content.size}, identity, c, limits, model.executor());
}

}  // namespace dsv4
