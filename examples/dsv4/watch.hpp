// SPDX-License-Identifier: MIT
#pragma once
/// The observer behind `dsv4 trace` and `dsv4 look`: what each block did with each token, put together from its sites.
///
///   watcher w(c, weights, {.block = [](const block_pass& b) { … }, .logits = [](const logits_pass& l) { … }});
///   model.forward(…, w);
///
/// A block is told of when its last site has been seen, once for each pass of at most 512 tokens.  Attention masses
/// are computed here, in double, from the values that the kernel reads: queries, window rows, entries and sinks.
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include <dsv4/core/config.hpp>
#include <dsv4/core/tap.hpp>
#include <dsv4/model/weights.hpp>

namespace cli {

using dsv4::index_t;

/// Where the mass of a softmax can lie.
enum mass_part : std::size_t { on_window, on_entries, on_sink, mass_parts };

/// The matrices with which one sublayer reads, writes and carries over the streams.
struct hyper_pass {
  std::vector<double> pre, post, comb;  // [t, n], [t, n], [t, n, n]
};

/// What one block did in one pass.
struct block_pass {
  dsv4::tap_scope scope;
  index_t ratio = 0;
  index_t start = 0, tokens = 0;

  // Experts, as chosen.
  index_t experts_per_token = 0;
  std::vector<std::int32_t> experts;  // [t, k]
  std::vector<double> weights;        // [t, k]
  std::vector<double>
      margins;  // [t] biased score of the last chosen over the first left out; NaN: from a table

  // Attention; masses are means over the heads.
  index_t chosen = 0;                                   ///< entries per token, at most
  std::vector<std::int32_t> entries;                    // [t, chosen] -1 none
  std::vector<double> entry_mass;                       // [t, chosen]
  std::vector<double> window_mass;                      // [t, W] slot s is position max(0, p - W + 1) + s
  std::vector<std::array<double, mass_parts>> mass;     // [t]
  std::vector<std::array<double, mass_parts>> by_head;  // [t, h]

  hyper_pass attn, ffn;
  index_t streams = 0, width = 0;
  std::vector<double> stream_rms;  // [t, n] of the block's output
  std::vector<float> out;          // [t, n, d] the same output
};

/// Logits of one pass of the model's head or of an MTP block's.
struct logits_pass {
  dsv4::tap_scope scope;
  index_t start, tokens, vocabulary;
  std::vector<double> rows;  // [t, v]
  std::span<const double> row(index_t t) const {
    return std::span(rows).subspan(static_cast<std::size_t>(t * vocabulary),
                                   static_cast<std::size_t>(vocabulary));
  }
};

struct watched {
  std::function<void(const block_pass&)> block;
  std::function<void(const logits_pass&)> logits;
};

class watcher {
 public:
  static constexpr bool on = true;

  watcher(const dsv4::config& c, const dsv4::model_weights<>& w, watched told)
      : c_(c), weights_(w), told_(std::move(told)) {}
  watcher(const dsv4::config&&, const dsv4::model_weights<>&, watched) = delete;

  void operator()(const dsv4::tap_event& e);

 private:
  /// Rows of a block that its later passes attend to.
  struct memory {
    index_t first = 0;           // position of recent's first row
    std::vector<float> recent;   // [p, d] window rows
    std::vector<float> entries;  // [s, d]
  };
  void begin(const dsv4::tap_event& e);
  void attend(const dsv4::tap_event& e);
  void finish(const dsv4::tap_event& e);
  const dsv4::tensor<float, 1>& sinks() const;

  const dsv4::config& c_;
  const dsv4::model_weights<>& weights_;
  watched told_;
  block_pass now_;
  std::vector<float> queries_;  // [t, h, d] of the block at work
  std::map<std::pair<dsv4::tap_scope::part, index_t>, memory> memories_;
};

/// A float site's values, widened.
std::vector<double> numbers_of(const dsv4::tap_event& e);

/// "layers.3", "mtp.0"
std::string name_of(const dsv4::tap_scope& s);

/// Tokens [begin, end) that went into an entry of a block of this ratio.  CSA's blocks overlap: an entry also pools
/// the block before its own.
std::pair<index_t, index_t> covered_tokens(index_t ratio, index_t entry);

}  // namespace cli
