// SPDX-License-Identifier: MIT
// The shipped bundles: they are whole, the operators' one is what both executors compute, and what ports get
// wrong does occur in the models of recipe weights.  (That runs are reproduced is cli/check_bundles.py's.)
#include <dsv4/cpu/cpu.hpp>

#include "data.hpp"
#include "dsv4/golden/make/micro.hpp"
#include "dsv4/golden/make/recipe_checkpoint.hpp"
#include "golden_test.hpp"

namespace dsv4_test {

using golden::bundle;
using golden::tensor_entry;

// What a bundle lends lives as long as it does: a named one lends all of it, a temporary one nothing.
#define DSV4_LENT(NAME, CALL)                                                                    \
  template <class B>                                                                             \
  concept lends_##NAME = requires(B&& b) { std::forward<B>(b).CALL; };                           \
  static_assert(lends_##NAME<bundle&> && lends_##NAME<const bundle&> && !lends_##NAME<bundle> && \
                !lends_##NAME<const bundle>);
DSV4_LENT(path, path())
DSV4_LENT(about, about())
DSV4_LENT(model, model())
DSV4_LENT(tensors, tensors())
DSV4_LENT(find, find(0, 0, ""))
DSV4_LENT(find_all, find_all(""))
DSV4_LENT(inputs, inputs())
DSV4_LENT(find_file, find_file(""))
#undef DSV4_LENT

namespace {

std::vector<fs::path> shipped() {
  std::vector<fs::path> out;
  for (const auto& d : fs::directory_iterator(test_data("bundles"))) out.push_back(d.path());
  std::sort(out.begin(), out.end());
  return out;
}
bundle open_shipped(const std::string& name) {
  return bundle::open(test_data("bundles/" + name + ".v4gold"));
}

/// A bundle and the weights that its recipe makes.
struct model_of {
  scratch_folder dir;
  bundle golden_bundle;
  std::optional<io::checkpoint> model;

  explicit model_of(const std::string& name) : golden_bundle(open_shipped(name)) {
    REQUIRE(golden_bundle.about().weights.recipe == golden::weight_recipe::name);
    golden::write_recipe_checkpoint(dir / "model", golden_bundle.model(), golden_bundle.about().weights.seed);
    model.emplace(io::checkpoint::open(dir / "model"));
  }
  const model_weights<>& weights() const { return model->weights(); }
  template <class F>
  void each(const std::string& site, F f) const {
    for (const tensor_entry& t : golden_bundle.tensors())
      if (t.site == site) f(t, golden_bundle.read(t));
  }
};

struct clamps {
  index_t gate_above = 0, gate_below = 0, up = 0, values = 0;
};
/// How often the products that enter a routed SwiGLU are beyond its limit.
clamps count_clamps(const model_of& m) {
  clamps n;
  const double limit = m.golden_bundle.model().swiglu_limit;
  exec::ref e;
  workspace scratch;
  m.each("ffn.gate.indices", [&](const tensor_entry& t, const golden::tensor_data& experts) {
    if (t.scope.starts_with("mtp")) return;
    const tensor_entry* norm = m.golden_bundle.find(t.step, t.sequence, t.scope + ".ffn_norm");
    REQUIRE(norm);
    const auto rows = m.golden_bundle.read(*norm).as<bf16>();
    const auto& moe = m.weights().layers[static_cast<std::size_t>(t.layer)].ffn;
    const index_t d = norm->shape[1], inner = m.golden_bundle.model().moe_intermediate_size;
    tensor<bf16, 2> x(1, d), a(1, inner), u(1, inner);
    for (index_t i = 0; i < t.elements(); ++i) {
      std::copy_n(rows.begin() + i / t.shape[1] * d, d, x.data());
      const auto& w = moe.experts[static_cast<std::size_t>(experts[i])];
      quantised_linear<official>(e, scratch, x.all(), w.w1, a.all());
      quantised_linear<official>(e, scratch, x.all(), w.w3, u.all());
      for (index_t c = 0; c < inner; ++c) {
        n.gate_above += a(0, c).decode() > limit, n.gate_below += a(0, c).decode() < -limit;
        n.up += std::fabs(u(0, c).decode()) > limit, ++n.values;
      }
    }
  });
  return n;
}

template <execution E>
void compare_micro(const bundle& stored, bool wide_too) {
  const auto now = golden::micro_suite<E>().run();
  REQUIRE(now.size() == stored.tensors().size());
  index_t equal = 0;
  for (std::size_t i = 0; i < now.size(); ++i) {
    const tensor_entry& t = stored.tensors()[i];
    INFO(t.name);
    REQUIRE(t.name == "op." + now[i].op + "." + now[i].name);
    const bool wide =
        t.carrier == dtype::f64;  // exp and log of another C library may differ in the last place
    const auto raw = stored.read(t);
    if (!wide) {
      CHECK(t.shape == now[i].shape);
      CHECK((now[i].bytes.size() == t.bytes() &&
             std::memcmp(now[i].bytes.data(), raw.bytes().data(), t.bytes()) == 0));
      ++equal;
    } else if (wide_too) {
      for (index_t k = 0; k < raw.size(); ++k) {
        const double found = golden::element(now[i].carrier, now[i].bytes.data(), k);
        CHECK(std::fabs(found - raw[k]) <= 1e-14 * std::max(1.0, std::fabs(raw[k])));
      }
    }
  }
  CHECK(equal > 80);
}

}  // namespace

TEST_CASE("the shipped bundles are what they say, and small") {
  const auto all = shipped();
  REQUIRE(all.size() == 8);
  std::uintmax_t bytes = 0;
  for (const fs::path& p : all) {
    const auto r = golden::check(p);
    INFO(p << (r.problems.empty() ? "" : r.problems[0].what));
    CHECK(r.ok());
    CHECK(r.tensors > 50);
    for (const auto& f : fs::directory_iterator(p)) bytes += fs::file_size(f.path());
    const bundle b = bundle::open(p);
    CHECK(b.about().weights.kind == (p.stem() == "micro" ? "none" : "recipe"));
    CHECK(std::all_of(b.about().equal_runs.begin(), b.about().equal_runs.end(),
                      [](const auto& e) { return e.equal; }));
    std::size_t measured = 0, judged = 0;
    for (const tensor_entry& t : b.tensors())
      if (p.stem() != "micro" && t.carrier != dtype::i32 && !t.is_margin())
        ++judged, measured += t.noise.has_value();
    CHECK(measured == judged);
  }
  CHECK(bytes < 2'400'000);
}

TEST_CASE("the tiny model's bundle has every kind of call and layer") {
  const bundle b = open_shipped("tiny");
  std::set<std::string> calls, runs;
  for (const auto& c : b.about().calls) calls.insert(std::string(golden::name_of(c.kind)));
  for (const auto& r : b.about().equal_runs) runs.insert(r.what);
  CHECK(calls == std::set<std::string>{"prefill", "chunk", "decode", "mtp"});
  CHECK(runs == std::set<std::string>{"chunks", "rewind"});
  CHECK(b.sequences() == 2);
  const config& c = b.model();
  CHECK((c.kind(0) == attention_kind::window && c.is_hash_layer(0)));
  CHECK((c.kind(1) == attention_kind::csa && !c.is_hash_layer(1)));
  CHECK(c.kind(2) == attention_kind::hca);
  // Every site, and single tokens that close entries of both ratios.
  std::set<std::string> sites;
  index_t closed_csa = 0, closed_hca = 0;
  for (const tensor_entry& t : b.tensors()) {
    sites.insert(t.site);
    if (t.call == golden::call_kind::decode && t.site == "attn.compressor.entry")
      (t.layer == 1 ? closed_csa : closed_hca) += t.rows();
  }
  for (const auto& s : dsv4::sites) CHECK(sites.contains(std::string(s.name)));
  CHECK(closed_csa > 0);
  CHECK(closed_hca > 0);
}

TEST_CASE("operators: exec::ref and exec::cpu compute what is stored") {
  const bundle b = open_shipped("micro");
  compare_micro<exec::ref>(b, true);
  compare_micro<exec::cpu>(b, false);
}

TEST_CASE("recipe weights: clamps, near-ties, asymmetry and full codes occur") {
  const model_of m("tiny");
  const clamps n = count_clamps(m);
  INFO("of " << n.values << " products " << n.gate_above << " gates above, " << n.gate_below << " below, "
             << n.up << " ups beyond the limit");
  CHECK(n.gate_above > 10);
  CHECK(n.gate_below > 10);
  CHECK(n.up > 10);
  CHECK(n.gate_above + n.gate_below + n.up < n.values / 2);  // and are not the rule

  index_t near = 0, tied = 0, asymmetric = 0, tokens = 0;
  m.each("ffn.gate.indices.margin", [&](const tensor_entry& t, const golden::tensor_data& v) {
    for (index_t i = 0; i < t.rows(); ++i) near += v[3 * i] < 0.02;
  });
  m.each("attn.topk_idxs.margin", [&](const tensor_entry& t, const golden::tensor_data& v) {
    for (index_t i = 0; i < t.rows(); ++i) tied += v[3 * i] == 0 || v[3 * i + 2] == 0;
  });
  m.each("hc_attn.comb", [&](const tensor_entry& t, const golden::tensor_data& v) {
    for (index_t i = 0; i < t.rows(); ++i, ++tokens)
      asymmetric += std::fabs(v[16 * i + 1] - v[16 * i + 4]) > 0.1;  // comb[0][1] and [1][0]
  });
  INFO(near << " routings decided by less than 0.02, " << tied << " index choices with equal scores, "
            << asymmetric << " of " << tokens << " combs far from symmetric");
  CHECK(near > 0);
  CHECK(tied > 0);
  CHECK(asymmetric > tokens / 4);

  // Scales are rounded up, so nothing is beyond the largest code; blocks do fill the top binade.
  index_t top = 0, full = 0;
  exec::ref e;
  m.each("attn_norm", [&](const tensor_entry& t, const golden::tensor_data& v) {
    tensor<bf16, 2> x(t.shape[0], t.shape[1]);
    std::memcpy(x.data(), v.bytes().data(), v.bytes().size());
    tensor<e4m3, 2> code(t.shape[0], t.shape[1]);
    tensor<float, 2> scale(t.shape[0], (t.shape[1] + fp8_tile - 1) / fp8_tile);
    act_quant(e, x.all(), code.all(), scale.all());
    constexpr unsigned top_binade = 0x78, largest = 0x7E;
    for (const e4m3 c : code.all())
      top += (c.bits & 0x7Fu) >= top_binade, full += (c.bits & 0x7Fu) == largest;
  });
  INFO(top << " codes of 256 to 448, " << full << " of 448");
  CHECK(top > 0);
  CHECK(full > 0);
}

}  // namespace dsv4_test
