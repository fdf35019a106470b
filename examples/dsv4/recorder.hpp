// SPDX-License-Identifier: MIT
#pragma once
/// The observer behind `dsv4 forward --taps`: keeps the values of the chosen sites, all calls of a run
/// joined, so that the split into calls cannot be seen.
///
/// Two sites need more than joining:
///   attn.topk_idxs       one numbering for the run: below n a position, n + e compressed entry e, -1
///                        empty; width W + k as one call over everything has
///   attn.indexer.scores  entries that did not exist yet in a call: -inf
/// n are the tokens of the run; for mtp.*, its pairs.
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include <dsv4/core/config.hpp>
#include <dsv4/core/tap.hpp>

namespace dsv4::io {
class safetensors_writer;
}

namespace cli {

using dsv4::index_t;

class recorder {
 public:
  static constexpr bool on = true;

  /// `filter` says whether a name is recorded; without one nothing is.  `wide_as_float`: store what is
  /// wide as F32 even where it is computed in double.
  recorder(const dsv4::config& c, index_t tokens, std::function<bool(const std::string&)> filter,
           bool wide_as_float)
      : c_(c), tokens_(tokens), filter_(std::move(filter)), wide_as_float_(wide_as_float) {}

  void operator()(const dsv4::tap_event& e);

  /// Sites recorded so far.
  index_t size() const;
  /// Move everything into the writer, which then owns it.
  void move_to(dsv4::io::safetensors_writer& file);

 private:
  struct record {
    bool wanted = false;
    std::string name;
    dsv4::dtype type = dsv4::dtype::f32;
    index_t rows = 0;
    std::vector<index_t> row_shape;
    std::vector<std::byte> bytes;
  };
  record open(const dsv4::tap_event& e) const;
  void append_slots(record& r, const dsv4::tap_event& e) const;
  void append_padded(record& r, const dsv4::tap_event& e) const;

  /// Rows that the whole run has at this event's site, and its layer's ratio.
  index_t total(const dsv4::tap_event& e) const;
  index_t ratio(const dsv4::tap_event& e) const;

  const dsv4::config& c_;
  index_t tokens_;
  std::function<bool(const std::string&)> filter_;
  bool wide_as_float_;
  std::map<std::tuple<dsv4::tap_scope::part, index_t, dsv4::site>, record> records_;
};

}  // namespace cli
