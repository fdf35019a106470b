// SPDX-License-Identifier: MIT
// Dumps of other engines become bundles: axes, calls, transforms, choices; what does not fit is refused.
#include "dsv4/golden/convert/convert.hpp"

#include <functional>

#include "../io/io_test.hpp"
#include "catch.hpp"
#include "data.hpp"
#include "dsv4/golden/bundle/check.hpp"
#include "dsv4/op/hadamard.hpp"
#include "dsv4/op/rope.hpp"

namespace dsv4_test {

using namespace dsv4;
using Catch::Matchers::ContainsSubstring;

namespace {

constexpr dsv4::index_t T = 10, D = 32, H = 4, hd = 16, W = 6;

config small() {
  return io::parse_config(
      "config.json",
      nlohmann::json::parse(
          R"({"vocab_size":64,"hidden_size":32,"moe_intermediate_size":16,"num_hidden_layers":3,"num_hash_layers":1,
    "num_attention_heads":4,"num_key_value_heads":1,"head_dim":16,"qk_rope_head_dim":8,"q_lora_rank":12,"o_groups":2,"o_lora_rank":5,"n_routed_experts":8,"n_shared_experts":1,
    "num_experts_per_tok":2,"scoring_func":"sqrtsoftplus","routed_scaling_factor":1.5,"swiglu_limit":7.0,"rms_norm_eps":1e-6,"hc_mult":4,"hc_sinkhorn_iters":20,"hc_eps":1e-6,
    "sliding_window":6,"index_n_heads":4,"index_head_dim":16,"index_topk":2,"max_position_embeddings":256,"rope_theta":10000.0,"compress_rope_theta":160000.0,
    "num_nextn_predict_layers":0,"rope_scaling":null,"compress_ratios":[0,4,128]})"));
}

/// An array of the numbers 0, 1, 2, …, or of f(i).
template <class V = float>
std::vector<V> counting(dsv4::index_t n, const std::function<double(dsv4::index_t)>& f = {}) {
  std::vector<V> v;
  for (dsv4::index_t i = 0; i < n; ++i) v.push_back(static_cast<V>(f ? f(i) : double(i)));
  return v;
}

struct workbench {
  temporary_directory dir;
  config c = small();
  io::safetensors_writer file;

  workbench() { put<std::int32_t>("input_ids", {1, T}, counting<std::int32_t>(T)); }
  template <class V>
  void put(const std::string& name, const std::vector<dsv4::index_t>& shape, const std::vector<V>& values) {
    const auto* p = reinterpret_cast<const std::byte*>(values.data());
    file.add(name,
             std::is_same_v<V, std::int64_t> ? dtype::i64
             : std::is_same_v<V, std::uint16_t>
                 ? dtype::f16
                 : dtype_of<std::conditional_t<sizeof(V) == 2 || std::is_same_v<V, std::int64_t>, float, V>>,
             shape, std::vector<std::byte>(p, p + values.size() * sizeof(V)));
  }
  golden::match_result matched(const std::string& rules, const std::filesystem::path& from = {}) {
    if (from.empty()) file.write(dir / "dump.safetensors");
    golden::dump d = golden::dump::open(from.empty() ? dir / "dump.safetensors" : from);
    return golden::match(
        std::move(d),
        golden::name_map::parse(
            "m.json", R"({"schema":"v4map/1","engine":"x","numerics":"float32","rules":[)" + rules + "]}"),
        c);
  }
  golden::bundle converted(const std::string& rules, const std::filesystem::path& from = {}) {
    const auto m = matched(rules, from);
    golden::manifest about;
    about.name = "test", about.created_by = {{"program", "unit test"}};
    auto ids = golden::ids_of(*m.source, c);
    if (ids.empty()) ids = {counting<std::int32_t>(T)};
    golden::convert(m, ids, dir / "b.v4gold", about);
    CHECK(golden::check(dir / "b.v4gold").exit_code() == 0);
    return golden::bundle::open(dir / "b.v4gold");
  }
  std::string refused(const std::string& rules) {
    return message<format_error>([&] { converted(rules); });
  }
};

}  // namespace

TEST_CASE("convert: axes are permuted, dropped, regrouped, sliced") {
  workbench w;
  w.put("q", {1, H, T, hd}, counting(H * T * hd));
  w.put("o", {1, T, 2, 2 * hd}, counting(T * H * hd));
  w.put("fused", {T, 12 + hd}, counting(T * (12 + hd)));
  const auto b =
      w.converted(R"({"match":"q","to":"layers.0.attn.q_norm","axes":["batch","head","token","channel"]},
    {"match":"o","to":"layers.0.attn.o_derot","axes":["batch","token","group","rest"],"regroup":true},
    {"match":"fused","to":"layers.0.attn.qr","axes":["token","rank"],"slice":{"axis":"rank","from":0,"to":"q_lora_rank"},"also":true},
    {"match":"fused","to":"layers.0.attn.kv_norm","axes":["token","channel"],"slice":{"axis":"channel","from":"q_lora_rank","to":"end"}})");
  REQUIRE(b.tensors().size() == 4);
  CHECK(b.about().policy() == "float32");
  const auto read = [&](const char* name) { return b.read(*b.find(0, 0, name)); };
  const auto q = read("layers.0.attn.q_norm");
  CHECK(q.entry().shape == std::vector<dsv4::index_t>{T, H, hd});
  for (dsv4::index_t t = 0; t < T; ++t)
    for (dsv4::index_t h = 0; h < H; ++h) CHECK(q[(t * H + h) * hd + 3] == (h * T + t) * hd + 3);
  CHECK(read("layers.0.attn.o_derot")[5 * H * hd + 7] == 5 * H * hd + 7);
  CHECK(read("layers.0.attn.qr")[12 * 3 + 11] == 3 * 28 + 11);
  CHECK(read("layers.0.attn.kv_norm")[hd * 3] == 3 * 28 + 12);
  // Executed in this order; a dependency that is not in the dump is seen through.
  CHECK(b.tensors()[0].name == "layers.0.attn.qr");
  CHECK(b.find(0, 0, "layers.0.attn.q_norm")->deps == std::vector<std::string>{"layers.0.attn.qr"});
  CHECK(b.ids() == counting<std::int32_t>(T));
}

TEST_CASE("convert: transforms") {
  workbench w;
  // Channels 8…15 rotate; evens first, then odds.
  w.put("half", {T, H, hd}, counting(T * H * hd));
  w.put("logits", {T, 8}, counting(T * 8, [](dsv4::index_t i) { return double(i) - 40; }));
  w.put("weights", {T, 4}, counting(T * 4));
  w.put<std::uint16_t>("norm", {T, D},
                       std::vector<std::uint16_t>(static_cast<std::size_t>(T * D), 0xC100));  // -2.5
  w.put<std::int64_t>("picks", {1, T, 2},
                      counting<std::int64_t>(T * 2, [](dsv4::index_t i) { return i % 2 ? -1 : 0; }));
  const auto b = w.converted(
      R"({"match":"half","to":"layers.0.attn.q_rope","layout":"half"},{"match":"logits","to":"layers.1.ffn.gate.scores","apply":"sqrt_softplus"},
    {"match":"weights","to":"layers.1.attn.indexer.weights","scale":{"index_head_dim":-0.5,"index_n_heads":-0.5}},
    {"match":"norm","to":"layers.1.ffn_norm"},{"match":"picks","to":"layers.1.attn.topk_idxs","apply":"picks"})");
  const auto read = [&](const char* name) { return b.read(*b.find(0, 0, name)).values(); };
  const auto q = read("layers.0.attn.q_rope");
  const double expected[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 9, 13, 10, 14, 11, 15};
  for (std::size_t i = 0; i < 16; ++i) CHECK(q[i] == expected[i]);
  CHECK(read("layers.1.ffn.gate.scores")[41] == Catch::Approx(std::sqrt(std::log1p(std::exp(1.0)))));
  CHECK(read("layers.1.ffn.gate.scores")[0] == Catch::Approx(std::sqrt(std::log1p(std::exp(-40.0)))));
  CHECK(read("layers.1.attn.indexer.weights")[8] == 1);  // 8 / 4 / 2
  CHECK(read("layers.1.ffn_norm")[5] == -2.5);           // F16 is widened
  const auto slots =
      read("layers.1.attn.topk_idxs");  // the window's positions, then entries behind the tokens
  const double at7[] = {2, 3, 4, 5, 6, 7, T, -1},
               at1[] = {0, 1, -1, -1, -1, -1, -1, -1};  // position 1 does not see entry 0 yet
  for (std::size_t i = 0; i < 8; ++i) {
    CHECK(slots[7 * 8 + i] == at7[i]);
    CHECK(slots[1 * 8 + i] == at1[i]);
  }
}

TEST_CASE("convert: rotation and Hadamard are taken back") {
  workbench w;
  std::vector<float> plain = counting(T * H * hd, [](dsv4::index_t i) { return std::sin(double(i)); }),
                     rotated = plain, mixed = plain;
  exec::ref e;
  const auto frequencies = rotary_frequencies(w.c, 4);
  tensor<float, 2> cos(T, 4), sin(T, 4);
  const rotary_angles angles{cos.all(), sin.all()};
  for (dsv4::index_t t = 0; t < T; ++t) angles.set(t, t, frequencies.all());
  rope(e, view<float, 3>(rotated.data(), T, H, hd), angles);
  hadamard(e, view<float, 2>(mixed.data(), T * H, hd));
  w.put("rotated", {T, H, hd}, rotated);
  w.put("mixed", {T, H, hd}, mixed);
  const auto b = w.converted(
      R"({"match":"rotated","to":"layers.1.attn.q_norm","invert":"rope"},{"match":"mixed","to":"layers.1.attn.indexer.q","invert":"hadamard"})");
  for (const char* name : {"layers.1.attn.q_norm", "layers.1.attn.indexer.q"}) {
    const auto v = b.read(*b.find(0, 0, name)).values();
    double worst = 0;
    for (std::size_t i = 0; i < plain.size(); ++i)
      worst = std::max(worst, std::fabs(v[i] - double(plain[i])));
    INFO(name);
    CHECK(worst < 1e-6);
  }
}

TEST_CASE("convert: calls, entries, margins, sequences") {
  workbench w;
  w.put("prefill/out", {1, 7, 4, D}, counting(7 * 4 * D));
  w.put("decode00007/out", {1, 1, 4, D}, counting(4 * D));
  w.put("chunk00008/out", {1, 2, 4, D}, counting(2 * 4 * D));
  w.put("prefill/entry", {1, 1, 1, hd}, counting(hd));
  w.put("decode00007/entry", {1, 1, 2, hd}, counting(2 * hd));  // the whole cache
  w.put("chunk00008/entry", {1, 1, 2, hd}, counting(2 * hd));   // none closes
  w.put("prefill/biased", {7, 8}, counting(7 * 8));
  w.put<std::int32_t>("prefill/indices", {7, 2},
                      counting<std::int32_t>(14, [](dsv4::index_t i) { return i % 2 ? 6 : 7; }));
  const auto b = w.converted(
      R"({"match":"out","to":"layers.1.out"},{"match":"entry","to":"layers.1.attn.compressor.entry","axes":["batch","one","entry","channel"],"take":"last"},
    {"match":"biased","to":"layers.1.ffn.gate.biased"},{"match":"indices","to":"layers.1.ffn.gate.indices"})");
  REQUIRE(b.about().calls.size() == 3);
  using kind = golden::call_kind;
  CHECK(b.about().calls[0].kind == kind::prefill);
  CHECK(b.about().calls[1].kind == kind::decode);
  CHECK(b.about().calls[2].kind == kind::chunk);
  const auto entry = b.read(*b.find(1, 0, "layers.1.attn.compressor.entry"));
  CHECK(entry.entry().first_entry == 1);
  CHECK(entry[0] == hd);  // the second one
  CHECK(b.find(2, 0, "layers.1.attn.compressor.entry") == nullptr);
  const auto* choice = b.find(0, 0, "layers.1.ffn.gate.indices");
  CHECK(choice->margin == "layers.1.ffn.gate.indices.margin");
  CHECK(b.read(*b.find(0, 0, choice->margin))[0] == 1);  // 6 - 5
}

TEST_CASE("convert: npy, npz names and raw files in a directory") {
  workbench w;
  const auto folder = w.dir / "raw";
  std::filesystem::create_directories(folder);
  const auto raw = [&](const std::string& name, const auto& values) {
    write_file(folder / name, {reinterpret_cast<const char*>(values.data()), values.size() * 4});
  };
  raw("run_1_Qcur-1_pos0.bin", counting(8 * H * hd));
  raw("run_1_Qcur-1_pos8.bin", counting(H * hd));
  raw("run_1_ffn_moe_topk-1_pos0.i32", counting<std::int32_t>(16, [](dsv4::index_t i) { return i % 8; }));
  raw("run_1_KVcur_1_9.bin", counting(hd));
  const auto b = w.converted(
      R"-({"match":"(?:.*_)?Qcur-(\\d+)","to":"layers.$1.attn.q_rope"},{"match":"(?:.*_)?ffn_moe_topk-(\\d+)","to":"layers.$1.ffn.gate.indices"},
    {"match":"(?:.*_)?KVcur-(\\d+)","to":"layers.$1.attn.kv"})-",
      folder);
  CHECK(b.about().calls.size() == 3);
  CHECK(b.find(0, 0, "layers.1.attn.q_rope")->shape == std::vector<dsv4::index_t>{8, H, hd});
  CHECK(b.find(1, 0, "layers.1.attn.q_rope")->from == 8);
  CHECK(b.find(2, 0, "layers.1.attn.kv")->from == 9);
  CHECK(b.find(0, 0, "layers.1.ffn.gate.indices")->carrier == dtype::i32);
  raw("nonsense.bin", counting(4));
  CHECK_THAT(message<format_error>([&] { golden::dump::open(folder); }),
             ContainsSubstring("nonsense.bin: a raw dump is named"));
  CHECK_THAT(message<golden::missing_input>([&] { golden::dump::open(w.dir / "nothing"); }),
             ContainsSubstring("no such file"));
}

TEST_CASE("convert: ggml's four sizes, joint axes, padded scores, compressors that close nothing") {
  workbench w;
  w.put("norm", {1, 1, T, D}, counting(T * D));
  w.put("q", {1, 1, T * H, hd}, counting(T * H * hd));
  w.put("kv", {1, T, 1, hd}, counting(T * hd));
  w.put("scores", {1, 1, T, 64}, counting(T * 64));
  w.put("entry#0", {1, 1, 2, hd}, counting(2 * hd));
  w.put("chunk00010/norm", {1, 1, 1, D}, counting(D));
  w.put("chunk00010/entry", {1, 1, 1, hd}, counting(hd));
  const std::string rules = R"({"match":"norm","to":"layers.1.attn_norm"},
    {"match":"q","to":"layers.1.attn.q_norm","axes":["token*head","channel"]},
    {"match":"kv","to":"layers.1.attn.kv","axes":["token","one","channel"]},
    {"match":"scores","to":"layers.1.attn.indexer.scores"},
    {"match":"entry","to":"layers.1.attn.compressor.norm","optional":true})";
  auto m = w.matched(rules);
  CHECK(m.misfits.empty());
  CHECK(m.closing_nothing == 1);
  CHECK(m.values == 6);
  golden::manifest about;
  about.name = "test", about.created_by = {{"program", "unit test"}};
  CHECK(golden::convert(m, {counting<std::int32_t>(T + 1)}, w.dir / "b.v4gold", about).empty());
  const auto b = golden::bundle::open(w.dir / "b.v4gold");
  CHECK(b.find(0, 0, "layers.1.attn.q_norm")->shape == std::vector<dsv4::index_t>{T, H, hd});
  CHECK(b.read(*b.find(0, 0, "layers.1.attn.q_norm"))[5 * H * hd + hd + 3] == 5 * H * hd + hd + 3);
  CHECK(b.find(0, 0, "layers.1.attn.indexer.scores")->shape == std::vector<dsv4::index_t>{T, T / 4});
  CHECK(b.read(*b.find(0, 0, "layers.1.attn.indexer.scores"))[2 * 3 + 1] == 3 * 64 + 1);
}

TEST_CASE("convert: --map-check has every misfit, convert the first and their number") {
  workbench w;
  w.put("a", {T, D + 1}, counting(T * (D + 1)));
  w.put("b", {T, D}, counting(T * D));
  w.put("c", {T - 1, D}, counting((T - 1) * D));
  w.put("d", {T, D}, counting(T * D));
  w.put("e", {T, D}, counting(T * D));
  const std::string rules =
      R"({"match":"a","to":"layers.0.attn_norm"},{"match":"b","to":"layers.0.ffn_norm"},
    {"match":"c","to":"layers.0.attn.out"},{"match":"d","to":"layers.9.attn.out"},
    {"match":"e","to":"layers.1.ffn_norm"})";
  CHECK_THAT(w.refused(rules), ContainsSubstring("which this model does not have") &&
                                   ContainsSubstring("and 2 more misfits: --map-check"));
  CHECK_FALSE(std::filesystem::exists(w.dir / "b.v4gold"));
  const auto m = w.matched(rules);
  CHECK(m.misfits.size() == 3);
  CHECK(m.calls[0].tokens == T);  // most arrays say so
}

TEST_CASE("convert: what does not fit is refused with its shape") {
  const char* rule =
      R"({"match":"x","to":"layers.0.attn.q_norm"},{"match":"y","to":"layers.0.attn_norm"},{"match":"i","to":"layers.0.ffn.gate.indices"})";
  const auto with = [&](const std::string& name, const std::vector<dsv4::index_t>& shape, auto value) {
    workbench w;
    dsv4::index_t n = 1;
    for (const auto s : shape) n *= s;
    w.put(name, shape, std::vector<decltype(value)>(static_cast<std::size_t>(n), value));
    return w.refused(rule);
  };
  CHECK_THAT(with("x", {T, hd, H}, 1.0f),
             ContainsSubstring("array 'x' of shape [10, 16, 4] cannot be layers.0.attn.q_norm: expected "
                               "[token, head 4, channel 16]"));
  CHECK_THAT(with("x", {T, H * hd}, 1.0f), ContainsSubstring("expected the axes [token, head, channel]"));
  CHECK_THAT(with("x", {2, T, H, hd}, 1.0f), ContainsSubstring("1 sequences along batch"));
  CHECK_THAT(with("y", {T + 1, D}, 1.0f), ContainsSubstring("only 10 ids are left"));
  CHECK_THAT(with("y", {T, D}, std::int32_t{1}), ContainsSubstring("expected floating-point values"));
  CHECK_THAT(with("i", {T, 2}, 1.5f), ContainsSubstring("whole numbers"));
  CHECK_THAT(with("i", {T, 2}, std::numeric_limits<float>::quiet_NaN()), ContainsSubstring("whole numbers"));
  CHECK_THAT(with("i", {T, 2}, std::int64_t{1} << 40), ContainsSubstring("whole numbers"));
  CHECK_THAT(with("i", {0, 2}, std::int32_t{1}), ContainsSubstring("how many tokens"));
  CHECK_THAT(with("unknown", {T}, 1.0f), ContainsSubstring("no array of the dump has a rule"));
  {
    workbench w;
    w.put("x", {T, H, hd}, counting(T * H * hd));
    CHECK_THAT(w.refused(R"({"match":"x","to":"layers.7.attn.q_norm"})"),
               ContainsSubstring("which this model does not have"));
  }
  {
    workbench w;
    w.put("x", {T, H, hd}, counting(T * H * hd));
    CHECK_THAT(
        w.refused(
            R"({"match":"x","to":"layers.0.attn.q_norm","slice":{"axis":"channel","from":4,"to":99},"axes":["token","head","channel"]})"),
        ContainsSubstring("the rule slices it"));
  }
  workbench w;  // an optional rule leaves out instead
  w.put("x", {3, H, hd}, counting(3 * H * hd));
  w.put("y", {T, D}, counting(T * D));
  const golden::bundle one = w.converted(
      R"({"match":"x","to":"layers.0.attn.q_norm","optional":true},{"match":"y","to":"layers.0.attn_norm"})");
  CHECK(one.tensors().size() == 1);
}

TEST_CASE("convert: names, as hostile as they come, are keys only") {
  workbench w;
  for (const std::string name : {"../../etc/passwd", "/abs", "prefill/../x", "decode99999999999999999999/x",
                                 "x#99999999999999999999", "a\nb", "#", "/"})
    w.put(name, {1}, counting(1));
  w.put("y", {T, D}, counting(T * D));
  const auto m = w.matched(R"({"match":"y","to":"layers.0.attn_norm"})");
  CHECK(m.unmapped.size() == 8);
  CHECK(m.values == 1);
  CHECK(std::find(m.sites_missing.begin(), m.sites_missing.end(), "layers.0.attn.qr") !=
        m.sites_missing.end());
  CHECK(std::find(m.sites_missing.begin(), m.sites_missing.end(), "layers.0.attn_norm") ==
        m.sites_missing.end());
}

TEST_CASE("convert: the goldens of the released code and of transformers become bundles") {
  for (const auto& [folder, taps, map] :
       {std::tuple{"official/flash-mini", "taps.safetensors.zst", "dsv4"},
        std::tuple{"transformers/seed0", "taps.safetensors.zst", "transformers"}}) {
    const auto from = ::golden(folder);
    if (!from || !std::filesystem::exists(*from / taps)) continue;
    INFO(folder);
    const temporary_directory dir;
    const config c = io::read_config(*from);
    golden::dump source = golden::dump::open(*from / taps);
    const auto ids = golden::ids_of(source, c);
    const auto m =
        golden::match(std::move(source),
                      golden::name_map::find(map, {std::filesystem::path(DSV4_SOURCE_DIR) / "docs/maps"}), c);
    CHECK(m.unmapped.empty());
    golden::manifest about;
    about.name = "golden", about.created_by = {{"program", "unit test"}};
    CHECK(golden::convert(m, ids, dir / "b", about).empty());
    const auto r = golden::check(dir / "b");
    for (const auto& p : r.problems) INFO(p.what);
    CHECK(r.exit_code() == 0);
    CHECK(r.tensors > 100);
  }
}

TEST_CASE("convert: indices of any integer type; codes that are no values are refused") {
  const std::string rules =
      R"({"match":"i","to":"layers.1.ffn.gate.indices"},{"match":"y","to":"layers.0.ffn_norm"})";
  for (const dtype type :
       {dtype::u8, dtype::u16, dtype::u32, dtype::u64, dtype::i8, dtype::i16, dtype::i32, dtype::i64}) {
    CAPTURE(name_of(type));
    workbench w;
    const auto each = static_cast<std::size_t>(bits_of(type) / 8);
    std::vector<std::byte> ids(T * 2 * each);
    for (dsv4::index_t i = 0; i < T * 2; ++i)  // little-endian: the first byte is the lowest
      ids[static_cast<std::size_t>(i) * each] = static_cast<std::byte>(i % 8);
    w.file.add("i", type, {T, 2}, ids);
    w.put("y", {T, D}, counting(T * D));
    const auto b = w.converted(rules);
    const auto* e = b.find(0, 0, "layers.1.ffn.gate.indices");
    REQUIRE(e);
    CHECK(e->carrier == dtype::i32);
    const auto values = b.read(*e).values();
    for (dsv4::index_t i = 0; i < T * 2; ++i) CHECK(values[static_cast<std::size_t>(i)] == double(i % 8));
  }
  for (const dtype type : {dtype::f8_e4m3, dtype::f8_e5m2, dtype::c64, dtype::f8_e8m0}) {
    workbench w;
    w.file.add("y", type, {T, D},
               std::vector<std::byte>(static_cast<std::size_t>(T * D * bits_of(type) / 8)));
    CHECK_THAT(message<unsupported>([&] { w.converted(rules); }),
               ContainsSubstring("found " + std::string(name_of(type))) && ContainsSubstring("no values"));
  }
}

TEST_CASE("convert: input_ids of any integer type") {
  workbench w;
  io::safetensors_writer other;
  std::vector<std::byte> ids(T * 4);
  for (std::size_t i = 0; i < T; ++i) ids[4 * i] = static_cast<std::byte>(3 * i);
  other.add("input_ids", dtype::u32, {1, T}, ids);
  other.write(w.dir / "ids.safetensors");
  const auto read = golden::ids_of(golden::dump::open(w.dir / "ids.safetensors"), w.c);
  REQUIRE(read.size() == 1);
  CHECK(read[0] == counting<std::int32_t>(T, [](dsv4::index_t i) { return 3.0 * double(i); }));
}

}  // namespace dsv4_test
