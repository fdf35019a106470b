// SPDX-License-Identifier: MIT
// dsv4 evaluate: a checkpoint against a text it was not trained on, and against a trigram model of bytes.
#include "evaluate.hpp"

#include <cinttypes>
#include <cstdio>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include <dsv4/io/checkpoint.hpp>
#include <dsv4/io/mapped_file.hpp>
#include <dsv4/text/tokenizer.hpp>
#include <dsv4/trainer/held_out.hpp>
#include <dsv4/trainer/trigram.hpp>

#include "arguments.hpp"
#include "engine.hpp"
#include "input.hpp"
#include "progress.hpp"

namespace cli {
namespace {

using json = nlohmann::ordered_json;

struct evaluate_options {
  engine_options engine;
  std::filesystem::path data, tokenizer;
  double held_out = 0.05;
  index_t length = 512, stride = 0;
  index_t prompts = 16, prompt_tokens = 64, max_new = 64;
  bool no_begin = false, json = false;
};

/// Rows as dsv4 train makes them: one token of overlap, which the row before has predicted.
index_t stride_of(const evaluate_options& o) { return o.stride > 0 ? o.stride : o.length - 1; }

struct layer_load {
  std::string name;
  double imbalance;
};

void tell_text(const evaluate_options& o, const evaluate_result& r, index_t bytes, index_t tokens,
               double trigram, const std::vector<layer_load>& loads) {
  const auto number = [](index_t n) { return static_cast<long long>(n); };
  const dsv4::trainer::text_score& t = r.text;
  std::printf("held-out   %lld bytes, %lld tokens, rows of %lld", number(bytes), number(tokens),
              number(o.length));
  std::printf(", %lld of them new (%lld bytes scored)\n", number(stride_of(o)), number(t.text_bytes));
  std::printf("model      %.4f bits per byte  (%.4f nats per token)\n", t.bits_per_byte(),
              t.nats / static_cast<double>(std::max<index_t>(t.tokens, 1)));
  std::printf(
      "trigram    %.4f bits per byte  (bytes, interpolated Kneser-Ney, counted on the text before the "
      "held-out part)\n",
      trigram);
  if (t.mtp_tokens > 0)
    std::printf("MTP        %.4f nats per token; its likeliest token is the model's at %.1f%% of the text\n",
                t.mtp_nats / static_cast<double>(t.mtp_tokens), 100 * t.mtp_agreement());
  if (r.drafts.proposed > 0)
    std::printf(
        "drafts     %lld of %lld accepted (%.1f%%), greedy, depth 1, %lld prompts continued by %lld tokens\n",
        number(r.drafts.accepted), number(r.drafts.proposed), 100 * r.drafts.acceptance(),
        number(r.drafts.prompts), number(o.max_new));
  std::printf("experts    busiest over mean:");
  double worst = 0;
  for (const layer_load& l : loads) {
    std::printf(" %s %.2f", l.name.c_str(), l.imbalance);
    worst = std::max(worst, l.imbalance);
  }
  std::printf("  (worst %.2f)\n", worst);
}

void evaluate(const evaluate_options& o) {
  const engine& e = find_engine(o.engine);
  const auto model = open_model(o.engine.model);
  const dsv4::config& c = model.configuration();
  const auto tokenizer = open_tokenizer(o.tokenizer.empty() ? o.engine.model : o.tokenizer);
  if (tokenizer.vocab_size() > c.vocab_size)
    throw dsv4::format_error("the tokenizer has " + std::to_string(tokenizer.vocab_size()) +
                             " tokens, the model only " + std::to_string(c.vocab_size));
  const dsv4::io::mapped_file file(o.data);
  const auto [train, held_out] = dsv4::trainer::split_text(file.text(), o.held_out);
  if (held_out.empty() && o.held_out > 0 && file.size() > 0)
    throw usage_error(
        "--held-out " + std::to_string(o.held_out) + ": nothing of " + o.data.string() + " (" +
        std::to_string(file.size()) +
        " bytes) is held out, because its last part has no line break to begin after: the held-out "
        "part begins a line, as dsv4 train cuts it.  --held-out 1 takes the whole text");
  if (held_out.empty())
    throw usage_error("--held-out " + std::to_string(o.held_out) + ": nothing of " + o.data.string() + " (" +
                      std::to_string(file.size()) + " bytes) is held out");

  // The held-out part as tokens; every byte of it belongs to one.
  const std::vector<std::int32_t> ids = tokenizer.encode(held_out);
  std::vector<std::int32_t> bytes(static_cast<std::size_t>(c.vocab_size));
  for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id)
    bytes[std::size_t(id)] = static_cast<std::int32_t>(tokenizer.bytes_of(id).size());
  std::size_t covered = 0;
  for (const std::int32_t id : ids) covered += static_cast<std::size_t>(bytes[std::size_t(id)]);
  if (covered != held_out.size())
    throw dsv4::format_error(o.data.string() + ": the held-out part has " + std::to_string(held_out.size()) +
                             " bytes, its tokens stand for " + std::to_string(covered) +
                             ": not UTF-8, or the tokenizer changes text");

  const std::optional<std::int32_t> begin = o.no_begin ? std::nullopt : tokenizer.bos();
  const index_t lead = begin ? 1 : 0, room = c.max_position_embeddings;
  if (o.length > room || lead + o.prompt_tokens + o.max_new > room)
    throw usage_error("rows of " + std::to_string(o.length) + " tokens, prompts of " +
                      std::to_string(o.prompt_tokens) + " + " + std::to_string(o.max_new) +
                      ": more than the model's context of " + std::to_string(room));
  if (o.stride > o.length)
    throw usage_error("--stride: found " + std::to_string(o.stride) + ", expected at most --length");

  progress bar;
  const auto on_row = [&](index_t done, index_t all) { bar("reading", done, all); };
  const auto on_prompt = [&](index_t done, index_t all) { bar("drafts", done, all, "prompts"); };
  // Drafts need room in the held-out part for a prompt.
  const index_t prompts = static_cast<index_t>(ids.size()) >= o.prompt_tokens ? o.prompts : 0;
  const evaluate_result r =
      e.evaluate({.config = c,
                  .weights = model.weights(),
                  .ids = ids,
                  .bytes = bytes,
                  .text = {.length = o.length, .stride = stride_of(o), .begin = begin, .on_row = on_row},
                  .drafts = {.prompts = prompts,
                             .prompt_tokens = o.prompt_tokens,
                             .max_new = o.max_new,
                             .begin = begin,
                             .stop_ids = {},
                             .on_row = on_prompt},
                  .threads = o.engine.threads});
  bar.clear();
  const double trigram = dsv4::trainer::trigram(train).bits_per_byte(held_out, train);

  std::vector<layer_load> loads;
  for (std::size_t l = 0; l < r.text.load.size(); ++l) {
    const auto layer = static_cast<index_t>(l);
    const std::string name = layer < c.num_hidden_layers
                                 ? std::to_string(layer)
                                 : "mtp." + std::to_string(layer - c.num_hidden_layers);
    if (const double x = dsv4::trainer::load_imbalance(r.text.load[l]); x > 0) loads.push_back({name, x});
  }
  if (!o.json)
    return tell_text(o, r, static_cast<index_t>(held_out.size()), static_cast<index_t>(ids.size()), trigram,
                     loads);

  json summary{{"held_out_bytes", held_out.size()},
               {"held_out_tokens", ids.size()},
               {"length", o.length},
               {"stride", stride_of(o)},
               {"numerics", o.engine.numerics},
               {"scored_tokens", r.text.tokens},
               {"scored_bytes", r.text.text_bytes},
               {"bits_per_byte", r.text.bits_per_byte()},
               {"nats_per_token", r.text.nats / static_cast<double>(std::max<index_t>(r.text.tokens, 1))},
               {"trigram_bits_per_byte", trigram}};
  if (r.text.mtp_tokens > 0)
    summary["mtp"] = {{"nats_per_token", r.text.mtp_nats / static_cast<double>(r.text.mtp_tokens)},
                      {"agreement", r.text.mtp_agreement()}};
  if (r.drafts.proposed > 0)
    summary["drafts"] = {{"prompts", r.drafts.prompts},
                         {"proposed", r.drafts.proposed},
                         {"accepted", r.drafts.accepted},
                         {"acceptance", r.drafts.acceptance()}};
  summary["experts"] = json::array();
  for (const layer_load& l : loads)
    summary["experts"].push_back({{"layer", l.name}, {"busiest_over_mean", l.imbalance}});
  summary["seconds"] = r.seconds;
  std::printf("%s\n", summary.dump().c_str());
}

}  // namespace

void add_evaluate(CLI::App& app, std::function<void()>& run) {
  CLI::App& verb = cli::add_verb(
      app, "evaluate", "bits per byte of a text the model was not trained on, and a trigram model's");
  auto o = std::make_shared<evaluate_options>();
  add_engine(verb, o->engine);
  verb.add_option("--data", o->data, "plain text, UTF-8: the one that dsv4 train was given")
      ->required()
      ->type_name("FILE");
  verb.add_option("--tokenizer", o->tokenizer, "tokenizer.json (default: the one beside the model)")
      ->type_name("FILE");
  verb.add_option("--held-out", o->held_out, "the last part of the text, from a line break on")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  verb.add_option("--length", o->length, "tokens that a row reads")
      ->check(CLI::Range(2, 1 << 30))
      ->capture_default_str();
  verb.add_option(
          "--stride", o->stride,
          "new tokens of a row, the others are context (default: all but one, the rows of dsv4 train)")
      ->check(CLI::PositiveNumber);
  verb.add_option("--prompts", o->prompts, "prompts to continue greedily with drafts of MTP; 0: none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb.add_option("--prompt-tokens", o->prompt_tokens, "length of a prompt")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--max-new", o->max_new, "length of a continuation")
      ->check(CLI::Range(2, 1 << 30))
      ->capture_default_str();
  verb.add_flag("--no-begin", o->no_begin, "rows and prompts do not begin with the begin-of-text token");
  verb.add_flag("--json", o->json, "one JSON object instead of text");
  verb.footer(R"(
Examples
  dsv4 evaluate --model run/official --data kjv.txt
  dsv4 evaluate --model run/float --data kjv.txt --numerics float32 --json | jq .bits_per_byte
  dsv4 evaluate --model run/official --data kjv.txt --length 1024 --stride 256     after at least 768 tokens each

The held-out part is the one dsv4 train holds out: the last 5%, from a line break on.  It is read in rows, each a
sequence of its own: the begin-of-text token, then text, and nothing of what stands before the row.  With the length of
its training the figure is the one dsv4 train reports: the first tokens of a row have next to no text before them.
--stride S gives every token at least length - S tokens before it, for more work.  Bits per byte: -log2 of the
probability of all tokens over the bytes of the text.
trigram: a model of bytes, interpolated Kneser-Ney, counted on the rest of the text; it goes on across rows.
drafts: prompts of the held-out part at even distances are continued greedily; the share of MTP's first drafts that are
the model's own next token.  experts: tokens of the busiest expert over the mean, by layer.)");
  verb.callback([o, &run] { run = [o] { evaluate(*o); }; });
}

}  // namespace cli
