// SPDX-License-Identifier: MIT
// dsv4 generate: ids in, ids out.
#include <cstdio>
#include <iostream>

#include <nlohmann/json.hpp>

#include <dsv4/io/checkpoint.hpp>

#include "engine.hpp"
#include "input.hpp"
#include "progress.hpp"

namespace cli {
namespace {

const char* name_of(dsv4::stop_reason r) {
  switch (r) {
    case dsv4::stop_reason::length: return "length";
    case dsv4::stop_reason::stop_id: return "eos";
    case dsv4::stop_reason::caller: return "caller";
  }
  return "?";
}

double rate(index tokens, double seconds) { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }

using json = nlohmann::ordered_json;

/// One entry per token; minus infinity becomes null.
json logprobs_of(const generate_result& r) {
  json rows = json::array();
  for (std::size_t i = 0; i < r.tokens.size(); ++i) {
    json top = json::array();
    for (const dsv4::token_probability& t : r.top[i]) top.push_back({{"id", t.id}, {"logprob", t.log_probability}});
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
  const auto model = dsv4::io::checkpoint::open(o.engine.model);
  const dsv4::config& c = model.configuration();
  const std::vector<std::int32_t> ids = read_ids(o.ids, c);
  const auto n = static_cast<index>(ids.size());
  if (o.max_new > c.max_position_embeddings - n)
    throw usage_error("--max-new: " + std::to_string(n) + " prompt tokens and " + std::to_string(o.max_new) +
                      " new ones exceed the model's context of " + std::to_string(c.max_position_embeddings));
  std::vector<std::int32_t> stop;
  if (!o.ignore_eos) stop = end_of_text_ids(o.engine.model);

  progress bar;
  const auto on_prefill = [&](index done, index total) { bar("prefill", done, total); };
  index made = 0;
  const auto on_token = [&](std::int32_t) {
    bar("decode", ++made, o.max_new);
    return true;
  };
  const generate_result r = e.generate({.config = c,
                                        .weights = model.weights(),
                                        .ids = ids,
                                        .options = {.max_new = o.max_new, .stop_ids = stop, .on_prefill = on_prefill},
                                        .sampling = o.sampling,
                                        .draft = o.draft,
                                        .logprobs = o.logprobs,
                                        .threads = o.engine.threads,
                                        .on_token = on_token});
  bar.clear();

  json told{{"tokens", r.tokens}, {"prompt_tokens", n}, {"stop", name_of(r.told.stop)}};
  if (o.logprobs) told["logprobs"] = logprobs_of(r);
  if (o.draft > 0) told["drafts"] = drafts_of(r.told);
  std::cout << told.dump() << '\n';
  // The first new token comes out of the prefill.
  const index decoded = std::max(r.told.tokens - 1, index{0});
  std::fprintf(
      stderr, "prefill %lld tokens in %.3f s (%.1f tokens/s), decode %lld tokens in %.3f s (%.1f tokens/s)\n",
      static_cast<long long>(n), r.told.prefill_seconds, rate(n, r.told.prefill_seconds),
      static_cast<long long>(decoded), r.told.decode_seconds, rate(decoded, r.told.decode_seconds));
  if (o.draft > 0) tell_drafts(r.told);
}

}  // namespace cli
