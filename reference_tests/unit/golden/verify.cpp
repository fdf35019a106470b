// SPDX-License-Identifier: MIT
// Verification end to end on small random models: clean dumps pass in every mode, and one planted fault is
// named, with its cause; what cannot be compared is told as such.
#include "dsv4/golden/judge/verify.hpp"
#include "dsv4/golden/judge/mutate.hpp"
#include "dsv4/golden/report/report_html.hpp"
#include "dsv4/golden/report/report_json.hpp"
#include "dsv4/golden/report/report_text.hpp"
#include "golden_test.hpp"

namespace dsv4_test {

using golden::bundle;
using golden::tolerance_policy;
using golden::verify_mode;
using golden::verify_options;
using golden::verify_result;

namespace {

struct fixture {
  scratch_folder dir;
  random_model m{tiny_config(), published, 3};
  bundle golden_bundle = bundle::open(record_random(m, dir / "golden.v4gold"));

  verify_result judge(const bundle& test, std::optional<verify_mode> mode = {},
                      tolerance_policy policy = tolerance_policy::faithful) {
    verify_options o;
    o.mode = mode, o.policy = policy, o.weights = &m.weights;
    return golden::verify(golden_bundle, test, o);
  }
  /// The golden's run again, with `change` made to each value before it is used and recorded.
  bundle again(const std::string& name, const std::function<void(const tap_event&)>& change,
               std::function<bool(const std::string&)> wanted = {}) {
    golden::bundle_writer w(dir / name, about_of(m.c));
    const auto ids = ids_of(golden_bundle);
    w.ids(ids);
    golden::callback_sink first{change};
    golden::bundle_sink second(w, std::move(wanted));
    golden::fan_out all(first, second);
    golden::run_calls<official>(
        m.c, m.weights, golden_bundle.about().calls, ids, all,
        [&](const golden::call_info& c) { second.begin_call(c.kind, c.parts); }, exec::ref{});
    w.finish();
    return bundle::open(dir / name);
  }
};

index_t lines_of(const std::string& s) { return std::count(s.begin(), s.end(), '\n'); }

}  // namespace

TEST_CASE("a clean dump passes in both modes and all policies") {
  fixture f;
  const bundle same = f.again("same.v4gold", [](const tap_event&) {});
  for (const auto mode : {verify_mode::forced, verify_mode::free_running})
    for (const auto policy :
         {tolerance_policy::strict, tolerance_policy::faithful, tolerance_policy::quant}) {
      const verify_result r = f.judge(same, mode, policy);
      INFO(golden::report_text(r));
      CHECK(r.exit_code == 0);
      CHECK(r.count(golden::verdict::pass) > 100);
      CHECK(r.count(golden::verdict::fail) == 0);
      CHECK(r.logits_total.kl_max == 0);
    }
  CHECK(f.judge(same).mode == verify_mode::forced);  // official numerics
  CHECK(f.judge(same, {}, tolerance_policy::strict).mode == verify_mode::free_running);
}

TEST_CASE("one wrong element is found, in its operator alone when forced") {
  fixture f;
  const bundle wrong = f.again("wrong.v4gold", [](const tap_event& e) {
    if (e.where == site::attn_o_lora && e.scope.number == 2 && e.start == 0)
      golden::assign(e, 7 * e.size() / e.tokens + 3, 5 + golden::element(e, 7 * e.size() / e.tokens + 3));
  });
  const verify_result r = f.judge(wrong);
  const std::string text = golden::report_text(r);
  INFO(text);
  REQUIRE(r.culprit.found);
  const golden::tensor_result& t = r.tensors[r.culprit.at];
  CHECK(t.name == "layers.2.attn.o_lora");
  CHECK(r.exit_code == 1);
  CHECK(r.count(golden::verdict::fail) == 1);
  CHECK(t.m.different == 1);
  CHECK(r.culprit.first_bad_position == 7);
  CHECK(t.m.worst[0] == 7);
  CHECK(t.m.worst_test - t.m.worst_expected == Catch::Approx(5).epsilon(0.02));
  CHECK(lines_of(text) <= 25);
  const verify_result free = f.judge(wrong, verify_mode::free_running, tolerance_policy::strict);
  CHECK(free.tensors[free.culprit.at].name == "layers.2.attn.o_lora");
  CHECK(free.count(golden::verdict::fail) > 1);  // everything after it follows
  const auto j = golden::report_json(r);
  CHECK(j["culprit"]["name"] == "layers.2.attn.o_lora");
  CHECK(nlohmann::json::parse(j.dump())["exit_code"] == 1);
  CHECK(golden::report_junit(r).find("<failure") != std::string::npos);
}

TEST_CASE("a mistake in one call alone is explained") {
  fixture f;
  std::vector<double> o;
  const auto r = f.judge(
      f.again("decode.v4gold", [&](const tap_event& e) {  // one decode step forgets the inverse rotation
        if (e.scope.where != tap_scope::part::layer || e.scope.number != 1 || e.start != 36) return;
        if (e.where == site::attn_o) {
          o.clear();
          for (index_t i = 0; i < e.size(); ++i) o.push_back(golden::element(e, i));
        }
        if (e.where == site::attn_o_derot)
          for (index_t i = 0; i < e.size(); ++i) golden::assign(e, i, o[static_cast<std::size_t>(i)]);
      }));
  INFO(golden::report_text(r));
  REQUIRE(r.culprit.found);
  CHECK(r.tensors[r.culprit.at].name == "layers.1.attn.o_derot");
  REQUIRE_FALSE(r.culprit.hints.empty());
  CHECK(r.culprit.hints[0].mistake == "rope_missing");
  CHECK(r.culprit.hints[0].explains);
}

TEST_CASE("one damaged expert is named") {
  fixture f;
  // Which tokens use which expert of layer 3: one that is neither rare nor everywhere is damaged.
  std::map<index_t, std::set<index_t>> used;
  index_t rows = 0;
  for (const auto* t : f.golden_bundle.find_all("layers.3.ffn.gate.indices")) {
    const auto d = f.golden_bundle.read(*t);
    rows += t->rows();
    for (index_t i = 0; i < d.size(); ++i)
      used[static_cast<index_t>(d[i])].insert(t->from + i / t->row_elements());
  }
  const auto chosen = std::find_if(used.begin(), used.end(), [&](const auto& e) {
    return index_t(e.second.size()) >= 3 && 2 * index_t(e.second.size()) < rows;
  });
  REQUIRE(chosen != used.end());
  const index_t guilty = chosen->first, uses = static_cast<index_t>(chosen->second.size());
  random_model damaged{tiny_config(), published, 3};
  auto& expert = damaged.weights.layers[3].ffn.experts[static_cast<std::size_t>(guilty)];
  std::swap(expert.w1, expert.w3);
  const bundle test = bundle::open(record_random(damaged, f.dir / "expert.v4gold"));
  for (const auto mode : {verify_mode::forced, verify_mode::free_running}) {
    const auto r = f.judge(
        test, mode, mode == verify_mode::forced ? tolerance_policy::faithful : tolerance_policy::strict);
    const std::string text = golden::report_text(r), e = std::to_string(guilty), n = std::to_string(uses);
    INFO(text);
    REQUIRE(r.culprit.found);
    CHECK(r.tensors[r.culprit.at].name == "layers.3.ffn.routed");
    CHECK(r.culprit.guilty_expert == guilty);
    const std::string says = "only rows whose expert " + e + " is used: " + n + " of these " + n +
                             " are wrong, the other " + std::to_string(rows - uses) + " are right";
    CHECK(text.find("pattern: " + says) != std::string::npos);
    CHECK(lines_of(text) <= 25);
    const auto j = golden::report_json(r);
    CHECK(j["culprit"]["guilty_expert"] == guilty);
    CHECK(j["culprit"]["patterns"][0] == says);
    REQUIRE(j["culprit"]["error_by_expert"].size() == used.size());
    for (const auto& x : j["culprit"]["error_by_expert"]) {
      CHECK(x["rows"] == used[x["expert"].get<index_t>()].size());
      if (x["expert"] == guilty) CHECK((x["share"].get<double>() > 0.999 && x["wrong_rows"] == uses));
    }
    CHECK(golden::html_report(r).find("<title>expert " + e + ": 1 of the error, " + n + " of its " + n +
                                      " tokens wrong</title>") != std::string::npos);
  }
  // An error on every row is no expert's.
  const auto all = f.judge(f.again("scaled.v4gold", [](const tap_event& e) {
    if (e.where != site::ffn_routed || e.scope.where != tap_scope::part::layer || e.scope.number != 3) return;
    for (index_t i = 0; i < e.size(); ++i) golden::assign(e, i, 1.5 * golden::element(e, i));
  }));
  REQUIRE(all.culprit.found);
  CHECK(all.tensors[all.culprit.at].name == "layers.3.ffn.routed");
  CHECK(all.culprit.guilty_expert == -1);
  CHECK(all.culprit.by_expert.size() == used.size());
}

TEST_CASE("a wrong hash stops the comparison; it is checked where tensors are read") {
  fixture f;
  const bundle good = f.again("good.v4gold", [](const tap_event&) {});
  const fs::path shard = f.dir / "good.v4gold" / "taps-000.safetensors";
  std::string bytes = read_text(shard);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);  // of the last tensor
  write_text(shard, bytes);
  for (const auto mode : {verify_mode::forced, verify_mode::free_running}) {
    CHECK_THROWS_AS(f.judge(bundle::open(f.dir / "good.v4gold"), mode), golden::damaged);
    golden::open_options trusting;
    trusting.check_hashes = false;
    CHECK_NOTHROW(f.judge(bundle::open(f.dir / "good.v4gold", trusting), mode));
  }
  const bundle spoilt = bundle::open(f.dir / "good.v4gold");
  CHECK_THROWS_AS(spoilt.read(spoilt.tensors().back()), golden::damaged);
  CHECK_THROWS_AS(spoilt.read(spoilt.tensors().back()),
                  golden::damaged);  // a hash that failed is not taken as confirmed
  CHECK_NOTHROW(spoilt.read(spoilt.tensors().front()));
}

TEST_CASE("a NaN has its own exit code, another choice too") {
  fixture f;
  const auto nan = f.judge(f.again("nan.v4gold", [](const tap_event& e) {
    if (e.where == site::ffn_norm && e.scope.number == 1 && e.start == 0) golden::assign(e, 0, std::nan(""));
  }));
  CHECK(nan.exit_code == golden::verify_exit::anomaly);
  CHECK(nan.tensors[nan.culprit.at].name == "layers.1.ffn_norm");
  const auto choice = f.judge(f.again("choice.v4gold", [&](const tap_event& e) {
    if (e.where != site::gate_indices || e.scope.number != 2 || e.start != 0) return;
    auto v = e.values<std::int32_t>();
    const std::int32_t first = v[0], second = v[1];
    for (std::int32_t x = 0;; ++x)
      if (x != first && x != second) {
        v[0] = x;
        break;
      }
  }));
  INFO(golden::report_text(choice));
  CHECK(choice.exit_code == golden::verify_exit::choice);
  CHECK(choice.tensors[choice.culprit.at].name == "layers.2.ffn.gate.indices");
}

TEST_CASE("missing tensors are structure unless allowed; operators are judged from farther ancestors") {
  fixture f;
  const bundle part = f.again(
      "part.v4gold", [](const tap_event&) {},
      [](const std::string& n) { return n.find("attn.q_norm") == std::string::npos; });
  const auto r = f.judge(part);
  CHECK(r.exit_code == golden::verify_exit::structure);
  CHECK(r.count(golden::verdict::missing) > 0);
  CHECK(std::any_of(r.tensors.begin(), r.tensors.end(), [](const auto& t) {
    return t.site == "attn.q_rope" && t.from_ancestors && t.v == golden::verdict::pass;
  }));
  verify_options o;
  o.weights = &f.m.weights;
  o.allow_skip = "attn\\.q_norm$";
  CHECK(golden::verify(f.golden_bundle, part, o).exit_code == 0);
  o.only = "no such tensor";
  CHECK(golden::verify(f.golden_bundle, part, o).exit_code ==
        golden::verify_exit::structure);  // nothing compared is no pass
}

TEST_CASE("other ids, another configuration: not comparable, with the cause") {
  fixture f;
  golden::run_plan plan{{random_ids(40, f.m.c.vocab_size, 5)}, 6, {}, true};
  plan.ids[0].erase(plan.ids[0].begin());
  plan.ids[0].push_back(1);
  const auto shifted = f.judge(bundle::open(record_random(f.m, f.dir / "ids.v4gold", plan)));
  CHECK(shifted.exit_code == golden::verify_exit::not_comparable);
  CHECK(shifted.structure[0].what.find("one token less") != std::string::npos);
  random_model other{[] {
                       config c = tiny_config();
                       c.rope_theta = 5000;
                       return c;
                     }(),
                     published, 3};
  const auto theta = f.judge(bundle::open(record_random(other, f.dir / "theta.v4gold")));
  CHECK(theta.exit_code == golden::verify_exit::not_comparable);
  CHECK(theta.structure[0].what.find("rope_theta") != std::string::npos);
}

TEST_CASE("the same tokens in other calls are compared by position") {
  fixture f;
  const golden::run_plan plan{{random_ids(40, f.m.c.vocab_size, 5)}, 0, {7, 5, 1, 9}, true};
  const bundle chunks = bundle::open(record_random(f.m, f.dir / "chunks.v4gold", plan));
  for (const auto mode : {verify_mode::free_running, verify_mode::forced}) {
    const auto r = f.judge(chunks, mode, tolerance_policy::strict);
    INFO(golden::report_text(r));
    CHECK(r.count(golden::verdict::fail) == 0);
    CHECK(r.exit_code == 0);
  }
}

TEST_CASE("planted bugs are caught, named and explained") {
  fixture f;
  golden::mutate_options o;
  o.scratch = f.dir / "mutations";
  o.bugs = {3, 7, 8, 11};
  const auto p = golden::mutate(f.golden_bundle, f.m.weights, o);
  INFO(golden::report_text(p));
  CHECK(p.missed().empty());
  for (const auto& m : p.rows) {
    INFO(m.bug << " " << m.name << " expected " << m.expected << " forced " << m.forced.culprit << " hint "
               << m.hint);
    CHECK(m.exercised);
    CHECK(m.forced.named);
    CHECK(m.free.named);
    CHECK(m.hint_right);
  }
}

}  // namespace dsv4_test
