// SPDX-License-Identifier: MIT
#pragma once
/// Reads a saved state from its uncompressed bytes, trusting none of them.
///
/// Order: identity, lengths, then every array's type and shape against what configuration and lengths imply,
/// and only then is memory for a sequence made, of the size that the caller asked for.  Every number that the
/// model will read is finite, every token id is of the vocabulary; an array too many is refused like one too few.
/// @throws format_error naming the file, the array or field, what was expected and found
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "../io/safetensors.hpp"
#include "sampler.hpp"
#include "state.hpp"
#include "state_identity.hpp"

namespace dsv4 {

/// What a program needs beside the sequence to go on.
template <numerics_policy P, execution E>
struct state_extras {
  std::vector<std::int32_t> ids;  ///< of the conversation: the sequence's first, then those no call has read yet
  std::uint64_t seed = 0;         ///< of the sampler; its other settings are the program's
  sampler_state sampler;          ///< draws and remembered ids: sampler::state()
  std::vector<wide_t<E>> logits;  ///< of the last token, or empty
  tensor<act_t<P>, 3> streams;    ///< [t, n, D] of the last t tokens, for MTP (mtp_drafter::last_streams), or empty
  std::string application;        ///< the program's own bytes, e.g. the chat as JSON
};

template <numerics_policy P, execution E>
struct loaded_state {
  dsv4::sequence<P, E> sequence;
  state_extras<P, E> extras;
};

/// The sequence to be made, and what a file may ask for at most.
struct state_limits {
  index max_tokens = 0, max_rewind = 0;            ///< of the new sequence, as for new_sequence()
  std::size_t max_application = std::size_t{1} << 26;  ///< bytes
};

namespace detail {

inline constexpr const char* state_format = "dsv4-state/1";

template <numerics_policy P, execution E>
class state_decoder {
 public:
  state_decoder(const std::filesystem::path& name, std::span<const std::byte> bytes) : file_(io::safetensors::parse(name, bytes)) {}

  loaded_state<P, E> run(const state_identity& identity, const config& c, const state_limits& limits) {
    check_identity(identity);
    const sequence_extent x = read_extent(limits);
    loaded_state<P, E> r;
    read_extras(r.extras, c, x, limits);
    // Sizes first, memory second: every array is compared with the configuration before the sequence is made.
    sequence<P, E> none(c, 0, 0);
    sequence_access<P, E>::each_array(none, c, x, [&](const std::string& n, auto& rows, position_range range) {
      array(n, dtype_of<element_of<decltype(rows)>>, {range.count(), width_of(rows)});
    });
    if (taken_ != file_.tensors().size())
      fail("holds " + std::to_string(file_.tensors().size()) + " arrays, expected the " + std::to_string(taken_) + " of docs/state-file.md");

    r.sequence = {c, limits.max_tokens, limits.max_rewind};
    sequence_access<P, E>::each_array(r.sequence, c, x, [&](const std::string& n, auto& rows, position_range range) {
      using T = element_of<decltype(rows)>;
      tensor<T, 2> values(range.count(), width_of(rows));
      copy(n, values.data(), values.size());
      write_rows(rows, range, view<const T, 2>(values));
    });
    sequence_access<P, E>::set_extent(r.sequence, x);
    return r;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { io::fail_format(file_.path(), what); }

  const std::string& text(const std::string& key) const {
    const auto at = file_.metadata().find(key);
    if (at == file_.metadata().end()) fail("no " + io::in_quotes(key) + " in __metadata__: not a saved state");
    return at->second;
  }
  std::uint64_t number(const std::string& key, std::uint64_t largest = std::numeric_limits<std::uint64_t>::max()) const {
    const std::string& t = text(key);
    std::uint64_t n = 0;
    const auto [end, fault] = std::from_chars(t.data(), t.data() + t.size(), n);
    if (fault != std::errc() || end != t.data() + t.size() || n > largest)
      fail(key + ": found " + io::in_quotes(t) + ", expected a number of at most " + std::to_string(largest));
    return n;
  }
  index position(const std::string& key, index largest) const {
    return static_cast<index>(number(key, static_cast<std::uint64_t>(largest)));
  }

  void check_identity(const state_identity& own) const {
    if (text("format") != state_format) fail("format " + io::in_quotes(text("format")) + ", expected '" + state_format + "'");
    const auto same = [&](const char* key, const std::string& expected, const char* what) {
      if (text(key) != expected)
        fail(std::string(key) + ": saved with " + io::in_quotes(text(key)) + ", this model has " + io::in_quotes(expected) + "; " + what);
    };
    same("config_sha256", own.config, "the state belongs to a model of another configuration");
    same("weights_sha256", own.weights, "the state belongs to other weights");
    same("policy", own.policy, "load it with the numerics that saved it");
    same("executor", own.executor, "load it with the executor that saved it: another one sums open blocks to other bits");
  }

  sequence_extent read_extent(const state_limits& limits) const {
    sequence_extent x;
    x.length = position("length", limits.max_tokens);
    x.floor = position("floor", x.length);
    x.mtp_length = position("mtp_length", limits.max_tokens);
    x.mtp_floor = position("mtp_floor", x.mtp_length);
    return x;
  }

  void read_extras(state_extras<P, E>& r, const config& c, const sequence_extent& x, const state_limits& limits) {
    r.seed = number("seed");
    r.sampler.draws = number("draws");
    const auto size = [&](const std::string& n, std::size_t axes) {
      const io::tensor_info& t = file_.at(n);
      if (t.shape.size() != axes) fail("array " + io::in_quotes(n) + ": shape " + io::shape_text(t.shape));
      return t.shape[0];
    };
    const auto ids = [&](const std::string& n) {
      auto v = values<std::int32_t>(n, size(n, 1));
      for (const std::int32_t id : v)
        if (id < 0 || id >= c.vocab_size) fail(n + ": " + std::to_string(id) + " is outside the vocabulary of " + std::to_string(c.vocab_size));
      return v;
    };
    r.ids = ids("ids");
    if (static_cast<index>(r.ids.size()) < x.length)
      fail("ids: " + std::to_string(r.ids.size()) + ", but the sequence has read " + std::to_string(x.length));
    r.sampler.ids = ids("sampler_ids");

    r.logits = values<wide_t<E>>("logits", size("logits", 1) ? c.vocab_size : 0);
    const index t = size("streams", 3);
    array("streams", dtype_of<act_t<P>>, {t, c.hc_mult, c.hidden_size});
    r.streams = tensor<act_t<P>, 3>(t, c.hc_mult, c.hidden_size);
    copy("streams", r.streams.data(), r.streams.size());

    const index n = size("application", 1);
    if (static_cast<std::size_t>(n) > limits.max_application)
      fail("application: " + std::to_string(n) + " bytes, expected at most " + std::to_string(limits.max_application));
    const io::tensor_info& a = array("application", dtype::u8, {n});
    r.application.assign(reinterpret_cast<const char*>(a.data), a.bytes);
  }

  /// The array of that name, of that type and shape.
  const io::tensor_info& array(const std::string& name, dtype type, const std::vector<index>& shape) {
    const io::tensor_info& t = file_.at(name);
    if (t.type != type || t.shape != shape)
      fail("array " + io::in_quotes(name) + ": found " + std::string(name_of(t.type)) + " " + io::shape_text(t.shape) +
           ", expected " + std::string(name_of(type)) + " " + io::shape_text(shape));
    ++taken_;
    return t;
  }
  template <class T>
  std::vector<T> values(const std::string& name, index n) {
    array(name, dtype_of<T>, {n});
    std::vector<T> v(static_cast<std::size_t>(n));
    copy(name, v.data(), n);
    return v;
  }
  /// An array need not be aligned in the file.
  template <class T>
  void copy(const std::string& name, T* to, index n) {
    if (n == 0) return;
    std::memcpy(to, file_.at(name).data, static_cast<std::size_t>(n) * sizeof(T));
    if constexpr (!std::is_integral_v<T>)
      if (!std::all_of(to, to + n, [](T v) { return std::isfinite(to_double(v)); })) fail("array " + io::in_quotes(name) + ": holds NaN or infinity");
  }

  io::safetensors file_;
  std::size_t taken_ = 0;  // arrays that belong here
};

}  // namespace detail
}  // namespace dsv4
