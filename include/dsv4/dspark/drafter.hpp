// SPDX-License-Identifier: MIT
#pragma once
/// DSpark: a block of tokens drafted at once from what the target's last layers hold of the tokens before it.
/// source   DSpark; as released with DeepSeek-V4-Flash-DSpark and -V4.1
/// axes     k slot · n stream · d channel · l target layer · s position · v vocabulary
/// oracle   golden/dspark: v4_draft, v41_train
///
///   context of position s:  RMSNorm(main_proj [mean over the streams at each target layer l]), seen as keys and values alone
///   block after position s: [token s + 1, noise, noise, ...] at positions s + 1, s + 2, ...
///   slot k says token s + 2 + k
///
/// The means are taken after the target layers (V4), or before them (V4.1): the caller's business.  Every position that the
/// target accepts enters the rings once; what a block computes of itself enters none, so that nothing is taken back when
/// the target rejects.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "acceptance.hpp"
#include "heads.hpp"
#include "stage.hpp"
#include "weights.hpp"

namespace dsv4::dspark {

/// Keys and values of the last `window` positions; position s in row s mod window.
template <class T>
class context_ring {
 public:
  context_ring(index_t window, index_t channels) : rows_(window, channels) {}
  /// The row of a position, to be written.
  view<T, 1> row(index_t position) { return rows_[position % rows_.extent(0)]; }
  /// What a block after `position` sees, that position included.  Order means nothing to attention.
  view<const T, 2> seen(index_t position) const {
    return read_only(rows_).rows(0, std::min(position + 1, rows_.extent(0)));
  }
  view<const T, 2> all() const { return rows_; }

 private:
  tensor<T, 2> rows_;  // [s,c]
};

/// What a block's stages leave of it.
template <class T>
struct draft_states {
  tensor<T, 2> raw, normed;  // [k,d]: before and after the last norm
  tensor<T, 2> logits;       // [k,v], before the Markov head
};

/// A drafted block.
template <class T>
struct draft_block {
  std::vector<std::int32_t> tokens;  // [k]
  tensor<T, 2> logits;               // [k,v]
  std::vector<T> confidence;         // [k], logits
};

/// A position's context from its features [l d].
template <class T>
void context_of(const drafter_weights<T>& w, const drafter_settings& s, view<const T, 1> features /*[l d]*/,
                view<T, 1> context /*[d]*/) {
  tensor<T, 1> raw(context.extent(0));
  detail::product<T>(features, w.main_proj, raw);
  normed<T>(raw, w.main_norm, s.norm_eps, context);
}

/// Streams of the block's input.
template <class T>
draft_streams<T> embedded(const drafter_weights<T>& w, const drafter_settings& s,
                          view<const std::int32_t, 1> ids /*[k]*/) {
  const index_t slots = ids.extent(0), width = w.embed.extent(1);
  draft_streams<T> h{tensor<T, 3>(slots, s.streams, width), tensor<T, 2>(slots, s.streams)};
  for (index_t k = 0; k < slots; ++k) {
    expects_in(ids[k], 0, w.embed.extent(0), "dspark: token");
    for (index_t n = 0; n < s.streams; ++n) std::copy_n(w.embed[ids[k]].data(), width, h.x[k][n].data());
    h.pre(k, 0) = 1;
  }
  return h;
}

/// One state a slot from its streams, and its logits.
template <class T>
draft_states<T> final_states(const drafter_weights<T>& w, const drafter_settings& s,
                             const draft_streams<T>& h) {
  const index_t slots = h.x.extent(0), streams = h.x.extent(1), width = h.x.extent(2);
  tensor<T, 2> pre = h.pre;
  if (!s.reads_with_the_site_before) {
    tensor<T, 1> m(streams);
    for (index_t k = 0; k < slots; ++k) {
      detail::raw_mixes<T>(h.x[k], w.hc_head.fn, s.norm_eps, m);
      for (index_t n = 0; n < streams; ++n)
        pre(k, n) = hyper_pre(m[n], w.hc_head.scale[0], w.hc_head.base[n], T(s.hc_eps));
    }
  }
  draft_states<T> out{detail::collapsed<T>(h.x, pre), tensor<T, 2>(slots, width),
                      tensor<T, 2>(slots, w.head.extent(0))};
  for (index_t k = 0; k < slots; ++k) {
    normed<T>(out.raw[k], w.norm, s.norm_eps, out.normed[k]);
    detail::product<T>(out.normed[k], w.head, out.logits[k]);
  }
  return out;
}

/// The Markov head and the confidences over a block.  previous(k, logits so far of slot k - 1) is the token before slot k.
template <class T, class Previous>
draft_block<T> headed(const drafter_weights<T>& w, const drafter_settings& s, draft_states<T> states,
                      Previous previous) {
  draft_block<T> block;
  markov_chain<T> chain(w.markov);
  for (index_t k = 0; k < states.logits.extent(0); ++k) {
    const std::int32_t before = previous(k, block);
    chain.add(before, states.normed[k], states.logits[k]);
    block.tokens.push_back(likeliest<T>(states.logits[k]));
    block.confidence.push_back(confidence_of<T>(
        w.confidence, s.confidence_reads_raw ? states.raw[k] : states.normed[k], w.markov.w1[before]));
  }
  block.logits = std::move(states.logits);
  return block;
}

/// A drafter of one sequence.
template <class T>
class drafter {
 public:
  drafter(const drafter_weights<T>& w, const drafter_settings& s) : w_(w), s_(s) {
    for (const stage_weights<T>& stage : w.stages) rings_.emplace_back(s.window, stage.wkv.extent(0));
  }

  /// A position that stands: its context enters the rings.  Positions come in order, each once.
  template <class Store>
  void accept(view<const T, 1> features /*[l d]*/, Store store) {
    tensor<T, 1> x(w_.main_norm.extent(0));
    context_of<T>(w_, s_, features, x);
    for (std::size_t i = 0; i < rings_.size(); ++i)
      key_value<T>(w_.stages[i], s_, x, next_, store, rings_[i].row(next_));
    ++next_;
  }

  /// The greedy block that begins with `token`, which stands right after what was accepted.
  /// look(stage, streams): each stage's streams.
  template <class Store, class Look>
  draft_block<T> draft(std::int32_t token, Store store, Look look) const {
    expects(next_ > 0, "drafter: a draft needs at least one accepted position");
    std::vector<std::int32_t> ids(usize(s_.block), s_.noise);
    ids[0] = token;
    draft_streams<T> h = embedded<T>(w_, s_, {ids.data(), s_.block});
    for (std::size_t i = 0; i < rings_.size(); ++i) {
      run_stage<T>(w_.stages[i], s_, rings_[i].seen(next_ - 1), next_, store, h);
      look(static_cast<index_t>(i), h.x);
    }
    return headed<T>(w_, s_, final_states<T>(w_, s_, h),
                     [&](index_t k, const draft_block<T>& b) { return k == 0 ? token : b.tokens.back(); });
  }

  index_t accepted() const { return next_; }
  const context_ring<T>& ring(index_t stage) const { return rings_[usize(stage)]; }

 private:
  drafter_weights<T> w_;
  drafter_settings s_;
  std::vector<context_ring<T>> rings_;
  index_t next_ = 0;  // positions accepted so far
};

}  // namespace dsv4::dspark
