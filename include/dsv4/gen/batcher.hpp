// SPDX-License-Identifier: MIT
#pragma once
/// Continuous batching: many requests, one model.  Each step is one call of the model for all that run: one token of
/// every answer under way, and pieces of the prompts that are still being read.
///
///   submit -> queue -> (a place is free) running: read the prompt, then a token a step -> end
///
/// Requests are independent: what a request gets does not depend on what runs beside it, on when it came, or on
/// what the prefix cache holds.  Stored values have the same bits however tokens are batched (model/transformer.hpp);
/// logits do too but for exec::cpu, where the product of one row alone adds in another order than that of several.
/// So there one row is never alone: the head reads the last row twice when a call has one sequence, by the kernel for
/// several, which takes longer than the one for a single row.
///
/// Fair in order: requests begin in the order in which they came; all answers under way get their next token in
/// every step; what is left of the step's tokens goes to the prompts, the oldest first.
/// The model must have been made with its usual tokens_per_pass.
/// Threads: one at a time; a program with several gives it one of its own, and tells that what to submit and to cancel.
/// @post (1) the tokens of a request are those that generate() gives a fresh sequence with the same sampling
///       (2) after cancel() returns, the listener is not called again
///       (3) an exception of a listener, a sampler or a constraint ends that request alone; one of the model
///           itself ends all that were in its call, since their sequences may be damaged
#include <algorithm>
#include <deque>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "../model/transformer.hpp"
#include "batch_request.hpp"
#include "prefix_shelf.hpp"
#include "sampler.hpp"

namespace dsv4 {

template <numerics_policy P, execution E>
class batcher {
 public:
  using ticket = std::uint64_t;

  /// @throws contract_violation limits that contradict each other
  batcher(transformer<P, E>& model, const batch_limits& limits);

  /// @throws contract_violation what is asked for cannot be: an empty prompt, ids outside the vocabulary, too long
  /// @throws batch_full         too many wait
  ticket submit(batch_request r, std::shared_ptr<batch_listener> listener);
  /// A request that is not wanted any more; one that has ended is no mistake.
  void cancel(ticket t);
  /// One call of the model for all that run.  @returns whether anything is left to do
  bool step();
  bool idle() const { return active_.empty() && queue_.empty(); }
  index_t running() const { return static_cast<index_t>(active_.size()); }
  index_t queued() const { return static_cast<index_t>(queue_.size()); }
  const batch_counts& counts() const { return counts_; }
  const batch_limits& limits() const { return limits_; }
  /// What is kept for prompts that begin like earlier ones.
  prefix_shelf<P>& prefixes() { return shelf_; }
  const prefix_shelf<P>& prefixes() const { return shelf_; }

 private:
  static constexpr index_t one_pass = 512;  // transformer's tokens_per_pass
  static constexpr bool one_row_adds_otherwise = std::is_same_v<E, exec::cpu>;

  struct waiting {
    ticket number;
    batch_request request;
    std::shared_ptr<batch_listener> listener;
  };
  struct active {
    ticket number;
    batch_request request;  // its ids grow by those of the answer
    std::shared_ptr<batch_listener> listener;
    dsv4::sequence<P, E> sequence;
    stored_prefix<P> kept;
    sampler choose;
    std::optional<log_probabilities> scores;
    index_t prompt, memory;
    bool over = false, keeps = true;  // keeps: what was read may go to the shelf

    index_t made() const { return static_cast<index_t>(request.ids.size()) - prompt; }
    /// Tokens that no call has read yet.
    index_t unread() const { return static_cast<index_t>(request.ids.size()) - sequence.length(); }
  };
  struct share {
    active* who;
    index_t tokens;
  };

  index_t free_places() const { return limits_.running - static_cast<index_t>(active_.size()); }

  // ---- who runs

  void admit() {
    while (!queue_.empty() && free_places() > 0) {
      const index_t longest =
          static_cast<index_t>(queue_.front().request.ids.size()) + queue_.front().request.max_new;
      if (limits_.tokens_in_memory > 0 && in_memory_ + longest > limits_.tokens_in_memory) return;
      waiting w = std::move(queue_.front());
      queue_.pop_front();
      const std::shared_ptr<batch_listener> listener = w.listener;
      try {
        begin(std::move(w), longest);
      } catch (...) {
        tell(*listener, std::current_exception());
      }
    }
  }
  void begin(waiting w, index_t longest) {
    const config& c = model_->configuration();
    stored_prefix<P> kept(c, window_rule::periodic, period_);
    std::optional<dsv4::sequence<P, E>> sequence;
    index_t reused = 0;
    if (const auto before = shelf_.find(w.request.ids)) {
      auto r = before->restore(*model_, w.request.ids, longest);
      reused = r.plan.from;
      kept = before->first(r.plan.cut, window_rule::periodic, period_);
      sequence.emplace(std::move(r.sequence));
      counts_.tokens_read += r.plan.again();
    } else {
      sequence.emplace(model_->new_sequence(longest));
    }
    counts_.tokens_reused += reused;
    sampler choose(w.request.sampling, c.vocab_size, longest);
    choose.begin(0, w.request.ids);
    const auto n = static_cast<index_t>(w.request.ids.size());
    active_.push_back({w.number, std::move(w.request), std::move(w.listener), std::move(*sequence),
                       std::move(kept), std::move(choose), std::nullopt, n, longest});
    active& a = active_.back();
    in_memory_ += longest;
    try {
      if (a.request.logprobs) a.scores.emplace(*a.request.logprobs, c.vocab_size);
      a.listener->begin(reused);
    } catch (...) {
      in_memory_ -= longest;
      active_.pop_back();
      throw;
    }
  }
  void fail(active& a, const std::exception_ptr& why) {
    a.over = true;
    a.keeps = false;
    tell(*a.listener, why);
  }
  /// A listener that throws here, too, is told nothing more; the others of the call still are.
  void tell(batch_listener& l, const std::exception_ptr& why) {
    ++counts_.failed;
    try {
      l.failed(why);
    } catch (...) {
    }
  }
  /// Those that are over leave, and what they have read is kept.
  void sweep() {
    std::erase_if(active_, [&](active& a) {
      if (a.over) keep(a);
      return a.over;
    });
  }
  void keep(active& a) noexcept {
    in_memory_ -= a.memory;
    if (!a.keeps || limits_.prefix_bytes == 0 || a.kept.length() < prefix_block(model_->configuration()))
      return;
    try {
      shelf_.put(std::move(a.kept));
    } catch (...) {  // no memory: it is read again when it is asked for again
    }
  }

  // ---- one call

  /// How many tokens of whom.
  void plan() {
    shares_.clear();
    index_t left = limits_.tokens_per_step;
    for (active& a : active_)
      if (a.made() > 0) shares_.push_back({&a, 1}), --left;
    for (active& a : active_) {
      if (a.made() > 0 || left == 0) continue;
      index_t n = std::min(a.unread(), left);
      if (limits_.prefix_bytes > 0) n = std::min(n, a.kept.longest_call());
      shares_.push_back({&a, n});
      left -= n;
    }
  }
  std::span<const std::int32_t> ids_of(const share& s) const {
    return std::span<const std::int32_t>(s.who->request.ids)
        .subspan(static_cast<std::size_t>(s.who->sequence.length()), static_cast<std::size_t>(s.tokens));
  }
  void run() {
    batch_.clear();
    bool wanted = false;  // whether any answer goes on after this call
    for (const share& s : shares_) {
      batch_.push_back({&s.who->sequence, ids_of(s)});
      wanted = wanted || s.tokens == s.who->unread();
    }
    if (!wanted) return model_->forward(batch_, {});
    const auto n = static_cast<index_t>(batch_.size());
    if constexpr (one_row_adds_otherwise) {
      if (n == 1) return run_alone();
    }
    model_->forward(batch_, {{}, logits_.all().rows(0, n)});
  }
  /// One sequence: its last row goes through the head twice, as one of two.
  void run_alone()
    requires one_row_adds_otherwise
  {
    const config& c = model_->configuration();
    const index_t t = shares_[0].tokens;
    if (streams_.extent(0) < t) streams_ = tensor<act_t<P>, 3, mem_of<E>>(t, c.hc_mult, c.hidden_size);
    model_->forward(batch_, {{}, {}, streams_.all().rows(0, t)});
    const auto last = streams_.all().rows(t - 1, t);
    for (index_t i = 0; i < 2; ++i) copy(model_->executor(), last, twice_.all().rows(i, i + 1));
    const model_weights<>& w = model_->weights();
    no_tap quiet;
    kernel::scope<E>::run(model_->executor(), [&] {
      head(call_context<E, no_tap>{model_->executor(),
                                   scratch_,
                                   host_,
                                   c,
                                   {model_->executor(), quiet, {}, {tap_scope::part::head, 0}}},
           twice_.all(), head_weights<mem_of<E>>{&w.hc_head, w.norm, &w.head}, logits_.all().rows(0, 2));
    });
  }
  /// What a call has left for one of its sequences: logits, if all of its ids are read.
  void take(active& a, index_t tokens, view<const wide_t<E>, 1> x /*[v]*/) {
    counts_.tokens_read += tokens;
    if (limits_.prefix_bytes > 0) {
      const auto end = static_cast<std::size_t>(a.sequence.length());
      a.kept.keep(a.sequence,
                  std::span<const std::int32_t>(a.request.ids)
                      .subspan(end - static_cast<std::size_t>(tokens), static_cast<std::size_t>(tokens)),
                  model_->executor());
    }
    if (a.unread() > 0) return;
    const std::int32_t id = a.choose(x);
    batch_token t{id, 0, {}};
    if (a.scores) {
      a.scores->read(x);
      t.log_probability = (*a.scores)[id];
      t.top = a.scores->top();
    }
    a.request.ids.push_back(id);
    ++counts_.tokens_made;
    std::optional<stop_reason> stop;
    if (!a.listener->token(t)) stop = stop_reason::caller;
    if (std::find(a.request.stop_ids.begin(), a.request.stop_ids.end(), id) != a.request.stop_ids.end())
      stop = stop_reason::stop_id;
    if (!stop && a.made() >= a.request.max_new) stop = stop_reason::length;
    if (!stop) return;
    a.over = true;
    ++counts_.ended;
    a.listener->end(*stop);
  }

  transformer<P, E>* model_;
  batch_limits limits_;
  index_t period_ = 0;
  prefix_shelf<P> shelf_;
  std::deque<waiting> queue_;
  std::deque<active> active_;  // in the order in which they began
  ticket last_ = 0;
  index_t in_memory_ = 0;
  batch_counts counts_;

  std::vector<share> shares_;  // of the call
  std::vector<typename transformer<P, E>::input> batch_;
  tensor<wide_t<E>, 2, mem_of<E>> logits_;  // [running, v]
  tensor<wide_t<E>, 2> host_logits_;
  tensor<act_t<P>, 3, mem_of<E>> streams_;  // of one sequence that is alone …
  tensor<act_t<P>, 3, mem_of<E>> twice_{2, model_->configuration().hc_mult,
                                        model_->configuration().hidden_size};  // … and its last row
  scratch_of<E> scratch_;
  workspace host_;
};

// Defined here, so that a program that links dsv4::compiled finds them there (docs/building.md).

template <numerics_policy P, execution E>
batcher<P, E>::batcher(transformer<P, E>& model, const batch_limits& limits)
    : model_(&model),
      limits_(limits),
      shelf_(limits.prefix_bytes),
      logits_(std::max(limits.running, index_t{2}), model.configuration().vocab_size) {
  expects(limits.running > 0 && limits.queued >= 0, "batcher: places must be positive");
  expects(limits.tokens_per_step >= limits.running,
          "batcher: tokens_per_step must be at least `running`, one for each answer under way");
  expects(limits.tokens_per_step <= one_pass,
          "batcher: tokens_per_step must fit a pass of the model (512): last rows stay together");
  shares_.reserve(static_cast<std::size_t>(limits.running));
  batch_.reserve(static_cast<std::size_t>(limits.running));
  const config& c = model.configuration();
  const index_t block = prefix_block(c), rows = 4 * c.sliding_window;
  period_ = (rows + block - 1) / block * block;  // keeps W - 1 rows of every period, about a quarter
}

template <numerics_policy P, execution E>
auto batcher<P, E>::submit(batch_request r, std::shared_ptr<batch_listener> listener) -> ticket {
  const config& c = model_->configuration();
  const auto n = static_cast<index_t>(r.ids.size());
  expects(n > 0, "batcher: the prompt is empty");
  expects(r.max_new > 0, "batcher: max_new must be at least 1");
  for (const std::int32_t id : r.ids) expects_in(id, 0, c.vocab_size, "batcher: token id of the prompt");
  const index_t longest = checked_add(n, r.max_new, "batcher: prompt and answer");
  expects_in(longest, 0, c.max_position_embeddings + 1,
             "batcher: tokens of prompt and answer against the model's context");
  if (limits_.tokens_in_memory > 0)
    expects_in(longest, 0, limits_.tokens_in_memory + 1,
               "batcher: tokens of prompt and answer against the memory for all requests");
  check_sampling(r.sampling, c.vocab_size);
  if (static_cast<index_t>(queue_.size()) >= limits_.queued + free_places())
    throw batch_full("batcher: " + std::to_string(queue_.size()) + " requests wait already");
  queue_.push_back({++last_, std::move(r), std::move(listener)});
  return last_;
}

template <numerics_policy P, execution E>
void batcher<P, E>::cancel(ticket t) {
  const auto is = [&](const auto& r) { return r.number == t; };
  if (const auto q = std::find_if(queue_.begin(), queue_.end(), is); q != queue_.end()) {
    queue_.erase(q);
    ++counts_.cancelled;
  } else if (const auto a = std::find_if(active_.begin(), active_.end(), is); a != active_.end()) {
    keep(*a);
    active_.erase(a);
    ++counts_.cancelled;
  }
}

template <numerics_policy P, execution E>
bool batcher<P, E>::step() {
  admit();
  if (active_.empty()) return !queue_.empty();
  plan();
  view<const wide_t<E>, 2> rows;
  try {
    run();
    rows = on_host(model_->executor(), std::as_const(logits_).all(), host_logits_);
  } catch (...) {
    for (const share& s : shares_) fail(*s.who, std::current_exception());
    sweep();
    return !idle();
  }
  for (std::size_t i = 0; i < shares_.size(); ++i) {
    active& a = *shares_[i].who;
    try {
      take(a, shares_[i].tokens, rows[static_cast<index_t>(i)]);
    } catch (...) {
      fail(a, std::current_exception());
    }
  }
  sweep();
  return !idle();
}

DSV4_COMPILED_TEMPLATE(class batcher<official, exec::cpu>)
DSV4_COMPILED_TEMPLATE(class batcher<official, exec::cpu_fast>)
DSV4_COMPILED_TEMPLATE(class batcher<float32<>, exec::cpu>)

}  // namespace dsv4
