// SPDX-License-Identifier: MIT
// Engram against TileKernels, nemo_automodel, transformers and the paper's demonstration (golden/engram): integers equal, stored
// BF16 values equal, gradients as close as evaluation in double allows.
#include <cstdio>
#include <fstream>
#include <set>

#include <nlohmann/json.hpp>

#include "dsv4/engram/engram.hpp"
#include "dsv4/engram/hash.hpp"
#include "dsv4/engram/short_convolution.hpp"
#include "dsv4/engram/vocabulary.hpp"
#include "dsv4/num/round.hpp"
#include "dsv4/text/unicode.hpp"
#include "golden_file.hpp"

namespace dsv4_test::conformance_engram {
namespace {

using namespace dsv4;
using namespace dsv4::engram;
using dsv4::index_t;

/// 1 - 2 <x,y> / (<x,x> + <y,y>): what TileKernels judges by, here far below its 1e-8.
constexpr double calc_tolerance = 1e-10;
/// Of values that the oracle computed in float32, relative to the largest.
constexpr double float_tolerance = 2e-5;
/// Of values in double.
constexpr double double_tolerance = 1e-12;

std::filesystem::path file(const std::string& name) {
  const auto found = golden("engram/" + name);
  REQUIRE(found);  // the project has it: reference_tests/data
  return *found;
}

/// Names up to the last or first point, each once.
std::set<std::string> prefixes(const golden_file& f, bool last) {
  std::set<std::string> all;
  for (const std::string& name : f.names())
    all.insert(name.substr(0, last ? name.rfind('.') : name.find('.')));
  return all;
}

template <class A, class B>
double calc_diff(const A& x, const B& y) {
  REQUIRE(x.size() == y.size());
  double xy = 0, both = 0;
  for (index_t i = 0; i < static_cast<index_t>(x.size()); ++i) {
    const double a = x.data()[i], b = y.data()[i];
    xy += a * b, both += a * a + b * b;
  }
  return both == 0 ? 0 : 1 - 2 * xy / both;
}
template <class A, class B>
double relative(const A& found, const B& expected) {
  const double largest = magnitude(expected);
  return distance(found, expected) / (largest > 0 ? largest : 1);
}
template <class A>
A as_bf16(A x) {
  for (index_t i = 0; i < x.size(); ++i) x.data()[i] = rounded<bf16>(x.data()[i]);
  return x;
}

// ---- vocabulary ----
std::u32string points(std::string_view s) {
  std::u32string out;
  for (std::size_t at = 0; at < s.size(); at += static_cast<std::size_t>(text::step_at(s, at).length)) {
    REQUIRE(text::step_at(s, at).valid);
    out += text::code_point_at(s, at);
  }
  return out;
}
nlohmann::json read_json(const std::string& name) {
  std::ifstream in(file(name));
  return nlohmann::json::parse(in);
}

TEST_CASE("engram: the normaliser, string by string and character by character") {
  const auto j = read_json("normalize.json");
  index_t strings = 0;
  for (const auto& s : j.at("strings")) {
    const std::string in = s.at(0);
    INFO(in);
    CHECK(normalised(points(in)) == points(s.at(1).get<std::string>()));
    ++strings;
  }
  const auto each = [](const nlohmann::json& ranges, auto&& f) {
    for (const auto& r : ranges)
      for (char32_t c = r.at(0); c <= r.at(1).get<char32_t>(); ++c) f(c);
  };
  index_t marks = 0;
  each(j.at("removed_by_strip_accents"), [&](char32_t c) {
    if (!normalised(std::u32string(1, c)).empty())
      FAIL_CHECK("mark " << static_cast<unsigned>(c) << " stays");
    ++marks;
  });
  std::set<char32_t> stripped;
  each(j.at("removed_by_strip"), [&](char32_t c) { stripped.insert(c); });

  // Every character there is: those of the table, and that all others stay.
  std::unordered_map<char32_t, std::u32string> table;
  std::ifstream tsv(file("normalize.tsv"));
  for (std::string line; std::getline(tsv, line);) {
    const std::size_t tab = line.find('\t');
    REQUIRE(tab != line.npos);
    std::u32string& to = table[static_cast<char32_t>(std::stoul(line.substr(0, tab), nullptr, 16))];
    for (std::size_t at = tab + 1; at < line.size();) {
      std::size_t used = 0;
      to += static_cast<char32_t>(std::stoul(line.substr(at), &used, 16));
      at += used;
    }
  }
  index_t wrong = 0;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (0xD800 <= c && c < 0xE000) continue;
    CHECK_NOTHROW(is_stripped(c));
    wrong += is_stripped(c) != (stripped.count(c) > 0);
    if (0xAC00 <= c && c <= 0xD7A3) continue;
    const auto at = table.find(c);
    wrong += normalised(std::u32string(1, c)) != (at == table.end() ? std::u32string(1, c) : at->second);
  }
  CHECK(wrong == 0);
  std::printf("normaliser: %lld strings, %lld marks, %zu characters that change\n",
              static_cast<long long>(strings), static_cast<long long>(marks), table.size());
  CHECK((strings > 0 && marks > 0 && !table.empty()));
}

TEST_CASE("engram: compressed ids of a vocabulary") {
  const auto j = read_json("compress.json");
  compressed_vocabulary v;
  for (const auto& t : j.at("tokens")) {
    INFO(t.dump());
    CHECK(t.at("id") == v.map().size());
    CHECK(v.add(points(t.at("raw").get<std::string>()), points(t.at("text").get<std::string>())) ==
          t.at("compressed").get<std::int32_t>());
  }
  CHECK(v.size() == j.at("compressed_vocabulary_size"));
  v.check(v.size());
  CHECK_THROWS_AS(v.check(v.size() + 1), format_error);
}

// ---- hash ----
TEST_CASE("engram: rows of given windows, TileKernels") {
  const golden_file f(file("hash_tilekernels.safetensors"));
  for (const std::string& p : prefixes(f, false)) {
    INFO(p);
    const auto windows = f.tensor<2, std::int32_t>(p + ".ngram_token_ids");
    const index_t layers = f.extent(p + ".vocab_sizes", 0), heads = f.extent(p + ".vocab_sizes", 2),
                  columns = f.extent(p + ".offsets", 1);
    hash_tables t;
    t.multipliers = f.tensor<2, index_t>(p + ".multipliers");
    t.primes = tensor<index_t, 2>(layers, columns);
    t.heads = heads;
    const auto sizes = f.tensor<3, index_t>(p + ".vocab_sizes");
    std::copy_n(sizes.data(), sizes.size(), t.primes.data());
    t.lay_out();
    CHECK(distance(t.offsets, f.tensor<2, index_t>(p + ".offsets")) == 0);
    const auto expected = f.tensor<3, index_t>(p + ".rows");
    tensor<index_t, 3> found(layers, windows.extent(0), columns);
    for (index_t l = 0; l < layers; ++l)
      for (index_t n = 0; n < windows.extent(0); ++n) t.row_numbers(l, windows[n], found[l][n]);
    CHECK(distance(found, expected) == 0);
  }
}

/// A configuration of hash_sequences.
struct hashed {
  const golden_file& f;
  std::string p;
  hash_tables t;
  std::int32_t pad = f.at<std::int32_t>(p + ".pad_compressed", 0);

  hashed(const golden_file& file, const std::string& prefix) : f(file), p(prefix) {
    hash_settings s;
    s.layers = f.list<index_t>(p + ".layers");
    s.heads = f.extent(p + ".primes", 2);
    // Every order begins at the base size itself: the first prime of all is the first from there.
    const auto primes = f.list<index_t>(p + ".primes");
    const index_t v41_base = 16'000'000;
    s.base_sizes.assign(std::size_t(f.extent(p + ".primes", 1)),
                        p == "v41" ? v41_base : *std::min_element(primes.begin(), primes.end()));
    s.compressed_vocabulary = p == "v41" ? 99092 : 1;
    if (p != "v41")
      for (const index_t id : f.list<index_t>(p + ".token_map"))
        s.compressed_vocabulary = std::max(s.compressed_vocabulary, id + 1);
    t = hash_tables::of(s);
  }
  std::int32_t compressed(index_t id) const {
    return p == "v41" ? static_cast<std::int32_t>(id) : f.at<std::int32_t>(p + ".token_map", id);
  }
  /// Rows [t,l,c] of the tokens from `from` on.
  tensor<index_t, 3> rows(const ngram_history& h, index_t from) const {
    tensor<index_t, 3> out(h.size() - from, t.layers(), t.columns());
    tensor<std::int32_t, 1> x(t.orders());
    for (index_t i = from; i < h.size(); ++i) {
      h.window(i, x);
      for (index_t l = 0; l < t.layers(); ++l) t.row_numbers(l, x, out[i - from][l]);
    }
    return out;
  }
  /// Against `.<name>rows` of sequence b.
  void compare(const tensor<index_t, 3>& found, const std::string& name, index_t b) const {
    INFO(p << "." << name << " sequence " << b);
    index_t wrong = 0;
    for (index_t i = 0; i < found.size(); ++i)
      wrong += found.data()[i] != f.at<index_t>(p + "." + name, b * found.size() + i);
    CHECK(wrong == 0);
  }
};

TEST_CASE("engram: primes, multipliers and rows of whole sequences") {
  const golden_file f(file("hash_sequences.safetensors"));
  for (const std::string& p : prefixes(f, false)) {
    INFO(p);
    const hashed h(f, p);
    const auto equal = [&](const auto& found, const char* name) {
      const auto expected = f.list<index_t>(p + name);
      CHECK(std::equal(expected.begin(), expected.end(), found.data(), found.data() + found.size()));
    };
    equal(h.t.primes, ".primes"), equal(h.t.multipliers, ".multipliers"), equal(h.t.offsets, ".offsets");
    equal(h.t.rows, ".rows_per_layer");

    const auto ids = f.tensor<2, index_t>(p + ".ids"), again = f.tensor<2, index_t>(p + ".rollback.ids"),
               extreme = f.tensor<2, index_t>(p + ".extreme.ids"),
               segments = f.tensor<2, index_t>(p + ".packed.segments");
    const auto alive = f.tensor<2, std::uint8_t>(p + ".dead.mask");
    for (index_t b = 0; b < ids.extent(0); ++b) {
      for (const bool dead : {false, true})
        for (const bool packed : {false, true}) {
          ngram_history s(h.t.orders(), h.pad);
          for (index_t i = 0; i < ids.extent(1); ++i) {
            if (packed && i > 0 && segments(b, i) != segments(b, i - 1)) s.begin_segment();
            s.push(h.compressed(ids(b, i)), (!dead || alive(b, i)) && (!packed || segments(b, i) != 0));
          }
          h.compare(h.rows(s, 0),
                    dead     ? packed ? "packed_dead.rows" : "dead.rows"
                    : packed ? "packed.rows"
                             : "rows",
                    b);
        }
      // Nine tokens, then others from the seventh on.
      constexpr index_t written = 9, kept = 6;
      ngram_history s(h.t.orders(), h.pad);
      for (index_t i = 0; i < written; ++i) s.push(h.compressed(ids(b, i)));
      s.rewind(kept);
      for (index_t i = 0; i < again.extent(1); ++i) s.push(h.compressed(again(b, i)));
      h.compare(h.rows(s, kept), "rollback.rows", b);
    }
    ngram_history s(h.t.orders(), h.pad);
    for (index_t i = 0; i < extreme.size(); ++i) s.push(h.compressed(extreme.data()[i]));
    h.compare(h.rows(s, 0), "extreme.rows", 0);
  }
}

// ---- gate ----
TEST_CASE("engram: the gate, TileKernels: stored values equal, gradients") {
  const golden_file f(file("gate_tilekernels.safetensors"));
  double worst = 0, worst_gate = 0;
  index_t stored = 0;
  for (const std::string& p : prefixes(f, true)) {
    INFO(p);
    const double eps = std::stod(p.substr(p.find("eps") + 3));
    const auto h = f.tensor<3>(p + ".hidden"), key = f.tensor<3>(p + ".key"),
               dout = f.tensor<3>(p + ".grad_out");
    const auto value = f.tensor<2>(p + ".value"), wh = f.tensor<2>(p + ".weight_hidden"),
               we = f.tensor<2>(p + ".weight_embed");
    const index_t tokens = h.extent(0), streams = h.extent(1), width = h.extent(2);
    tensor<double, 2> w = wh;
    for (index_t i = 0; i < w.size(); ++i) w.data()[i] *= we.data()[i];
    CHECK(distance(w, f.tensor<2>(p + ".fused_weight")) == 0);

    tensor<double, 3> out(tokens, streams, width), dh(out), dkey(out);
    tensor<double, 2> gate(tokens, streams), dot(gate), rh(gate), rk(gate), dvalue(tokens, width),
        dw(streams, width), dwe(dw);
    for (index_t t = 0; t < tokens; ++t) {
      gate_forward<double>(h[t], key[t], value[t], w, eps, root_sign::zero, false, out[t]);
      gate_backward<double>(dout[t], h[t], key[t], value[t], w, eps, root_sign::zero, false, dh[t], dkey[t],
                            dvalue[t], dw);
      for (index_t s = 0; s < streams; ++s) {
        const auto g = gate_of<double>(h[t][s], key[t][s], w[s], eps, root_sign::zero);
        gate(t, s) = g.gate, dot(t, s) = g.product, rh(t, s) = g.hidden_factor, rk(t, s) = g.key_factor;
      }
    }
    worst_gate = std::max(worst_gate, distance(gate, f.tensor<2>(p + ".gate")));
    CHECK(distance(as_bf16(out), f.tensor<3>(p + ".out")) == 0);
    stored += out.size();
    dwe = dw;
    for (index_t i = 0; i < dw.size(); ++i) dwe.data()[i] *= wh.data()[i], dw.data()[i] *= we.data()[i];
    const double differences[] = {calc_diff(dot, f.tensor<2>(p + ".raw_dot")),
                                  calc_diff(rh, f.tensor<2>(p + ".rstd_hidden")),
                                  calc_diff(rk, f.tensor<2>(p + ".rstd_key")),
                                  calc_diff(as_bf16(dh), f.tensor<3>(p + ".grad_hidden")),
                                  calc_diff(as_bf16(dkey), f.tensor<3>(p + ".grad_key")),
                                  calc_diff(as_bf16(dvalue), f.tensor<2>(p + ".grad_value")),
                                  calc_diff(dw, f.tensor<2>(p + ".grad_weight_hidden")),
                                  calc_diff(dwe, f.tensor<2>(p + ".grad_weight_embed"))};
    for (const double d : differences) {
      CHECK(d <= calc_tolerance);
      worst = std::max(worst, d);
    }
  }
  CHECK(worst_gate <= 1e-6);  // computed in float32 there
  std::printf("gate: %lld BF16 values equal; gates within %.1e; calc_diff of gradients %.1e\n",
              static_cast<long long>(stored), worst_gate, worst);
}

// ---- the module of V4.1 ----
TEST_CASE("engram: the module of V4.1, its gradients, FP8 rows and BF16") {
  const golden_file f(file("module_v41.safetensors"));
  for (const std::string& p : prefixes(f, false)) {
    INFO(p);
    const auto name = [&](const char* what) { return p + "." + what; };
    const auto table = f.tensor<2>(name("table")), wkv = f.tensor<2>(name("wkv")),
               q = f.tensor<2>(name("q_weight")), k = f.tensor<2>(name("k_weight"));
    const auto rows = f.tensor<2, index_t>(name("rows"));  // [t,c]
    const index_t tokens = rows.extent(0), streams = q.extent(0), width = q.extent(1),
                  channels = wkv.extent(1);
    const auto sequences = [&](const std::string& what) {  // [t,s,d]
      const auto all = f.list(what);
      tensor<double, 3> x(tokens, streams, width);
      REQUIRE(static_cast<index_t>(all.size()) == x.size());
      std::copy(all.begin(), all.end(), x.data());
      return x;
    };
    const auto h = sequences(name("hidden")), dout = sequences(name("grad_out"));
    const double eps = f.scalar(name("eps"));
    tensor<double, 2> e(tokens, channels);
    for (index_t t = 0; t < tokens; ++t) read_rows<double>(plain_table<double>{table}, rows[t], e[t]);

    for (const std::string& prefix : {p + ".", p + ".masked."}) {
      INFO(prefix);
      tensor<std::uint8_t, 1> closed(tokens);
      if (prefix != p + ".")
        for (index_t t = 0; t < tokens; ++t) closed[t] = f.at<int>(name("token_mask"), t) == 0;
      const engram_weights<const double> w{wkv, q, k};
      tensor<double, 2> kv(tokens, wkv.extent(0)), de(tokens, channels), dwkv(wkv.extent(0), channels),
          dq(streams, width), dk(streams, width), dtable(table.extent(0), table.extent(1));
      tensor<double, 3> out(tokens, streams, width), dh(out);
      engram_forward<double>(h, e, w, eps, closed, [](double x) { return x; }, kv, out);
      engram_backward<double>(dout, h, e, w, eps, closed, kv, dh, de, {dwkv, dq, dk});
      for (index_t t = 0; t < tokens; ++t) add_to_rows<double>(de[t], rows[t], dtable);
      CHECK(relative(out, sequences(prefix + "out")) <= float_tolerance);
      CHECK(relative(dh, sequences(prefix + "grad_hidden")) <= float_tolerance);
      CHECK(relative(dtable, f.tensor<2>(prefix + "grad_table")) <= float_tolerance);
      CHECK(relative(dwkv, f.tensor<2>(prefix + "grad_wkv")) <= float_tolerance);
      CHECK(relative(dq, f.tensor<2>(prefix + "grad_q_weight")) <= float_tolerance);
      CHECK(relative(dk, f.tensor<2>(prefix + "grad_k_weight")) <= float_tolerance);
    }

    // Published rows decode exactly.
    const auto code_bits = f.tensor<2, std::uint8_t>(name("fp8.codes")),
               scale_bits = f.tensor<2, std::uint8_t>(name("fp8.scale_codes"));
    tensor<e4m3, 2> codes(code_bits.extent(0), code_bits.extent(1));
    tensor<e8m0, 2> scales(scale_bits.extent(0), scale_bits.extent(1));
    for (index_t i = 0; i < codes.size(); ++i) codes.data()[i] = e4m3::from_bits(code_bits.data()[i]);
    for (index_t i = 0; i < scales.size(); ++i) scales.data()[i] = e8m0::from_bits(scale_bits.data()[i]);
    const fp8_table published{codes, scales};
    published.check();
    tensor<float, 2> decoded(tokens, channels);
    for (index_t t = 0; t < tokens; ++t) read_rows<float>(published, rows[t], decoded[t]);
    const auto values = f.list(name("fp8.values"));
    CHECK(std::equal(values.begin(), values.end(), decoded.data(), decoded.data() + decoded.size()));

    // In BF16: stored rows, weights, keys and values; the gate is wide, its output rounded once.
    const auto h16 = as_bf16(h);
    const auto e16 = as_bf16(e), wkv16 = as_bf16(wkv), q16 = as_bf16(q), k16 = as_bf16(k);
    tensor<double, 2> kv(tokens, wkv.extent(0));
    tensor<double, 3> out(tokens, streams, width);
    engram_forward<double>(
        h16, e16, {wkv16, q16, k16}, eps, {}, [](double x) { return rounded<bf16>(x); }, kv, out);
    const auto expected = sequences(name("bf16.out"));
    out = as_bf16(out);
    index_t different = 0;
    for (index_t i = 0; i < out.size(); ++i) different += out.data()[i] != expected.data()[i];
    std::printf("module %s: %lld of %lld BF16 outputs differ by a rounding, calc_diff %.1e\n", p.c_str(),
                static_cast<long long>(different), static_cast<long long>(out.size()),
                calc_diff(out, expected));
    CHECK(calc_diff(out, expected) <= 1e-6);
  }
}

// ---- the paper's variant ----
TEST_CASE("engram: the paper's variant with its short convolution") {
  const golden_file f(file("paper_variant.safetensors"));
  hash_settings s;
  s.layers = f.list<index_t>("layers");
  s.base_sizes = f.list<index_t>("base");
  s.heads = f.at<index_t>("heads", 0);
  s.seed = f.at<std::uint64_t>("seed", 0);
  for (const index_t id : f.list<index_t>("lookup"))
    s.compressed_vocabulary = std::max(s.compressed_vocabulary, id + 1);
  const hash_tables tables = hash_tables::of(s);
  CHECK(tables.orders() == f.at<index_t>("max_ngram", 0));
  const auto compressed = [&](index_t raw) { return f.at<std::int32_t>("lookup", raw); };
  const auto ids = f.tensor<2, index_t>("ids");
  const index_t length = ids.extent(1);
  double worst = 0;
  for (index_t l = 0; l < tables.layers(); ++l) {
    const std::string p = "layer" + std::to_string(s.layers[std::size_t(l)]) + ".";
    INFO(p);
    const auto primes = f.list<index_t>(p + "primes"), multipliers = f.list<index_t>(p + "multipliers");
    CHECK(std::equal(primes.begin(), primes.end(), tables.primes[l].begin(), tables.primes[l].end()));
    CHECK(std::equal(multipliers.begin(), multipliers.end(), tables.multipliers[l].begin(),
                     tables.multipliers[l].end()));

    const std::string wp = p + "weight.", gp = p + "grad.";
    index_t streams = 0;
    while (f.has(wp + "key_projs." + std::to_string(streams) + ".weight")) ++streams;
    /// `part`0, `part`1, ... of all streams, one below another.
    const auto stacked = [&](const std::string& begin, const std::string& end) {
      std::vector<double> all;
      for (index_t i = 0; i < streams; ++i) {
        const auto one = f.list(begin + std::to_string(i) + end);
        all.insert(all.end(), one.begin(), one.end());
      }
      return all;
    };
    const auto filled = [&](auto x, const std::vector<double>& from) {
      REQUIRE(static_cast<index_t>(from.size()) == x.size());
      std::copy(from.begin(), from.end(), x.data());
      return x;
    };
    const auto table = f.tensor<2>(wp + "multi_head_embedding.embedding.weight");
    const index_t width = f.extent(wp + "value_proj.weight", 0),
                  channels = f.extent(wp + "value_proj.weight", 1),
                  taps = f.extent(wp + "short_conv.conv.weight", 2), all = streams * width;
    // Weights or gradients, by prefix.
    struct parts {
      tensor<double, 2> key, value, key_norm, query_norm, conv_norm, taps;
      tensor<double, 1> key_bias, value_bias;
    };
    const auto read = [&](const std::string& from) {
      using two = tensor<double, 2>;
      using one = tensor<double, 1>;
      return parts{filled(two(all, channels), stacked(from + "key_projs.", ".weight")),
                   filled(two(width, channels), f.list(from + "value_proj.weight")),
                   filled(two(streams, width), stacked(from + "norm1.", ".weight")),
                   filled(two(streams, width), stacked(from + "norm2.", ".weight")),
                   filled(two(streams, width), stacked(from + "short_conv.norms.", ".weight")),
                   filled(two(all, taps), f.list(from + "short_conv.conv.weight")),
                   filled(one(all), stacked(from + "key_projs.", ".bias")),
                   filled(one(width), f.list(from + "value_proj.bias"))};
    };
    const parts w = read(wp), expected = read(gp);
    parts g = read(wp);
    for (tensor<double, 2>* x : {&g.key, &g.value, &g.key_norm, &g.query_norm, &g.conv_norm, &g.taps})
      std::fill_n(x->data(), x->size(), 0.0);
    for (tensor<double, 1>* x : {&g.key_bias, &g.value_bias}) std::fill_n(x->data(), x->size(), 0.0);
    const convolved_weights<const double> weights{w.key,      w.key_bias,   w.value,     w.value_bias,
                                                  w.key_norm, w.query_norm, w.conv_norm, w.taps};
    const convolved_weights<double> gradients{g.key,      g.key_bias,   g.value,     g.value_bias,
                                              g.key_norm, g.query_norm, g.conv_norm, g.taps};
    const auto hidden = f.tensor<3>(p + "hidden"), dout = f.tensor<3>(p + "grad_out"),
               out = f.tensor<3>(p + "out"), dhidden = f.tensor<3>(p + "grad_hidden");  // [b t, s, d]
    tensor<double, 2> dtable(table.extent(0), table.extent(1));
    for (index_t b = 0; b < ids.extent(0); ++b) {
      ngram_history history(tables.orders(), compressed(f.at<index_t>("pad_raw", 0)));
      for (index_t t = 0; t < length; ++t) history.push(compressed(ids(b, t)));
      tensor<index_t, 2> rows(length, tables.columns());
      tensor<std::int32_t, 1> x(tables.orders());
      tensor<double, 2> e(length, channels), de(length, channels);
      for (index_t t = 0; t < length; ++t) {
        history.window(t, x);
        tables.row_numbers(l, x, rows[t]);
        for (index_t c = 0; c < tables.columns(); ++c)
          CHECK(rows(t, c) - tables.offsets(l, c) ==
                f.at<index_t>(p + "hashes", (b * length + t) * tables.columns() + c));
        read_rows<double>(plain_table<double>{table}, rows[t], e[t]);
      }
      const auto one = [&](const tensor<double, 3>& of) {
        return of.all().rows(b * length, (b + 1) * length);
      };
      const convolution_shape shape{.dilation = tables.orders()};
      tensor<double, 3> found(length, streams, width), dh(length, streams, width);
      const auto state = convolved_forward<double>(one(hidden), e, weights, shape, found);
      convolved_backward<double>(one(dout), one(hidden), e, weights, shape, state, dh, de, gradients);
      for (index_t t = 0; t < length; ++t) add_to_rows<double>(de[t], rows[t], dtable);
      const double here = std::max(distance(found, one(out)), distance(dh, one(dhidden)));
      CHECK(here <= double_tolerance);
      worst = std::max(worst, here);
    }
    const double differences[] = {
        distance(g.key, expected.key),
        distance(g.value, expected.value),
        distance(g.key_norm, expected.key_norm),
        distance(g.query_norm, expected.query_norm),
        distance(g.conv_norm, expected.conv_norm),
        distance(g.taps, expected.taps),
        distance(g.key_bias, expected.key_bias),
        distance(g.value_bias, expected.value_bias),
        distance(dtable, f.tensor<2>(gp + "multi_head_embedding.embedding.weight"))};
    for (const double d : differences) {
      CHECK(d <= 1e-11);  // sums over all tokens
      worst = std::max(worst, d);
    }
  }
  std::printf("paper's variant: within %.1e\n", worst);
}

}  // namespace
}  // namespace dsv4_test::conformance_engram
