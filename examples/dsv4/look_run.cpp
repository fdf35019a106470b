// SPDX-License-Identifier: MIT
#include "look_run.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <set>

#include <dsv4/gen/log_probability.hpp>

#include "engine.hpp"
#include "input.hpp"
#include "look_lens.hpp"
#include "look_rounding.hpp"
#include "progress.hpp"
#include "watch.hpp"

namespace cli {
namespace {

using nlohmann::ordered_json;

// How much of a run a page holds; choices that keep it readable and, at 61 layers, below 5 MB.
constexpr index_t all_detailed = 160;      // a text of so many tokens is shown whole
constexpr index_t last_detailed = 96;      // of a longer one these,
constexpr index_t others_detailed = 64;    // … and so many evenly from before
constexpr index_t most_lens = 48;          // tokens of the lens: the last
constexpr index_t most_columns = 256;      // of a map over all tokens
constexpr std::size_t most_entries = 24;   // of a token in a block: the heaviest
constexpr std::size_t most_positions = 8;  // of its window
constexpr index_t top_answers = 8, top_lens = 3;
constexpr index_t rounding_tokens = 256;  // of the second run
constexpr int octaves = 21;               // of distances, up to a million tokens
constexpr int page_digits = 3;            // of numbers on the page

double brief(double x) { return shortened(x, page_digits); }

ordered_json brief_list(std::span<const double> of) {
  ordered_json list = ordered_json::array();
  for (const double x : of) list.push_back(brief(x));
  return list;
}

/// Means of `width` values a token over columns of neighbouring tokens.
class columns {
 public:
  columns(index_t tokens, std::size_t width)
      : per_((tokens + most_columns - 1) / most_columns),
        width_(width),
        sums_(usize((tokens + per_ - 1) / per_) * width),
        counts_(sums_.size()) {}
  /// Values that are not finite are left out of their column's mean.
  void add(index_t token, std::span<const double> values) {
    for (std::size_t i = 0; i < width_; ++i) {
      if (!std::isfinite(values[i])) continue;
      sums_[usize(token / per_) * width_ + i] += values[i];
      counts_[usize(token / per_) * width_ + i] += 1;
    }
  }
  /// One list a value.
  ordered_json told() const {
    ordered_json lists = ordered_json::array();
    for (std::size_t i = 0; i < width_; ++i) {
      ordered_json list = ordered_json::array();
      for (std::size_t at = i; at < sums_.size(); at += width_)
        list.push_back(counts_[at] > 0 ? ordered_json(brief(sums_[at] / counts_[at])) : ordered_json());
      lists.push_back(std::move(list));
    }
    return lists;
  }
  index_t per() const { return per_; }

 private:
  index_t per_;
  std::size_t width_;
  std::vector<double> sums_, counts_;
};

void add_to(std::vector<double>& sums, std::span<const double> values, double factor) {
  sums.resize(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) sums[i] += factor * values[i];
}

std::span<const double> row_of(const std::vector<double>& rows, index_t t, index_t width) {
  return std::span(rows).subspan(usize(t * width), usize(width));
}

/// Mean matrices of a sublayer, and how far their rows and columns are from one.
struct hyper_sum {
  std::vector<double> pre, post, comb;
  double off = 0;
  void add(const hyper_pass& h, index_t t, index_t n, double share) {
    add_to(pre, row_of(h.pre, t, n), share);
    add_to(post, row_of(h.post, t, n), share);
    const auto m = row_of(h.comb, t, n * n);
    add_to(comb, m, share);
    for (index_t i = 0; i < n; ++i) {
      double row = 0, column = 0;
      for (index_t j = 0; j < n; ++j) {
        row += m[usize(i * n + j)];
        column += m[usize(j * n + i)];
      }
      off = std::max({off, std::abs(row - 1), std::abs(column - 1)});
    }
  }
  ordered_json told() const {
    return {{"pre", brief_list(pre)},
            {"post", brief_list(post)},
            {"comb", brief_list(comb)},
            {"off", brief(off)}};
  }
};

/// Everything about one block.
struct block_story {
  block_story(const dsv4::config& c, index_t tokens)
      : mass(tokens, mass_parts),
        margins(tokens, 1),
        rms(tokens, usize(c.hc_mult)),
        load(usize(c.n_routed_experts)),
        heads(usize(c.num_attention_heads) * mass_parts),
        window_octaves(octaves),
        entry_octaves(octaves),
        chosen_octaves(octaves) {}

  dsv4::tap_scope scope;
  index_t ratio = 0;
  columns mass, margins, rms;
  std::vector<double> load, heads, window_octaves, entry_octaves, chosen_octaves;
  hyper_sum attn, ffn;
  ordered_json tokens = ordered_json::object();  // details by position
};

int octave_of(index_t distance) {
  int o = 0;
  while (distance > 1 && o + 1 < octaves) distance /= 2, ++o;
  return o;
}

class storyteller {
 public:
  storyteller(const dsv4::config& c, const watched_text& text)
      : c_(c),
        text_(text),
        n_(static_cast<index_t>(text.ids.size())),
        answers_(top_answers, c.vocab_size),
        surprise_(n_, 1),
        entropy_(n_, 1),
        best_(text.ids.size(), -1),
        logprob_(text.ids.size(), std::nan("")) {
    for (index_t t = n_ <= all_detailed ? 0 : n_ - last_detailed; t < n_; ++t) detailed_.insert(t);
    if (n_ > all_detailed)
      for (index_t i = 0; i < others_detailed; ++i)
        detailed_.insert((n_ - last_detailed) * i / others_detailed);
    lens_from_ = std::max(index_t{0}, n_ - most_lens);
  }

  void block(const block_pass& b) {
    const auto key = std::pair(b.scope.where, b.scope.number);
    auto at = std::find_if(blocks_.begin(), blocks_.end(), [&](const block_story& s) {
      return std::pair(s.scope.where, s.scope.number) == key;
    });
    if (at == blocks_.end()) {
      blocks_.emplace_back(c_, n_);
      at = std::prev(blocks_.end());
      at->scope = b.scope;
      at->ratio = b.ratio;
    }
    block_story& s = *at;
    for (index_t t = 0; t < b.tokens; ++t) {
      const index_t p = b.start + t;
      const double share = 1.0 / double(n_);
      s.mass.add(p, b.mass[usize(t)]);
      s.margins.add(p, std::span(&b.margins[usize(t)], 1));
      s.rms.add(p, row_of(b.stream_rms, t, b.streams));
      for (index_t k = 0; k < b.experts_per_token; ++k)
        s.load[usize(b.experts[usize(t * b.experts_per_token + k)])] += 1;
      for (index_t h = 0; h < c_.num_attention_heads; ++h)
        for (std::size_t m = 0; m < mass_parts; ++m)
          s.heads[usize(h) * mass_parts + m] += share * b.by_head[usize(t * c_.num_attention_heads + h)][m];
      s.attn.add(b.attn, t, b.streams, share);
      s.ffn.add(b.ffn, t, b.streams, share);
      reach(s, b, t, share);
      if (detailed_.contains(p)) s.tokens[std::to_string(p)] = detail(b, t);
    }
    if (b.scope.where == dsv4::tap_scope::part::layer) keep_for_lens(b);
  }

  void logits(const logits_pass& l) {
    const bool mtp = l.scope.where == dsv4::tap_scope::part::mtp_head;
    for (index_t t = 0; t < l.tokens; ++t) {
      const index_t p = l.start + t;
      answers_.read(dsv4::view<const double, 1>(l.row(t).data(), l.vocabulary));
      if (mtp)
        guess(p);
      else
        answer(p);
    }
  }

  index_t tokens() const { return n_; }

  ordered_json told(const dsv4::model_weights<>& w, bool bf16, int threads) {
    ordered_json j;
    j["ids"] = text_.ids;
    j["columns_of"] = surprise_.per();
    j["detailed"] = detailed_;
    j["logprob"] = brief_list(logprob_);
    j["surprise"] = surprise_.told()[0];
    j["entropy"] = entropy_.told()[0];
    j["answers"] = std::move(top_);
    if (!guessed_.empty()) j["mtp"] = guesses();
    j["blocks"] = ordered_json::array();
    for (block_story& s : blocks_)
      j["blocks"].push_back(
          {{"name", name_of(s.scope)},
           {"ratio", s.ratio},
           {"kind", kind_name(s.ratio)},
           {"table", s.scope.where == dsv4::tap_scope::part::layer && c_.is_hash_layer(s.scope.number)},
           {"mass", s.mass.told()},
           {"heads", brief_list(s.heads)},
           {"margin", s.margins.told()[0]},
           {"rms", s.rms.told()},
           {"load", s.load},
           {"window_octaves", brief_list(s.window_octaves)},
           {"entry_octaves", brief_list(s.entry_octaves)},
           {"chosen_octaves", brief_list(s.chosen_octaves)},
           {"attn", s.attn.told()},
           {"ffn", s.ffn.told()},
           {"tokens", std::move(s.tokens)}});
    j["lens"] = lens(w, bf16, threads);
    j["pieces"] = ordered_json::object();
    for (const std::int32_t id : text_.ids) named_.insert(id);
    for (const std::int32_t id : named_) j["pieces"][std::to_string(id)] = text_.piece(id);
    return j;
  }

 private:
  static const char* kind_name(index_t ratio) {
    switch (dsv4::kind_of_ratio(ratio)) {
      case dsv4::attention_kind::window: return "window";
      case dsv4::attention_kind::csa: return "CSA";
      case dsv4::attention_kind::hca: return "HCA";
    }
    return "?";
  }

  /// Mass and choices by distance from the token: that of a window's position, that of an entry's last token.
  void reach(block_story& s, const block_pass& b, index_t t, double share) const {
    const index_t p = b.start + t, oldest = std::max(index_t{0}, p - c_.sliding_window + 1);
    for (index_t i = oldest; i <= p; ++i)
      s.window_octaves[usize(octave_of(p - i))] +=
          share * b.window_mass[usize(t * c_.sliding_window + i - oldest)];
    for (index_t k = 0; k < b.chosen; ++k) {
      const index_t e = b.entries[usize(t * b.chosen + k)];
      if (e < 0) continue;
      const auto octave = usize(octave_of(p - (covered_tokens(b.ratio, e).second - 1)));
      s.entry_octaves[octave] += share * b.entry_mass[usize(t * b.chosen + k)];
      s.chosen_octaves[octave] += share;
    }
  }

  ordered_json detail(const block_pass& b, index_t t) const {
    const index_t p = b.start + t, oldest = std::max(index_t{0}, p - c_.sliding_window + 1);
    ordered_json j;
    j["experts"] = ordered_json::array();
    for (index_t k = 0; k < b.experts_per_token; ++k) {
      const auto i = usize(t * b.experts_per_token + k);
      j["experts"].push_back({b.experts[i], brief(b.weights[i])});
    }
    j["margin"] = brief(b.margins[usize(t)]);
    j["mass"] = brief_list(b.mass[usize(t)]);
    if (b.ratio > 0) {
      std::vector<std::pair<double, index_t>> seen;  // (mass, entry)
      for (index_t k = 0; k < b.chosen; ++k)
        if (const index_t e = b.entries[usize(t * b.chosen + k)]; e >= 0)
          seen.emplace_back(b.entry_mass[usize(t * b.chosen + k)], e);
      j["seen"] = seen.size();
      std::sort(seen.begin(), seen.end(), std::greater<>());
      seen.resize(std::min(seen.size(), most_entries));
      j["entries"] = ordered_json::array();
      for (const auto& [mass, e] : seen) j["entries"].push_back({e, brief(mass)});
    }
    std::vector<std::pair<double, index_t>> near;  // (mass, position)
    for (index_t i = oldest; i <= p; ++i)
      near.emplace_back(b.window_mass[usize(t * c_.sliding_window + i - oldest)], i);
    std::sort(near.begin(), near.end(), std::greater<>());
    near.resize(std::min(near.size(), most_positions));
    j["window"] = ordered_json::array();
    for (const auto& [mass, i] : near) j["window"].push_back({i, brief(mass)});
    j["rms"] = brief_list(row_of(b.stream_rms, t, b.streams));
    j["attn"] = brief_list(row_of(b.attn.comb, t, b.streams * b.streams));
    j["ffn"] = brief_list(row_of(b.ffn.comb, t, b.streams * b.streams));
    return j;
  }

  ordered_json top_list(index_t count) {
    ordered_json list = ordered_json::array();
    for (const auto& p : answers_.top().first(std::min(usize(count), answers_.top().size()))) {
      list.push_back({p.id, brief(std::exp(p.log_probability))});
      named_.insert(p.id);
    }
    return list;
  }
  void answer(index_t p) {
    double entropy = 0;
    for (std::int32_t v = 0; v < c_.vocab_size; ++v)
      if (const double lp = answers_[v]; std::isfinite(lp)) entropy -= lp * std::exp(lp);
    entropy_.add(p, std::span(&entropy, 1));
    best_[usize(p)] = answers_.top().front().id;
    if (p + 1 < n_) {
      const double lp = answers_[text_.ids[usize(p + 1)]], surprise = -lp;
      logprob_[usize(p + 1)] = lp;  // of the token that came, by the one before it
      surprise_.add(p + 1, std::span(&surprise, 1));
    }
    if (detailed_.contains(p)) top_[std::to_string(p)] = top_list(top_answers);
  }
  /// The pair (streams of p, token p + 1) names token p + 2.
  void guess(index_t p) {
    guessed_.push_back(answers_.top().front().id);
    if (detailed_.contains(p)) mtp_top_[std::to_string(p)] = top_list(top_lens);
  }

  ordered_json guesses() {
    // The model's own choice at a pair's second token may have been made in the pass after the pair's.
    double as_model = 0, as_text = 0;
    const auto pairs = static_cast<index_t>(guessed_.size());
    for (index_t p = 0; p < pairs; ++p) {
      as_model += guessed_[usize(p)] == best_[usize(p + 1)];
      as_text += p + 2 < n_ && guessed_[usize(p)] == text_.ids[usize(p + 2)];
    }
    return {{"guesses", std::move(mtp_top_)},
            {"pairs", pairs},
            {"as_model", brief(as_model / double(pairs))},
            {"as_text", brief(as_text / double(std::max<index_t>(pairs - 1, 1)))}};
  }

  void keep_for_lens(const block_pass& b) {
    auto& kept = lens_streams_[b.scope.number];
    const auto size = usize(b.streams * b.width);
    for (index_t t = 0; t < b.tokens; ++t)
      if (b.start + t >= lens_from_) {
        const auto from = b.out.begin() + static_cast<std::ptrdiff_t>(usize(t) * size);
        kept.insert(kept.end(), from, from + static_cast<std::ptrdiff_t>(size));
      }
  }
  /// Of each of the last tokens, after each layer: the likeliest next tokens, and how likely the final answer.
  ordered_json lens(const dsv4::model_weights<>& w, bool bf16, int threads) {
    ordered_json layers = ordered_json::array();
    for (const auto& [layer, streams] : lens_streams_) {
      const std::vector<double> rows = lens_logits(c_, w, streams, bf16, threads);
      ordered_json cells = ordered_json::array();
      for (index_t t = lens_from_; t < n_; ++t) {
        answers_.read(
            dsv4::view<const double, 1>(rows.data() + (t - lens_from_) * c_.vocab_size, c_.vocab_size));
        cells.push_back({{"top", top_list(top_lens)}, {"final", brief(std::exp(answers_[best_[usize(t)]]))}});
      }
      layers.push_back(std::move(cells));
    }
    return {{"from", lens_from_}, {"layers", std::move(layers)}};
  }

  const dsv4::config& c_;
  const watched_text& text_;
  index_t n_, lens_from_ = 0;
  std::set<index_t> detailed_;
  dsv4::log_probabilities answers_;
  columns surprise_, entropy_;
  std::vector<std::int32_t> best_, guessed_;  // the likeliest of the head [n], of MTP [n - 1]
  std::vector<double> logprob_;
  ordered_json top_ = ordered_json::object(), mtp_top_ = ordered_json::object();
  std::set<std::int32_t> named_;
  std::vector<block_story> blocks_;
  std::map<index_t, std::vector<float>> lens_streams_;  // by layer
};

ordered_json rounding_of(const dsv4::config& c, const rounding_result& r, index_t tokens) {
  ordered_json sites = ordered_json::array();
  for (const site_difference& d : r.sites) {
    const auto part = d.scope.where;
    const bool block = part == dsv4::tap_scope::part::layer || part == dsv4::tap_scope::part::mtp;
    // Only CSA chooses entries.
    if (d.where == dsv4::site::attn_topk_idxs &&
        dsv4::kind_of_ratio(part == dsv4::tap_scope::part::mtp ? c.mtp_ratio(d.scope.number)
                            : block                            ? c.ratio(d.scope.number)
                                                               : 0) != dsv4::attention_kind::csa)
      continue;
    sites.push_back({name_of(d.scope), dsv4::info(d.where).name, shortened(d.value, page_digits)});
  }
  return {{"tokens", tokens},
          {"kl", brief(r.kl)},
          {"agreement", brief(r.agreement)},
          {"sites", std::move(sites)}};
}

}  // namespace

ordered_json look_run(const watch_options& o, bool rounding) {
  const auto begin = std::chrono::steady_clock::now();
  const engine& e = find_engine(o.engine);
  const auto model = open_model(o.engine.model);
  const dsv4::config& c = model.configuration();
  const watched_text text = read_watched(o, c);
  const bool mtp = !model.weights().mtp.empty() && text.ids.size() > 1,
             official = o.engine.numerics == "official";

  storyteller tell(c, text);
  watcher watch(c, model.weights(),
                {[&](const block_pass& b) { tell.block(b); }, [&](const logits_pass& l) { tell.logits(l); }});
  progress bar;
  constexpr index_t pass = 512;  // bounds what the watcher holds
  const forward_result done = e.forward({c,
                                         model.weights(),
                                         text.ids,
                                         {pass},
                                         mtp,
                                         o.engine.threads,
                                         watch,
                                         [&](index_t at, index_t all) { bar("look", at, all); },
                                         false});
  bar.clear();

  ordered_json j{{"model", o.engine.model.string()}, {"numerics", o.engine.numerics},
                 {"window", c.sliding_window},       {"index_topk", c.index_topk},
                 {"experts", c.n_routed_experts},    {"experts_per_token", c.num_experts_per_tok},
                 {"heads", c.num_attention_heads},   {"streams", c.hc_mult}};
  j.update(tell.told(model.weights(), official, o.engine.threads));
  if (official && rounding) {
    const index_t n = std::min(tell.tokens(), rounding_tokens);
    j["rounding"] = rounding_of(c,
                                compare_rounding(c, model.weights(), std::span(text.ids).first(usize(n)),
                                                 mtp && n > 1, o.engine.threads),
                                n);
  }
  j["forward_seconds"] = shortened(done.seconds, page_digits);
  j["seconds"] =
      shortened(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), page_digits);
  return j;
}

}  // namespace cli
