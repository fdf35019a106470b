// SPDX-License-Identifier: MIT
#pragma once
/// Reuse of what an earlier prompt has computed: the longest common prefix, cut at a block boundary.
/// @paper{DSV4, section 3.5.2}
/// axes     p position · d channel · l layer · W window · L layers
///
/// Compressed entries are kept for every token; they are small.  Window rows are about 8 times as large, and
/// the paper has three ways to deal with them:
///
///   full          all rows are kept                      tokens run again: the last `tail`
///   periodic(p)   the W - 1 rows before each multiple     back to a multiple of p, at least `tail`
///   zero          none                                   L (W - 1), as if every layer had only its window
///
/// Why zero gives the exact rows: layer l at position p reads its own rows (p - W, p] and entries, which are
/// there.  So if we begin at cut - L (W - 1), layer 0 is right from the first token on, layer 1 from W - 1
/// tokens later, …, and the last layer's rows are right where the next query looks.  What is wrong before
/// that is never read again, and entries are not pooled from it (compressor_state::reused_entries).  The paper says
/// L W; a query sees its own row and W - 1 before it, so L less suffice.
/// `tail` is 4, the CSA block whose projections the next entry pools as well (they are wide, so not kept), and
/// 0 in models without CSA.  At a cut, a multiple of every ratio (128 in published models), no block is open.
/// MTP needs the streams of W positions: `tail` is at least W, and zero runs W more; its rows are not kept.
/// @post (1) restore() gives the state that reading the tokens again would give: all stored bits
///       (2) tokens after the cut are the caller's to run; at least one is left
///       (3) what one model's weights have read is refused by a model of others (model/fingerprint.hpp)
#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "state.hpp"

namespace dsv4 {

enum class window_rule { full, periodic, zero };

/// What is reused of a prompt.
struct prefix_plan {
  index_t cut = 0;   ///< this many tokens need not go through forward() again
  index_t from = 0;  ///< restore() runs [from, cut) again, to have their window rows
  index_t again() const { return cut - from; }
};

/// Where prompts are cut: the least common multiple of the compression ratios.
inline index_t prefix_block(const config& c) {
  index_t block = 1;
  for (index_t l = 0; l < c.num_hidden_layers; ++l)
    if (const index_t ratio = c.ratio(l); ratio > 0 && block <= c.max_position_embeddings)
      block = ratio > c.max_position_embeddings ? ratio : std::lcm(block, ratio);
  return block;
}

/// How many tokens before the cut are run again at least, kept rows or not: for the projections of the CSA
/// block that the next entry pools too, and for the streams that MTP's window is made of.
inline index_t prefix_tail(const config& c, bool mtp = false) {
  bool csa = false;
  for (index_t l = 0; l < c.num_hidden_layers; ++l) csa = csa || c.kind(l) == attention_kind::csa;
  return std::max(csa ? csa_ratio : index_t{0}, mtp ? c.sliding_window : index_t{0});
}
/// How many tokens are run again when no window row is kept.  Each layer needs W - 1 rows more than the layer above it.
inline index_t prefix_depth(const config& c, bool mtp = false) {
  const index_t rows = c.sliding_window - 1, above = mtp ? c.sliding_window : 0;
  return rows * (c.num_hidden_layers - 1) + std::max(prefix_tail(c, mtp), rows + above);
}

/// A sequence that begins with a reused prefix.
template <numerics_policy P, execution E>
struct reused_prefix {
  dsv4::sequence<P, E> sequence;  ///< of length plan.cut; cannot go back behind it
  prefix_plan plan;
  tensor<act_t<P>, 3> streams;  ///< [1, n, D] of the last token, with MTP
};

/// What is kept of one run.  Values of the policy's stored type only, so the executor does not matter beyond
/// its stored bits.
template <numerics_policy P>
class stored_prefix {
 public:
  using activation = act_t<P>;

  /// period: of window_rule::periodic.
  explicit stored_prefix(const config& c, window_rule rule, index_t period = 0)
      : c_(c), rule_(rule), period_(period), layers_(static_cast<std::size_t>(c.num_hidden_layers)) {
    expects(rule != window_rule::periodic || period > 0, "stored_prefix: periodic needs a period");
  }

  /// How many tokens the next call may have so that its window rows can still be kept.
  index_t longest_call() const {
    if (rule_ == window_rule::zero) return std::numeric_limits<index_t>::max();
    return rule_ == window_rule::full ? c_.sliding_window : period_ - length() % period_;
  }
  /// After each call: s, which lies in the memory of `e`, has read `ids` and, before them, what was kept so far.
  /// @throws contract_violation if the call was longer than longest_call(); nothing has changed when it throws
  template <execution E>
  void keep(const sequence<P, E>& s, std::span<const std::int32_t> ids, E e = {}) {
    const index_t before = length(), now = s.length();
    expects(sequence_access<P, E>::fits(s, c_), "stored_prefix::keep: a sequence of another model");
    sequence_access<P, E>::expect_intact(s);
    const std::uint64_t weights = sequence_access<P, E>::weights(s);
    expects(weights_ == 0 || weights == 0 || weights == weights_,
            "stored_prefix::keep: a sequence of other weights than those that read what was kept so far");
    expects_equal(before + static_cast<index_t>(ids.size()), now,
                  "stored_prefix::keep: tokens kept, against the sequence's length");
    expects(static_cast<index_t>(ids.size()) <= longest_call(),
            "stored_prefix::keep: a call longer than longest_call()");
    unless_done undo(*this);
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    const position_range rows = rows_to_keep(before, now);
    for (index_t l = 0; l < c_.num_hidden_layers; ++l) {
      const attention_state<P, E>& from = s.layer(l);
      layer_rows& to = layers_[static_cast<std::size_t>(l)];
      append(e, to.window, from.window, rows);
      const index_t ratio = c_.ratio(l);
      if (ratio > 0) append(e, to.entries, from.compressor.entries, {before / ratio, now / ratio});
      if (kind_of_ratio(ratio) == attention_kind::csa)
        append(e, to.keys, from.indexer.entries, {before / ratio, now / ratio});
    }
    if (rows.count() > 0) {
      if (!runs_.empty() && runs_.back().to == rows.from)
        runs_.back().to = rows.to;
      else
        runs_.push_back(rows);
    }
    weights_ = weights;
    undo.done();
  }

  /// A prefix to be filled from a file (prefix_file.hpp).
  stored_prefix(const config& c, std::vector<std::int32_t> ids, std::vector<position_range> runs)
      : stored_prefix(c, window_rule::zero) {
    ids_ = std::move(ids);
    runs_ = std::move(runs);
  }
  /// f(name, values, rows, width) for every array: rows of d channels, one after the other.
  template <class Self, class F>
  static void each_array(Self& self, F&& f) {
    const config& c = self.c_;
    index_t kept = 0;
    for (const position_range& run : self.runs_) kept += run.count();
    for (index_t l = 0; l < c.num_hidden_layers; ++l) {
      const std::string name = "layers." + std::to_string(l);
      auto& layer = self.layers_[static_cast<std::size_t>(l)];
      const index_t ratio = c.ratio(l);
      f(name + ".window", layer.window, kept, c.head_dim);
      if (ratio > 0) f(name + ".compressor.entries", layer.entries, self.length() / ratio, c.head_dim);
      if (kind_of_ratio(ratio) == attention_kind::csa)
        f(name + ".indexer.entries", layer.keys, self.length() / ratio, c.index_head_dim);
    }
  }

  /// The first n tokens of it alone, to be kept on by another rule or the same.
  stored_prefix first(index_t n, window_rule rule, index_t period = 0) const {
    expects_in(n, 0, length() + 1, "stored_prefix::first: tokens");
    stored_prefix r(c_, rule, period);
    r.weights_ = weights_;
    r.ids_.assign(ids_.begin(), ids_.begin() + n);
    index_t rows = 0;
    for (const position_range& run : runs_)
      if (const position_range part{run.from, std::min(run.to, n)}; part.count() > 0) {
        r.runs_.push_back(part);
        rows += part.count();
      }
    for (index_t l = 0; l < c_.num_hidden_layers; ++l) {
      const layer_rows& from = layers_[static_cast<std::size_t>(l)];
      layer_rows& to = r.layers_[static_cast<std::size_t>(l)];
      const index_t ratio = c_.ratio(l), entries = ratio > 0 ? n / ratio : 0;
      to.window.assign(from.window.begin(), from.window.begin() + rows * c_.head_dim);
      to.entries.assign(from.entries.begin(), from.entries.begin() + entries * c_.head_dim);
      if (kind_of_ratio(ratio) == attention_kind::csa)
        to.keys.assign(from.keys.begin(), from.keys.begin() + entries * c_.index_head_dim);
    }
    return r;
  }

  /// Positions whose window rows are kept, rising, apart from each other.
  std::span<const position_range> runs() const { return runs_; }
  index_t length() const { return static_cast<index_t>(ids_.size()); }
  std::span<const std::int32_t> ids() const { return ids_; }
  /// Bytes of all rows and entries.
  index_t bytes() const { return entry_bytes() + window_bytes(); }
  index_t entry_bytes() const {
    index_t n = 0;
    for (const layer_rows& l : layers_) n += static_cast<index_t>(l.entries.size() + l.keys.size());
    return n * index_t{sizeof(activation)};
  }
  index_t window_bytes() const {
    index_t n = 0;
    for (const layer_rows& l : layers_) n += static_cast<index_t>(l.window.size());
    return n * index_t{sizeof(activation)};
  }

  /// What can be reused for `prompt`, the cheaper way: from kept rows, or from entries alone.
  prefix_plan plan(std::span<const std::int32_t> prompt, bool mtp = false) const {
    const auto same =
        std::mismatch(ids_.begin(), ids_.end(), prompt.begin(), prompt.end()).first - ids_.begin();
    const index_t block = prefix_block(c_);
    const index_t cut =
        std::min(static_cast<index_t>(same), static_cast<index_t>(prompt.size()) - 1) / block * block;
    if (cut <= 0) return {};
    const index_t last = cut - prefix_tail(c_, mtp), before = c_.sliding_window - 1;
    index_t from = cut - prefix_depth(c_, mtp);
    for (const position_range& run : runs_) {  // the W - 1 rows before a position at most `last`
      const index_t to = std::min(run.to, last);
      if (to >= (run.from == 0 ? 0 : run.from + before)) from = std::max(from, to);
    }
    if (before == 0) from = std::max(from, last);
    return {cut, std::max(index_t{0}, from)};
  }

  /// A sequence that has read the reused tokens of `prompt`; length 0 if there are none.
  /// mtp: also the MTP block's pairs, up to that of the token before the last.
  /// @throws contract_violation limits as new_sequence; a model of other sizes or of other weights
  /// @throws unsupported mtp, but the checkpoint has no MTP block, or one that compresses
  template <execution E>
  reused_prefix<P, E> restore(transformer<P, E>& model, std::span<const std::int32_t> prompt,
                              index_t max_tokens, index_t max_rewind = 0, bool mtp = false) const {
    using access = sequence_access<P, E>;
    if (mtp && (!model.has_mtp() || c_.mtp_ratio() != 0))
      throw unsupported(
          "stored_prefix::restore: MTP needs a checkpoint with an MTP block, and one that does not compress");
    reused_prefix<P, E> r{model.new_sequence(max_tokens, max_rewind), plan(prompt, mtp), {}};
    const auto [cut, from] = r.plan;
    expects(access::fits(r.sequence, c_), "stored_prefix::restore: a model of another configuration");
    expects(weights_ == 0 || weights_ == model.fingerprint(),
            "stored_prefix::restore: a model of other weights than those that read the prefix");
    if (cut == 0) return r;
    expects(cut <= max_tokens, "stored_prefix::restore: max_tokens is less than the reused prefix");

    // What is kept: entries up to the cut, window rows before `from`.
    sequence<P, E>& s = r.sequence;
    const position_range rows{std::max(index_t{0}, from - c_.sliding_window + 1), from};
    for (index_t l = 0; l < c_.num_hidden_layers; ++l) {
      const layer_rows& kept = layers_[static_cast<std::size_t>(l)];
      attention_state<P, E>& to = access::layer(s, l);
      put_window(model.executor(), kept, to.window, rows);
      if (const index_t ratio = c_.ratio(l); ratio > 0) {
        put_entries(model.executor(), kept.entries, to.compressor.entries, cut / ratio);
        if (kind_of_ratio(ratio) == attention_kind::csa)
          put_entries(model.executor(), kept.keys, to.indexer.entries, cut / ratio);
      }
    }

    // The rest, by running [from, cut) again over those entries.
    const index_t again = cut - from;
    const auto part = [&](index_t a, index_t b) {
      return prompt.subspan(static_cast<std::size_t>(a), static_cast<std::size_t>(b - a));
    };
    tensor<activation, 3, mem_of<E>> streams(mtp ? again : 0, c_.hc_mult, c_.hidden_size);
    access::set_extent(s, {from, from, 0, 0});
    access::give_entries(s, c_, cut);
    const typename transformer<P, E>::input tokens{&s, part(from, cut)};
    model.forward(std::span(&tokens, 1), {{}, {}, mtp ? streams.all() : view<activation, 3, mem_of<E>>{}});
    access::give_entries(s, c_, 0);
    access::set_extent(s, {cut, cut, 0, 0});
    if (!mtp) return r;

    // MTP: pairs (streams of i, token i + 1) of the last W - 1 positions before the last token.
    const index_t first = std::max(index_t{0}, cut - c_.sliding_window);
    access::set_extent(s, {cut, cut, first, first});
    const typename transformer<P, E>::mtp_input_rows pairs{&s, part(first + 1, cut),
                                                           streams.all().rows(first - from, again - 1)};
    model.forward_mtp(std::span(&pairs, 1), typename transformer<P, E>::output{});
    access::set_extent(s, {cut, cut, cut - 1, cut - 1});
    r.streams = tensor<activation, 3>(1, c_.hc_mult, c_.hidden_size);
    copy(model.executor(), streams.all().rows(again - 1, again), r.streams.all());
    return r;
  }

 private:
  struct layer_rows {
    std::vector<activation> window;         // [rows of all runs, hd]
    std::vector<activation> entries, keys;  // [length / ratio, hd], [.., id]: attention's, the indexer's
  };

  /// Takes back, for want of memory, the part of a call that was kept already: keep() only appends.
  class unless_done {
   public:
    explicit unless_done(stored_prefix& p) : p_(p), ids_(p.ids_.size()) {
      sizes_.reserve(p.layers_.size());
      for (const layer_rows& l : p.layers_)
        sizes_.push_back({l.window.size(), l.entries.size(), l.keys.size()});
    }
    unless_done(const unless_done&) = delete;
    unless_done& operator=(const unless_done&) = delete;
    ~unless_done() {
      if (done_) return;
      p_.ids_.resize(ids_);
      for (std::size_t l = 0; l < sizes_.size(); ++l) {
        p_.layers_[l].window.resize(sizes_[l][0]);
        p_.layers_[l].entries.resize(sizes_[l][1]);
        p_.layers_[l].keys.resize(sizes_[l][2]);
      }
    }
    void done() { done_ = true; }

   private:
    stored_prefix& p_;
    std::size_t ids_;
    std::vector<std::array<std::size_t, 3>> sizes_;  // [layers] of window, entries, keys
    bool done_ = false;
  };

  /// Window rows to keep of a call that took the sequence from `before` to `now`.
  position_range rows_to_keep(index_t before, index_t now) const {
    const index_t kept = runs_.empty() ? 0 : runs_.back().to;
    if (rule_ == window_rule::full) return {before, now};
    if (rule_ == window_rule::periodic && now % period_ == 0)
      return {std::max(kept, now - c_.sliding_window + 1), now};
    return {};
  }
  template <execution E, class Rows>
  static void append(E& e, std::vector<activation>& to, const Rows& rows, position_range r) {
    if (r.count() <= 0) return;
    const index_t width = width_of(rows), at = static_cast<index_t>(to.size());
    to.resize(static_cast<std::size_t>(at + r.count() * width));
    read_rows(e, rows, r, view<activation, 2>(to.data() + at, r.count(), width));
  }
  template <execution E>
  void put_window(E& e, const layer_rows& kept, history<activation, mem_of<E>>& to,
                  position_range rows) const {
    index_t row = 0;  // of the run's first position
    for (const position_range& run : runs_) {
      const position_range both{std::max(run.from, rows.from), std::min(run.to, rows.to)};
      if (both.count() > 0)
        to.write(e, both.from,
                 view<const activation, 2>(kept.window.data() + (row + both.from - run.from) * to.width(),
                                           both.count(), to.width()));
      row += run.count();
    }
  }
  template <execution E>
  static void put_entries(E& e, const std::vector<activation>& kept, tensor<activation, 2, mem_of<E>>& to,
                          index_t n) {
    copy(e, view<const activation, 2>(kept.data(), n, to.extent(1)), to.all().rows(0, n));
  }

  config c_;
  window_rule rule_;
  index_t period_;
  std::uint64_t weights_ = 0;  // fingerprint of those that read it; 0: none have, or it is from a file
  std::vector<std::int32_t> ids_;
  std::vector<position_range> runs_;  // of which window rows are kept, rising, apart from each other
  std::vector<layer_rows> layers_;
};

/// Reads `ids` (a prompt, or more of one) and keeps what the rule keeps.  last_logits [1, v], or empty.
/// When it throws, `prefix` holds whole calls; `s` may have read one more, and keep() then says so.
template <numerics_policy P, execution E>
void read_and_keep(transformer<P, E>& model, sequence<P, E>& s, std::span<const std::int32_t> ids,
                   stored_prefix<P>& prefix, view<wide_t<E>, 2, mem_of<E>> last_logits = {}) {
  while (!ids.empty()) {
    const auto n =
        static_cast<std::size_t>(std::min(prefix.longest_call(), static_cast<index_t>(ids.size())));
    const typename transformer<P, E>::input one{&s, ids.first(n)};
    model.forward(std::span(&one, 1), {{}, n == ids.size() ? last_logits : view<wide_t<E>, 2, mem_of<E>>{}});
    prefix.keep(s, ids.first(n), model.executor());
    ids = ids.subspan(n);
  }
}

/// The prefix, of several, that saves most tokens; null if none saves any.
template <numerics_policy P>
const stored_prefix<P>* best_prefix(std::span<const stored_prefix<P>> prefixes,
                                    std::span<const std::int32_t> prompt, bool mtp = false) {
  const stored_prefix<P>* best = nullptr;
  index_t spared = 0;
  for (const stored_prefix<P>& p : prefixes)
    if (const index_t from = p.plan(prompt, mtp).from; from > spared) {
      best = &p;
      spared = from;
    }
  return best;
}

}  // namespace dsv4
