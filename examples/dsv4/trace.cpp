// SPDX-License-Identifier: MIT
// dsv4 trace: what every block did with every token, as JSON lines.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <set>

#include <nlohmann/json.hpp>

#include <dsv4/gen/log_probability.hpp>
#include <dsv4/io/atomic_file.hpp>

#include "engine.hpp"
#include "input.hpp"
#include "look.hpp"
#include "outputs.hpp"
#include "progress.hpp"
#include "watch.hpp"

namespace cli {
namespace {

using nlohmann::ordered_json;

constexpr int line_digits = 7;      // of numbers: those of a float
constexpr index_t pass = 512;       // tokens whose lines are held in memory at once
constexpr index_t default_top = 5;  // of the likeliest next tokens; a choice

struct trace_options {
  watch_options watch;
  std::vector<std::string> what{"experts", "attention", "streams", "answer"};
  index_t top = default_top;
  bool mtp = false;
  std::filesystem::path out;
};

ordered_json numbers(std::span<const double> of, index_t at, index_t count) {
  ordered_json list = ordered_json::array();
  for (index_t i = 0; i < count; ++i)
    list.push_back(shortened(of[static_cast<std::size_t>(at * count + i)], line_digits));
  return list;
}

ordered_json hyper(const hyper_pass& h, index_t t, index_t n) {
  return {
      {"pre", numbers(h.pre, t, n)}, {"post", numbers(h.post, t, n)}, {"comb", numbers(h.comb, t, n * n)}};
}

/// Lines to standard output as they come, or to a file that is there when the run has ended.
class lines {
 public:
  explicit lines(const std::filesystem::path& to) {
    if (!to.empty()) file_.emplace(to);
  }
  void add(const ordered_json& line) {
    room_ = line.dump();
    room_ += '\n';
    if (file_)
      file_->write(room_.data(), room_.size());
    else
      std::fwrite(room_.data(), 1, room_.size(), stdout);
  }
  void end_pass() {
    if (!file_) check_output_arrives();
  }
  void commit() {
    if (file_) file_->commit();
  }

 private:
  std::optional<dsv4::io::atomic_file> file_;
  std::string room_;
};

class tracer {
 public:
  tracer(const trace_options& o, const watched_text& text, const dsv4::config& c, lines& to)
      : what_(o.what.begin(), o.what.end()), text_(text), c_(c), to_(to), scores_(o.top, c.vocab_size) {}

  void block(const block_pass& b) {
    if (!what_.contains("experts") && !what_.contains("attention") && !what_.contains("streams")) return;
    for (index_t t = 0; t < b.tokens; ++t) {
      const auto at = static_cast<std::size_t>(t);
      ordered_json line = begin(b.scope, b.start + t);
      if (what_.contains("experts")) {
        ordered_json chosen = ordered_json::array();
        for (index_t k = 0; k < b.experts_per_token; ++k)
          chosen.push_back(b.experts[static_cast<std::size_t>(t * b.experts_per_token + k)]);
        line["experts"] = std::move(chosen);
        line["weights"] = numbers(b.weights, t, b.experts_per_token);
        line["margin"] = shortened(b.margins[at], line_digits);  // NaN, infinity: null
      }
      if (what_.contains("attention")) {
        line["window"] = shortened(b.mass[at][on_window], line_digits);
        line["compressed"] = shortened(b.mass[at][on_entries], line_digits);
        line["sink"] = shortened(b.mass[at][on_sink], line_digits);
        if (b.ratio > 0) {
          ordered_json entries = ordered_json::array(), mass = ordered_json::array();
          for (index_t k = 0; k < b.chosen; ++k) {
            const auto i = static_cast<std::size_t>(t * b.chosen + k);
            if (b.entries[i] < 0) continue;
            entries.push_back(b.entries[i]);
            mass.push_back(shortened(b.entry_mass[i], line_digits));
          }
          line["entries"] = std::move(entries);
          line["entry_mass"] = std::move(mass);
        }
      }
      if (what_.contains("streams")) {
        line["stream_rms"] = numbers(b.stream_rms, t, b.streams);
        line["hc_attn"] = hyper(b.attn, t, b.streams);
        line["hc_ffn"] = hyper(b.ffn, t, b.streams);
      }
      to_.add(line);
    }
    to_.end_pass();
  }

  void logits(const logits_pass& l) {
    if (!what_.contains("answer")) return;
    const bool mtp = l.scope.where == dsv4::tap_scope::part::mtp_head;
    for (index_t t = 0; t < l.tokens; ++t) {
      const std::span<const double> row = l.row(t);
      scores_.read(dsv4::view<const double, 1>(row.data(), l.vocabulary));
      ordered_json line = begin(l.scope, l.start + t);
      // The head names the next token, MTP the one after.
      const auto at = static_cast<std::size_t>(l.start + t + (mtp ? 2 : 1));
      if (at < text_.ids.size()) {
        line["actual"] = text_.ids[at];
        line["logprob"] = shortened(scores_[text_.ids[at]], line_digits);
      }
      double entropy = 0;
      for (std::int32_t v = 0; v < c_.vocab_size; ++v)
        if (const double lp = scores_[v]; std::isfinite(lp)) entropy -= lp * std::exp(lp);
      line["entropy"] = shortened(entropy, line_digits);
      line["top"] = ordered_json::array();
      for (const auto& p : scores_.top())
        line["top"].push_back({p.id, shortened(p.log_probability, line_digits)});
      to_.add(line);
    }
    to_.end_pass();
  }

 private:
  ordered_json begin(const dsv4::tap_scope& scope, index_t position) const {
    return {
        {"token", position}, {"id", text_.ids[static_cast<std::size_t>(position)]}, {"part", name_of(scope)}};
  }

  std::set<std::string> what_;
  const watched_text& text_;
  const dsv4::config& c_;
  lines& to_;
  dsv4::log_probabilities scores_;
};

void trace(const trace_options& o) {
  const engine& e = find_engine(o.watch.engine);
  if (!o.out.empty()) check_output_file("--out", o.out, {o.watch.engine.model, o.watch.ids});
  const auto model = open_model(o.watch.engine.model);
  const dsv4::config& c = model.configuration();
  const watched_text text = read_watched(o.watch, c);
  lines to(o.out);
  to.add({{"trace", 1},
          {"model", o.watch.engine.model.string()},
          {"numerics", o.watch.engine.numerics},
          {"tokens", text.ids.size()},
          {"layers", c.num_hidden_layers},
          {"ratios", c.compress_ratios},
          {"window", c.sliding_window},
          {"index_topk", c.index_topk},
          {"experts", c.n_routed_experts},
          {"experts_per_token", c.num_experts_per_tok},
          {"hash_layers", c.num_hash_layers},
          {"streams", c.hc_mult}});
  tracer tell(o, text, c, to);
  watcher watch(c, model.weights(),
                {[&](const block_pass& b) { tell.block(b); }, [&](const logits_pass& l) { tell.logits(l); }});
  progress bar;
  e.forward({c,
             model.weights(),
             text.ids,
             {pass},
             o.mtp,
             o.watch.engine.threads,
             watch,
             [&](index_t done, index_t all) { bar("trace", done, all); },
             false});
  bar.clear();
  to.commit();
}

}  // namespace

void add_trace(CLI::App& app, std::function<void()>& run) {
  CLI::App& verb = *app.add_subcommand("trace", "what every block did with every token, as JSON lines");
  auto o = std::make_shared<trace_options>();
  add_watched(verb, o->watch);
  verb.add_option("--what", o->what,
                  "which parts of a line: experts, attention, streams, answer (default: all)")
      ->delimiter(',')
      ->check(CLI::IsMember({"experts", "attention", "streams", "answer"}));
  verb.add_option("--top", o->top, "so many of the likeliest next tokens")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb.add_flag("--mtp", o->mtp, "also run multi-token prediction on (position i, token i+1)");
  verb.add_option("--out", o->out, "the file to write (default: standard output)")->type_name("FILE");
  verb.footer(R"(
Examples
  dsv4 trace --model DeepSeek-V4-Flash --prompt 'In the beginning' --what experts --out routing.jsonl
  dsv4 trace --model mini --ids prompt.json --what attention | jq -c 'select(.part == "layers.3") | [.token, .entries]'
  dsv4 trace --model mini --ids prompt.json --what experts | jq -r 'select(.experts) | [.token, .part, .experts[]] | @tsv'

The first line says what runs.  Then, in passes of 512 tokens, layer by layer, one line a token and block:
  token position · id · part "layers.3", "mtp.0"
  experts weights     as chosen · margin: biased score of the last chosen over the first left out; null where the
                      experts come from a table
  window compressed sink    shares of the attention's mass, means over the heads · entries: those that the token saw
                      (none of a block that has only a window) · entry_mass: the share of each
  stream_rms          of the block's output · hc_attn hc_ffn: pre [n], post [n], comb [n n] row by row
and of "head" (and "mtp.0.head") one line a token: actual, the token that came (after next, for MTP), its logprob in
nats, the entropy of the distribution, and top, the likeliest as [id, logprob].  Entry e of a block with ratio r holds
tokens r e to r e + r - 1; with ratio 4 also the four before.)");
  verb.callback([o, &run] { run = [o] { trace(*o); }; });
}

}  // namespace cli
