// SPDX-License-Identifier: MIT
// Products of exec::cpu against exec::ref: every weight format, odd sizes, every batch size, 1 and 2 threads.
#include <dsv4/cpu/op/linear.hpp>

#include <random>
#include <string>
#include <vector>

#include "catch.hpp"

namespace dsv4 {
namespace {

/// A weight matrix with its memory.
struct stored {
  weight_matrix w;
  std::vector<std::byte> data, scale;
};

stored make_weights(std::mt19937& random, dtype type, index_t rows, index_t cols, bool f32_scale = false,
                    index_t tile_rows = 0, index_t tile_cols = 0) {
  stored s;
  s.w.type = type;
  s.w.rows = rows;
  s.w.cols = cols;
  std::normal_distribution<double> normal(0, 1);
  const auto put = [](std::byte* at, auto v) { std::memcpy(at, &v, sizeof v); };
  s.data.resize(static_cast<std::size_t>(rows * s.w.row_bytes()));
  for (index_t i = 0; i < rows * cols; ++i) {
    std::byte* at = s.data.data() + i * bits_of(type) / 8;
    const double v = normal(random);
    switch (type) {
      case dtype::f64: put(at, v); break;
      case dtype::f32: put(at, static_cast<float>(v)); break;
      case dtype::f16: put(at, f16::encode(v)); break;
      case dtype::bf16: put(at, bf16::encode(v)); break;
      case dtype::f8_e4m3:
        put(at, e4m3::encode(v * (random() % 8 ? 100 : 0.01)));
        break;  // some subnormal codes
      default:  // e2m1: any code
        if (i % 2 == 0) put(at, static_cast<std::uint8_t>(random() & 255));
    }
  }
  s.w.data = s.data.data();
  if (s.w.quantised()) {
    s.w.tile_rows = tile_rows ? tile_rows : type == dtype::f8_e4m3 ? fp8_tile : 1;
    s.w.tile_cols = tile_cols ? tile_cols : type == dtype::f8_e4m3 ? fp8_tile : fp4_tile_cols;
    s.w.scale_type = f32_scale ? dtype::f32 : dtype::f8_e8m0;
    const index_t count = cpu::ceil_div(rows, s.w.tile_rows) * s.w.scale_cols();
    s.scale.resize(static_cast<std::size_t>(count * (f32_scale ? 4 : 1)));
    for (index_t i = 0; i < count; ++i)
      if (f32_scale)
        put(s.scale.data() + 4 * i, static_cast<float>(std::exp(normal(random)) * 0.01));
      else
        put(s.scale.data() + i, static_cast<std::uint8_t>(118 + random() % 6));
    s.w.scale = s.scale.data();
  }
  return s;
}

}  // namespace

namespace {

/// Sum of |terms| of every output: what errors are measured against.
template <class X>
tensor<double, 2> magnitudes(const X& x, const weight_matrix& w, index_t tokens) {
  tensor<double, 2> m(tokens, w.rows);
  for (index_t t = 0; t < tokens; ++t)
    for (index_t o = 0; o < w.rows; ++o)
      for (index_t k = 0; k < w.cols; ++k) m(t, o) += std::fabs(x(t, k) * w.at(o, k));
  return m;
}

template <class E, class X, class Y>
void product(int threads, const X& x, const weight_matrix& w, view<Y, 2> y) {
  E e;
  if constexpr (requires { e.threads; }) e.threads = threads;
  kernel::scope<E>::run(e, [&] { linear(e, x, w, y); });
}

constexpr double wide_exact = 1e-13;  // relative to the sum of magnitudes
constexpr double wide_fast = 3e-6;

/// All claims about one product.  x: a view or quantised activations; value(t, k) is its exact value.
template <class X, class V>
void check(const X& x, V value, const weight_matrix& w, index_t tokens) {
  CAPTURE(name_of(w.type), w.rows, w.cols, tokens);
  tensor<double, 2> ref(tokens, w.rows);
  tensor<bf16, 2> ref_bf16(tokens, w.rows);
  product<exec::ref>(0, x, w, ref.all());
  product<exec::ref>(0, x, w, ref_bf16.all());
  const auto scale = magnitudes(value, w, tokens);

  // (1) exact: the stored bits of ref, wide values within 1e-13
  // (2) fast: close to ref                 (3) threads do not matter
  tensor<float, 2> first(tokens, w.rows);
  for (int threads : {1, 2}) {
    tensor<double, 2> wide(tokens, w.rows);
    tensor<bf16, 2> narrow(tokens, w.rows);
    tensor<float, 2> fast(tokens, w.rows);
    product<exec::cpu>(threads, x, w, wide.all());
    product<exec::cpu>(threads, x, w, narrow.all());
    product<exec::cpu_fast>(threads, x, w, fast.all());
    double worst_exact = 0, worst_fast = 0;
    index_t bits = 0, moved = 0;
    for (index_t t = 0; t < tokens; ++t)
      for (index_t o = 0; o < w.rows; ++o) {
        const double m = std::max(scale(t, o), 1e-300);
        worst_exact = std::max(worst_exact, std::fabs(wide(t, o) - ref(t, o)) / m);
        worst_fast = std::max(worst_fast, std::fabs(fast(t, o) - ref(t, o)) / m);
        bits += narrow(t, o) != ref_bf16(t, o);
        moved += threads == 2 && std::memcmp(&fast(t, o), &first(t, o), sizeof(float)) != 0;
      }
    CHECK(bits == 0);
    CHECK(moved == 0);
    CHECK(worst_exact <= wide_exact);
    CHECK(worst_fast <= wide_fast);
    first = fast;
  }
}

/// (4) fast: every row alone has the bits it has in the batch.
template <class F>
void check_rows_alone(F batch_and_row, index_t tokens, index_t rows) {
  index_t moved = 0;
  for (index_t t = 0; t < tokens; ++t) {
    const auto [batch, alone] = batch_and_row(t);
    for (index_t o = 0; o < rows; ++o) moved += std::memcmp(&batch[o], &alone[o], sizeof(float)) != 0;
  }
  CHECK(moved == 0);
}

template <class A>
void check_plain(std::mt19937& random, const weight_matrix& w, index_t tokens) {
  std::normal_distribution<double> normal(0, 1);
  tensor<A, 2> x(tokens, w.cols);
  for (A& v : x.all()) v = store<A>(normal(random));
  const auto xv = static_cast<const tensor<A, 2>&>(x).all();
  check(xv, [&](index_t t, index_t k) { return widen<double>(xv(t, k)); }, w, tokens);
  tensor<float, 2> batch(tokens, w.rows), alone(1, w.rows);
  product<exec::cpu_fast>(1, xv, w, batch.all());
  check_rows_alone(
      [&](index_t t) {
        product<exec::cpu_fast>(1, xv.rows(t, t + 1), w, alone.all());
        return std::pair(batch[t].data(), alone.data());
      },
      tokens, w.rows);
}

void check_quantised(std::mt19937& random, const weight_matrix& w, index_t tokens) {
  std::normal_distribution<double> normal(0, 1);
  tensor<bf16, 2> x(tokens, w.cols);
  for (bf16& v : x.all()) v = bf16::encode(normal(random) * (random() % 64 ? 1 : 50));
  tensor<e4m3, 2> code(tokens, w.cols);
  tensor<float, 2> scale(tokens, cpu::ceil_div(w.cols, fp8_tile));
  exec::ref e;
  act_quant(e, x.all(), code.all(), scale.all());
  const quantised_activations q{code.all(), scale.all()};
  check(q, [&](index_t t, index_t k) { return q.at(t, k); }, w, tokens);
  tensor<float, 2> batch(tokens, w.rows), alone(1, w.rows);
  product<exec::cpu_fast>(1, q, w, batch.all());
  check_rows_alone(
      [&](index_t t) {
        const quantised_activations row{q.code.rows(t, t + 1), q.scale.rows(t, t + 1)};
        product<exec::cpu_fast>(1, row, w, alone.all());
        return std::pair(batch[t].data(), alone.data());
      },
      tokens, w.rows);
}

const index_t batches[] = {1, 2, 3, 4, 5, 7, 17, 64};

}  // namespace

TEST_CASE("plain weights: exact equals ref, fast has one order", "[cpu][linear]") {
  std::mt19937 random(1);
  for (const dtype type : {dtype::f32, dtype::bf16, dtype::f16})
    for (const auto& [rows, cols] :
         {std::pair<index_t, index_t>{24, 512}, {33, 300}, {7, 13}, {1, 1}, {70, 1000}}) {
      const auto s = make_weights(random, type, rows, cols);
      for (const index_t tokens : batches) {
        check_plain<bf16>(random, s.w, tokens);
        check_plain<float>(random, s.w, tokens);
      }
      check_plain<double>(random, s.w, 3);
    }
}

TEST_CASE("FP8 weights: exact equals ref, fast has one order", "[cpu][linear]") {
  std::mt19937 random(2);
  for (const bool f32_scale : {false, true})
    for (const auto& [rows, cols] : {std::pair<index_t, index_t>{128, 256}, {257, 388}, {40, 1032}, {5, 9}}) {
      const auto s = make_weights(random, dtype::f8_e4m3, rows, cols, f32_scale);
      for (const index_t tokens : batches) {
        check_quantised(random, s.w, tokens);
        check_plain<bf16>(random, s.w, tokens);
      }
      check_plain<float>(random, s.w, 4);
    }
}

TEST_CASE("FP4 weights: exact equals ref, fast has one order", "[cpu][linear]") {
  std::mt19937 random(3);
  for (const bool f32_scale : {false, true})
    for (const auto& [rows, cols] : {std::pair<index_t, index_t>{64, 512}, {35, 352}, {9, 1034}, {3, 6}}) {
      const auto s = make_weights(random, dtype::f4_e2m1, rows, cols, f32_scale);
      for (const index_t tokens : batches) {
        check_quantised(random, s.w, tokens);
        check_plain<bf16>(random, s.w, tokens);
      }
    }
}

TEST_CASE("unusual scale tiles", "[cpu][linear]") {
  std::mt19937 random(4);
  for (const auto& [tile_rows, tile_cols] :
       {std::pair<index_t, index_t>{1, 128}, {3, 64}, {64, 10}, {128, 1024}})
    for (const index_t tokens : {1, 2, 17}) {
      check_quantised(random, make_weights(random, dtype::f8_e4m3, 130, 900, true, tile_rows, tile_cols).w,
                      tokens);
      check_plain<bf16>(random, make_weights(random, dtype::f4_e2m1, 37, 900, false, tile_rows, tile_cols).w,
                        tokens);
    }
}

TEST_CASE("extreme codes: subnormals, largest values, smallest and largest scales", "[cpu][linear]") {
  std::mt19937 random(5);
  for (const dtype type : {dtype::f8_e4m3, dtype::f4_e2m1}) {
    auto s = make_weights(random, type, 8, 256);
    for (auto& b : s.scale) b = static_cast<std::byte>(random() % 2 ? 60 : 180);
    if (type == dtype::f8_e4m3)
      for (auto& b : s.data)
        b = static_cast<std::byte>(random() % 127 | (random() % 2) << 7);  // every code but NaN
    tensor<e4m3, 2> code(3, 256);
    for (auto& c : code.all()) c = e4m3::from_bits(random() % 127 | (random() % 2) << 7);
    tensor<float, 2> scale(3, 2);
    for (auto& v : scale.all()) v = 0x1p-22f;
    const quantised_activations q{code.all(), scale.all()};
    for (const index_t tokens : {1, 3}) {
      const quantised_activations rows{q.code.rows(0, tokens), q.scale.rows(0, tokens)};
      check(rows, [&](index_t t, index_t k) { return q.at(t, k); }, s.w, tokens);
    }
  }
}

TEST_CASE("FP4 sums at their largest, with and without a third digit", "[cpu][linear]") {
  std::mt19937 random(7);
  auto s = make_weights(random, dtype::f4_e2m1, 6, 192);
  for (int sign = 0; sign < 3; ++sign) {
    for (auto& b : s.data)
      b = static_cast<std::byte>(sign == 0 ? 0x77 : sign == 1 ? 0xFF : random() % 2 ? 0x7F : 0xF7);
    tensor<e4m3, 2> code(2, 192);
    tensor<float, 2> scale(2, 2);
    for (auto& v : scale.all()) v = 1;
    for (auto& c : code.all()) c = e4m3::from_bits(0x7E | (random() % 4 == 0) << 7);  // 448, -448
    for (index_t c = 0; c < 64; c += 9)
      code(0, c) = e4m3::from_bits(1 + static_cast<unsigned>(c) % 8);  // 2^-9 and up
    for (const index_t tokens : {1, 2}) {
      const quantised_activations q{code.all().rows(0, tokens), scale.all().rows(0, tokens)};
      check(q, [&](index_t t, index_t k) { return q.at(t, k); }, s.w, tokens);
    }
  }
}

TEST_CASE("digits of FP4 steps are the codes", "[cpu][linear]") {
  std::mt19937 random(8);
  index_t fine = 0, wrong = 0;
  for (int round = 0; round < 2000; ++round) {
    e4m3 code[cpu::fp4_step];
    for (auto& c : code)
      c = e4m3::from_bits((random() % (round % 127 + 1)) | (random() % 2)
                                                               << 7);  // steps of every largest code
    cpu::digit_step d;
    cpu::make_step(code, cpu::fp4_step, d);
    fine += d.fine;
    for (index_t c = 0; c < cpu::fp4_step; ++c) {
      const auto digit = [&](int i) { return int{d.plane[i][c % 2][c / 2]}; };
      const int v = d.factor[0] * digit(0) + d.factor[1] * digit(1) + digit(2);
      wrong += v != code[c].decode() * 0x1p9 || digit(2) < -4 || digit(2) > 3 || (!d.fine && digit(2) != 0);
    }
  }
  CHECK(wrong == 0);
  CHECK((fine > 100 && fine < 1900));
}

TEST_CASE("grouped products equal products of the groups", "[cpu][linear]") {
  std::mt19937 random(6);
  std::normal_distribution<double> normal(0, 1);
  for (const auto& [groups, r, k] : {std::array<index_t, 3>{4, 128, 256}, {3, 24, 72}, {2, 130, 130}})
    for (const dtype type : {dtype::f8_e4m3, dtype::bf16, dtype::f4_e2m1})
      for (const index_t tokens : {1, 2, 5, 64}) {
        const auto s = make_weights(random, type, groups * r, k);
        tensor<bf16, 3> x(tokens, groups, k), ref(tokens, groups, r), exact(tokens, groups, r);
        for (bf16& v : x.all()) v = bf16::encode(normal(random));
        exec::ref e_ref;
        exec::cpu e_exact;
        exec::cpu_fast e_fast;
        grouped_linear(e_ref, x.all(), s.w, ref.all());
        grouped_linear(e_exact, x.all(), s.w, exact.all());
        CHECK(std::memcmp(ref.data(), exact.data(), static_cast<std::size_t>(ref.size()) * sizeof(bf16)) ==
              0);
        // fast: the bits of `linear` on the rows of the group
        tensor<float, 3> fast(tokens, groups, r);
        grouped_linear(e_fast, x.all(), s.w, fast.all());
        index_t moved = 0;
        for (index_t t = 0; t < tokens; ++t) {
          tensor<float, 2> y(1, groups * r);
          for (index_t g = 0; g < groups; ++g) {
            linear(e_fast, view<const bf16, 2>(&x(t, g, 0), 1, k), s.w, y.all());
            for (index_t o = 0; o < r; ++o) moved += y(0, g * r + o) != fast(t, g, o);
          }
        }
        CHECK(moved == 0);
      }
}

}  // namespace dsv4
