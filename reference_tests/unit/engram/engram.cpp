// SPDX-License-Identifier: MIT
// Engram by hand: numpy's generator, the worked example of V4.1, look-back, the gate against finite differences, big tables.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>

#include "../train/finite_difference.hpp"
#include "catch.hpp"
#include "dsv4/engram/engram.hpp"
#include "dsv4/engram/hash.hpp"
#include "dsv4/engram/short_convolution.hpp"
#include "dsv4/engram/vocabulary.hpp"
#include "operands.hpp"

namespace dsv4_test {
namespace {

using namespace dsv4::engram;

hash_settings v41() {
  return {.layers = {1, 14},
          .base_sizes = {16'000'000, 16'000'000, 16'000'000},
          .heads = 8,
          .compressed_vocabulary = 99'092};
}

TEST_CASE("engram: numpy's generator", "[engram]") {
  CHECK(numpy_generator(0).unit() == 0.6369616873214543);
  CHECK(numpy_generator(12345).unit() == 0.22733602246716966);
  CHECK(numpy_generator(42).unit() == 0.7739560485559633);
  CHECK_THROWS_AS(numpy_generator(1).below(100), contract_violation);
}

TEST_CASE("engram: the hash of V4.1, from its settings alone", "[engram]") {
  const hash_tables t = hash_tables::of(v41());
  CHECK(t.rows == std::vector<index_t>{384'006'168, 384'016'682});
  const index_t m[2][4] = {{76632096046245, 4839876093313, 35959672319349, 73987337458391},
                           {67716810739261, 51510806800915, 30921347202721, 82619226485591}};
  const index_t first[2][3] = {{16'000'057, 16'000'189, 16'000'339}, {16'000'477, 16'000'667, 16'000'781}};
  for (index_t l = 0; l < 2; ++l) {
    for (index_t k = 0; k < 4; ++k) CHECK(t.multipliers(l, k) == m[l][k]);
    for (index_t n = 0; n < 3; ++n) CHECK(t.primes(l, 8 * n) == first[l][n]);
  }
  CHECK((t.primes(0, 23) == 16'000'463 && t.primes(1, 23) == 16'000'889));
  // Compressed ids 10 20 30 40 50, the pad is 1; columns 0, 7, 8, 16 and 23 of the first and the last token.
  ngram_history h(4, 1);
  for (const std::int32_t id : {10, 20, 30, 40, 50}) h.push(id);
  const index_t columns[] = {0, 7, 8, 16, 23};
  const index_t expected[2][2][5] = {{{15063280, 125163340, 135932169, 266543394, 368044090},
                                      {5457301, 114358063, 130605657, 261515048, 377395685}},
                                     {{3457428, 115479720, 128794473, 270809050, 376582210},
                                      {12112771, 126606474, 142726201, 259419700, 380580960}}};
  tensor<std::int32_t, 1> x(4);
  tensor<index_t, 1> rows(24);
  for (index_t l = 0; l < 2; ++l)
    for (const index_t at : {0, 4}) {
      h.window(at, x);
      t.row_numbers(l, x, rows);
      for (index_t c = 0; c < 5; ++c) CHECK(rows[columns[c]] == expected[l][at / 4][c]);
      for (index_t c = 0; c < 24; ++c)
        CHECK((t.offsets(l, c) <= rows[c] && rows[c] < t.offsets(l, c) + t.primes(l, c)));
    }
  // Products of the largest id stay below 2^63: no remainder is negative.
  for (index_t l = 0; l < 2; ++l)
    for (index_t k = 0; k < 4; ++k)
      CHECK(t.multipliers(l, k) <= std::numeric_limits<index_t>::max() / 99'091);
  hash_settings bad = v41();
  bad.base_sizes.clear();
  CHECK_THROWS_AS(hash_tables::of(bad), contract_violation);
  bad = v41(), bad.compressed_vocabulary = 0;
  CHECK_THROWS_AS(hash_tables::of(bad), contract_violation);
}

std::vector<std::int32_t> window(const ngram_history& h, index_t t, index_t orders = 4) {
  tensor<std::int32_t, 1> x(orders);
  h.window(t, x);
  return {x.data(), x.data() + x.size()};
}

TEST_CASE("engram: looking back ends at starts, at dead tokens, at segments", "[engram]") {
  using ids = std::vector<std::int32_t>;
  ngram_history h(4, 0);
  h.push(5), h.push(6);
  CHECK(window(h, 0) == ids{5, 0, 0, 0});
  CHECK(window(h, 1) == ids{6, 5, 0, 0});
  h.push(9, false), h.push(7), h.push(8);
  CHECK(window(h, 2) == ids{0, 0, 0, 0});  // the dead one itself
  CHECK(window(h, 4) == ids{8, 7, 0, 0});  // latched: 6 and 5 behind it are not seen
  h.begin_segment(), h.push(3), h.push(4);
  CHECK(window(h, 6) == ids{4, 3, 0, 0});
  CHECK(window(h, 4) == ids{8, 7, 0, 0});
  // Taken back before the segment, what comes sees across; at its border it does not.
  ngram_history at = h;
  at.rewind(5), at.push(1);
  CHECK(window(at, 5) == ids{1, 0, 0, 0});
  h.rewind(4), h.push(2);
  CHECK(window(h, 4) == ids{2, 7, 0, 0});
  CHECK_THROWS_AS(h.rewind(6), contract_violation);
  CHECK_THROWS_AS(h.push(-1), contract_violation);
  CHECK_THROWS_AS(window(h, 5), contract_violation);
}

TEST_CASE("engram: normalised text", "[engram]") {
  CHECK(normalised(U"  \u00C4pfel \t\r\n und\n") == U"apfel und");
  CHECK(normalised(U" ") == U" ");
  CHECK(normalised(U" \n ") == U" ");
  CHECK(normalised(U"\v") == U"");
  CHECK(normalised(U"a\vb") == U"a\vb");
  CHECK(normalised(U"\u039F\u0394\u039F\u03A3") == U"\u03BF\u03B4\u03BF\u03C3");  // no final sigma
  CHECK(normalised(U"\uAC01") == U"\u1100\u1161\u11A8");
  compressed_vocabulary v;
  CHECK(v.add(U"\u0120the", U" the") == 0);
  CHECK(v.add(U"The", U"The") == 0);
  CHECK(v.add(U"\u00C3", U"\uFFFD") == 1);  // half a character: its spelling
  CHECK(v.add(U"\u0301", U"\u0301") == 2);  // normalised to nothing: itself
  CHECK(v.map() == std::vector<std::int32_t>{0, 0, 1, 2});
}

TEST_CASE("engram: gate, products that vanish, and the sign of zero", "[engram]") {
  const index_t d = 4;
  tensor<double, 2> h(1, d), key(1, d), w(1, d), out(1, d);
  tensor<double, 1> value(d);
  for (index_t i = 0; i < d; ++i) key(0, i) = w(0, i) = 1, value[i] = 1;
  const auto gate = [&](root_sign s) { return gate_of<double>(h[0], key[0], w[0], 1e-20, s).gate; };
  CHECK(gate(root_sign::zero) == 0.5);
  CHECK(gate(root_sign::copied) == 1 / (1 + std::exp(-1e-3)));
  // Closed: the streams as they are, and only the identity back.
  for (index_t i = 0; i < d; ++i) h(0, i) = i - 1.5;
  gate_forward<double>(h, key, value, w, 1e-6, root_sign::copied, true, out);
  CHECK(std::equal(h.data(), h.data() + d, out.data()));
  tensor<double, 2> dh(1, d), dkey(1, d), dw(1, d);
  tensor<double, 1> dvalue(d);
  gate_backward<double>(out, h, key, value, w, 1e-6, root_sign::copied, true, dh, dkey, dvalue, dw);
  CHECK(std::equal(out.data(), out.data() + d, dh.data()));
  CHECK(std::all_of(dkey.data(), dkey.data() + d, [](double x) { return x == 0; }));
}

TEST_CASE("engram: gradients of the module against finite differences", "[engram]") {
  integers r{21};
  constexpr index_t t = 3, s = 2, d = 4, i = 6;
  variable<3> h{r, 1, t, s, d};
  variable<2> e{r, 1, t, i}, wkv{r, 1, (s + 1) * d, i}, q{r, 1, s, d}, k{r, 1, s, d};
  const auto dout = numbers(r, 1, t, s, d);
  tensor<double, 2> kv(t, (s + 1) * d);
  const auto same = [](double x) { return x; };
  const auto loss = [&] {
    tensor<double, 3> out(t, s, d);
    engram_forward<double>(h.constant(), e.constant(), {wkv.constant(), q.constant(), k.constant()}, 1e-6, {},
                           same, kv, out);
    return inner(out, dout);
  };
  loss();
  engram_backward<double>(dout, h.constant(), e.constant(), {wkv.constant(), q.constant(), k.constant()},
                          1e-6, {}, kv, h.gradient, e.gradient, {wkv.gradient, q.gradient, k.gradient});
  h.check("h", loss), e.check("e", loss), wkv.check("wkv", loss), q.check("q", loss), k.check("k", loss);
}

TEST_CASE("engram: gradients with the short convolution against finite differences", "[engram]") {
  integers r{22};
  constexpr index_t t = 9, s = 2, d = 3, i = 4, taps = 3;
  variable<3> h{r, 1, t, s, d};
  variable<2> e{r, 1, t, i}, key{r, 1, s * d, i}, value{r, 1, d, i}, kn{r, 1, s, d}, qn{r, 1, s, d},
      cn{r, 1, s, d}, conv{r, 1, s * d, taps};
  variable<1> kb{r, 1, s * d}, vb{r, 1, d};
  const auto dout = numbers(r, 1, t, s, d);
  const convolution_shape shape{.dilation = 2, .gate_eps = 1e-6};
  const auto forward = [&](tensor<double, 3>& out) {
    return convolved_forward<double>(h.constant(), e.constant(),
                                     {key.constant(), kb.constant(), value.constant(), vb.constant(),
                                      kn.constant(), qn.constant(), cn.constant(), conv.constant()},
                                     shape, out);
  };
  tensor<double, 3> out(t, s, d);
  const auto loss = [&] { return forward(out), inner(out, dout); };
  const auto state = forward(out);
  convolved_backward<double>(dout, h.constant(), e.constant(),
                             {key.constant(), kb.constant(), value.constant(), vb.constant(), kn.constant(),
                              qn.constant(), cn.constant(), conv.constant()},
                             shape, state, h.gradient, e.gradient,
                             {key.gradient, kb.gradient, value.gradient, vb.gradient, kn.gradient,
                              qn.gradient, cn.gradient, conv.gradient});
  // What passes the gate is pinned by the golden to 1e-12; its root bends too much near 0 for differences at any point.
  value.check("value", loss), vb.check("value bias", loss), cn.check("conv norm", loss),
      conv.check("taps", loss);
  // Causal: later tokens change nothing before them.
  forward(out);
  const tensor<double, 3> before_change = out;
  h.value(t - 1, 0, 0) += 1, e.value(t - 1, 0) += 1;
  forward(out);
  CHECK(std::equal(out.data(), out.data() + (t - 1) * s * d, before_change.data()));
}

TEST_CASE("engram: a table of 100 GB is a view of a file", "[engram]") {
  // Sparse: what is not written reads as zeros and takes no room.
  constexpr index_t rows = 384'006'168, width = 256, blocks = width / scaled_channels;
  const auto path = std::filesystem::temp_directory_path() / ("dsv4-engram-" + std::to_string(getpid()));
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
  REQUIRE(file >= 0);
  std::filesystem::remove(path);  // gone with the descriptor
  constexpr index_t bytes = rows * (width + blocks);
  if (ftruncate(file, bytes) != 0) {
    ::close(file);
    SKIP("the file system holds no sparse file of 101 GB");
  }
  void* memory =
      mmap(nullptr, std::size_t(bytes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
  ::close(file);
  REQUIRE(memory != MAP_FAILED);
  auto* base = static_cast<std::uint8_t*>(memory);
  const index_t last = rows - 1;
  for (index_t i = 0; i < width; ++i) base[last * width + i] = static_cast<std::uint8_t>(i % 120);
  for (index_t b = 0; b < blocks; ++b)
    base[rows * width + last * blocks + b] = static_cast<std::uint8_t>(120 + b);
  const fp8_table t{{reinterpret_cast<const e4m3*>(base), rows, width},
                    {reinterpret_cast<const e8m0*>(base + rows * width), rows, blocks}};
  t.check();
  tensor<float, 1> row(width);
  t.read<float>(last, row);
  for (index_t i = 0; i < width; ++i)
    CHECK(row[i] ==
          float(e4m3::from_bits(unsigned(i % 120)).decode() * std::ldexp(1.0, int(120 + i / 32) - 127)));
  t.read<float>(last - 1, row);
  CHECK(std::all_of(row.data(), row.data() + width, [](float x) { return x == 0; }));
  CHECK_THROWS_AS(t.read<float>(rows, row), contract_violation);
  munmap(memory, std::size_t(bytes));
  const fp8_table wrong{{t.codes.data(), 8, 250}, {t.scales.data(), 8, 7}};
  CHECK_THROWS_AS(wrong.check(), contract_violation);
}

}  // namespace
}  // namespace dsv4_test
