// SPDX-License-Identifier: MIT
#pragma once
/// Autoregressive generation of one sequence: prefill in chunks, then one token per call.
/// Chunks bound the scratch memory of long prompts and change no bit (model/transformer.hpp).
/// gen/speculative.hpp gives the same tokens with fewer calls.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <type_traits>
#include <vector>

#include "../model/transformer.hpp"
#include "sampler.hpp"
#include "stop_reason.hpp"

namespace dsv4 {

inline constexpr index_t prefill_chunk = 256;

struct generate_options {
  index_t max_new = 0;                       ///< tokens to generate at most
  std::span<const std::int32_t> stop_ids{};  ///< any of these ends the text, and is its last token
  std::function<void(index_t, index_t)>
      on_prefill{};  ///< (tokens done, tokens of the prompt), after each chunk
};

struct generation {
  index_t tokens = 0;  ///< made, the stop id included
  stop_reason stop = stop_reason::length;
  double prefill_seconds = 0, decode_seconds = 0;
};

namespace detail {

class stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(clock::now() - begin_).count(); }

 private:
  using clock = std::chrono::steady_clock;
  clock::time_point begin_ = clock::now();
};

/// The preconditions that every way of generating has.
template <class Sequence>
void check_generate(const Sequence& s, std::span<const std::int32_t> prompt, const generate_options& o) {
  const auto n = static_cast<index_t>(prompt.size());
  expects(n > 0, "generate: the prompt is empty");
  expects(o.max_new >= 0, "generate: max_new is negative");
  const index_t longest =
      checked_add(s.length() + n, std::max(o.max_new - 1, index_t{0}), "generate: tokens");
  expects_in(longest, 0, s.max_tokens() + 1,
             "generate: tokens of prompt and answer against the sequence's max_tokens");
}

/// Calls read(ids, last) for each chunk of the prompt; `last` is true for the chunk that ends it.
template <class Read>
double prefill(std::span<const std::int32_t> prompt, const generate_options& o, Read&& read) {
  const stopwatch time;
  const auto n = static_cast<index_t>(prompt.size());
  for (index_t at = 0; at < n; at += prefill_chunk) {
    const index_t end = std::min(at + prefill_chunk, n);
    read(prompt.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(end - at)), end == n);
    if (o.on_prefill) o.on_prefill(end, n);
  }
  return time.seconds();
}

/// Counts a token that was made and hands it to the caller.  @returns whether another one is wanted
template <class T, class OnToken>
bool tell(generation& r, const generate_options& o, std::int32_t id, view<const T, 1> logits,
          OnToken& on_token) {
  ++r.tokens;
  bool more;
  if constexpr (std::is_invocable_v<OnToken&, std::int32_t, view<const T, 1>>)
    more = on_token(id, logits);
  else
    more = on_token(id);
  if (!more) r.stop = stop_reason::caller;
  if (std::find(o.stop_ids.begin(), o.stop_ids.end(), id) != o.stop_ids.end()) r.stop = stop_reason::stop_id;
  return r.stop == stop_reason::length && r.tokens < o.max_new;
}

}  // namespace detail

/// Feeds `prompt` to the sequence (which may already hold tokens) and makes up to max_new more.
///   choose(view<const wide, 1> logits) -> token id   a sampler, for example; if it has begin(length, prompt),
///                                                    as a sampler has, that is called first
///   on_token(token id [, logits it was chosen from]) -> bool      false ends the generation
/// The sequence then holds the prompt and all made tokens but the last, which no call has read yet.
/// @throws contract_violation: an empty prompt, ids outside the vocabulary, a sequence too short
template <numerics_policy P, execution E, class Choose, class OnToken>
generation generate(transformer<P, E>& model, sequence<P, E>& s, std::span<const std::int32_t> prompt,
                    const generate_options& options, Choose&& choose, OnToken&& on_token) {
  // contract
  detail::check_generate(s, prompt, options);
  if constexpr (requires { choose.begin(s.length(), prompt); }) choose.begin(s.length(), prompt);

  generation r;
  tensor<wide_t<E>, 2, mem_of<E>> logits(1, model.configuration().vocab_size);
  tensor<wide_t<E>, 2> host_logits;
  const auto read = [&](std::span<const std::int32_t> ids, bool last) {
    const typename transformer<P, E>::input one{&s, ids};
    model.forward(std::span(&one, 1), {{}, last ? logits.all() : view<wide_t<E>, 2, mem_of<E>>{}});
  };

  // Prefill; only its last token needs logits.
  r.prefill_seconds = detail::prefill(prompt, options, read);

  // Decode.
  const detail::stopwatch time;
  while (r.tokens < options.max_new) {
    const auto row = on_host(model.executor(), std::as_const(logits).all(), host_logits)[0];
    const std::int32_t id = choose(row);
    if (!detail::tell(r, options, id, row, on_token)) break;
    read(std::span(&id, 1), true);
  }
  r.decode_seconds = time.seconds();
  return r;
}

}  // namespace dsv4
