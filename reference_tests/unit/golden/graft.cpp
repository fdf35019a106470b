// SPDX-License-Identifier: MIT
// Replacing values: forced choices take effect, a teacher makes every operator start from golden inputs,
// and watching changes nothing.
#include "golden_test.hpp"
#include "model_run.hpp"

namespace dsv4_test {

using golden::bundle;

namespace {

using bits = std::map<std::string, std::vector<std::byte>>;

/// Every event's bytes by name and position of a run.
struct keep {
  static constexpr bool on = true;
  bits values;
  void operator()(const tap_event& e) {
    const auto* p = static_cast<const std::byte*>(e.data);
    values[e.name() + "@" + std::to_string(e.start)].assign(p, p + e.size() * bits_of(e.type) / 8);
  }
};

template <class Sink, class E = exec::ref>
void again(const random_model& m, const bundle& b, Sink& sink,
           std::function<void(const golden::call_info&)> begin, E e = {}) {
  golden::run_calls<official, E>(m.c, m.weights, b.about().calls, ids_of(b), sink, begin, e);
}

}  // namespace

TEST_CASE("watching changes no bit", "[golden][taps]") {
  const random_model m(tiny_config());
  const auto ids = random_ids(40, m.c.vocab_size, 3);
  runner<official, exec::ref> quiet(m), watched(m);
  golden::statistics_sink sink;
  const auto a = quiet.fresh(ids, {23, 1}), b = watched.fresh(ids, {23, 1}, sink);
  CHECK(same(a, b));
  CHECK(sink.names().size() > 100);
}

TEST_CASE("a graft of attn.topk_idxs is what the attention attends to", "[golden][taps]") {
  const random_model m(tiny_config());
  const scratch_folder dir;
  const auto b = bundle::open(record_random(m, dir / "b"));
  const auto run = [&](auto change, const std::string& name) {
    keep k;
    golden::callback_sink graft{[&](const tap_event& e) {
      if (e.name() == name) change(e);
    }};
    golden::fan_out both(graft, k);
    again(m, b, both, [](const golden::call_info&) {});
    return k.values;
  };
  for (const char* layer : {"layers.1.", "layers.2."}) {  // CSA, HCA
    const std::string name = std::string(layer) + "attn.topk_idxs", o = std::string(layer) + "attn.o";
    const auto plain = run([](const tap_event&) {}, name);
    // The last query of the prefill loses one of its entries.
    const auto other = run(
        [&](const tap_event& e) {
          if (e.start != 0) return;
          const index_t width = e.shape[1], last = (e.tokens - 1) * width;
          for (index_t i = m.c.sliding_window; i < width; ++i)
            if (auto& x = e.values<std::int32_t>()[static_cast<std::size_t>(last + i)]; x >= 0) {
              x = -1;
              return;
            }
        },
        name);
    const auto &x = plain.at(o + "@0"), &y = other.at(o + "@0");
    const std::size_t row = x.size() / 34;
    CHECK(std::equal(x.begin(), x.end() - static_cast<std::ptrdiff_t>(row), y.begin()));  // earlier queries
    CHECK(!std::equal(x.end() - static_cast<std::ptrdiff_t>(row), x.end(),
                      y.end() - static_cast<std::ptrdiff_t>(row)));
    CHECK(plain.at("layers.0.out@0") == other.at("layers.0.out@0"));
    // Decode steps too: entries from W on.
    const auto later = run(
        [&](const tap_event& e) {
          if (e.start == 38) e.values<std::int32_t>()[static_cast<std::size_t>(m.c.sliding_window)] = -1;
        },
        name);
    CHECK(plain.at(o + "@38") != later.at(o + "@38"));
    CHECK(plain.at(o + "@37") == later.at(o + "@37"));
    // What cannot be is refused, not read.
    const auto wrong = [&](index_t column, std::int32_t value) {
      return [=](const tap_event& e) {
        if (e.start == 0)
          e.values<std::int32_t>()[static_cast<std::size_t>((e.tokens - 1) * e.shape[1] + column)] = value;
      };
    };
    CHECK_THROWS_AS(run(wrong(m.c.sliding_window, 1 << 20), name), contract_violation);
    CHECK_THROWS_AS(run(wrong(m.c.sliding_window, 3), name), contract_violation);  // a position, no entry
    CHECK_THROWS_AS(run(wrong(0, 1), name), contract_violation);  // the window is not a choice
  }
}

TEST_CASE("forced routing drives the experts", "[golden][taps]") {
  const random_model m(tiny_config()), other(tiny_config(), published, 2);
  const scratch_folder dir;
  const auto b = bundle::open(record_random(m, dir / "b"));
  // Another model takes the choices of the first; its own would differ.
  keep free_run, forced_run;
  again(other, b, free_run, [](const golden::call_info&) {});
  auto graft = golden::forced_routing(b);
  golden::fan_out both(graft, forced_run);
  again(other, b, both, [&](const golden::call_info& c) { graft.begin_call(c.step); });
  CHECK(graft.replaced() == (4 + 0) * 7 + 1);  // 4 layers in the prefill and 6 steps; MTP once
  const auto raw = b.read(*b.find(0, 0, "layers.3.ffn.gate.indices")).bytes();
  const std::vector<std::byte> golden_choice(raw.begin(), raw.end());
  CHECK(forced_run.values.at("layers.3.ffn.gate.indices@0") == golden_choice);
  CHECK(free_run.values.at("layers.3.ffn.gate.indices@0") != golden_choice);
  CHECK(free_run.values.at("layers.1.ffn.gate.scores@0") == free_run.values.at("layers.1.ffn.gate.scores@0"));
  CHECK(free_run.values.at("layers.1.ffn.routed@0") != forced_run.values.at("layers.1.ffn.routed@0"));
  // An expert that does not exist is refused.
  golden::callback_sink wrong{[](const tap_event& e) {
    if (e.where == site::gate_indices) e.values<std::int32_t>()[0] = 6;
  }};
  CHECK_THROWS_AS(again(m, b, wrong, [](const golden::call_info&) {}), contract_violation);
}

TEST_CASE("forced top-k and teacher forcing", "[golden][taps]") {
  const random_model m(tiny_config()), other(tiny_config(), published, 2);
  const scratch_folder dir;
  const auto b = bundle::open(record_random(m, dir / "b"));
  {
    auto graft = golden::forced_top_k(b);
    keep k;
    golden::fan_out both(graft, k);
    again(other, b, both, [&](const golden::call_info& c) { graft.begin_call(c.step); });
    CHECK(graft.replaced() == 4 * 7 + 1);
    const auto raw = b.read(*b.find(0, 0, "layers.1.attn.topk_idxs")).bytes();
    CHECK(std::equal(raw.begin(), raw.end(), k.values.at("layers.1.attn.topk_idxs@0").begin()));
  }
  {
    // Every value replaced: the other model ends with the first one's logits.
    auto graft = golden::teacher_forcing(b);
    keep k;
    golden::fan_out both(graft, k);
    again(other, b, both, [&](const golden::call_info& c) { graft.begin_call(c.step); });
    const auto raw = b.read(*b.find(0, 0, "head.logits")).bytes();
    CHECK(std::equal(raw.begin(), raw.end(), k.values.at("head.logits@0").begin()));
  }
  {
    // One faulty operator of the SAME model under teacher forcing: only what it computes differs.
    random_model bent(tiny_config());
    for (index_t i = 0; i < bent.weights.layers[1].attn.kv_norm.extent(0); ++i)
      bent.weights.layers[1].attn.kv_norm[i] *= 2;
    std::set<std::string> differing;
    struct judge final : golden::comparison {
      std::set<std::string>& names;
      explicit judge(std::set<std::string>& n) : names(n) {}
      void compare(const tap_event& e, const golden::tensor_data& g) override {
        if (std::memcmp(g.bytes().data(), e.data, g.bytes().size()) != 0) names.insert(e.name());
        golden::replace(e, g);
      }
      void other_shape(const tap_event&, const golden::tensor_entry&) override { names.insert("shape"); }
      void unknown(const tap_event&) override { names.insert("unknown"); }
    } judge(differing);
    golden::comparison_sink sink(b, judge);
    again(bent, b, sink, [&](const golden::call_info& c) { sink.begin_call(c.step); });
    CHECK(differing == std::set<std::string>{"layers.1.attn.kv_norm"});
  }
}

TEST_CASE("the ladder crosses every boundary, and says what a cap leaves out", "[golden]") {
  config c = tiny_config();
  const auto l = golden::ladder_of(c, 4096);
  CHECK(l.missed.empty());
  CHECK(l.tokens > 2 * 16 + 1);
  CHECK(l.tokens > c.index_topk * 4 + 4);
  CHECK(l.tokens < 80);
  const auto in_decode = [&](index_t p) { return p >= l.tokens - l.decode && p < l.tokens; };
  CHECK(in_decode((l.tokens - 1) / 16 * 16 - 1));  // the step that closes the last HCA block
  for (const index_t p : {1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33})
    CHECK(std::count(l.positions.begin(), l.positions.end(), p) == 1);

  c.sliding_window = 128, c.compress_ratios = {0, 4, 128, 4, 0}, c.index_topk = 512;
  c.max_position_embeddings = 1 << 20;
  const auto real = golden::ladder_of(c, 4096);
  CHECK(real.missed.empty());
  CHECK(real.tokens > 2048 + 8);
  const auto capped = golden::ladder_of(c, 1024);
  CHECK(capped.tokens == 1024);
  REQUIRE(!capped.missed.empty());
  CHECK(capped.missed[0].find("choice of 512") != std::string::npos);

  const auto ids = golden::ladder_ids(100, 48, 1);
  CHECK(ids == golden::ladder_ids(100, 48, 1));
  CHECK(ids != golden::ladder_ids(100, 48, 2));
  for (const auto id : ids) CHECK((id >= 0 && id < 48));
}

}  // namespace dsv4_test
