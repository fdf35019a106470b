// SPDX-License-Identifier: MIT
#pragma once
/// A model with MTP and a sequence, driven as a program does; states as bytes that can be compared.
#include <dsv4/gen/state_file.hpp>

#include <cstdlib>
#include <fstream>
#include <string>

#include "executors.hpp"
#include "random_model.hpp"

namespace dsv4_test {

/// A folder that disappears with its owner.
struct scratch_folder {
  std::filesystem::path path;
  scratch_folder() {
    std::string name = (std::filesystem::temp_directory_path() / "dsv4-state-XXXXXX").string();
    if (!::mkdtemp(name.data())) throw error(name + ": cannot be made");
    path = name;
  }
  ~scratch_folder() { std::filesystem::remove_all(path); }
  scratch_folder(const scratch_folder&) = delete;
  scratch_folder& operator=(const scratch_folder&) = delete;
  std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(path), std::filesystem::directory_iterator()));
  }
};

inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
inline void write_bytes(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}
inline std::span<const std::byte> bytes_of(std::string_view s) {
  return {reinterpret_cast<const std::byte*>(s.data()), s.size()};
}

/// A model and what a program would do with it and one sequence.
template <numerics_policy P, execution E>
struct state_run {
  using sequence_type = dsv4::sequence<P, E>;
  using extras_type = state_extras<P, E>;
  using wide = wide_t<E>;

  transformer<P, E> model;
  state_identity identity;
  state_run(const config& c, const model_weights<>& w, E e = {})
      : model(c, w, e), identity(identity_of(model)) {}
  explicit state_run(const random_model& r, E e = {}) : state_run(r.c, r.weights, e) {}

  const config& c() const { return model.configuration(); }

  /// Reads ids; the logits of all tokens, then (with MTP) those of the pairs that become known, the last token's
  /// own pair excepted: its other half is not known.  `extras` goes along: ids, last logits, last streams.
  std::vector<wide> feed(sequence_type& s, extras_type& extras, std::span<const std::int32_t> ids,
                         bool mtp = true) {
    const auto n = static_cast<index_t>(ids.size());
    const index_t known = extras.streams.data() ? extras.streams.extent(0) : 0;
    tensor<wide, 2> out(n, c().vocab_size);
    tensor<act_t<P>, 3> streams(known + n, c().hc_mult,
                                c().hidden_size);  // the last of before, then the new ones
    if (known) std::copy_n(extras.streams.data(), extras.streams.size(), streams.data());
    const typename transformer<P, E>::input in{&s, ids};
    model.forward(std::span(&in, 1), {out, {}, streams.all().rows(known, known + n)});
    std::vector<wide> all(out.data(), out.data() + out.size());

    const index_t pairs = known + n - 1;
    if (mtp && pairs > 0) {
      tensor<wide, 2> mtp_out(pairs, c().vocab_size);
      const typename transformer<P, E>::mtp_input_rows pair{&s, ids.last(static_cast<std::size_t>(pairs)),
                                                            streams.all().rows(0, pairs)};
      model.forward_mtp(std::span(&pair, 1), {mtp_out, {}, {}});
      all.insert(all.end(), mtp_out.data(), mtp_out.data() + mtp_out.size());
    }
    extras.ids.insert(extras.ids.end(), ids.begin(), ids.end());
    extras.logits.assign(out[n - 1].begin(), out[n - 1].end());
    extras.streams = tensor<act_t<P>, 3>(1, c().hc_mult, c().hidden_size);
    std::copy_n(streams[pairs].data(), extras.streams.size(), extras.streams.data());
    return all;
  }

  std::string encoded(const sequence_type& s, const extras_type& extras) const {
    std::string bytes;
    encode_state(identity, c(), s, extras).write_to([&](const void* data, std::size_t n) {
      bytes.append(static_cast<const char*>(data), n);
    });
    return bytes;
  }
  loaded_state<P, E> decoded(std::string_view bytes, const state_limits& limits) const {
    return decode_state<P, E>("state", bytes_of(bytes), identity, c(), limits);
  }
};

}  // namespace dsv4_test
