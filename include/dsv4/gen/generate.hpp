// SPDX-License-Identifier: MIT
#pragma once
/// Autoregressive generation of one sequence: prefill in chunks, then one token per call.
/// Chunks bound the scratch memory of long prompts and change no bit (model/transformer.hpp).
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "../model/transformer.hpp"
#include "sampler.hpp"

namespace dsv4 {

inline constexpr index prefill_chunk = 256;

struct generate_options {
  index max_new = 0;                               ///< tokens to generate at most
  std::span<const std::int32_t> stop_ids{};        ///< any of these ends the text; it is the last token given
  std::function<void(index, index)> on_prefill{};  ///< (tokens done, tokens of the prompt), after each chunk
};

enum class stop_reason {
  length,   ///< max_new tokens were made
  stop_id,  ///< one of stop_ids was made
  caller,   ///< on_token said so
};

struct generation {
  index tokens = 0;  ///< made, the stop id included
  stop_reason stop = stop_reason::length;
  double prefill_seconds = 0, decode_seconds = 0;
};

/// Feeds `prompt` to the sequence (which may already hold tokens) and makes up to max_new more.
///   choose(view<const wide, 1> logits) -> token id   a sampler, for example
///   on_token(token id) -> bool                       false ends the generation
/// The sequence then holds the prompt and all made tokens but the last, which no call has read yet.
/// @throws contract_violation: an empty prompt, ids outside the vocabulary, a sequence too short
template <numerics_policy P, execution E, class Choose, class OnToken>
generation generate(transformer<P, E>& model, sequence<P, E>& s, std::span<const std::int32_t> prompt,
                    const generate_options& options, Choose&& choose, OnToken&& on_token) {
  // contract
  const auto n = static_cast<index>(prompt.size());
  expects(n > 0, "generate: the prompt is empty");
  expects(options.max_new >= 0, "generate: max_new is negative");
  const index longest = s.length() + n + std::max(options.max_new - 1, index{0});
  expects_in(longest, 0, s.max_tokens() + 1,
             "generate: tokens of prompt and answer against the sequence's max_tokens");

  using clock = std::chrono::steady_clock;
  const auto seconds_since = [](clock::time_point t) {
    return std::chrono::duration<double>(clock::now() - t).count();
  };
  generation r;
  tensor<wide_t<E>, 2> logits(1, model.configuration().vocab_size);
  const auto run = [&](std::span<const std::int32_t> ids, bool read_out) {
    const typename transformer<P, E>::input one{&s, ids};
    model.forward(std::span(&one, 1), {{}, read_out ? logits.all() : view<wide_t<E>, 2>{}});
  };

  // Prefill; only its last token needs logits.
  auto begin = clock::now();
  for (index at = 0; at < n; at += prefill_chunk) {
    const index end = std::min(at + prefill_chunk, n);
    run(prompt.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(end - at)), end == n);
    if (options.on_prefill) options.on_prefill(end, n);
  }
  r.prefill_seconds = seconds_since(begin);

  // Decode.
  begin = clock::now();
  while (r.tokens < options.max_new) {
    const std::int32_t id = choose(view<const wide_t<E>, 1>(logits[0]));
    ++r.tokens;
    if (!on_token(id)) r.stop = stop_reason::caller;
    if (std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end())
      r.stop = stop_reason::stop_id;
    if (r.stop != stop_reason::length || r.tokens == options.max_new) break;
    run(std::span(&id, 1), true);
  }
  r.decode_seconds = seconds_since(begin);
  return r;
}

}  // namespace dsv4
