// SPDX-License-Identifier: MIT
#pragma once
/// Drafts from the model's own multi-token prediction block.
/// @paper{DSV4, section 2.1 (as DeepSeek-V3, section 2.2)}
/// axes     i position · n stream · d channel · v vocabulary
/// oracle   none: the released code does not call MTP
///
/// MTP turns the pair i = (streams of position i, token i+1) into logits of token i+2.  Of a sequence of n
/// tokens whose next one is known, pairs 0 .. n-1 are true; the last gives draft 1.  Draft j+1 comes from a
/// pair of the block's own output streams (its estimate of those of the main model) and draft j.  Such pairs
/// are taken back at once: between calls the block's window holds true pairs only.
///
/// A pair's streams come from the main model, so this object sees every call of it (observe) and keeps the
/// streams of the last positions, as many as a rewind can reach.
#include "../model/transformer.hpp"
#include "draft.hpp"
#include "generate.hpp"

namespace dsv4 {

/// How a draft is chosen from MTP's distribution.
enum class draft_choice {
  sampled,  ///< by the sampler's own settings: q is that distribution
  greedy,   ///< the likeliest processed token: q is the point mass on it
};

template <numerics_policy P, execution E>
class mtp_drafter {
 public:
  using model_type = transformer<P, E>;
  using activation = act_t<P>;
  using memory = mem_of<E>;

  /// For sequences made with at most this max_rewind, proposals of at most this depth.
  /// @throws unsupported if the checkpoint has no MTP module
  mtp_drafter(model_type& model, index_t depth, index_t max_rewind, draft_choice how = draft_choice::sampled)
      : model_(&model),
        how_(how),
        capacity_(std::max(prefill_chunk, depth + 1) + max_rewind + 1),
        streams_(capacity_, model.configuration().hc_mult * model.configuration().hidden_size),
        ids_(capacity_, 1),
        rows_(capacity_, model.configuration().hc_mult, model.configuration().hidden_size),
        next_(static_cast<std::size_t>(capacity_)),
        logits_(1, model.configuration().vocab_size) {
    model.expect_mtp("speculative decoding");
  }

  /// Have we seen what MTP needs to go on after this sequence's tokens?
  bool follows(const sequence<P, E>& s) const {
    return s.length() == 0 || (s.length() <= end_ && s.mtp_length() >= first_);
  }

  /// Where the main model is to write the streams [t, n, d] of its next t tokens.
  view<activation, 3, memory> streams(index_t t) { return rows_.all().rows(0, t); }

  /// The main model has read `ids`, now the last of s, and their streams lie in streams(t).
  void observe(const sequence<P, E>& s, std::span<const std::int32_t> ids) {
    const auto t = static_cast<index_t>(ids.size());
    const index_t start = s.length() - t;
    streams_.write(model_->executor(), start,
                   view<const activation, 2, memory>(rows_.all().rows(0, t).reshape(t, streams_.width())));
    ids_.write(start, {ids.data(), t, 1});
    end_ = s.length();
    first_ = std::max(start == 0 ? 0 : first_, end_ - capacity_);
  }

  /// Run the pairs whose two halves are known.
  void catch_up(sequence<P, E>& s) {
    if (s.mtp_length() < s.length() - 1) run_pairs(s, s.length() - 1, {});
  }

  /// Up to `depth` drafts of what follows `next`, the token after s; `choose` has remembered it.  None after
  /// a stop id.  The sequence is as before, but that its true pairs have been run, also if `choose` throws.
  template <class Choose>
  void propose(sequence<P, E>& s, std::int32_t next, index_t depth, Choose& choose, draft_list& drafts) {
    const index_t n = s.length();
    ids_.write(n, {&next, index_t{1}, index_t{1}});
    const index_t last = run_pairs(s, n, logits_);  // row of rows_ that now holds the streams of position n
    const auto streams = rows_.all().rows(last, last + 1);
    const struct take_back {
      sequence<P, E>& s;
      index_t n;
      Choose& choose;
      const draft_list& drafts;
      ~take_back() {
        for (index_t j = 0; j < drafts.size(); ++j) choose.forget();
        s.rewind_mtp(n);
      }
    } at_the_end{s, n, choose, drafts};
    for (index_t j = 0; j < depth; ++j) {
      distribution& q = drafts.next();
      choose.next(on_host(model_->executor(), view<const wide_t<E>, 2, memory>(logits_), host_logits_)[0], q);
      if (how_ == draft_choice::greedy) q.assign(q.mode());
      const std::int32_t id = choose.pick(q);
      choose.remember(id);
      drafts.add(id);
      if (j + 1 == depth || drafts.ended()) break;
      const typename model_type::mtp_input_rows pair{&s, {&id, 1}, streams};
      model_->forward_mtp(std::span(&pair, 1), {{}, logits_, streams});
    }
  }

  // ---- going on later, elsewhere

  /// What a file must keep beside the sequence: the streams [n, d] of its last token, after catch_up().
  view<const activation, 2, memory> last_streams(const sequence<P, E>& s) {
    streams_.read(model_->executor(), s.length() - 1, s.length(),
                  rows_.all().rows(0, 1).reshape(1, streams_.width()));
    return view<const activation, 3, memory>(rows_)[0];
  }
  /// Follow a sequence that was restored with the streams of its last token.
  void restore(const sequence<P, E>& s, view<const activation, 2> last /*[n,d]*/) {
    expects_equal(s.mtp_length(), s.length() - 1, "mtp_drafter::restore: pairs of the sequence");
    streams_.write(model_->executor(), s.length() - 1, last.reshape(1, streams_.width()));
    first_ = s.length() - 1;
    end_ = s.length();
  }

 private:
  /// Pairs [mtp_length, to), whose tokens are [mtp_length + 1, to]; the block's streams replace the main
  /// model's in rows_.  Returns the row of the last pair.
  index_t run_pairs(sequence<P, E>& s, index_t to, view<wide_t<E>, 2, memory> last_logits) {
    const index_t from = s.mtp_length(), t = to - from;
    expects(t <= capacity_, "mtp_drafter: more pairs to run than streams are kept");
    streams_.read(model_->executor(), from, to, rows_.all().rows(0, t).reshape(t, streams_.width()));
    for (index_t i = 0; i < t; ++i) next_[static_cast<std::size_t>(i)] = ids_.row(from + 1 + i)[0];
    const auto streams = rows_.all().rows(0, t);
    const typename model_type::mtp_input_rows pairs{&s, std::span(next_).first(static_cast<std::size_t>(t)),
                                                    streams};
    model_->forward_mtp(std::span(&pairs, 1), {{}, last_logits, streams});
    return t - 1;
  }

  model_type* model_;
  draft_choice how_;
  index_t capacity_;                     // positions that are kept: a chunk, and what a rewind can reach
  history<activation, memory> streams_;  // [capacity, n d] of the main model
  history<std::int32_t> ids_;            // [capacity, 1]
  index_t first_ = 0, end_ = 0;          // positions whose streams are kept
  tensor<activation, 3, memory> rows_;   // [capacity, n, d] streams on their way in and out
  std::vector<std::int32_t> next_;       // [capacity]
  tensor<wide_t<E>, 2, memory> logits_;  // [1, v]
  tensor<wide_t<E>, 2> host_logits_;     // … where the host can read them, if that is another memory
};

}  // namespace dsv4
