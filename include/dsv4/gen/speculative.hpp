// SPDX-License-Identifier: MIT
#pragma once
/// Speculative decoding: a drafter guesses the next tokens, one call of the model judges all of them.
/// @paper{DSV4, section 2.1 (as DeepSeek-V3, section 5.4.3); Leviathan, Kalman, Matias, ICML 2023}
/// axes     k drafts of a call · v vocabulary
/// oracle   generate(): the same tokens when greedy, the same distribution otherwise
///
/// One call reads the last token and k drafts, k + 1 rows of logits.  Row i judges draft i+1 (gen/draft.hpp);
/// the first that is refused is replaced by a token of that row, and the rest is taken back; if none is, the
/// last row gives one more token.  Penalties and constraints see the tokens before each row, drafts included.
///
/// @post (1) greedy: exactly the tokens of generate().  Rows of k + 1 tokens have the bits of k + 1 calls in
///           exec::ref and exec::cpu_fast; in exec::cpu logits differ by 1e-15 or so between one token and
///           several (model/transformer.hpp), which a greedy choice sees only between two tokens that near
///       (2) sampled: the joint distribution of generate(), for any drafter whose q are what it drew from
///       (3) the sequence is left as generate() leaves it
///       (4) the decode loop allocates nothing once the model's scratch has its size
#include "draft.hpp"
#include "generate.hpp"
#include "model_drafter.hpp"

namespace dsv4 {

/// What drafting achieved.
struct speculation {
  index_t calls = 0;  ///< calls of the model while decoding
  std::vector<index_t> proposed,
      accepted;  ///< drafts by depth, from depth 1; one after a refused one is not accepted

  /// Tokens that a decode call gave, on average: 1 + accepted drafts per call.
  double tokens_per_call(const generation& g) const {
    return calls > 0 ? static_cast<double>(g.tokens - 1) / static_cast<double>(calls) : 0;
  }
};

struct speculative_generation : generation {
  speculation drafts;
};

/// generate() with drafts of up to `depth` tokens.
///   sampler   or what has its begin, next, pick, chance, remember, forget and operator()
///   drafter   model_drafter, mtp_drafter, dspark_drafter, or what has the follows, streams, observe, catch_up and
///             propose of these (context, if it reads layers); kept with the sequence from one generation to the next
/// @throws contract_violation as generate(); if max_rewind of the sequence is below depth; if the sequence
/// holds tokens that the drafter has not seen
template <numerics_policy P, execution E, class Choose, class Drafter, class OnToken>
speculative_generation generate_speculative(transformer<P, E>& model, sequence<P, E>& s,
                                            std::span<const std::int32_t> prompt,
                                            const generate_options& options, Choose& choose, Drafter& drafter,
                                            index_t depth, OnToken&& on_token) {
  using wide = wide_t<E>;
  // contract
  detail::check_generate(s, prompt, options);
  expects(depth > 0, "generate_speculative: depth must be 1 or more");
  expects(s.max_rewind() >= depth,
          "generate_speculative: make the sequence with max_rewind of at least the depth");
  expects(drafter.follows(s),
          "generate_speculative: the drafter has not seen this sequence's tokens; keep it with the sequence, "
          "or reset both");
  choose.begin(s.length(), prompt);

  speculative_generation r;
  r.drafts.proposed.resize(static_cast<std::size_t>(depth));
  r.drafts.accepted.resize(static_cast<std::size_t>(depth));
  const index_t vocabulary = model.configuration().vocab_size;
  using memory = mem_of<E>;
  tensor<wide, 2, memory> logits(depth + 1, vocabulary);
  tensor<wide, 2> host_logits;
  const auto row_of = [&](index_t i) {  // [v]
    return on_host(model.executor(), std::as_const(logits).all().rows(i, i + 1), host_logits)[0];
  };
  draft_list drafts(depth, vocabulary, options.stop_ids);
  distribution p(vocabulary);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(depth) +
                                1);  // a call's: the last token, then its drafts
  const auto read = [&](std::span<const std::int32_t> tokens, view<wide, 2, memory> all,
                        view<wide, 2, memory> last) {
    const typename transformer<P, E>::input one{&s, tokens};
    const auto t = static_cast<index_t>(tokens.size());
    typename transformer<P, E>::output out{all, last, drafter.streams(t)};
    if constexpr (requires { drafter.context(t); }) out.context = drafter.context(t);
    model.forward(std::span(&one, 1), out);
    drafter.observe(s, tokens);
  };

  // Prefill; only its last token needs logits.
  r.prefill_seconds = detail::prefill(prompt, options, [&](std::span<const std::int32_t> tokens, bool last) {
    read(tokens, {}, last ? logits.all().rows(0, 1) : view<wide, 2, memory>{});
    drafter.catch_up(s);
  });

  // Decode.
  const detail::stopwatch time;
  bool more = options.max_new > 0;
  if (more) {
    const view<const wide, 1> row = row_of(0);
    ids[0] = choose(row);
    more = detail::tell(r, options, ids[0], row, on_token);
  }
  while (more) {
    // Guess: no deeper than what is still wanted.
    const index_t n = s.length();
    drafts.clear();
    if (const index_t k = std::min(depth, options.max_new - r.tokens - 1); k > 0)
      drafter.propose(s, ids[0], k, choose, drafts);
    const index_t k = drafts.size();
    std::copy(drafts.ids().begin(), drafts.ids().end(), ids.begin() + 1);
    for (index_t i = 0; i < k; ++i) ++r.drafts.proposed[static_cast<std::size_t>(i)];

    // Judge: rows i = 0 .. k, until a draft is refused or no more is wanted.
    read(std::span(ids).first(static_cast<std::size_t>(k) + 1), logits.all().rows(0, k + 1), {});
    ++r.drafts.calls;
    index_t made = 0;
    // At the end, take back what was refused; of the made tokens the last is unread.  A token that on_token
    // throws at counts as not made, and the call's first token was made before.
    const struct take_back {
      sequence<P, E>& s;
      const index_t n;
      const index_t& made;
      ~take_back() { s.rewind(n + std::max(made, index_t{1})); }
    } at_the_end{s, n, made};
    for (bool accepted = true; accepted && more; ++made) {
      const view<const wide, 1> row = row_of(made);
      choose.next(row, p);
      draft_judgement v{-1, false};
      if (made < k) {
        v = judge(choose, p, drafts.ids()[static_cast<std::size_t>(made)], drafts.q(made));
        r.drafts.accepted[static_cast<std::size_t>(made)] += v.accepted;
      } else {
        v.id = choose.pick(p);
      }
      ids[0] = v.id;
      accepted = v.accepted;
      choose.remember(v.id);
      more = detail::tell(r, options, v.id, row, on_token);
    }
  }
  r.decode_seconds = time.seconds();
  return r;
}

}  // namespace dsv4
