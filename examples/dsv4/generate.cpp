// SPDX-License-Identifier: MIT
// dsv4 generate: ids in, ids out; or text in, text out as it comes.
#include <algorithm>
#include <cstdio>
#include <iostream>

#include <nlohmann/json.hpp>

#include <dsv4/io/checkpoint.hpp>
#include <dsv4/text/tokenizer.hpp>

#include "engine.hpp"
#include "input.hpp"
#include "outputs.hpp"
#include "progress.hpp"
#include "stop_texts.hpp"

namespace cli {
namespace {

const char* word_of(dsv4::stop_reason r) {
  switch (r) {
    case dsv4::stop_reason::length: return "length";
    case dsv4::stop_reason::stop_id: return "eos";
    case dsv4::stop_reason::caller: return "caller";
  }
  return "?";
}

double rate(index_t tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
}

using json = nlohmann::ordered_json;

/// One entry per token; minus infinity becomes null.
json logprobs_of(const generate_result& r) {
  json rows = json::array();
  for (std::size_t i = 0; i < r.tokens.size(); ++i) {
    json top = json::array();
    for (const dsv4::token_probability& t : r.top[i])
      top.push_back({{"id", t.id}, {"logprob", t.log_probability}});
    rows.push_back({{"id", r.tokens[i]}, {"logprob", r.log_probabilities[i]}, {"top", std::move(top)}});
  }
  return rows;
}

json drafts_of(const dsv4::speculative_generation& g) {
  return {{"calls", g.drafts.calls},
          {"tokens_per_call", g.drafts.tokens_per_call(g)},
          {"proposed", g.drafts.proposed},
          {"accepted", g.drafts.accepted}};
}

void tell_drafts(const dsv4::speculative_generation& g) {
  std::fprintf(stderr, "drafts: %.2f tokens per call; accepted", g.drafts.tokens_per_call(g));
  for (std::size_t d = 0; d < g.drafts.proposed.size(); ++d)
    std::fprintf(stderr, "%s %lld of %lld", d ? "," : "", static_cast<long long>(g.drafts.accepted[d]),
                 static_cast<long long>(g.drafts.proposed[d]));
  std::fputc('\n', stderr);
}

}  // namespace

void generate(const generate_options& o) {
  const engine& e = find_engine(o.engine);
  const auto model = open_model(o.engine.model);
  const dsv4::config& c = model.configuration();
  std::optional<dsv4::text::tokenizer> tokenizer;
  if (o.prompt) tokenizer = open_tokenizer(o.tokenizer.empty() ? o.engine.model : o.tokenizer);
  const std::vector<std::int32_t> ids =
      tokenizer ? read_prompt(*tokenizer, *o.prompt, o.special, c) : read_ids(o.ids, c);
  const auto n = static_cast<index_t>(ids.size());
  const index_t room = c.max_position_embeddings - n,
                max_new = o.max_new.value_or(std::clamp(room, index_t{0}, default_max_new));
  if (max_new > room)
    throw usage_error("--max-new: " + std::to_string(n) + " prompt tokens and " + std::to_string(max_new) +
                      " new ones exceed the model's context of " + std::to_string(c.max_position_embeddings));
  std::vector<std::int32_t> stop;
  if (!o.ignore_eos) stop = end_of_text_ids(o.engine.model);
  if (!o.ignore_eos && stop.empty() && tokenizer && tokenizer->eos()) stop.push_back(*tokenizer->eos());
  if (const std::string note = note_of(o.engine.model); tokenizer && !note.empty())
    std::fprintf(stderr, "Note: %s\n", note.c_str());

  // Text goes out as it comes; ids at the end.
  const bool stream = tokenizer && !o.json && !o.logprobs;
  std::optional<dsv4::text::stream_decoder> words;
  if (tokenizer) words.emplace(*tokenizer, /*skip_special=*/true);
  for (const std::string& stop : o.stop)
    if (stop.empty()) throw usage_error("--stop: found an empty text, which is everywhere");
  stop_texts until(o.stop);
  std::string text;
  progress bar;
  const auto on_prefill = [&](index_t done, index_t total) { bar("prefill", done, total); };
  index_t made = 0;
  const auto on_token = [&](std::int32_t id) {
    ++made;
    if (!stream) bar("decode", made, max_new);
    if (!words) return true;
    if (stream) bar.clear();
    const std::string part = until.push(words->push(id));
    if (!stream) text += part;
    if (stream) std::cout << part;
    return !until.found() && (!stream || output_arrives());
  };
  const generate_result r =
      e.generate({.config = c,
                  .weights = model.weights(),
                  .ids = ids,
                  .options = {.max_new = max_new, .stop_ids = stop, .on_prefill = on_prefill},
                  .sampling = o.sampling,
                  .draft = o.draft,
                  .logprobs = o.logprobs,
                  .threads = o.engine.threads,
                  .on_token = on_token});
  bar.clear();

  if (words) text += until.push(words->finish());
  text += until.finish();
  if (stream) {
    std::cout << text << '\n';
  } else {
    json summary{{"tokens", r.tokens},
                 {"prompt_tokens", n},
                 {"stop", until.found() ? "text" : word_of(r.generated.stop)}};
    if (words) summary["text"] = text;
    if (o.logprobs) summary["logprobs"] = logprobs_of(r);
    if (o.draft.depth > 0) summary["drafts"] = drafts_of(r.generated);
    std::cout << summary.dump() << '\n';
  }
  // The first new token comes out of the prefill.
  const index_t decoded = std::max(r.generated.tokens - 1, index_t{0});
  std::fprintf(
      stderr, "prefill %lld tokens in %.3f s (%.1f tokens/s), decode %lld tokens in %.3f s (%.1f tokens/s)\n",
      static_cast<long long>(n), r.generated.prefill_seconds, rate(n, r.generated.prefill_seconds),
      static_cast<long long>(decoded), r.generated.decode_seconds, rate(decoded, r.generated.decode_seconds));
  if (o.draft.depth > 0) tell_drafts(r.generated);
}

}  // namespace cli
