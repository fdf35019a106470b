// SPDX-License-Identifier: MIT
// Recording and reading back: what is in a bundle is what the model computed.
#include "golden_test.hpp"

namespace dsv4_test {

using golden::bundle;
using golden::tensor_entry;

TEST_CASE("a recorded bundle reads back bit for bit", "[golden]") {
  const scratch_folder dir;
  const random_model m(tiny_config());
  const bool zstd = GENERATE(false, true);
  golden::writer_options o;
  o.zstd = zstd;
  o.shard_bytes = std::size_t{1} << 18;  // several shards
  record_random(m, dir / "b", {}, o);

  const auto b = bundle::open(dir / "b");
  const auto report = golden::check(dir / "b");
  for (const auto& p : report.problems) UNSCOPED_INFO(p.what);
  CHECK(report.ok());
  CHECK(report.exit_code() == 0);
  CHECK(report.tensors == static_cast<index_t>(b.tensors().size()));
  CHECK(b.about().files.size() > 3);
  CHECK(b.ids() == random_ids(40, m.c.vocab_size, 5));
  CHECK(b.about().calls.size() == 2 + 6);  // prefill, its MTP, decode steps

  // Run again and compare every event.
  struct same final : golden::comparison {
    index_t equal = 0, other = 0;
    void compare(const tap_event& e, const golden::tensor_data& g) override {
      const auto raw = g.bytes();
      (std::memcmp(raw.data(), e.data, raw.size()) == 0 && g.entry().carrier == e.type ? equal : other)++;
    }
    void other_shape(const tap_event&, const tensor_entry&) override { ++other; }
    void unknown(const tap_event&) override { ++other; }
  } compare;
  golden::comparison_sink sink(b, compare);
  golden::run_calls<official, exec::ref>(m.c, m.weights, b.about().calls, ids_of(b), sink,
                                         [&](const golden::call_info& c) { sink.begin_call(c.step); });
  CHECK(compare.other == 0);
  index_t margins = 0;
  for (const tensor_entry& t : b.tensors()) margins += t.is_margin();
  CHECK(compare.equal + margins == static_cast<index_t>(b.tensors().size()));
}

TEST_CASE("the same run gives the same files", "[golden]") {
  const scratch_folder dir;
  const random_model m(tiny_config());
  record_random(m, dir / "a");
  record_random(m, dir / "b");
  for (const auto& f : fs::directory_iterator(dir / "a"))
    CHECK(read_text(f.path()) == read_text(dir.path / "b" / f.path().filename()));
}

TEST_CASE("every site is there, in order, with dependencies and margins", "[golden]") {
  const scratch_folder dir;
  const random_model m(tiny_config());
  const auto b = bundle::open(record_random(m, dir / "b"));

  // The prefill has every site that its layers have, once.
  for (index_t l = 0; l < m.c.num_hidden_layers; ++l)
    for (std::size_t i = 0; i < static_cast<std::size_t>(site::count); ++i) {
      const auto s = static_cast<site>(i);
      if (golden::is_head_site(s)) continue;
      const std::string name = "layers." + std::to_string(l) + "." + std::string(info(s).name);
      INFO(name);
      CHECK((b.find(0, 0, name) != nullptr) == golden::exists(s, m.c.ratio(l)));
    }
  for (const char* name : {"head.logits", "head.norm"}) CHECK(b.find(0, 0, name));
  for (const char* name : {"mtp.0.out", "mtp.0.head.logits", "mtp.0.ffn.gate.indices.margin"})
    CHECK(b.find(1, 0, name));

  const tensor_entry& o = *b.find(0, 0, "layers.1.attn.o");
  CHECK(o.deps == std::vector<std::string>{"layers.1.attn.q_rope", "layers.1.attn.kv",
                                           "layers.1.attn.compressor.entry", "layers.1.attn.topk_idxs"});
  CHECK(o.state == std::vector<std::string>{"layers.1.attn.kv", "layers.1.attn.compressor.entry"});
  CHECK(o.axes == std::vector<std::string>{"token", "head", "channel"});
  CHECK(o.cls == golden::tolerance_class::attention);
  CHECK(b.find(0, 0, "layers.1.hc_attn.mixes")->deps == std::vector<std::string>{"layers.0.out"});
  CHECK(b.find(0, 0, "head.hc_head.pre")->deps == std::vector<std::string>{"layers.3.out"});
  CHECK(b.find(1, 0, "mtp.0.hc_attn.mixes")->state == std::vector<std::string>{"layers.3.out"});
  CHECK(b.find(0, 0, "layers.0.ffn.gate.indices")->deps.empty());  // a table's choice
  CHECK(b.find(0, 0, "layers.0.ffn.gate.indices")->margin.empty());

  // A decode step that closes no entry does not depend on one.
  const tensor_entry& later = *b.find(2, 0, "layers.1.attn.o");
  CHECK(later.from == 34);
  CHECK(later.deps ==
        std::vector<std::string>{"layers.1.attn.q_rope", "layers.1.attn.kv", "layers.1.attn.topk_idxs"});
  // One that does has it, with its number.
  const tensor_entry& entry = *b.find(3, 0, "layers.1.attn.compressor.entry");  // position 35 closes entry 8
  CHECK((*entry.first_entry == 8 && *entry.end_entry == 9));
}

TEST_CASE("margins are the gaps at the cut", "[golden]") {
  const double inf = std::numeric_limits<double>::infinity();
  CHECK(golden::choice_margins({5, 1, 4, 2}, 2) == std::array<double, 3>{2, 3, 1});
  CHECK(golden::choice_margins({5, 1, 4, 2}, 4) == std::array<double, 3>{inf, inf, 1});
  CHECK(golden::choice_margins({3, 3}, 1) == std::array<double, 3>{0, inf, inf});
  CHECK(golden::choice_margins({}, 0) == std::array<double, 3>{inf, inf, inf});

  // In a bundle: gate and indexer, against the scores recorded beside them.
  const scratch_folder dir;
  const random_model m(tiny_config());
  const auto b = bundle::open(record_random(m, dir / "b"));
  index_t checked = 0;
  for (const tensor_entry& t : b.tensors()) {
    if (t.margin.empty()) continue;
    const auto margin = b.read(*b.find(t.step, t.sequence, t.margin));
    const bool gate = t.site == "ffn.gate.indices";
    const auto scores =
        b.read(*b.find(t.step, t.sequence, t.scope + (gate ? ".ffn.gate.biased" : ".attn.indexer.scores")));
    const auto chosen = b.read(t);
    const index_t width = scores.entry().row_elements(), w = m.c.sliding_window, columns = t.row_elements();
    for (index_t row = 0; row < t.rows(); ++row) {
      std::vector<bool> is_chosen(static_cast<std::size_t>(width), false);
      double last = inf, rejected = -inf;
      const index_t offset = t.from == 0 ? t.rows() : w;
      for (index_t i = gate ? 0 : w; i < columns; ++i) {
        const auto x = static_cast<index_t>(chosen[row * columns + i]);
        if (x < 0) continue;
        const index_t e = gate ? x : x - offset;
        is_chosen[static_cast<std::size_t>(e)] = true;
        last = std::min(last, scores[row * width + e]);
      }
      const index_t visible = gate ? width : (t.from + row + 1) / 4;
      for (index_t e = 0; e < visible; ++e)
        if (!is_chosen[static_cast<std::size_t>(e)]) rejected = std::max(rejected, scores[row * width + e]);
      CHECK(margin[row * 3] == (rejected == -inf ? inf : last - rejected));
      ++checked;
    }
  }
  CHECK(checked > 200);
}

TEST_CASE("what is filtered out is seen through", "[golden]") {
  const scratch_folder dir;
  const random_model m(tiny_config());
  golden::record_options what;
  what.wanted = [](const std::string& n) {
    return n.ends_with(".attn.o") || n.ends_with("attn_norm") || n.ends_with(".attn.out");
  };
  const auto b = bundle::open(record_random(m, dir / "b", {}, {}, what));
  CHECK(b.find(0, 0, "layers.1.attn.o")->deps == std::vector<std::string>{"layers.1.attn_norm"});
  CHECK(b.find(0, 0, "layers.1.attn.o")->state.empty());
  CHECK(b.find(0, 0, "layers.1.attn_norm")->deps == std::vector<std::string>{"layers.0.attn.out"});
  CHECK(golden::check(dir / "b").ok());
}

TEST_CASE("a batch of two, in chunks, equals its runs in other chunks", "[golden]") {
  const scratch_folder dir;
  const random_model m(tiny_config());
  golden::run_plan plan{
      {random_ids(25, m.c.vocab_size, 1), random_ids(40, m.c.vocab_size, 2)}, 3, {7, 1, 9}, true};
  golden::record_options what;
  what.equal_chunks = {5, 2};
  const auto b = bundle::open(record_random(m, dir / "b", plan, {}, what));
  CHECK(golden::check(dir / "b").ok());
  CHECK(b.sequences() == 2);
  CHECK(b.ids(1) == plan.ids[1]);
  CHECK(b.about().equal_runs.at(0).equal);
  CHECK(b.about().calls[2].kind == golden::call_kind::chunk);
  CHECK(b.find(0, 1, "layers.0.out")->to == 7);
  // Forced choices by absolute position.
  const auto& forced = b.inputs().at("forced.1.layers.1.ffn.gate.indices");
  CHECK(forced.shape == std::vector<index_t>{40, m.c.num_experts_per_tok});
  const auto& entries = b.inputs().at("forced.0.layers.1.attn.entries");
  CHECK(entries.shape == std::vector<index_t>{25, m.c.index_topk});
  for (index_t t = 0; t < 25; ++t)
    for (index_t i = 0; i < m.c.index_topk; ++i)
      CHECK(golden::element(dtype::i32, entries.data, t * m.c.index_topk + i) < (t + 1) / 4);
}

TEST_CASE("float32 and other executors' types", "[golden]") {
  const scratch_folder dir;
  const random_model m(tiny_config(), all_f32);
  const auto b = bundle::open(record_random<float32<float>>(m, dir / "b"));
  CHECK(golden::check(dir / "b").ok());
  CHECK(b.find(0, 0, "layers.1.attn.o")->carrier == dtype::f32);
  CHECK(b.find(0, 0, "head.logits")->carrier == dtype::f64);
}

TEST_CASE("statistics_sink", "[golden]") {
  const random_model m(tiny_config());
  golden::statistics_sink stats;
  golden::run_plan plan{{random_ids(12, m.c.vocab_size, 1)}, 2, {}, false};
  const auto calls = golden::calls_of(plan);
  golden::run_calls<official, exec::ref>(m.c, m.weights, calls, plan.ids, stats,
                                         [](const golden::call_info&) {});
  const auto& r = stats.names().at("head.logits");
  CHECK(r.events == 3);
  CHECK(r.elements == 12 * m.c.vocab_size);
  CHECK(r.values.result().nan == 0);
}

}  // namespace dsv4_test
