// SPDX-License-Identifier: MIT
// Checkpoints: the golden bundles, every type and spelling, every way one can be wrong.
#include "dsv4/io/checkpoint.hpp"

#include <functional>
#include <optional>

#include "catch.hpp"
#include "data.hpp"
#include "dsv4/io/config_out.hpp"
#include "dsv4/model/transformer.hpp"
#include "io_test.hpp"
#include "mini_checkpoint.hpp"

using namespace dsv4;
using namespace dsv4::io;
using Catch::Matchers::ContainsSubstring;
using mini::form;
using mini::stored;

namespace {

// ---- comparing two models value by value ----------------------------------------------------------------------

/// Every number of a model in one order; `visit(double)`.
template <class V>
void numbers(const weight_matrix& w, V& visit) {
  visit(static_cast<double>(w.rows));
  visit(static_cast<double>(w.cols));
  for (dsv4::index_t o = 0; o < w.rows; ++o)
    for (dsv4::index_t i = 0; i < w.cols; ++i) visit(w.at(o, i));
}
template <int R, class V>
void numbers(const tensor<float, R>& t, V& visit) {
  for (dsv4::index_t i = 0; i < t.size(); ++i) visit(t.data()[i]);
}
template <class V>
void numbers(const expert_table& t, V& visit) {
  for (dsv4::index_t v = 0; v < t.rows; ++v)
    for (dsv4::index_t j = 0; j < t.k; ++j) visit(static_cast<double>(t.at(v, j)));
}
std::vector<double> numbers(const model_weights<>& w, const dsv4::config& c) {
  std::vector<double> out;
  auto visit = [&](double x) { out.push_back(x); };
  dsv4::each_weight(w, c, [&](const dsv4::weight_info&, const auto& field) { numbers(field, visit); });
  return out;
}
std::vector<double> numbers(const checkpoint& c) { return numbers(c.weights(), c.configuration()); }
/// Opens the directory and reads every number.
std::vector<double> numbers_of(const std::filesystem::path& path) {
  const checkpoint c = checkpoint::open(path);
  CHECK(c.unused().empty());
  return numbers(c);
}

std::size_t unused_of(const std::filesystem::path& path) {
  const checkpoint c = checkpoint::open(path);
  return c.unused().size();
}
std::size_t mtp_blocks_of(const std::filesystem::path& path) {
  const checkpoint c = checkpoint::open(path);
  return c.weights().mtp.size();
}
/// The checkpoint is `main` and a DSpark drafter, which is named and not read.
void check_drafter(const std::filesystem::path& path, const mini::tensors& main, const std::string& why) {
  const checkpoint c = checkpoint::open(path);
  CHECK(c.weights().mtp.empty());
  CHECK(c.unused().size() == c.tensors().size() - main.size());
  CHECK_THAT(c.drafter(), ContainsSubstring("DSpark") && ContainsSubstring(why));
  const temporary_directory alone;
  mini::write(alone, main);
  CHECK(numbers(c) == numbers_of(alone));
  transformer<float32<>, exec::ref> model(c.configuration(), c.weights());
  CHECK_THAT(message<unsupported>([&] { model.expect_mtp("--mtp"); }),
             ContainsSubstring("--mtp: not implemented") && ContainsSubstring("DSpark"));
}

// ---- other spellings, written from the table of docs/checkpoint-format.md --------------------------------------------

using renaming = std::vector<std::pair<std::string, std::string>>;

/// Replaces parts of names, in order.
mini::tensors renamed(const mini::tensors& in, const renaming& rules) {
  mini::tensors out;
  for (const auto& [stored_name, t] : in) {
    std::string name = stored_name;
    for (const auto& [from, to] : rules)
      if (const auto at = name.find(from); at != std::string::npos) name.replace(at, from.size(), to);
    out[name] = t;
  }
  REQUIRE(out.size() == in.size());
  return out;
}

const renaming transformers_names = {
    {"attn.indexer.compressor.ape", "self_attn.compressor.indexer.position_bias"},
    {"attn.indexer.compressor.wkv", "self_attn.compressor.indexer.kv_proj"},
    {"attn.indexer.compressor.wgate", "self_attn.compressor.indexer.gate_proj"},
    {"attn.indexer.compressor.norm", "self_attn.compressor.indexer.kv_norm"},
    {"attn.indexer.wq_b", "self_attn.compressor.indexer.q_b_proj"},
    {"attn.indexer.weights_proj", "self_attn.compressor.indexer.scorer.weights_proj"},
    {"attn.compressor.ape", "self_attn.compressor.position_bias"},
    {"attn.compressor.wkv", "self_attn.compressor.kv_proj"},
    {"attn.compressor.wgate", "self_attn.compressor.gate_proj"},
    {"attn.compressor.norm", "self_attn.compressor.kv_norm"},
    {".attn.wq_a", ".self_attn.q_a_proj"},
    {".attn.wq_b", ".self_attn.q_b_proj"},
    {".attn.wkv", ".self_attn.kv_proj"},
    {".attn.wo_a", ".self_attn.o_a_proj"},
    {".attn.wo_b", ".self_attn.o_b_proj"},
    {".attn.q_norm", ".self_attn.q_a_norm"},
    {".attn.kv_norm", ".self_attn.kv_norm"},
    {".attn.attn_sink", ".self_attn.sinks"},
    {"attn_norm.weight", "input_layernorm.weight"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {".hc_attn_", ".attn_hc."},
    {".hc_ffn_", ".ffn_hc."},
    {"ffn.gate.bias", "mlp.gate.e_score_correction_bias"},
    {"ffn.gate.", "mlp.gate."},
    {"ffn.shared_experts.w1", "mlp.shared_experts.gate_proj"},
    {"ffn.shared_experts.w3", "mlp.shared_experts.up_proj"},
    {"ffn.shared_experts.w2", "mlp.shared_experts.down_proj"},
    {"ffn.experts.", "mlp.experts."},
};
const renaming transformers_scales = {{".scale", ".weight_scale_inv"}};
const renaming whole_model = {{"layers.", "model.layers."}, {"hc_head_", "model.hc_head.hc_"}};

/// Experts of one block as transformers stacks them: gate_up_proj [E, 2I, D], down_proj [E, D, I].
void stack_experts(mini::tensors& t, const std::string& block) {
  const std::string p = block + "mlp.experts.";
  const auto stack = [&](const std::string& into, const std::vector<std::string>& parts,
                         const std::string& what) {
    stored out{};
    for (dsv4::index_t e = 0; e < mini::experts; ++e)
      for (const std::string& part : parts) {
        const auto node = t.extract(p + std::to_string(e) + "." + part + what);
        if (!node) return;
        const stored& s = node.mapped();
        out.type = s.type;
        out.shape = {mini::experts, s.shape[0] * static_cast<dsv4::index_t>(parts.size()), s.shape[1]};
        out.bytes.insert(out.bytes.end(), s.bytes.begin(), s.bytes.end());
      }
    t[p + into] = out;
  };
  stack("gate_up_proj", {"w1", "w3"}, ".weight");
  stack("down_proj", {"w2"}, ".weight");
  stack("gate_up_proj_scale_inv", {"w1", "w3"}, ".weight_scale_inv");
  stack("down_proj_scale_inv", {"w2"}, ".weight_scale_inv");
}
mini::tensors as_transformers(const mini::tensors& in, bool stacked) {
  mini::tensors t = renamed(renamed(in, transformers_scales), transformers_names);
  if (stacked)
    for (const char* block : {"layers.0.", "layers.1.", "layers.2.", "mtp.0."}) stack_experts(t, block);
  // The three names outside of the blocks, and `model.` before everything but lm_head and mtp.
  for (auto [from, to] : renaming{{"embed.weight", "model.embed_tokens.weight"},
                                  {"head.weight", "lm_head.weight"},
                                  {"norm.weight", "model.norm.weight"}}) {
    auto node = t.extract(from);
    node.key() = to;
    t.insert(std::move(node));
  }
  mini::tensors out;
  for (auto& [name, s] : t)
    out[name.starts_with("mtp.") ? name : renamed({{name, s}}, whole_model).begin()->first] = s;
  return out;
}

/// The message of the format_error after `change` of a good checkpoint.
template <class F>
std::string refused(F change, form f = form::official) {
  const temporary_directory dir;
  mini::tensors t = mini::make(f);
  change(t);
  mini::write(dir, t);
  const std::string text = message<format_error>([&] { checkpoint::open(dir); });
  CHECK_THAT(text, ContainsSubstring((dir / "model.safetensors").string()));
  return text;
}

}  // namespace

TEST_CASE("checkpoint: golden bundles open completely", "[io][golden]") {
  int present = 0;
  for (const char* name : {"flash-mini", "pro-mini", "base-mini", "real-ratio", "edge-mini"}) {
    CAPTURE(name);
    const auto dir = golden("official/" + std::string(name));
    if (!dir) {
      WARN("not present: golden/official/" << name);
      continue;
    }
    ++present;
    const checkpoint c = checkpoint::open(*dir);
    CHECK(c.unused().empty());
    CHECK(c.weights().mtp.size() == 1);
    CHECK(static_cast<dsv4::index_t>(c.weights().layers.size()) == c.configuration().num_hidden_layers);
    const weight_matrix& expert = c.weights().layers[0].ffn.experts[0].w1;
    const bool base = std::string_view(name) == "base-mini";
    CHECK(expert.type == (base ? dtype::f8_e4m3 : dtype::f4_e2m1));
    CHECK(expert.scale_type == (base ? dtype::f32 : dtype::f8_e8m0));
    CHECK(expert.tile_rows == (base ? 128 : 1));
    CHECK(c.weights().layers[0].attn.wq_a.type == dtype::f8_e4m3);
    CHECK(c.weights().layers[0].ffn.gate.tid2eid.type == dtype::i64);
  }
  const auto seed0 = golden("transformers/seed0");
  if (seed0) {
    const checkpoint c = checkpoint::open(*seed0);  // weights.safetensors, F32 throughout
    CHECK(c.weights().mtp.empty());
    CHECK(c.weights().embed.type == dtype::f32);
    CHECK(c.unused().empty());
  }
  if (!present) SKIP("golden/official is not present");
}

TEST_CASE("checkpoint: every form of storage, and what it means", "[io]") {
  for (const form f : {form::official, form::base, form::bf16, form::f16, form::f32}) {
    CAPTURE(static_cast<int>(f));
    const temporary_directory dir;
    mini::tensors t = mini::make(f);
    mini::write(dir, t);
    const checkpoint c = checkpoint::open(dir);
    CHECK(c.unused().empty());
    CHECK(c.tensors().size() == t.size());
    const block_weights<>& b = c.weights().layers[1];
    CHECK(b.attn.indexer.has_value());
    CHECK_FALSE(c.weights().layers[2].attn.indexer.has_value());
    CHECK_FALSE(c.weights().layers[0].attn.compressor.has_value());
    CHECK(c.weights().layers[0].ffn.gate.tid2eid.present());
    CHECK(b.ffn.gate.bias.size() == mini::experts);
    // One element, by hand: row 70, column 131 of wq_a lies in tile (0, 1).
    const stored& w = t.at("layers.1.attn.wq_a.weight");
    const std::size_t at = 70 * mini::hidden + 131;
    double expected = 0;
    std::uint16_t u = 0;
    if (w.type == dtype::bf16 || w.type == dtype::f16) std::memcpy(&u, &w.bytes[2 * at], 2);
    if (w.type == dtype::bf16) expected = bf16{u}.decode();
    if (w.type == dtype::f16) expected = f16{u}.decode();
    float x = 0;
    if (w.type == dtype::f32) std::memcpy(&x, &w.bytes[4 * at], 4), expected = x;
    if (w.type == dtype::f8_e4m3) {
      const stored& s = t.at("layers.1.attn.wq_a.scale");
      double scale = 0;
      if (s.type == dtype::f8_e8m0) scale = e8m0::from_bits(std::to_integer<unsigned>(s.bytes[1])).decode();
      if (s.type == dtype::f32) std::memcpy(&x, &s.bytes[4], 4), scale = x;
      expected = e4m3::from_bits(std::to_integer<unsigned>(w.bytes[at])).decode() * scale;
    }
    CHECK(b.attn.wq_a.at(70, 131) == expected);
    // And one of an expert: FP4, column 33 is the high nibble of byte 16, scale 1 of its row.
    if (f == form::official) {
      const stored &e = t.at("layers.1.ffn.experts.2.w1.weight"),
                   &s = t.at("layers.1.ffn.experts.2.w1.scale");
      const auto code = std::to_integer<unsigned>(e.bytes[5 * mini::hidden / 2 + 16]) >> 4;
      const auto scale = std::to_integer<unsigned>(s.bytes[5 * mini::hidden / 32 + 1]);
      CHECK(b.ffn.experts[2].w1.at(5, 33) ==
            e2m1::from_bits(code).decode() * e8m0::from_bits(scale).decode());
    }
    // Vectors are floats.
    const stored& n = t.at("norm.weight");
    if (n.type == dtype::bf16) {
      std::memcpy(&u, &n.bytes[2 * 7], 2);
      CHECK(c.weights().norm[7] == static_cast<float>(bf16{u}.decode()));
    }
  }
}

TEST_CASE("checkpoint: the tile follows from the shapes, whatever the type", "[io]") {
  // FP8 with a scale per row and 32 columns, FP4 with one per 128 x 128.
  const temporary_directory dir;
  mini::tensors t = mini::make();
  mini::maker m(t, form::official);
  m.put("layers.0.attn.wq_a.scale", dtype::f32, {mini::q_rank, mini::hidden / 32});
  m.put("layers.0.ffn.experts.0.w1.scale", dtype::f8_e8m0, {1, 2});
  mini::write(dir, t);
  const checkpoint c = checkpoint::open(dir);
  const weight_matrix &a = c.weights().layers[0].attn.wq_a, &b = c.weights().layers[0].ffn.experts[0].w1;
  CHECK(a.tile_rows == 1);
  CHECK(a.tile_cols == 32);
  CHECK(b.tile_rows == 128);
  CHECK(b.tile_cols == 128);
  float s;
  std::memcpy(&s, &t.at("layers.0.attn.wq_a.scale").bytes[4 * (3 * 5 + 2)], 4);
  CHECK(a.scale_at(3, 70) == s);
}

TEST_CASE("checkpoint: a matrix anywhere in a file is read in place, or aligned by a copy", "[io]") {
  const temporary_directory one, two;
  mini::tensors t = mini::make();
  mini::write(one, t);
  t["a"] = {dtype::u8, {3}, std::vector<std::byte>(3)};  // moves everything behind it to odd offsets
  mini::write(two, t);
  const checkpoint a = checkpoint::open(one), b = checkpoint::open(two);
  CHECK(numbers(a) == numbers(b));
  CHECK(b.realigned_bytes() > 0);
  for (const auto* w : {&b.weights().embed, &b.weights().hc_head.fn})
    CHECK(reinterpret_cast<std::uintptr_t>(w->data) % 4 == 0);
  REQUIRE(b.unused().size() == 1);
  CHECK(b.unused()[0]->name == "a");
}

TEST_CASE("checkpoint: spellings", "[io]") {
  CHECK(hub_name("model.layers.12.self_attn.compressor.indexer.weights_proj.weight") ==
        "layers.12.attn.indexer.weights_proj.weight");
  CHECK(hub_name("layers.3.mlp.experts.17.gate_proj.weight_scale_inv") == "layers.3.ffn.experts.17.w1.scale");
  CHECK(hub_name("layers.3.attn_hc.scale") == "layers.3.hc_attn_scale");
  CHECK(hub_name("model.hc_head.hc_scale") == "hc_head_scale");
  CHECK(hub_name("layers.x.self_attn.sinks") == "layers.x.self_attn.sinks");
  CHECK(hub_name("lm_header.weight") == "lm_header.weight");
  for (const form f : {form::official, form::base, form::bf16}) {
    CAPTURE(static_cast<int>(f));
    const mini::tensors hub = mini::make(f);
    const temporary_directory a, b, c, d;
    mini::write(a, hub);
    const std::vector<double> expected = numbers_of(a);
    mini::write(b, as_transformers(hub, false));
    CHECK(numbers_of(b) == expected);
    mini::write(c, as_transformers(hub, true));
    CHECK(numbers_of(c) == expected);
    // The mixed names that the official conversion reads.
    mini::write(d, renamed(hub, {{"ffn.gate.bias", "mlp.gate.e_score_correction_bias"},
                                 {".attn.", ".self_attn."},
                                 {".ffn.", ".mlp."},
                                 {"layers.", "model.layers."},
                                 {".scale", ".scale_inv"}}));
    CHECK(numbers_of(d) == expected);
  }
}

TEST_CASE("checkpoint: every hub name is its own spelling", "[io]") {
  for (const auto& [name, t] : mini::make()) CHECK(hub_name(name) == name);
}

TEST_CASE("checkpoint: where its files are", "[io]") {
  const mini::tensors t = mini::make();
  const temporary_directory dir;
  mini::write_config(dir);
  const auto open = [&] { return message<format_error>([&] { checkpoint::open(dir); }); };
  CHECK_THAT(open(), ContainsSubstring("holds no .safetensors file"));
  mini::write_tensors(dir / "anything.safetensors", t);
  const std::vector<double> expected = numbers_of(dir);
  CHECK(numbers_of(dir / "anything.safetensors") == expected);  // a file beside its config.json
  mini::write_tensors(dir / "other.safetensors", {});
  CHECK_THAT(open(), ContainsSubstring("holds 2 .safetensors files"));
  std::filesystem::rename(dir / "anything.safetensors", dir / "weights.safetensors");
  CHECK(numbers_of(dir) == expected);
  std::filesystem::rename(dir / "weights.safetensors", dir / "model.safetensors");
  CHECK(numbers_of(dir) == expected);
  const std::string bytes = read_file(dir / "model.safetensors");
  write_zstd(dir / "model.safetensors.zst", bytes.data(), bytes.size());
  std::filesystem::remove(dir / "model.safetensors");
  CHECK(numbers_of(dir) == expected);
  CHECK(numbers_of(dir / "model.safetensors.zst") == expected);
  CHECK_THAT(message<format_error>([&] { checkpoint::open(dir, {scan_rule::automatic, 1000}); }),
             ContainsSubstring("limit of 1000"));
  CHECK_THAT(message<format_error>([&] { checkpoint::open(dir / "none"); }),
             ContainsSubstring("does not exist"));
  CHECK_THAT(message<format_error>([&] { checkpoint::open(dir / "config.json"); }),
             ContainsSubstring("expected a checkpoint directory or"));
}

TEST_CASE("checkpoint: index and shards", "[io]") {
  const mini::tensors t = mini::make();
  mini::tensors shard[2];
  nlohmann::json map;
  int i = 0;
  for (const auto& [name, s] : t) {
    const int which = i++ % 2;
    shard[which][name] = s;
    map[name] = which ? "two.safetensors" : "one.safetensors";
  }
  const temporary_directory single, dir;
  mini::write(single, t);
  mini::write_config(dir);
  mini::write_tensors(dir / "one.safetensors", shard[0]);
  mini::write_tensors(dir / "two.safetensors", shard[1]);
  const auto open_with = [&](const nlohmann::json& index) {
    write_file(dir / "model.safetensors.index.json",
               index.is_string() ? index.get<std::string>() : index.dump());
    return message<format_error>([&] { checkpoint::open(dir); });
  };
  CHECK(open_with({{"metadata", {{"total_size", 1}, {"x", {1, {{"weight_map", 2}}}}}},
                   {"weight_map", map}}) == "<no exception>");
  CHECK(numbers_of(dir) == numbers_of(single));
  // Shards compressed one by one.
  const std::string bytes = read_file(dir / "two.safetensors");
  write_zstd(dir / "two.safetensors.zst", bytes.data(), bytes.size());
  std::filesystem::remove(dir / "two.safetensors");
  CHECK(numbers_of(dir) == numbers_of(single));

  // An index that contradicts the directory.
  CHECK_THAT(open_with("{"), ContainsSubstring("not valid JSON"));
  CHECK_THAT(open_with("[]"), ContainsSubstring("weight_map is missing or empty"));
  CHECK_THAT(open_with({{"weight_map", nlohmann::json::object()}}), ContainsSubstring("missing or empty"));
  CHECK_THAT(open_with({{"weight_map", {{"a", 1}}}}),
             ContainsSubstring("weight_map, 'a': expected the name of a file"));
  CHECK_THAT(open_with({{"weight_map", {{"a", nlohmann::json::array({"x"})}}}}),
             ContainsSubstring("'a': expected the name of a file"));
  CHECK_THAT(open_with({{"weight_map", {{"a", {{"b", "c"}}}}}}),
             ContainsSubstring("'a': expected the name of a file"));
  for (const char* outside :
       {"../one.safetensors", "/etc/passwd", "..", "sub/one.safetensors", "", "one.bin"})
    CHECK_THAT(open_with({{"weight_map", {{"a", outside}}}}),
               ContainsSubstring("expected the plain name of a .safetensors file"));
  CHECK_THAT(open_with({{"weight_map", {{"a", "three.safetensors"}}}}),
             ContainsSubstring("names the shard 'three.safetensors'"));
  nlohmann::json extra = map;
  extra["layers.0.nothing"] = "one.safetensors";
  CHECK_THAT(
      open_with({{"weight_map", extra}}),
      ContainsSubstring("places tensor 'layers.0.nothing' in 'one.safetensors', which does not hold it"));
  // The same tensor in two shards, under two spellings.
  shard[0]["model.embed_tokens.weight"] = t.at("embed.weight");
  mini::write_tensors(dir / "one.safetensors", shard[0]);
  CHECK_THAT(open_with({{"weight_map", map}}), ContainsSubstring("is also in") && ContainsSubstring("embed"));
}

TEST_CASE("checkpoint: a tensor is missing, or has another shape or type", "[io]") {
  CHECK_THAT(refused([](auto& t) { t.erase("layers.1.attn.wq_b.weight"); }),
             ContainsSubstring("tensor 'layers.1.attn.wq_b.weight' is missing, expected F32, BF16, F16 or "
                               "F8_E4M3 [256, 96] or I8 (FP4) [256, 48]"));
  CHECK_THAT(refused([](auto& t) { t.erase("layers.1.attn.wq_b.scale"); }),
             ContainsSubstring("its scale 'layers.1.attn.wq_b.scale' is missing"));
  CHECK_THAT(refused([](auto& t) { t.erase("layers.2.ffn.gate.bias"); }),
             ContainsSubstring("'layers.2.ffn.gate.bias' is missing"));
  // Any one tensor that is taken away is missed.
  const mini::tensors good = mini::make();
  const temporary_directory dir;
  for (const auto& [name, s] : good) {
    if (name.find("experts.") != std::string::npos && name.find("experts.0") == std::string::npos)
      continue;  // alike
    mini::tensors t = good;
    t.erase(name);
    mini::write(dir, t);
    CHECK_THAT(message<format_error>([&] { checkpoint::open(dir); }), ContainsSubstring("'" + name + "'"));
  }
  const auto put = [](const char* name, dtype type, std::vector<dsv4::index_t> shape) {
    return [=](mini::tensors& t) { mini::maker(t, form::official).put(name, type, shape); };
  };
  CHECK_THAT(refused(put("layers.0.attn.wkv.weight", dtype::f8_e4m3, {160, 64})),
             ContainsSubstring("found F8_E4M3 [160, 64], expected") && ContainsSubstring("at offset"));
  CHECK_THAT(refused(put("layers.0.attn.wkv.weight", dtype::i64, {64, 160})),
             ContainsSubstring("found I64 [64, 160]"));
  CHECK_THAT(refused(put("layers.0.attn.wkv.weight", dtype::i8, {64, 160})),
             ContainsSubstring("or I8 (FP4) [64, 80]"));
  CHECK_THAT(refused(put("layers.0.attn.wkv.scale", dtype::f8_e8m0, {2, 2})),
             ContainsSubstring("found F8_E8M0 [2, 2], expected F8_E8M0 or F32 [1, 2] or [64, 5]"));
  CHECK_THAT(refused(put("layers.0.attn.wkv.scale", dtype::bf16, {1, 2})),
             ContainsSubstring("found BF16 [1, 2]"));
  CHECK_THAT(refused(put("norm.weight", dtype::f32, {161})),
             ContainsSubstring("found F32 [161], expected F32, BF16 or F16 [160]"));
  CHECK_THAT(refused(put("norm.weight", dtype::f8_e4m3, {160})), ContainsSubstring("found F8_E4M3 [160]"));
  CHECK_THAT(refused(put("layers.1.attn.compressor.ape", dtype::f32, {4, 64})),
             ContainsSubstring("[4, 128]"));
  CHECK_THAT(refused(put("layers.0.ffn.gate.tid2eid", dtype::f32, {24, 2})),
             ContainsSubstring("expected I64, I32 or other integers [24, 2]"));
  CHECK_THAT(refused(put("layers.0.attn.wkv.weight", dtype::bf16, {64, 160})),
             ContainsSubstring("expected no scale (or ones)"));
  // A scale of ones beside a matrix that is not quantised says nothing, and is accepted.
  mini::tensors t = good;
  put("layers.0.attn.wkv.weight", dtype::bf16, {64, 160})(t);
  t["layers.0.attn.wkv.scale"] = {dtype::f8_e8m0, {1, 2}, std::vector<std::byte>(2, std::byte{127})};
  mini::write(dir, t);
  CHECK(unused_of(dir) == 0);
}

TEST_CASE("checkpoint: numbers that are none, and experts that do not exist", "[io]") {
  const auto set = [](const char* name, std::size_t at, std::vector<unsigned> bytes) {
    return [=](mini::tensors& t) {
      for (std::size_t i = 0; i < bytes.size(); ++i) t.at(name).bytes.at(at + i) = std::byte(bytes[i]);
    };
  };
  CHECK_THAT(refused(set("layers.0.attn.wkv.weight", 9000, {0x7F})),
             ContainsSubstring("'layers.0.attn.wkv.weight'") && ContainsSubstring("element 9000 is NaN"));
  CHECK_THAT(refused(set("layers.0.attn.wkv.weight", 3, {0xFF})), ContainsSubstring("element 3 "));
  CHECK_THAT(refused(set("layers.0.ffn.experts.1.w2.scale", 5, {0xFF})),
             ContainsSubstring("'layers.0.ffn.experts.1.w2.scale'"));
  CHECK_THAT(refused(set("embed.weight", 20, {0x80, 0x7F})),
             ContainsSubstring("element 10 is NaN or infinite"));  // bf16 infinity
  CHECK_THAT(refused(set("embed.weight", 20, {0x00, 0x7C}), form::f16), ContainsSubstring("element 10 "));
  CHECK_THAT(refused(set("layers.1.hc_attn_fn", 40, {0x00, 0x00, 0xC0, 0xFF})),
             ContainsSubstring("element 10 "));  // f32 NaN
  CHECK_THAT(refused(set("layers.0.ffn.gate.tid2eid", 8 * 5, {3})),
             ContainsSubstring("found expert 3 for token 2, expected 0 <= id < 3"));
  CHECK_THAT(
      refused(set("layers.0.ffn.gate.tid2eid", 8 * 5, {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF})),
      ContainsSubstring("found expert -1"));
  // The scan of matrices can be left out, that of vectors cannot.
  const temporary_directory dir;
  mini::tensors t = mini::make();
  set("layers.0.attn.wkv.weight", 9000, {0x7F})(t);
  mini::write(dir, t);
  CHECK_NOTHROW(checkpoint::open(dir, {.scan = scan_rule::never}));
  CHECK_THROWS_AS(checkpoint::open(dir, {.scan = scan_rule::always}), format_error);
  set("norm.weight", 0, {0xC0, 0x7F})(t);
  mini::write(dir, t);
  CHECK_THROWS_AS(checkpoint::open(dir, {.scan = scan_rule::never}), format_error);
  // The table may be of any integers.
  for (const dtype type :
       {dtype::i32, dtype::i16, dtype::i8, dtype::u64, dtype::u32, dtype::u16, dtype::u8}) {
    t = mini::make();
    const auto each = static_cast<std::size_t>(bits_of(type) / 8);
    std::vector<std::byte> ids(24 * 2 * each);
    ids[47 * each] = std::byte{2};
    t["layers.0.ffn.gate.tid2eid"] = {type, {24, 2}, ids};
    mini::write(dir, t);
    const checkpoint c = checkpoint::open(dir);
    CHECK(c.weights().layers[0].ffn.gate.tid2eid.at(23, 1) == 2);
    CHECK(c.weights().layers[0].ffn.gate.tid2eid.at(23, 0) == 0);
  }
  CHECK_THAT(refused([](mini::tensors& all) {
               all["layers.0.ffn.gate.tid2eid"] = {dtype::u64, {24, 2}, std::vector<std::byte>(24 * 2 * 8)};
               all["layers.0.ffn.gate.tid2eid"].bytes[7] = std::byte{0x80};
             }),
             ContainsSubstring("found expert -1 for token 0"));
}

TEST_CASE("checkpoint: multi-token prediction, its absence and its impostors", "[io]") {
  const mini::tensors good = mini::make();
  const temporary_directory dir;
  const auto without_mtp = [&] {
    mini::tensors t;
    for (const auto& [name, s] : good)
      if (!name.starts_with("mtp.")) t[name] = s;
    return t;
  };
  mini::write(dir, without_mtp());
  CHECK(mtp_blocks_of(dir) == 0);

  // -Base: copies of embed and head.
  mini::tensors t = good;
  t["mtp.0.emb.tok_emb.weight"] = good.at("embed.weight");
  t["mtp.0.head.weight"] = good.at("head.weight");
  mini::write(dir, t);
  CHECK(unused_of(dir) == 0);
  CHECK(mtp_blocks_of(dir) == 1);

  // Part of it.
  t = without_mtp();
  t["mtp.0.enorm.weight"] = good.at("mtp.0.enorm.weight");
  mini::write(dir, t);
  CHECK_THAT(message<format_error>([&] { checkpoint::open(dir); }),
             ContainsSubstring("'mtp.0.hnorm.weight' is missing"));

  // -0731: another network under the same names.
  for (const char* part : {"mtp.2.main_proj.weight", "mtp.0.markov_head.weight"}) {
    t = good;
    t[part] = good.at("norm.weight");
    mini::write(dir, t);
    check_drafter(dir, without_mtp(), part);
  }
  t = good;
  t.erase("mtp.0.enorm.weight");
  t.erase("mtp.0.hnorm.weight");
  mini::write(dir, t);
  check_drafter(dir, without_mtp(), "mtp.0.enorm.weight");
  // The index may leave the drafter out; it is in the file all the same.
  nlohmann::json map;
  for (const auto& [name, s] : without_mtp()) map[name] = "model.safetensors";
  write_file(dir / "model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
  check_drafter(dir, without_mtp(), "mtp.0.enorm.weight");
  std::filesystem::remove(dir / "model.safetensors.index.json");

  // A configuration that knows DSpark, and the drafter itself: all is read; a part of it is left out with its reason.
  const nlohmann::json knows = mini::drafter_config_json();
  mini::write_config(dir, knows);
  const mini::tensors drafter = mini::drafter();
  t = without_mtp();
  t.insert(drafter.begin(), drafter.end());
  mini::write_tensors(dir / "model.safetensors", t);
  {
    const checkpoint c = checkpoint::open(dir);
    REQUIRE(c.weights().dspark);
    CHECK(c.unused().empty());
    CHECK(c.drafter().empty());
    CHECK(c.weights().mtp.empty());
    CHECK(c.weights().dspark->stages.size() == 2);
    CHECK(c.configuration().dspark.target_layers == std::vector<dsv4::index_t>{2, 1, 0});
    CHECK(c.configuration().num_nextn_predict_layers == 0);
    CHECK(to_json(parse_config("again", to_json(c.configuration()))) == to_json(c.configuration()));
    transformer<float32<>, exec::ref> model(c.configuration(), c.weights());
    CHECK_THAT(message<unsupported>([&] { model.expect_mtp("--mtp"); }), ContainsSubstring("DSpark"));
  }
  for (const char* part :
       {"mtp.1.markov_head.markov_w2.weight", "mtp.0.main_proj.scale", "mtp.1.attn.wkv.weight"}) {
    mini::tensors damaged = t;
    damaged.erase(part);
    mini::write_tensors(dir / "model.safetensors", damaged);
    const checkpoint c = checkpoint::open(dir);
    CHECK(!c.weights().dspark);
    CHECK_THAT(c.drafter(),
               ContainsSubstring("DSpark") && ContainsSubstring("cannot be used") && ContainsSubstring(part));
  }
  for (const auto& [field, value, why] :
       {std::tuple{"dspark_target_layer_ids", nlohmann::json{3}, "dspark_target_layer_ids"},
        {"dspark_block_size", nlohmann::json(0), "dspark_block_size"},
        {"dspark_noise_token_id", nlohmann::json(mini::vocab), "dspark_noise_token_id"},
        {"dspark_markov_rank", nlohmann::json(nullptr), "dspark_markov_rank"},
        {"compress_ratios", nlohmann::json{0, 4, 16, 0, 4}, "compress_ratios"}}) {
    nlohmann::json wrong = knows;
    wrong[field] = value;
    CHECK_THAT(message<format_error>([&] { parse_config("c", wrong); }), ContainsSubstring(why));
  }
  mini::write(dir, good);

  // A configuration without MTP leaves the tensors unused; one of V4.1 is another architecture.
  nlohmann::json j = mini::config_json();
  j["num_nextn_predict_layers"] = 0;
  j["compress_ratios"] = {0, 4, 16};
  mini::write(dir, good);
  mini::write_config(dir, j);
  CHECK(mtp_blocks_of(dir) == 0);
  CHECK(unused_of(dir) > 50);
  j["model_type"] = "deepseek_v41";
  mini::write_config(dir, j);
  CHECK_THAT(message<unsupported>([&] { checkpoint::open(dir); }), ContainsSubstring("DeepSeek-V4.1"));
}

TEST_CASE("checkpoint: huge sizes in config.json end at the first missing tensor", "[io]") {
  const temporary_directory dir;
  mini::write(dir, mini::make());
  nlohmann::json j = mini::config_json();
  j["n_routed_experts"] = 65536;
  mini::write_config(dir, j);
  CHECK_THROWS_AS(checkpoint::open(dir), format_error);
  j = mini::config_json();
  j["num_hidden_layers"] = 4096;
  j["compress_ratios"] = std::vector<int>(4096, 0);
  mini::write_config(dir, j);
  CHECK_THROWS_AS(checkpoint::open(dir), format_error);
}

TEST_CASE("checkpoint: formats of others are named", "[io]") {
  using nlohmann::json;
  const mini::tensors good = mini::make();
  const temporary_directory dir;
  mini::write(dir, good);
  const auto with_config = [&](const char* field, const json& value) {
    json j = mini::config_json();
    j[field] = value;
    mini::write_config(dir, j);
    return message<unsupported>([&] { checkpoint::open(dir); });
  };
  for (const auto& [says, named] : std::initializer_list<std::pair<json, const char*>>{
           {{{"quant_method", "modelopt"}, {"quant_algo", "NVFP4"}}, "'modelopt', 'NVFP4'"},
           {{{"quant_method", "compressed-tensors"}, {"format", "nvfp4-pack-quantized"}},
            "'compressed-tensors', 'nvfp4-pack-quantized'"},
           {{{"quant_method", "awq"}, {"bits", 4}}, "'awq'"},
           {{{"quant_method", "gptq"}}, "'gptq'"},
           {{{"quant_method", "fp8"}, {"fmt", "e5m2"}}, "'fp8', 'e5m2'"},
           {{{"bits", 4}}, "'unknown'"}})
    CHECK_THAT(with_config("quantization_config", says), ContainsSubstring("'quantization_config'") &&
                                                             ContainsSubstring(named) &&
                                                             ContainsSubstring("read are FP8"));
  CHECK_THAT(with_config("compression_config", {{"quant_method", "compressed-tensors"}}),
             ContainsSubstring("'compressed-tensors'"));
  for (const json& own : {json(nullptr), json::object(), json{{"quant_method", "fp8"}},
                          json{{"quant_method", "fp8"}, {"fmt", "e4m3"}, {"weight_block_size", {128, 128}}}})
    CHECK(with_config("quantization_config", own) == "<no exception>");
  write_file(dir / "hf_quant_config.json", R"({"quantization": {"quant_algo": "NVFP4"}})");
  CHECK_THAT(with_config("x", 1), ContainsSubstring("hf_quant_config.json") && ContainsSubstring("'NVFP4'"));
  std::filesystem::remove(dir / "hf_quant_config.json");

  // A configuration that says nothing: the parts beside a matrix do.
  mini::write_config(dir);
  const auto with_parts = [&](const std::function<void(mini::tensors&)>& change) {
    mini::tensors t = good;
    change(t);
    mini::write_tensors(dir / "model.safetensors", t);
    return message<unsupported>([&] { checkpoint::open(dir); });
  };
  const std::string w = "layers.1.ffn.experts.0.w1";
  CHECK_THAT(with_parts([&](mini::tensors& t) {
               t[w + ".weight"].type = dtype::u8;
               t[w + ".weight_scale_2"] = {dtype::f32, {}, std::vector<std::byte>(4)};
             }),
             ContainsSubstring("NVFP4 of modelopt") && ContainsSubstring(w + ".weight"));
  for (const auto& [part, name] :
       {std::pair{".qweight", "AWQ or GPTQ"}, {".weight_packed", "compressed-tensors"}})
    CHECK_THAT(with_parts([&, part = part](mini::tensors& t) {
                 t.erase(w + ".weight");
                 t[w + part] = {dtype::i32, {1}, std::vector<std::byte>(4)};
               }),
               ContainsSubstring(name));
}

TEST_CASE("checkpoint: weight_scale without _inv is FP8's other spelling", "[io]") {
  const mini::tensors good = mini::make();
  const temporary_directory a, b;
  mini::write(a, good);
  mini::write(b, renamed(good, {{".scale", ".weight_scale"}}));
  CHECK(numbers_of(a) == numbers_of(b));
}

TEST_CASE("checkpoint: what nothing reads may be of any type", "[io]") {
  mini::tensors t = mini::make();
  for (const dtype type : safetensors_types) {
    if (bits_of(type) % 8) continue;  // the writer has whole bytes only
    t["extra." + std::string(name_of(type))] = {
        type, {2}, std::vector<std::byte>(static_cast<std::size_t>(bits_of(type) / 4))};
  }
  const temporary_directory dir;
  mini::write(dir, t);
  CHECK(unused_of(dir) > 15);
  CHECK_THAT(refused([](mini::tensors& all) { all["norm.weight"].type = dtype::u16; }),
             ContainsSubstring("found U16 [160], expected F32, BF16 or F16"));
}

TEST_CASE("checkpoint: of an index and a whole file beside it the index is used, and that is said", "[io]") {
  const mini::tensors t = mini::make();
  const temporary_directory dir;
  mini::write(dir, t);
  mini::write_tensors(dir / "one.safetensors", t);
  nlohmann::json map;
  for (const auto& [name, s] : t) map[name] = "one.safetensors";
  {
    const checkpoint c = checkpoint::open(dir);
    CHECK(c.notes().empty());
  }
  write_file(dir / "model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
  const checkpoint c = checkpoint::open(dir);
  REQUIRE(c.notes().size() == 1);
  CHECK_THAT(c.notes()[0],
             ContainsSubstring("the shards of model.safetensors.index.json are used; model.safetensors"));
  REQUIRE(c.files().size() == 1);
  CHECK(c.files()[0].path().filename() == "one.safetensors");
}

TEST_CASE("checkpoint: what it hands out survives a move", "[io]") {
  const temporary_directory dir;
  mini::write(dir, mini::make());
  std::optional<checkpoint> first = checkpoint::open(dir);
  const std::vector<double> expected = numbers(*first);
  const model_weights<>* weights = &first->weights();
  const stored_tensor* tensor = &first->tensors()[3];
  const std::string name(tensor->name);
  transformer<float32<>, exec::ref> model(first->configuration(), first->weights());
  const std::vector<std::int32_t> ids{1, 2, 3};
  const auto logits = [&] {
    auto s = model.new_sequence(8);
    dsv4::tensor<double, 2> out(3, mini::vocab);
    model.forward(s, ids, out);
    return std::vector<double>(out.data(), out.data() + out.size());
  };
  const std::vector<double> before = logits();
  checkpoint second = std::move(*first);
  first.reset();  // a view into what was inside would dangle now
  std::vector<checkpoint> many;
  many.push_back(std::move(second));
  for (int i = 0; i < 4; ++i) many.push_back(checkpoint::open(dir));  // and be moved again
  CHECK(&many[0].weights() == weights);
  CHECK(numbers(*weights, many[0].configuration()) == expected);
  CHECK(tensor->name == name);
  CHECK(logits() == before);
}
