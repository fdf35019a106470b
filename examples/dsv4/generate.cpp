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
  const auto on_token = [&](index made) { bar("decode", made, o.max_new); };
  const generate_result r = e.generate({c,
                                        model.weights(),
                                        ids,
                                        {.max_new = o.max_new, .stop_ids = stop, .on_prefill = on_prefill},
                                        {.temperature = o.temperature, .top_p = o.top_p, .seed = o.seed},
                                        o.engine.threads,
                                        on_token});
  bar.clear();

  const nlohmann::ordered_json told{
      {"tokens", r.tokens}, {"prompt_tokens", n}, {"stop", name_of(r.told.stop)}};
  std::cout << told.dump() << '\n';
  // The first new token comes out of the prefill.
  const index decoded = std::max(r.told.tokens - 1, index{0});
  std::fprintf(
      stderr, "prefill %lld tokens in %.3f s (%.1f tokens/s), decode %lld tokens in %.3f s (%.1f tokens/s)\n",
      static_cast<long long>(n), r.told.prefill_seconds, rate(n, r.told.prefill_seconds),
      static_cast<long long>(decoded), r.told.decode_seconds, rate(decoded, r.told.decode_seconds));
}

}  // namespace cli
