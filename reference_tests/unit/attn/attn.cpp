// SPDX-License-Identifier: MIT
// Compressor, indexer, attention over slots, caches.  Numbers in brackets are the post-conditions of the
// headers of attn/.
#include "catch.hpp"
#include "dsv4/attn/attention.hpp"
#include "executors.hpp"
#include "operands.hpp"

namespace dsv4_test {

// ---- kv_cache.hpp

TEST_CASE("history keeps the latest rows by position", "[attn]") {
  history<float> h(5, 2);
  tensor<float, 2> rows(12, 2);
  for (index_t p = 0; p < 12; ++p) rows(p, 0) = float(p), rows(p, 1) = float(-p);
  h.write(0, rows.all().rows(0, 3));
  h.write(3, rows.all().rows(3, 12));  // more than fits: 7 .. 11 stay
  for (index_t p = 7; p < 12; ++p) CHECK(h.row(p)[0] == float(p));
  tensor<float, 2> out(4, 2);
  h.read(8, 12, out.all());
  for (index_t i = 0; i < 4; ++i) CHECK(out(i, 1) == float(-(8 + i)));
  h.read(9, 9, out.all());  // nothing
  CHECK(out(0, 0) == 8);
}

TEST_CASE("the memory of a layer has the sizes that rewinding needs", "[attn]") {
  const config c = tiny_config({0, 4, 16});
  const attention_state<official, exec::ref> window(c, 0, 100, 3), csa(c, 4, 100, 3), hca(c, 16, 100, 3);
  CHECK(window.window.capacity() == 8 + 3);
  CHECK(window.compressor.entries.empty());
  CHECK(csa.compressor.kv.capacity() == 8 + 3);
  CHECK(csa.compressor.kv.width() == 2 * c.head_dim);
  CHECK(csa.indexer.kv.width() == 2 * c.index_head_dim);
  CHECK(csa.compressor.entries.extent(0) == 25);
  CHECK(hca.compressor.score.capacity() == 16 + 3);
  CHECK(hca.compressor.kv.width() == c.head_dim);
  CHECK(hca.compressor.entries.extent(0) == 6);
  CHECK(hca.indexer.entries.empty());
}

// ---- compressor.hpp

TEMPLATE_TEST_CASE("add_ape follows the position in the block", "[attn]", DSV4_TEST_EXECUTORS) {
  TestType e;
  using W = wide_t<TestType>;
  tensor<float, 2> ape(4, 3);
  for (index_t i = 0; i < 12; ++i) ape.data()[i] = float(i);
  for (const index_t start : {0, 1, 4, 7}) {
    tensor<W, 2> score(6, 3);
    for (W& v : score.all()) v = 100;
    kernel::add_ape<TestType>::run(e, ape.all(), start, score.all());
    for (index_t t = 0; t < 6; ++t)
      for (index_t d = 0; d < 3; ++d) CHECK(score(t, d) == W(100) + W(ape((start + t) % 4, d)));
  }
}

TEMPLATE_TEST_CASE("compressor_pool: which token, which half, by hand", "[attn]", DSV4_TEST_EXECUTORS) {
  TestType e;
  using W = wide_t<TestType>;
  // CSA, one channel: halves lo = 10 p, hi = 1000 + p.  Equal scores: plain means.
  tensor<W, 2> kv(12, 2), score(12, 2);
  for (index_t p = 0; p < 12; ++p) kv(p, 0) = W(10 * p), kv(p, 1) = W(1000 + p);
  tensor<float, 2> pooled(3, 1);
  kernel::compressor_pool<TestType>::run(e, compressor_rows<W>{0, kv.all(), score.all()}, 4, 0, pooled.all());
  CHECK(close(pooled(0, 0), 1001.5, float_sum<TestType>));               // only its own block, high half
  CHECK(close(pooled(1, 0), (15.0 + 1005.5) / 2, float_sum<TestType>));  // 0 10 20 30 | 1004 .. 1007
  CHECK(close(pooled(2, 0), (55.0 + 1009.5) / 2, float_sum<TestType>));
  // From the middle, with rows that begin at position 4: entry 2 looks back to block 1 only.
  tensor<float, 2> one(1, 1);
  kernel::compressor_pool<TestType>::run(
      e, compressor_rows<W>{4, kv.all().rows(4, 12), score.all().rows(4, 12)}, 4, 2, one.all());
  CHECK(one(0, 0) == pooled(2, 0));
  // A score far above chooses its slot; of the previous block it is the low half that counts.
  score(2, 0) = 200;
  kernel::compressor_pool<TestType>::run(e, compressor_rows<W>{0, kv.all(), score.all()}, 4, 0, pooled.all());
  CHECK(close(pooled(0, 0), 1001.5, float_sum<TestType>));
  CHECK(close(pooled(1, 0), 20, float_sum<TestType>));
  score(2, 0) = 0, score(2, 1) = 200;
  kernel::compressor_pool<TestType>::run(e, compressor_rows<W>{0, kv.all(), score.all()}, 4, 0, pooled.all());
  CHECK(close(pooled(0, 0), 1002, float_sum<TestType>));
  CHECK(close(pooled(1, 0), (15.0 + 1005.5) / 2, float_sum<TestType>));
  // Two scores: weights 3/4 and 1/4 where the others vanish.
  for (index_t p = 0; p < 12; ++p) score(p, 0) = score(p, 1) = -900;
  score(5, 1) = W(std::log(3.0)), score(1, 0) = 0;
  kernel::compressor_pool<TestType>::run(e, compressor_rows<W>{0, kv.all(), score.all()}, 4, 0, pooled.all());
  CHECK(close(pooled(1, 0), 0.75 * 1005 + 0.25 * 10, float_sum<TestType>));
  // HCA: one half, its own block.
  tensor<float, 2> wide(2, 2);
  tensor<W, 2> none(12, 2);
  kernel::compressor_pool<TestType>::run(e, compressor_rows<W>{0, kv.all(), none.all()}, 6, 0, wide.all());
  CHECK(close(wide(0, 0), 25, float_sum<TestType>));
  CHECK(close(wide(1, 0), 85, float_sum<TestType>));
  CHECK(close(wide(1, 1), 1008.5, float_sum<TestType>));
}

TEMPLATE_TEST_CASE("compressor_pool: one bf16 store, between the least and the greatest slot", "[attn]",
                   DSV4_TEST_EXECUTORS) {
  TestType e;
  using W = wide_t<TestType>;
  integers r{1};
  for (const index_t ratio : {4, 16, 5})
    for (const index_t d : {1, 16, 33}) {
      const index_t c = ratio == 4 ? 2 : 1, tokens = 3 * ratio;
      const auto kv = random_tensor<W>(r, 4, tokens, c * d), score = random_tensor<W>(r, 6, tokens, c * d);
      tensor<bf16, 2> pooled(3, d);
      kernel::compressor_pool<TestType>::run(
          e, compressor_rows<W>{0, tensor<W, 2>(kv).all(), tensor<W, 2>(score).all()}, ratio, 0,
          pooled.all());
      bool right = true, inside = true;
      for (index_t i = 0; i < 3; ++i)
        for (index_t j = 0; j < d; ++j) {
          double sum = 0, weights = 0, least = 1e9, greatest = -1e9;
          const auto slot = [&](index_t p, index_t channel) {
            const double weight = std::exp(double(score(p, channel))), v = kv(p, channel);
            sum += weight * v, weights += weight;
            least = std::min(least, v), greatest = std::max(greatest, v);
          };
          if (c == 2 && i > 0)
            for (index_t p = (i - 1) * ratio; p < i * ratio; ++p) slot(p, j);
          for (index_t p = i * ratio; p < (i + 1) * ratio; ++p) slot(p, (c - 1) * d + j);
          right = right && stored_as_near(pooled(i, j), sum / weights, 10 * wide_sum<TestType>, 4);
          inside = inside && value(pooled(i, j)) >= least &&
                   value(pooled(i, j)) <= greatest;  // (1); slots are bf16 values
        }
      INFO("ratio " << ratio << ", d " << d);
      CHECK(right);
      CHECK(inside);
    }
}

// ---- indexer.hpp

TEMPLATE_TEST_CASE("index_scores: relu before the weight, every step stored", "[attn]", DSV4_TEST_EXECUTORS) {
  TestType e;
  // Two heads, one channel: relu(2 * 3) * 0.5 + relu(-2 * 3) * 8 = 3
  tensor<float, 3> q(1, 2, 1);
  tensor<float, 2> keys(2, 1), weights(1, 2), scores(1, 2);
  q(0, 0, 0) = 2, q(0, 1, 0) = -2;
  keys(0, 0) = 3, keys(1, 0) = -1;
  weights(0, 0) = 0.5, weights(0, 1) = -8;
  kernel::index_scores<TestType>::run(e, view<const float, 3>(q.all()), view<const float, 2>(keys.all()),
                                      view<const float, 2>(weights.all()), scores.all());
  CHECK(scores(0, 0) == 3);
  CHECK(scores(0, 1) == -16);  // relu(-2) = 0, relu(2) * -8

  integers r{2};
  for (const index_t heads : {1, 16, 33})
    for (const index_t d : {16, 64, 128}) {
      const auto bq = random_tensor<bf16>(r, 2, index_t{3}, heads, d);
      const auto bk = random_tensor<bf16>(r, 2, index_t{9}, d);
      const auto bw = random_tensor<bf16>(r, 1, index_t{3}, heads);
      tensor<bf16, 2> y(3, 9);
      kernel::index_scores<TestType>::run(e, view<const bf16, 3>(bq.all()), view<const bf16, 2>(bk.all()),
                                          view<const bf16, 2>(bw.all()), y.all());
      bool right = true;
      for (index_t t = 0; t < 3; ++t)
        for (index_t s = 0; s < 9; ++s) {
          double sum = 0, size = 0;
          for (index_t h = 0; h < heads; ++h) {
            double dot = 0;
            for (index_t i = 0; i < d; ++i) dot += value(bq(t, h, i)) * value(bk(s, i));
            const double term = rounded<bf16>(std::max(rounded<bf16>(dot), 0.0) * value(bw(t, h)));
            sum += term, size += std::fabs(term);
          }
          // Codes of 8 bits: even float sums of the dot are exact here, so that the stores agree.
          right = right && stored_as_near(y(t, s), sum, wide_sum<TestType>, size);
        }
      INFO(heads << " heads of " << d);
      CHECK(right);
    }
}

TEST_CASE("index_scores of FP4 rows: the bits of ref, whether float is exact or not", "[attn]") {
  integers r{3};
  const index_t heads = 9, d = 128, n = 70, tokens = 2;
  // FP4 values with one scale per 32, the scales up to 2^spread apart; spread 40: no float product is exact.
  for (const int spread : {0, 3, 6, 12, 40}) {
    const auto fp4 = [&](bf16* x, index_t size) {
      double scale = 1;
      for (index_t i = 0; i < size; ++i) {
        if (i % 32 == 0)
          scale = std::ldexp(1.0, static_cast<int>(r.below(static_cast<std::uint32_t>(spread + 1))) - 8);
        x[i] = bf16::encode(e2m1::from_bits(static_cast<unsigned>(r.below(16))).decode() * scale);
      }
    };
    tensor<bf16, 3> q(tokens, heads, d);
    tensor<bf16, 2> keys(n, d), weights = random_tensor<bf16>(r, 1, tokens, heads), ref(tokens, n),
                                exact(tokens, n);
    fp4(q.data(), q.size());
    fp4(keys.data(), keys.size());
    for (bf16& v : keys.all()[5]) v = bf16::encode(0.0);
    if (spread == 3) weights(0, 0) = bf16::from_bits(1);  // the smallest number: products below float's
    exec::ref e_ref;
    exec::cpu e;
    const auto run = [&](auto& executor, tensor<bf16, 2>& scores) {
      kernel::index_scores<std::remove_reference_t<decltype(executor)>>::run(
          executor, view<const bf16, 3>(q.all()), view<const bf16, 2>(keys.all()),
          view<const bf16, 2>(weights.all()), scores.all());
    };
    run(e_ref, ref);
    run(e, exact);
    index_t differ = 0;
    for (index_t i = 0; i < ref.size(); ++i) differ += ref.data()[i] != exact.data()[i];
    INFO("spread " << spread);
    CHECK(differ == 0);
  }
  // A row of 448 x 2^k has few bits, one of 1 and 2^20 many.
  bf16 row[3] = {bf16::encode(1), bf16::encode(-6), bf16::encode(0.75)};
  const auto span = cpu::span_of(row, 3);
  CHECK((span.bits == 5 && span.low == -2 && span.high == 3));  // 6 = 24 / 4 < 2^5 / 4
  const cpu::value_span fits{8, -9, -1}, too_wide{9, -9, 0}, tiny{8, -140, -132};
  CHECK(cpu::exact_in_float(fits, too_wide, span, 128));  // 8 + 9 + 7 = 24
  CHECK_FALSE(cpu::exact_in_float(too_wide, too_wide, span, 128));
  CHECK_FALSE(cpu::exact_in_float(fits, fits, tiny, 128));  // products below the smallest float
  row[0] = bf16::from_bits(1);                              // subnormal
  CHECK_FALSE(cpu::exact_in_float(cpu::span_of(row, 3), fits, span, 128));
  CHECK_FALSE(cpu::exact_in_float(fits, fits, cpu::span_of(row, 3), 128));
  row[0] = bf16::from_bits(0x7F80);  // infinite
  CHECK_FALSE(cpu::exact_in_float(cpu::span_of(row, 3), fits, span, 128));
}

TEMPLATE_TEST_CASE("index_select: visible entries only, by falling score, ties to the lower, -1 last",
                   "[attn]", DSV4_TEST_EXECUTORS) {
  TestType e;
  tensor<float, 2> scores(10, 3);
  for (index_t t = 0; t < 10; ++t) scores(t, 0) = 1, scores(t, 1) = 5, scores(t, 2) = 1;
  for (const index_t k : {1, 2, 3}) {
    tensor<std::int32_t, 2> chosen(10, k);
    for (std::int32_t& v : chosen.all()) v = 77;
    kernel::index_select<TestType>::run(e, view<const float, 2>(scores.all()), 2, 4,
                                        chosen.all());  // positions 2 .. 11
    for (index_t t = 0; t < 10; ++t) {
      const index_t closed = (2 + t + 1) / 4;  // (1)
      std::vector<std::int32_t> expected = closed == 0   ? std::vector<std::int32_t>{}
                                           : closed == 1 ? std::vector<std::int32_t>{0}
                                           : closed == 2 ? std::vector<std::int32_t>{1, 0}
                                                         : std::vector<std::int32_t>{1, 0, 2};
      expected.resize(3, -1);
      INFO("k " << k << ", position " << 2 + t);
      for (index_t i = 0; i < k; ++i) CHECK(chosen(t, i) == expected[std::size_t(i)]);  // (2)
    }
  }
}

TEMPLATE_TEST_CASE("scale_stored does not round the constant", "[attn]", DSV4_TEST_EXECUTORS) {
  TestType e;
  integers r{3};
  const double factor = 1 / std::sqrt(128.0) * (1 / std::sqrt(24.0));
  auto x = random_tensor<bf16>(r, 1, index_t{7}, index_t{24});
  const auto before = x;
  kernel::scale_stored<TestType>::run(e, x.all(), factor);
  index_t other = 0;
  for (index_t i = 0; i < x.size(); ++i) {
    CHECK(stored_as_near(x.data()[i], value(before.data()[i]) * factor, wide_sum<TestType>));
    other += x.data()[i] != store<bf16>(value(before.data()[i]) * rounded<bf16>(factor));
  }
  CHECK(other > 0);
}

TEST_CASE("HCA sees every closed entry, in order", "[attn]") {
  tensor<std::int32_t, 2> chosen(10, 4);
  kernel::choose_all_visible<exec::ref>::of_sequence(6, 4, chosen.all());
  for (index_t t = 0; t < 10; ++t)
    for (index_t s = 0; s < 4; ++s) CHECK(chosen(t, s) == (s < (6 + t + 1) / 4 ? s : -1));
}

// ---- sparse_attention.hpp

namespace {
/// The definition, slot by slot, with the stores of blocks of 64 slots.
template <class A>
std::vector<double> by_definition(view<const A, 3> q, const attention_slots<A>& slots,
                                  view<const float, 1> sink) {
  const index_t d = q.extent(2);
  const double scale = 1 / std::sqrt(double(d));
  std::vector<double> o;
  for (index_t t = 0; t < q.extent(0); ++t)
    for (index_t h = 0; h < q.extent(1); ++h) {
      std::vector<double> acc(static_cast<std::size_t>(d));
      double m = -INFINITY, denominator = 0;
      for (index_t from = 0; from < slots.slots(); from += 64) {
        std::vector<std::pair<double, const A*>> block;
        for (index_t s = from; s < std::min(from + 64, slots.slots()); ++s)
          if (const A* k = slots.row(t, s)) {
            double dot = 0;
            for (index_t i = 0; i < d; ++i) dot += value(q(t, h, i)) * value(k[i]);
            block.push_back({dot * scale, k});
          }
        double next = m;
        for (const auto& [x, k] : block) next = std::max(next, x);
        if (next == -INFINITY) continue;
        const double shrink = std::exp(m - next);
        m = next;
        denominator *= shrink;
        for (double& v : acc) v *= shrink;
        for (const auto& [x, k] : block) {
          const double p = std::exp(x - m);
          denominator += p;
          for (index_t i = 0; i < d; ++i) acc[std::size_t(i)] += rounded<A>(p) * value(k[i]);
        }
      }
      denominator += std::exp(double(sink[h]) - m);
      for (const double v : acc) o.push_back(v / denominator);
    }
  return o;
}
}  // namespace

TEMPLATE_TEST_CASE("sparse_attention by hand: one key, two keys, the sink", "[attn]", DSV4_TEST_EXECUTORS) {
  TestType e;
  tensor<float, 3> q(1, 1, 4), o(1, 1, 4);
  tensor<float, 2> keys(2, 4), entries(1, 4);
  tensor<std::int32_t, 2> none(1, 0), one(1, 1);
  tensor<float, 1> sink(1);
  for (index_t i = 0; i < 4; ++i)
    q(0, 0, i) = 1, keys(0, i) = float(i), keys(1, i) = float(i + 1), entries(0, i) = 10;
  const auto run = [&](index_t start, index_t window, float s, view<const std::int32_t, 2> chosen) {
    sink[0] = s;
    const attention_slots<float> slots{
        start, window, {{}, 0, keys.all().rows(0, start + 1)}, entries.all(), chosen};
    sparse_attention(e, q.all(), slots, sink.all(), o.all());
  };
  // One key with score (0+1+2+3)/2 = 3 against a sink of 3: half of it.
  run(0, 8, 3, none.all());
  for (index_t i = 0; i < 4; ++i) CHECK(close(o(0, 0, i), 0.5 * double(i), 4 * float_sum<TestType>, 1));
  // Scores 3 and 5, no sink to speak of.                                      (1)
  run(1, 8, -1000, none.all());
  const double p = 1 / (1 + std::exp(-2.0));
  for (index_t i = 0; i < 4; ++i) CHECK(close(o(0, 0, i), double(i) + p, 8 * float_sum<TestType>, 1));
  // A window of one sees itself only.
  run(1, 1, -1000, none.all());
  for (index_t i = 0; i < 4; ++i) CHECK(close(o(0, 0, i), double(i + 1), 4 * float_sum<TestType>, 1));
  // An empty choice changes nothing; a chosen entry (score 20) takes nearly all.
  one(0, 0) = -1;
  run(1, 1, -1000, one.all());
  for (index_t i = 0; i < 4; ++i) CHECK(close(o(0, 0, i), double(i + 1), 4 * float_sum<TestType>, 1));
  one(0, 0) = 0;
  run(1, 1, -1000, one.all());
  for (index_t i = 0; i < 4; ++i) CHECK(std::fabs(o(0, 0, i) - 10) < 1e-4);
  // A sink far above: nothing, and finite.                                    (2)
  for (const float s : {100.0f, 200.0f, 3e38f}) {
    run(1, 8, s, one.all());
    for (index_t i = 0; i < 4; ++i) CHECK(std::fabs(o(0, 0, i)) < 1e-30);
  }
}

TEMPLATE_TEST_CASE("sparse_attention equals its definition over several blocks of slots", "[attn]",
                   DSV4_TEST_EXECUTORS) {
  TestType e;
  integers r{4};
  struct shape {
    index_t heads, d, window, start, tokens, entries, k;
  };
  for (const shape& s : {shape{1, 4, 1, 0, 3, 0, 0},
                         {2, 32, 8, 0, 20, 5, 3},
                         {3, 64, 8, 30, 4, 9, 9},
                         {2, 32, 128, 0, 150, 37, 37},
                         {2, 32, 128, 200, 3, 80, 70},
                         {5, 16, 70, 10, 5, 3, 2},
                         {2, 16, 64, 500, 2, 200, 130}}) {
    const index_t first = std::max<index_t>(0, s.start - s.window + 1), rows = s.start + s.tokens - first;
    const auto q = random_tensor<bf16>(r, 4, s.tokens, s.heads, s.d);
    const auto recent = random_tensor<bf16>(r, 2, rows, s.d),
               entries = random_tensor<bf16>(r, 2, s.entries, s.d);
    const auto sink = random_tensor<float>(r, 4, s.heads);
    tensor<std::int32_t, 2> chosen(s.tokens, s.k);
    for (index_t t = 0; t < s.tokens; ++t)
      for (index_t i = 0; i < s.k; ++i)
        chosen(t, i) = r.below(5) == 0 ? -1 : std::int32_t((7 * i + t) % s.entries);
    const attention_slots<bf16> own{
        s.start, s.window, {{}, first, recent.all()}, entries.all(), chosen.all()};
    tensor<bf16, 3> o(s.tokens, s.heads, s.d);
    sparse_attention(e, tensor<bf16, 3>(q).all(), own, sink.all(), o.all());
    const auto expected = by_definition<bf16>(q.all(), own, sink.all());
    index_t wrong = 0;
    for (index_t i = 0; i < o.size(); ++i) {
      // exec::cpu_fast: a p of a float score may be stored as the neighbour.
      const double slack = std::is_same_v<wide_t<TestType>, double> ? 1e-12 : 0x1p-8;
      wrong += !stored_as_near(o.data()[i], expected[std::size_t(i)], slack, 2);
    }
    INFO("window " << s.window << ", " << s.tokens << " tokens from " << s.start << ", " << s.k << " of "
                   << s.entries << " entries");
    CHECK(wrong == 0);
  }
}

TEST_CASE("rows of a batch go into the ring of their sequence", "[attn]") {
  using state = attention_state<official, exec::ref>;
  exec::ref e;
  workspace scratch, host;
  no_tap quiet;
  config c;
  c.sliding_window = 3;
  c.head_dim = 2;
  state first(c, 0, 20, 0), second(c, 0, 20, 0);
  state* const states[] = {&first, &second};
  const segment segments[] = {{.begin = 0, .end = 2, .start = 4}, {.begin = 2, .end = 6, .start = 1}};
  tensor<bf16, 2> rows(6, 2);
  for (index_t t = 0; t < 6; ++t)
    for (index_t d = 0; d < 2; ++d) rows(t, d) = round_bf16(float(10 * (t + 1) + d));
  const call_context<exec::ref, no_tap> call{
      e, scratch, host, c, {e, quiet, segments, {tap_scope::part::head, 0}}};
  append_to_rings(call, layer_batch<official, exec::ref>{segments, {}, 0, {}, states}, rows.all(),
                  [](state& s) -> auto& { return s.window; });
  const auto at = [](const state& s, index_t p) {
    return std::pair(to_float(s.window.row(p)[0]), to_float(s.window.row(p)[1]));
  };
  CHECK(at(first, 4) == std::pair(10.0f, 11.0f));
  CHECK(at(first, 5) == std::pair(20.0f, 21.0f));
  CHECK(at(first, 3) == std::pair(0.0f, 0.0f));
  for (index_t p = 2; p < 5; ++p)  // of four rows a ring of three keeps the last
    CHECK(at(second, p) == std::pair(float(10 * (p + 2)), float(10 * (p + 2) + 1)));
  // Those before `start` are in the ring, the others are the call's own.
  const ring_rows<bf16> both{std::as_const(second.window).ring(), 5,
                             view<const bf16, 2>(rows.all()).rows(0, 2)};
  for (index_t p = 2; p < 7; ++p)
    CHECK(to_float(both.row(p)[0]) == float(p < 5 ? 10 * (p + 2) : 10 * (p - 4)));
}

TEST_CASE("slots as the released code numbers them, and the way back", "[attn]") {
  exec::ref e;
  constexpr index_t window = 4, tokens = 3, k = 2, entries = 5;
  const tensor<bf16, 2> rows(entries, 2);
  tensor<std::int32_t, 2> chosen(tokens, k), numbers(tokens, window + k), back(tokens, k);
  const std::int32_t picks[] = {4, -1, 0, 3, -1, 2};
  std::copy_n(picks, tokens * k, chosen.data());
  for (const index_t start : {0, 1, 6}) {
    CAPTURE(start);
    const attention_slots<bf16> slots{start, window, {}, rows.all(), chosen.all()};
    kernel::number_slots<exec::ref>::run(e, slots, numbers.all());
    const index_t offset = start == 0 ? tokens : window;
    for (index_t t = 0; t < tokens; ++t) {
      for (index_t s = 0; s < window; ++s) {
        const index_t p = std::max<index_t>(0, start + t - 3) + s;
        CHECK(numbers(t, s) == (p > start + t ? -1 : start == 0 ? p : p % window));
      }
      for (index_t i = 0; i < k; ++i)
        CHECK(numbers(t, window + i) == (chosen(t, i) < 0 ? -1 : chosen(t, i) + offset));
    }
    const auto adopt = [&](index_t t, index_t s, index_t number) {
      tensor<std::int32_t, 2> others = numbers;
      others(t, s) = static_cast<std::int32_t>(number);
      kernel::adopt_slots<exec::ref>::run(e, slots, others.all(), back.all());
    };
    adopt(0, window, numbers(0, window));
    CHECK(std::equal(picks, picks + tokens * k, back.data()));
    for (const index_t entry : {index_t{0}, entries - 1}) {
      adopt(1, window + 1, offset + entry);
      CHECK(back(1, 1) == entry);
    }
    adopt(1, window + 1, -1);
    CHECK(back(1, 1) == -1);
    for (const index_t wrong : {offset - 1, offset + entries, index_t{-2}})
      CHECK_THROWS_AS(adopt(1, window + 1, wrong), contract_violation);
    CHECK_THROWS_AS(adopt(2, 0, numbers(2, 0) + 1), contract_violation);
  }
}

TEMPLATE_TEST_CASE("sparse_attention checks its shapes", "[attn]", DSV4_TEST_EXECUTORS) {
  TestType e;
  tensor<float, 3> q(1, 2, 4), o(1, 2, 3);
  tensor<float, 1> sink(1);
  CHECK_THROWS_AS(sparse_attention(e, q.all(), attention_slots<float>{}, sink.all(), o.all()),
                  contract_violation);
  CHECK_THROWS_AS(sparse_attention(e, q.all(), attention_slots<float>{}, sink.all(), q.all()),
                  contract_violation);
}

}  // namespace dsv4_test
