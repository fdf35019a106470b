// SPDX-License-Identifier: MIT
#pragma once
/// Drafts from a checkpoint's DSpark drafter: a block at once, as many of it as its confidence head trusts.
/// source   DSpark; as released with DeepSeek-V4-Flash-DSpark
/// axes     t token · l target layer · d channel · v vocabulary
/// oracle   generate(): the same tokens when greedy, the same distribution otherwise (gen/speculative.hpp)
///
/// Slot k is drawn from the sampler's own distribution q of its logits, after the k tokens drawn before it; how far a
/// block goes is decided from those tokens alone, before the next is drawn.  So q is what each draft was drawn from,
/// and the rule of gen/draft.hpp loses nothing whatever the confidence head says.
///
/// It sees the contexts of what it has observed.  A sequence that came from elsewhere (a state file, a reused prefix)
/// is followed all the same; drafts are worse until the window has filled again.
#include "../model/dspark.hpp"
#include "mtp_drafter.hpp"

namespace dsv4 {

template <numerics_policy P, execution E>
class dspark_drafter {
 public:
  using model_type = transformer<P, E>;
  using activation = act_t<P>;
  using memory = mem_of<E>;

  /// As mtp_drafter; a block has no more slots than the drafter was trained for, whatever the depth.
  /// least_trust: a slot that the confidence head gives less than this is not drafted, nor one after it.
  /// @throws unsupported if the checkpoint has no DSpark drafter
  dspark_drafter(model_type& model, index_t depth, index_t max_rewind,
                 draft_choice how = draft_choice::sampled, double least_trust = 0)
      : network_(model, max_rewind),
        how_(how),
        least_trust_(least_trust),
        context_(std::max(prefill_chunk, depth + 1),
                 static_cast<index_t>(model.configuration().dspark.target_layers.size()),
                 model.configuration().hidden_size) {
    expects(least_trust >= 0 && least_trust <= 1, "dspark_drafter: a trust is a probability");
  }

  bool follows(const sequence<P, E>&) const { return true; }
  view<activation, 3, memory> streams(index_t) { return {}; }
  /// Where the main model is to write the contexts [t, l, d] of its next t tokens.
  view<activation, 3, memory> context(index_t t) { return context_.all().rows(0, t); }
  /// The main model has read `ids`, now the last of s, and their contexts lie in context(t).
  void observe(const sequence<P, E>& s, std::span<const std::int32_t> ids) {
    const auto t = static_cast<index_t>(ids.size());
    network_.accept(s.length() - t, context(t));
  }
  void catch_up(sequence<P, E>&) {}

  /// Up to `depth` drafts of what follows `next`, the token after s; `choose` has remembered it.  None after a stop id.
  template <class Choose>
  void propose(sequence<P, E>& s, std::int32_t next, index_t depth, Choose& choose, draft_list& drafts) {
    network_.run(next, s.length());
    const struct forget_all {
      Choose& choose;
      const draft_list& drafts;
      ~forget_all() {
        for (index_t j = 0; j < drafts.size(); ++j) choose.forget();
      }
    } at_the_end{choose, drafts};
    std::int32_t previous = next;
    for (index_t k = 0; k < std::min(depth, network_.slots()) && !drafts.ended(); ++k) {
      if (network_.follow(k, previous) < least_trust_) break;
      distribution& q = drafts.next();
      choose.next(network_.logits(k), q);
      if (how_ == draft_choice::greedy) q.assign(q.mode());
      previous = choose.pick(q);
      choose.remember(previous);
      drafts.add(previous);
    }
  }

  const dspark_network<P, E>& network() const { return network_; }

 private:
  dspark_network<P, E> network_;
  draft_choice how_;
  double least_trust_;
  tensor<activation, 3, memory> context_;  // [t, l, d]
};

}  // namespace dsv4
