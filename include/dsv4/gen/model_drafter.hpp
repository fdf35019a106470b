// SPDX-License-Identifier: MIT
#pragma once
/// The drafter that a checkpoint has: multi-token prediction, or DSpark in its place.
#include <optional>

#include "draft_settings.hpp"
#include "dspark_drafter.hpp"
#include "mtp_drafter.hpp"

namespace dsv4 {

template <numerics_policy P, execution E>
class model_drafter {
 public:
  using activation = act_t<P>;
  using memory = mem_of<E>;

  /// For sequences made with at most this max_rewind.
  /// @throws unsupported if the checkpoint has neither; the message names what it has
  model_drafter(transformer<P, E>& model, const draft_settings& settings, index_t max_rewind) {
    if (model.weights().dspark)
      dspark_.emplace(model, settings.depth, max_rewind, draft_choice::sampled, settings.least_trust);
    else
      mtp_.emplace(model, settings.depth, max_rewind);
  }

  bool follows(const sequence<P, E>& s) const { return mtp_ ? mtp_->follows(s) : dspark_->follows(s); }
  view<activation, 3, memory> streams(index_t t) { return mtp_ ? mtp_->streams(t) : dspark_->streams(t); }
  view<activation, 3, memory> context(index_t t) {
    return mtp_ ? view<activation, 3, memory>{} : dspark_->context(t);
  }
  void observe(const sequence<P, E>& s, std::span<const std::int32_t> ids) {
    mtp_ ? mtp_->observe(s, ids) : dspark_->observe(s, ids);
  }
  void catch_up(sequence<P, E>& s) { mtp_ ? mtp_->catch_up(s) : dspark_->catch_up(s); }
  template <class Choose>
  void propose(sequence<P, E>& s, std::int32_t next, index_t depth, Choose& choose, draft_list& drafts) {
    mtp_ ? mtp_->propose(s, next, depth, choose, drafts) : dspark_->propose(s, next, depth, choose, drafts);
  }

  /// MTP goes on elsewhere with the streams of a sequence's last token; DSpark has nothing to hand over.
  std::optional<mtp_drafter<P, E>>& mtp() { return mtp_; }

 private:
  std::optional<mtp_drafter<P, E>> mtp_;
  std::optional<dspark_drafter<P, E>> dspark_;
};

}  // namespace dsv4
