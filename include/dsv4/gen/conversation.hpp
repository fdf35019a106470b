// SPDX-License-Identifier: MIT
#pragma once
/// A conversation: every answer is asked for with the ids of all that was said, only what is new is read.
///
/// Prompts of a chat are not append-only: the next question drops the reasoning of the answer before, so the
/// ids that agree end where that answer began (text/chat_encoding.hpp).  Hence two memories are kept: the live
/// sequence, and a mark, its copy from before the last token of the last prompt.  The one that agrees with
/// more of the new ids goes on; if neither does, everything is read again.
/// @post (1) answer() gives the tokens that generate() would give a fresh sequence
///       (2) whatever throws, a callback or for want of memory, the conversation holds what was read until then, and
///           can go on
#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "speculative.hpp"
#include "state_file.hpp"

namespace dsv4 {

template <numerics_policy P, execution E>
class conversation {
 public:
  /// max_tokens: of questions and answers together.  drafts: per call (gen/speculative.hpp).
  /// @throws contract_violation max_tokens beyond the model's context; unsupported: drafts without a drafter
  conversation(transformer<P, E>& model, index_t max_tokens, const draft_settings& drafts = {})
      : model_(&model),
        max_tokens_(max_tokens),
        drafts_(drafts),
        live_{model.new_sequence(max_tokens, drafts.depth), {}} {
    expects(drafts.depth >= 0, "conversation: depth must be 0 (no drafts) or more");
    if (drafts.depth > 0) drafter_.emplace(model, drafts, drafts.depth);
  }

  /// Tokens that have been read; the last token of an answer has not been.
  std::span<const std::int32_t> ids() const { return live_.ids; }
  index_t max_tokens() const { return max_tokens_; }
  index_t depth() const { return drafts_.depth; }
  /// Tokens of the last answer()'s ids that did not have to be read.
  index_t reused() const { return reused_; }

  void reset() {
    live_.sequence.reset();
    live_.ids.clear();
    mark_.reset();
  }

  /// Reads `ids`, everything that was said so far, and answers.  choose: a sampler.
  /// on_prefill counts the ids, those that were read before included.
  /// @throws contract_violation as generate()
  template <class Choose, class OnToken>
  speculative_generation answer(std::span<const std::int32_t> ids, const generate_options& options,
                                Choose& choose, OnToken&& on_token) {
    const auto n = static_cast<index_t>(ids.size());
    expects(n > 0, "conversation::answer: no ids");
    go_back_to(ids);
    reused_ = live_.sequence.length();
    if constexpr (requires { choose.begin(index_t{0}, ids); })
      choose.begin(0, ids.first(static_cast<std::size_t>(reused_)));
    generate_options shown = options;
    if (options.on_prefill)
      shown.on_prefill = [&](index_t done, index_t) { options.on_prefill(reused_ + done, n); };

    // All but the last token, which says how the answer begins; then the mark.
    std::vector<std::int32_t> made;
    speculative_generation r;
    live_.ids.reserve(static_cast<std::size_t>(max_tokens_));
    const follow_up keep_ids(*this, ids, made);
    if (const index_t rest = n - 1 - reused_; rest > 0) {
      generate_options read_only = shown;
      read_only.max_new = 0;
      r = run(ids.subspan(static_cast<std::size_t>(reused_), static_cast<std::size_t>(rest)), read_only,
              choose, on_token);
      mark_.emplace();
      if (drafter_ && drafter_->mtp()) mark_->streams = last_streams();
      mark_->sequence = live_.sequence;
      mark_->ids.assign(ids.begin(), ids.end() - 1);
    }
    const double before = r.prefill_seconds;
    shown.on_prefill = {};
    r = run(ids.last(1), shown, choose, [&](std::int32_t id, const auto& logits) {
      made.push_back(id);
      if constexpr (std::is_invocable_v<OnToken&, std::int32_t, decltype(logits)>)
        return on_token(id, logits);
      else
        return on_token(id);
    });
    r.prefill_seconds += before;
    return r;
  }

  /// The whole conversation as a file (gen/state_file.hpp).  application: the program's own bytes.
  void save(const std::filesystem::path& path, const state_identity& identity, const sampler& choose,
            std::string application) {
    state_extras<P, E> extras;
    extras.ids = live_.ids;
    extras.seed = choose.settings().seed;
    extras.sampler = choose.state();
    extras.application = std::move(application);
    if (drafter_ && drafter_->mtp() && !live_.ids.empty() && drafter_->follows(live_.sequence))
      extras.streams = last_streams();
    save_state(path, identity, *model_, live_.sequence, extras);
  }
  /// Returns the program's bytes.  @throws format_error; nothing has changed when it throws
  std::string load(const std::filesystem::path& path, const state_identity& identity, sampler& choose) {
    auto loaded = load_state(path, identity, *model_, {max_tokens_, drafts_.depth});
    state_extras<P, E>& extras = loaded.extras;
    memory next{std::move(loaded.sequence), std::move(extras.ids)};
    next.ids.resize(static_cast<std::size_t>(next.sequence.length()));
    next.streams = std::move(extras.streams);
    auto drafter = drafter_of(next);
    choose.restore(extras.sampler);  // all or nothing, and the last that can throw
    go_on_with(std::move(next), std::move(drafter));
    mark_.reset();
    return std::move(extras.application);
  }

 private:
  /// A sequence and the tokens that it has read.
  struct memory {
    dsv4::sequence<P, E> sequence;
    std::vector<std::int32_t> ids;
    tensor<act_t<P>, 3> streams{};  // [1, n, d] of the last token; kept by a mark when there are drafts

    /// How many of the ids `wanted` this memory has read already.  The last of them is always read again.
    index_t agrees_with(std::span<const std::int32_t> wanted) const {
      if (!sequence.intact()) return 0;  // a call was ended midway by an exception: read everything again
      const auto differ = std::mismatch(ids.begin(), ids.end(), wanted.begin(), wanted.end()).first;
      const index_t n =
          std::min(static_cast<index_t>(differ - ids.begin()), static_cast<index_t>(wanted.size()) - 1);
      return n == sequence.length() || n >= sequence.rewind_limit() ? n : 0;
    }
  };

  /// At the end of answer(), however it ends: the ids that the live sequence has read, at most max_tokens, for which
  /// there is room.
  class follow_up {
   public:
    follow_up(conversation& c, std::span<const std::int32_t> ids, const std::vector<std::int32_t>& made)
        : c_(c), ids_(ids), made_(made) {}
    follow_up(const follow_up&) = delete;
    follow_up& operator=(const follow_up&) = delete;
    ~follow_up() {
      std::vector<std::int32_t>& all = c_.live_.ids;
      const auto read = static_cast<std::size_t>(c_.live_.sequence.length());
      const std::span<const std::int32_t> asked = ids_.first(std::min(ids_.size(), read));
      all.assign(asked.begin(), asked.end());
      for (std::size_t i = 0; i < made_.size() && all.size() < read; ++i) all.push_back(made_[i]);
    }

   private:
    conversation& c_;
    std::span<const std::int32_t> ids_;
    const std::vector<std::int32_t>& made_;
  };

  /// The live sequence holds a prefix of ids, the longest that one of the memories has.
  void go_back_to(std::span<const std::int32_t> ids) {
    index_t n = live_.agrees_with(ids);
    if (mark_ && mark_->agrees_with(ids) > n) {
      memory next = *mark_;
      auto drafter = drafter_of(next);
      go_on_with(std::move(next), std::move(drafter));
      n = live_.agrees_with(ids);
    }
    live_.sequence.rewind(n);
    if (drafter_ && !drafter_->follows(live_.sequence)) live_.sequence.reset();
    live_.ids.resize(static_cast<std::size_t>(live_.sequence.length()));
  }

  /// What MTP needs to go on from here, later.
  tensor<act_t<P>, 3> last_streams() {
    drafter_->catch_up(live_.sequence);
    const auto last = drafter_->mtp()->last_streams(live_.sequence);  // [n, d]
    tensor<act_t<P>, 3> out(1, last.extent(0), last.extent(1));
    copy(model_->executor(), last, out.all()[0]);
    return out;
  }
  /// A drafter that follows m.  Its streams are [t, n, d] of the last t tokens; without them it knows nothing of m.
  std::optional<model_drafter<P, E>> drafter_of(const memory& m) {
    std::optional<model_drafter<P, E>> d;
    if (drafts_.depth == 0) return d;
    d.emplace(*model_, drafts_, drafts_.depth);
    const index_t t = m.streams.size() > 0 ? m.streams.extent(0) : 0;
    if (t > 0 && d->mtp() && m.sequence.mtp_length() == m.sequence.length() - 1)
      d->mtp()->restore(m.sequence, view<const act_t<P>, 3>(m.streams.all())[t - 1]);
    return d;
  }
  void go_on_with(memory&& m, std::optional<model_drafter<P, E>>&& drafter) noexcept {
    live_ = std::move(m);
    live_.streams = {};
    drafter_ = std::move(drafter);
  }

  template <class Choose, class OnToken>
  speculative_generation run(std::span<const std::int32_t> ids, const generate_options& options,
                             Choose& choose, OnToken&& on_token) {
    if (drafter_)
      return generate_speculative(*model_, live_.sequence, ids, options, choose, *drafter_, drafts_.depth,
                                  on_token);
    return {generate(*model_, live_.sequence, ids, options, choose, on_token), {}};
  }

  transformer<P, E>* model_;
  index_t max_tokens_, reused_ = 0;
  draft_settings drafts_;
  memory live_;
  std::optional<memory> mark_;
  std::optional<model_drafter<P, E>> drafter_;
};

}  // namespace dsv4
