// SPDX-License-Identifier: MIT
// Name maps: the shipped ones are valid and do what they say, hostile ones are refused.
#include <functional>

#include "../io/io_test.hpp"
#include "catch.hpp"
#include "dsv4/golden/convert/name_map.hpp"

namespace dsv4_test {

using namespace dsv4;
using Catch::Matchers::ContainsSubstring;

namespace {

const std::filesystem::path maps = std::filesystem::path(DSV4_SOURCE_DIR) / "docs/maps";

std::string target(const golden::name_map& m, const std::string& name, dsv4::index_t occurrence = 0) {
  std::string out;
  for (const auto& h : m.look_up(name, occurrence))
    out += (out.empty() ? "" : " ") + h.target.scope.prefix() + std::string(info(h.target.id).name);
  return out;
}
golden::name_map with_rule(const std::string& rule) {
  return golden::name_map::parse("m.json", R"({"schema":"v4map/1","engine":"x","rules":[)" + rule + "]}");
}
std::string refused(const std::string& text) {
  const std::string what = message<format_error>([&] { golden::name_map::parse("m.json", text); });
  CHECK_THAT(what, ContainsSubstring("m.json"));
  return what;
}
std::string refused_rule(const std::string& rule) {
  return refused(R"({"schema":"v4map/1","engine":"x","rules":[)" + rule + "]}");
}

}  // namespace

TEST_CASE("maps: all shipped ones are valid; names are found") {
  std::size_t count = 0;
  for (const auto& e : std::filesystem::directory_iterator(maps)) {
    INFO(e.path().string());
    CHECK_FALSE(golden::name_map::find(e.path().stem().string(), {maps}).rules().empty());
    ++count;
  }
  CHECK(count >= 6);
  CHECK_THAT(message<format_error>([] { golden::name_map::find("nothing", {maps}); }),
             ContainsSubstring("transformers"));
  CHECK_THAT(message<format_error>([] { golden::name_map::find("../maps/ds4", {maps}); }),
             ContainsSubstring("neither a file nor"));
}

TEST_CASE("maps: transformers") {
  const auto m = golden::name_map::find("transformers", {maps});
  CHECK(m.numerics() == "float32");
  CHECK(target(m, "model.layers.12") == "layers.12.out");
  CHECK(target(m, "model.layers.0.attn_hc.1") == "layers.0.hc_attn.comb");
  CHECK(target(m, "model.layers.0.ffn_hc.in.0") == "layers.0.mid");
  CHECK(target(m, "model.layers.2.self_attn.compressor.indexer.kv_norm") ==
        "layers.2.attn.indexer.compressor.norm");
  CHECK(target(m, "lm_head") == "head.logits");
  CHECK(target(m, "model.layers.2.self_attn.q_b_proj").empty());
  CHECK(m.ignores("model.layers.2.self_attn.q_b_proj"));
  CHECK_FALSE(m.ignores("something.else"));
  CHECK(target(m, "model.layers.2\nx").empty());
  CHECK(target(m, std::string(100'000, 'a')).empty());
  CHECK_FALSE(m.ignores(std::string(100'000, 'a')));
}

TEST_CASE("maps: official, llama.cpp, ds4, our own") {
  const auto official = golden::name_map::find("official", {maps});
  CHECK(target(official, "layers.3.attn.q_norm") == "layers.3.attn.qr");  // the module of that name
  CHECK(target(official, "layers.3.attn.q_rope") == "layers.3.attn.q_rope");
  CHECK(target(official, "mtp.0.ffn") == "mtp.0.ffn.out");
  CHECK(target(official, "head") == "head.logits");
  const auto own = golden::name_map::find("dsv4", {maps});
  CHECK(target(own, "layers.3.attn.q_norm") == "layers.3.attn.q_norm");
  CHECK(target(own, "mtp.0.head.logits") == "mtp.0.head.logits");
  CHECK(own.ignores("cache.3.kv"));
  const auto llama = golden::name_map::find("llamacpp", {maps});
  CHECK(target(llama, "hc_comb-7", 0) == "layers.7.hc_attn.comb");
  CHECK(target(llama, "hc_comb-7", 1) == "layers.7.hc_ffn.comb");
  CHECK(target(llama, "attn_csa_lid-2") == "layers.2.attn.o");
  CHECK(target(llama, "result_output") == "head.logits");
  CHECK(target(llama, "csa_state_compress-3", 2) == "layers.3.attn.compressor.pooled");
  CHECK(target(llama, "lid_weights-3") == "layers.3.attn.indexer.weights");
  const auto ik = golden::name_map::find("ik_llama", {maps});
  CHECK(target(ik, "~VIEW~attn_out-2 (view)", 1) == "layers.2.hc_attn.comb");
  for (const char* derived : {"q_rope-2 (permuted)", "node_17", "leaf_3", "~MUL~x", "hc_pre_mixes-2"})
    CHECK(ik.ignores(derived));  // a use that no rule names, the last one
  CHECK_FALSE(ik.ignores("something_new-3"));
  const config c =
      io::read_config(std::filesystem::path(DSV4_SOURCE_DIR) / "reference_tests/data/official/flash-mini");
  const auto absent = ik.absent_names(c);
  for (dsv4::index_t l = 0; l < c.num_hidden_layers; ++l)
    CHECK(absent.contains("layers." + std::to_string(l) + ".attn.topk_idxs") ==
          (c.kind(l) != attention_kind::csa));
  CHECK(absent.contains("head.hc_head.pre"));
  CHECK_FALSE(absent.contains("head.logits"));
  const auto ds4 = golden::name_map::find("ds4", {maps});
  CHECK(target(ds4, "dumps/run_1_hc_attn_pre_comb-42") == "layers.42.hc_attn.comb");
  CHECK(target(ds4, "run_hc_attn_pre-42") == "layers.42.hc_attn.y");
  CHECK(target(ds4, "run_indexer_KVcompress-2") == "layers.2.attn.indexer.compressor.entry");
  CHECK(target(ds4, "run_KVcompress-2") == "layers.2.attn.compressor.entry");
  CHECK(target(ds4, "run_result_output-43") == "head.logits");
}

TEST_CASE("maps: no pattern takes forever") {
  // By backtracking these are 2^500 steps.
  for (const std::string pattern : {"(a|a)*b", "(a*)*b", "(a+)+$b", "(a|aa)+b", "((a*)*)*b"}) {
    INFO(pattern);
    const auto m =
        golden::name_map::parse("m.json", R"({"schema":"v4map/1","engine":"x","rules":[{"match":")" +
                                              pattern + R"(","to":"head.norm"}]})");
    CHECK(target(m, std::string(500, 'a')).empty());
  }
  // Repetitions of repetitions are bounded by the library itself.
  CHECK_THAT(refused_rule(R"({"match":"((a{1000}){1000}){1000}","to":"head.norm"})"),
             ContainsSubstring("not a regular expression"));
}

TEST_CASE("maps: what a rule may say, and what not") {
  const golden::map_rule r =
      with_rule(
          R"({"match":"a","to":"head.norm","axes":["batch","token","channel"],"slice":{"axis":"channel","from":0,"to":"hidden_size"},"occurrence":2,
      "layout":"half","scale":{"head_dim":-0.5},"dtype":"F64","invert":"rope","also":true,"regroup":true,"take":"last","permute":[1,0],"note":"x"})")
          .rules()
          .at(0);
  CHECK(r.half_layout);
  CHECK(r.occurrence == 2);
  CHECK(r.type == dtype::f64);
  CHECK(r.slice_to.field == "hidden_size");
  // "also": one array, two sites.
  const auto two = golden::name_map::parse(
      "m.json",
      R"({"schema":"v4map/1","engine":"x","rules":[{"match":"a","to":"head.norm","also":true},{"match":"a","to":"head.logits"},{"match":"a","to":"head.hc_head.y"}]})");
  CHECK(target(two, "a") == "head.norm head.logits");

  CHECK_THAT(refused("["), ContainsSubstring("not valid JSON"));
  CHECK_THAT(refused(R"({"schema":"v4map/1","engine":"x","rules":[]})" + std::string(1, '\0')),
             ContainsSubstring("is NUL"));
  CHECK_THAT(refused("[]"), ContainsSubstring("schema"));
  CHECK_THAT(refused(R"({"schema":"v4map/2"})"), ContainsSubstring("schema"));
  CHECK_THAT(refused(R"({"schema":"v4map/1","engine":3,"rules":[]})"), ContainsSubstring("v4map/1"));
  CHECK_THAT(refused(std::string(100, '[')), ContainsSubstring("levels deep"));
  CHECK_THAT(refused_rule(R"({"to":"head.norm"})"), ContainsSubstring("match"));
  CHECK_THAT(refused_rule(R"-({"match":"(","to":"head.norm"})-"),
             ContainsSubstring("not a regular expression"));
  CHECK_THAT(refused_rule(R"({"match":"a","to":"x","layout":"third"})"),
             ContainsSubstring("expected interleaved, half"));
  CHECK_THAT(refused_rule(R"({"match":"a","to":"x","permute":[0,0]})"), ContainsSubstring("every axis once"));
  CHECK_THAT(refused_rule(R"({"match":"a","to":"x","slice":{"axis":"a","from":-1,"to":2}})"),
             ContainsSubstring("slice"));
  CHECK_THAT(refused_rule(R"({"match":"a","to":"x","occurrence":-1})"), ContainsSubstring("a number from 0"));
  CHECK_THAT(refused_rule(R"({"match":"a","to":"x","scale":{"nothing":1}})"),
             ContainsSubstring("sizes of the configuration"));
  CHECK_THAT(refused_rule(R"({"match":"a","to":"x","speling":1})"), ContainsSubstring("'speling'"));
  CHECK_THAT(refused_rule("{\"match\":\"" + std::string(1000, 'a') + "\",\"to\":\"x\"}"),
             ContainsSubstring("1000 characters"));
  CHECK_THAT(message<format_error>(
                 [] { with_rule(R"-({"match":"(.*)","to":"../$1"})-").look_up("../../etc/passwd"); }),
             ContainsSubstring("which is no site"));
}

}  // namespace dsv4_test
