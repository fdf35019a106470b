// SPDX-License-Identifier: MIT
// config.json: the published files in both forms, and every field that can be wrong.
#include "dsv4/io/config_json.hpp"

#include <nlohmann/json.hpp>

#include "catch.hpp"
#include "data.hpp"
#include "io_test.hpp"

using namespace dsv4;
using namespace dsv4::io;
using Catch::Matchers::ContainsSubstring;
using nlohmann::json;

namespace {

json published(const std::string& name) { return json::parse(read_file(test_data("configs/" + name))); }

/// The hub configuration of Flash with one field changed.
template <class V>
json with(const std::string& field, const V& value) {
  json j = published("DeepSeek-V4-Flash.config.json");
  j[json::json_pointer("/" + field)] = value;
  return j;
}
json without(const std::string& field) {
  json j = published("DeepSeek-V4-Flash.config.json");
  j.erase(field);
  return j;
}
std::string refused(const json& j) {
  return message<format_error>([&] { parse_config("config.json", j); });
}
std::string not_supported(const json& j) {
  return message<unsupported>([&] { parse_config("config.json", j); });
}

void check_same_model(const config& a, const config& b) {
  CHECK(a.vocab_size == b.vocab_size);
  CHECK(a.hidden_size == b.hidden_size);
  CHECK(a.moe_intermediate_size == b.moe_intermediate_size);
  CHECK(a.num_hidden_layers == b.num_hidden_layers);
  CHECK(a.num_hash_layers == b.num_hash_layers);
  CHECK(a.num_attention_heads == b.num_attention_heads);
  CHECK(a.head_dim == b.head_dim);
  CHECK(a.qk_rope_head_dim == b.qk_rope_head_dim);
  CHECK(a.q_lora_rank == b.q_lora_rank);
  CHECK(a.o_groups == b.o_groups);
  CHECK(a.o_lora_rank == b.o_lora_rank);
  CHECK(a.n_routed_experts == b.n_routed_experts);
  CHECK(a.n_shared_experts == b.n_shared_experts);
  CHECK(a.num_experts_per_tok == b.num_experts_per_tok);
  CHECK(a.routed_scaling_factor == b.routed_scaling_factor);
  CHECK(a.swiglu_limit == b.swiglu_limit);
  CHECK(a.rms_norm_eps == b.rms_norm_eps);
  CHECK(a.hc_mult == b.hc_mult);
  CHECK(a.hc_sinkhorn_iters == b.hc_sinkhorn_iters);
  CHECK(a.hc_eps == b.hc_eps);
  CHECK(a.index_n_heads == b.index_n_heads);
  CHECK(a.index_head_dim == b.index_head_dim);
  CHECK(a.index_topk == b.index_topk);
  CHECK(a.sliding_window == b.sliding_window);
  CHECK(a.max_position_embeddings == b.max_position_embeddings);
  CHECK(a.rope_theta == b.rope_theta);
  CHECK(a.compress_rope_theta == b.compress_rope_theta);
  CHECK(a.has_yarn == b.has_yarn);
  CHECK(a.yarn.factor == b.yarn.factor);
  CHECK(a.yarn.beta_fast == b.yarn.beta_fast);
  CHECK(a.yarn.beta_slow == b.yarn.beta_slow);
  CHECK(a.yarn.original_max_position_embeddings == b.yarn.original_max_position_embeddings);
  CHECK(a.num_nextn_predict_layers == b.num_nextn_predict_layers);
  CHECK(a.compress_ratios == b.compress_ratios);
}

}  // namespace

TEST_CASE("config: Flash and Pro, hub form and inference form are the same models", "[io]") {
  const config flash = read_config(test_data("configs/DeepSeek-V4-Flash.config.json"));
  CHECK(flash.hidden_size == 4096);
  CHECK(flash.num_hidden_layers == 43);
  CHECK(flash.num_nextn_predict_layers == 1);
  CHECK(flash.compress_ratios.size() == 44);
  CHECK(flash.kind(0) == attention_kind::window);
  CHECK(flash.kind(2) == attention_kind::csa);
  CHECK(flash.kind(3) == attention_kind::hca);
  CHECK(flash.mtp_ratio() == 0);
  CHECK(flash.max_position_embeddings == 1048576);
  CHECK(flash.routed_scaling_factor == 1.5);
  CHECK(flash.has_yarn);
  CHECK(flash.yarn.factor == 16);
  check_same_model(flash, read_config(test_data("configs/DeepSeek-V4-Flash.inference.json")));

  const config pro = read_config(test_data("configs/DeepSeek-V4-Pro.config.json"));
  CHECK(pro.hidden_size == 7168);
  CHECK(pro.num_attention_heads == 128);
  CHECK(pro.kind(0) == attention_kind::hca);
  check_same_model(pro, read_config(test_data("configs/DeepSeek-V4-Pro.inference.json")));
}

TEST_CASE("config: where it is looked for", "[io]") {
  const temporary_directory dir;
  CHECK_THAT(message<format_error>([&] { read_config(dir); }),
             ContainsSubstring("no config.json and no inference/config.json"));
  std::filesystem::create_directory(dir / "inference");
  write_file(dir / "inference/config.json", published("DeepSeek-V4-Flash.inference.json").dump());
  CHECK(read_config(dir).hidden_size == 4096);
  write_file(dir / "config.json", published("DeepSeek-V4-Pro.config.json").dump());
  CHECK(read_config(dir).hidden_size == 7168);  // the hub's form comes first
  const auto read = [&](std::string_view text) {
    write_file(dir / "config.json", text);
    return message<format_error>([&] { read_config(dir); });
  };
  CHECK_THAT(read(""), ContainsSubstring("not valid JSON"));
  CHECK_THAT(read("{\"hidden_size\": 1,}"), ContainsSubstring("not valid JSON"));
  CHECK_THAT(read("[1]"), ContainsSubstring("expected an object"));
  CHECK_THAT(read("{}"), ContainsSubstring("neither 'hidden_size'"));
  CHECK_THAT(read("{\"model_type\": " + std::string(1000000, '[')), ContainsSubstring("levels deep"));
  CHECK_THAT(read("{\"hidden_size\": 1e999}"), ContainsSubstring("double"));
}

TEST_CASE("config: other architectures are refused by name", "[io]") {
  CHECK_THAT(not_supported(with("model_type", "deepseek_v41")), ContainsSubstring("DeepSeek-V4.1"));
  CHECK_THAT(not_supported(with("model_type", "llama")), ContainsSubstring("\"llama\""));
  CHECK_THAT(not_supported(with("model_type", 4)), ContainsSubstring("model_type: found 4"));
  CHECK_THAT(not_supported({{"architectures", {"LlamaForCausalLM"}}, {"hidden_size", 1}}),
             ContainsSubstring("LlamaForCausalLM"));
  CHECK_THAT(not_supported(with("scoring_func", "softmax")),
             ContainsSubstring("'scoring_func': found \"softmax\", only \"sqrtsoftplus\""));
  CHECK_THAT(not_supported(with("hidden_act", "gelu")), ContainsSubstring("hidden_act"));
  CHECK_THAT(not_supported(with("n_shared_experts", 2)), ContainsSubstring("n_shared_experts"));
  CHECK_THAT(not_supported(with("tie_word_embeddings", true)), ContainsSubstring("tie_word_embeddings"));
  CHECK_THAT(not_supported(with("attention_bias", true)), ContainsSubstring("attention_bias"));
  CHECK_THAT(not_supported(with("norm_topk_prob", false)), ContainsSubstring("norm_topk_prob"));
  CHECK_THAT(not_supported(with("topk_method", "greedy")), ContainsSubstring("topk_method"));
  CHECK_THAT(not_supported(with("num_key_value_heads", 8)), ContainsSubstring("num_key_value_heads"));
  CHECK_THAT(not_supported(with("rope_scaling/type", "linear")),
             ContainsSubstring("'rope_scaling.type': found \"linear\""));
  CHECK_THAT(not_supported(with("rope_scaling/attention_factor", 1.277)),
             ContainsSubstring("attention_factor"));
  json inference = published("DeepSeek-V4-Flash.inference.json");
  inference["score_func"] = "sigmoid";
  CHECK_THAT(not_supported(inference), ContainsSubstring("score_func"));
}

TEST_CASE("config: YaRN", "[io]") {
  CHECK_FALSE(parse_config("c", without("rope_scaling")).has_yarn);
  CHECK_FALSE(parse_config("c", with("rope_scaling", nullptr)).has_yarn);
  json j = published("DeepSeek-V4-Flash.config.json");
  j["rope_scaling"].erase("type");
  CHECK_THAT(refused(j), ContainsSubstring("'rope_scaling.type' is missing"));
  j["rope_scaling"]["rope_type"] = "yarn";
  CHECK(parse_config("c", j).has_yarn);
  j["rope_scaling"].erase("factor");
  CHECK_THAT(refused(j), ContainsSubstring("'rope_scaling.factor' is missing"));
  CHECK_THAT(refused(with("rope_scaling", 3)), ContainsSubstring("'rope_scaling': found 3"));
  CHECK_THAT(refused(with("rope_scaling/beta_fast", 0.5)), ContainsSubstring("beta_fast below beta_slow"));
}

TEST_CASE("config: what the inference form leaves out", "[io]") {
  json j = published("DeepSeek-V4-Flash.inference.json");
  CHECK(parse_config("c", j).rms_norm_eps == 1e-6);
  j["norm_eps"] = 1e-5;
  j["max_seq_len"] = 4096;
  CHECK(parse_config("c", j).rms_norm_eps == 1e-5);
  CHECK(parse_config("c", j).max_position_embeddings == 4096);
  j["n_mtp_layers"] = 3;
  CHECK_THAT(refused(j), ContainsSubstring("'compress_ratios': found 44 entries"));
  j.erase("n_mtp_layers");
  j.erase("max_seq_len");
  j["original_seq_len"] = 0;  // no YaRN: nothing says how long a text may be
  CHECK_THAT(refused(j), ContainsSubstring("'max_seq_len' is missing"));
}

TEST_CASE("config: compress_ratios", "[io]") {
  CHECK_THAT(refused(without("compress_ratios")), ContainsSubstring("'compress_ratios' is missing"));
  CHECK_THAT(refused(with("compress_ratios", 4)), ContainsSubstring("expected a list"));
  CHECK_THAT(refused(with("compress_ratios/3", -1)), ContainsSubstring("'compress_ratios'[3]: found -1"));
  CHECK_THAT(refused(with("compress_ratios/3", 1.5)), ContainsSubstring("found 1.5"));
  json j = published("DeepSeek-V4-Flash.config.json");
  j["compress_ratios"].erase(43);  // one per layer: the MTP block sees the window
  CHECK(parse_config("c", j).compress_ratios.size() == 44);
  CHECK(parse_config("c", j).mtp_ratio() == 0);
  j["compress_ratios"].erase(42);
  CHECK_THAT(
      refused(j),
      ContainsSubstring("found 42 entries, expected one per layer (43) or one per layer and MTP block (44)"));
}

TEST_CASE("config: every size is required, positive and bounded", "[io]") {
  for (const char* field :
       {"vocab_size", "moe_intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim",
        "qk_rope_head_dim", "q_lora_rank", "o_groups", "o_lora_rank", "n_routed_experts",
        "num_experts_per_tok", "hc_mult", "hc_sinkhorn_iters", "index_n_heads", "index_head_dim",
        "index_topk", "sliding_window", "max_position_embeddings", "hidden_size"}) {
    CAPTURE(field);
    const std::string name = "'" + std::string(field) + "'";
    for (const json& bad : {json(0), json(-1), json(1.5), json("7"), json(true), json(std::uint64_t(1) << 63),
                            json(std::int64_t(1) << 40), json::array()})
      CHECK_THAT(refused(with(field, bad)),
                 ContainsSubstring(name) && ContainsSubstring("expected an integer from 1"));
    if (std::string_view(field) != "hidden_size")
      CHECK_THAT(refused(without(field)), ContainsSubstring(name + " is missing"));
  }
  for (const char* field : {"rms_norm_eps", "hc_eps", "rope_theta", "compress_rope_theta",
                            "routed_scaling_factor", "swiglu_limit"}) {
    CAPTURE(field);
    CHECK_THAT(refused(without(field)), ContainsSubstring("is missing"));
    for (const json& bad : {json(-1), json("x"), json(1e300), json(nullptr)})
      CHECK_THAT(refused(with(field, bad)), ContainsSubstring("'" + std::string(field) + "'"));
  }
}

TEST_CASE("config: relations between sizes", "[io]") {
  CHECK_THAT(refused(with("num_hash_layers", 44)), ContainsSubstring("from 0 to 43"));
  CHECK_THAT(refused(with("num_experts_per_tok", 257)), ContainsSubstring("from 1 to 256"));
  CHECK_THAT(refused(with("qk_rope_head_dim", 514)), ContainsSubstring("from 1 to 512"));
  CHECK_THAT(refused(with("qk_rope_head_dim", 63)), ContainsSubstring("even"));
  CHECK_THAT(refused(with("qk_rope_head_dim", 130)),
             ContainsSubstring("'index_head_dim': found 128, expected at least"));
  CHECK_THAT(refused(with("index_head_dim", 96)), ContainsSubstring("power of two"));
  CHECK_THAT(refused(with("o_groups", 7)), ContainsSubstring("divisor of heads * head_dim = 32768"));
  CHECK_THAT(refused(with("hc_mult", 17)), ContainsSubstring("from 1 to 16"));
  // Without a layer of ratio 4 there is no indexer, and its sizes may be absent.
  json j = without("index_head_dim");
  j.erase("index_n_heads");
  j.erase("index_topk");
  for (json& r : j["compress_ratios"])
    if (r == 4) r = 128;
  CHECK(parse_config("c", j).index_head_dim == 0);
}

// ---- what current transformers writes ---------------------------------------------------------------------------

namespace {
json transformers_flash() { return published("DeepSeek-V4-Flash.transformers.json"); }
/// The file that transformers wrote, with one field changed.
template <class V>
json rewritten(const std::string& field, const V& value) {
  json j = transformers_flash();
  j[json::json_pointer("/" + field)] = value;
  return j;
}
}  // namespace

TEST_CASE("config: what transformers 5.24 saves of the published files is the same models", "[io]") {
  for (const char* name : {"Flash", "Pro"}) {
    const std::string model = "configs/DeepSeek-V4-" + std::string(name);
    check_same_model(read_config(test_data(model + ".config.json")),
                     read_config(test_data(model + ".transformers.json")));
  }
  // Older versions did not repeat what the nested fields say.
  json j = transformers_flash();
  for (const char* flat : {"qk_rope_head_dim", "rope_theta", "compress_rope_theta"}) j.erase(flat);
  check_same_model(read_config(test_data("configs/DeepSeek-V4-Flash.config.json")), parse_config("c", j));
  for (const char* kind : {"main", "compress"}) j["rope_parameters"][kind].erase("partial_rotary_factor");
  CHECK(parse_config("c", j).qk_rope_head_dim == 64);
  j["partial_rotary_factor"] = 0.126;  // 64.5 of 512
  CHECK(parse_config("c", j).qk_rope_head_dim == 64);
  j.erase("compress_rates");  // what transformers assumes
  CHECK(parse_config("c", j).ratio(3) == 128);
  j["compress_rates"] = {{"heavily_compressed_attention", 32}};
  CHECK(parse_config("c", j).ratio(3) == 32);
  CHECK(parse_config("c", j).ratio(2) == 4);
  j["rope_parameters"]["compress"] = {{"rope_type", "default"}, {"rope_theta", 160000}};
  CHECK_FALSE(parse_config("c", j).has_yarn);
  // rope_scaling under its new name, not nested: attention_factor is 1 when it is absent.
  j = published("DeepSeek-V4-Flash.config.json");
  j["rope_parameters"] = j["rope_scaling"];
  j.erase("rope_scaling");
  check_same_model(read_config(test_data("configs/DeepSeek-V4-Flash.config.json")), parse_config("c", j));
}

TEST_CASE("config: both forms in one file may not contradict each other", "[io]") {
  const json flat = published("DeepSeek-V4-Flash.config.json");
  json both = transformers_flash();
  both.update(flat);
  check_same_model(parse_config("c", flat), parse_config("c", both));
  const auto contradicts = [&](const std::string& field, const json& value) {
    json j = both;
    j[json::json_pointer("/" + field)] = value;
    const std::string text = refused(j);
    CHECK_THAT(text, ContainsSubstring("contradict"));
    return text;
  };
  CHECK_THAT(contradicts("num_hash_layers", 2),
             ContainsSubstring("'num_hash_layers' and 'mlp_layer_types' contradict each other: 2 and 3"));
  CHECK_THAT(contradicts("compress_ratios/3", 0), ContainsSubstring("'layer_types'"));
  CHECK_THAT(contradicts("rope_theta", 10001), ContainsSubstring("'rope_parameters.main.rope_theta'"));
  CHECK_THAT(contradicts("compress_rope_theta", 1e5),
             ContainsSubstring("'rope_parameters.compress.rope_theta'"));
  CHECK_THAT(contradicts("partial_rotary_factor", 0.25), ContainsSubstring("'qk_rope_head_dim'"));
  CHECK_THAT(contradicts("rope_scaling/factor", 32), ContainsSubstring("'rope_scaling'"));
  CHECK_THAT(contradicts("rope_parameters/compress/rope_type", "default"),
             ContainsSubstring("'rope_scaling'"));
}

TEST_CASE("config: what transformers' form can say and this library cannot do", "[io]") {
  CHECK_THAT(not_supported(rewritten("rope_parameters/main/rope_type", "yarn")),
             ContainsSubstring("'rope_parameters.main.rope_type': found \"yarn\""));
  json j = transformers_flash();
  j["rope_parameters"]["compress"].erase("attention_factor");
  CHECK_THAT(not_supported(j), ContainsSubstring("'rope_parameters.compress.attention_factor' is absent"));
  CHECK_THAT(not_supported(rewritten("rope_parameters/compress/truncate", false)),
             ContainsSubstring("truncate"));
  CHECK_THAT(not_supported(rewritten("compress_rates/compressed_sparse_attention", 8)),
             ContainsSubstring("'compress_rates.compressed_sparse_attention': found 8, only 4"));
  CHECK_THAT(not_supported(rewritten("compress_rates/heavily_compressed_attention", 4)),
             ContainsSubstring("the ratio of CSA layers"));
  CHECK_THAT(not_supported(rewritten("layer_types/7", "full_attention")),
             ContainsSubstring("'layer_types'[7]: found 'full_attention'"));
  CHECK_THAT(not_supported(rewritten("mlp_layer_types/7", "hash_moe")),
             ContainsSubstring("'mlp_layer_types'[7]: found 'hash_moe' after 'moe'"));
  CHECK_THAT(not_supported(rewritten("mlp_layer_types/0", "dense")), ContainsSubstring("'dense'"));
  CHECK_THAT(not_supported(rewritten("mlp_bias", true)), ContainsSubstring("'mlp_bias'"));
  for (const char* field : {"layer_types", "mlp_layer_types"}) {
    CHECK_THAT(refused(rewritten(field, json::array({"moe"}))), ContainsSubstring("found 1 entries"));
    CHECK_THAT(refused(rewritten(field, json::array({1}))), ContainsSubstring("expected a list of names"));
    CHECK_THAT(refused(rewritten(field, "moe")), ContainsSubstring("expected a list of names"));
  }
  CHECK_THAT(refused(rewritten("compress_rates", 4)), ContainsSubstring("'compress_rates': found 4"));
  CHECK_THAT(refused(rewritten("compress_rates/heavily_compressed_attention", 0)),
             ContainsSubstring("from 1 to"));
  CHECK_THAT(refused(rewritten("partial_rotary_factor", 2)), ContainsSubstring("expected a number above 0"));
  CHECK_THAT(refused(rewritten("rope_parameters", 3)), ContainsSubstring("'rope_parameters': found 3"));
  j = transformers_flash();
  j["rope_parameters"].erase("main");
  CHECK_THAT(refused(j), ContainsSubstring("expected the objects 'main' and 'compress'"));
}

TEST_CASE("config: all that is wrong is said at once", "[io]") {
  json j = transformers_flash();
  for (const char* field : {"layer_types", "mlp_layer_types", "head_dim", "vocab_size"}) j.erase(field);
  j["hc_eps"] = "x";
  const std::string text = refused(j);
  CHECK_THAT(text,
             ContainsSubstring("config.json: 5 problems:") && ContainsSubstring("'vocab_size' is missing") &&
                 ContainsSubstring("'head_dim' is missing") && ContainsSubstring("'hc_eps': found \"x\"") &&
                 ContainsSubstring("'num_hash_layers' is missing") &&
                 ContainsSubstring("'compress_ratios' is missing"));
  // One feature that is not implemented decides the kind, and is said with the rest.
  j["scoring_func"] = "softmax";
  CHECK_THAT(not_supported(j),
             ContainsSubstring("scoring_func") && ContainsSubstring("'vocab_size' is missing"));
}

TEST_CASE("config: golden bundles", "[io][golden]") {
  const auto seed0 = golden("transformers/seed0");
  if (!seed0) SKIP("golden/transformers/seed0 is not present");
  const config c = read_config(*seed0);
  CHECK(c.num_nextn_predict_layers == 0);
  CHECK(c.compress_ratios == std::vector<dsv4::index_t>{0, 0, 4, 128, 4, 128});
  CHECK(c.yarn.original_max_position_embeddings == 256);
}
