// SPDX-License-Identifier: MIT
// mHC, attention and mixture of experts: exec::cuda gives the bits of exec::ref.
#include <numeric>

#include "cuda_host/exact.hpp"

namespace dsv4_test {

#define DSV4_STORED_TYPES bf16, float

TEMPLATE_TEST_CASE("mHC on CUDA", "[cuda]", DSV4_STORED_TYPES) {
  using A = TestType;
  exec::ref ref;
  exec::cuda cuda;
  integers r{6};
  random_model m(tiny_config());
  const index_t n = 4, d = 33, mixes_of_token = (2 + n) * n;
  const weight_matrix fn = m.matrix(mixes_of_token, n * d, stored_as::f32);
  const auto scale = random_tensor<float>(r, 1, index_t{3}),
             base = random_tensor<float>(r, 1, mixes_of_token);
  for (const index_t t : edge_rows) {
    const auto h = random_tensor<A>(r, 3, t, n, d);
    const auto out = random_tensor<A>(r, 3, t, d);
    tensor<double, 2> mixes(t, mixes_of_token), pre(t, n), post(t, n), head(t, n);
    tensor<double, 3> comb(t, n, n);
    tensor<A, 2> y(t, d);
    auto next = h;
    kernel::hc_mixes<exec::ref>::run(ref, h.all().reshape(t, n * d), fn, 1e-6, mixes.all());
    for (index_t i = 0; i < t; ++i) {
      split_mixes<double>(std::as_const(mixes)[i], scale.all(), base.all(), 20, 1e-6, pre[i], post[i],
                          comb[i]);
      for (index_t j = 0; j < n; ++j)
        head(i, j) = hyper_pre(mixes(i, j), double(scale[0]), double(base[j]), 1e-6);
    }
    kernel::hc_collapse<exec::ref>::run(ref, std::as_const(pre).all(), h.all(), y.all());
    kernel::hc_post<exec::ref>::run(ref, out.all(), std::as_const(post).all(), std::as_const(comb).all(),
                                    next.all());
    under_schedules([&] {
      tensor<double, 2> mixes2(t, mixes_of_token), pre2(t, n), post2(t, n), head2(t, n);
      tensor<double, 3> comb2(t, n, n);
      tensor<A, 2> y2(t, d);
      auto next2 = h;
      kernel::hc_mixes<exec::cuda>::run(cuda, on_device(h).reshape(t, n * d), on_device(fn), 1e-6,
                                        on_device(mixes2));
      CHECK(same_bits(mixes2, mixes));
      const hyper_split<mem::device> how{on_device(scale), on_device(base), 20, 1e-6};
      const hyper_mix<double, mem::device> mix{on_device(post2), on_device(comb2), on_device(pre2)};
      kernel::hc_split<exec::cuda>::run(cuda, on_device(std::as_const(mixes2)), how, mix);
      CHECK(same_bits(pre2, pre));
      CHECK(same_bits(post2, post));
      CHECK(same_bits(comb2, comb));
      kernel::hc_collapse<exec::cuda>::run(cuda, on_device(std::as_const(pre2)), on_device(h), on_device(y2));
      CHECK(same_bits(y2, y));
      kernel::hc_post<exec::cuda>::run(cuda, on_device(out), on_device(std::as_const(post2)),
                                       on_device(std::as_const(comb2)), on_device(next2));
      CHECK(same_bits(next2, next));
      kernel::head_weights_of_streams<exec::cuda>::run(cuda, on_device(std::as_const(mixes2)), how,
                                                       on_device(head2));
      CHECK(same_bits(head2, head));
    });
  }
  // More streams than have room are refused.
  tensor<A, 3> many(1, gpu::most_streams + 1, 2);
  tensor<A, 2> one(1, 2);
  tensor<double, 2> post(1, gpu::most_streams + 1);
  tensor<double, 3> comb(1, gpu::most_streams + 1, gpu::most_streams + 1);
  CHECK_THROWS_AS(
      kernel::hc_post<exec::cuda>::run(cuda, on_device(std::as_const(one)), on_device(std::as_const(post)),
                                       on_device(std::as_const(comb)), on_device(many)),
      unsupported);
}

TEMPLATE_TEST_CASE("Embedding on CUDA", "[cuda]", DSV4_STORED_TYPES) {
  using A = TestType;
  exec::cuda cuda;
  random_model m(tiny_config());
  const index_t d = m.c.hidden_size, n = 4;
  for (const index_t t : edge_rows) {
    const auto ids = random_ids(t, m.c.vocab_size, 3);
    tensor<A, 2> y(t, d);
    tensor<A, 3> h(t, n, d);
    under_schedules([&] {
      kernel::embed<exec::cuda>::run(cuda, view<const std::int32_t, 1, mem::device>(ids.data(), t),
                                     on_device(m.weights.embed), on_device(y));
      kernel::copy_to_streams<exec::cuda>::run(cuda, on_device(std::as_const(y)), on_device(h));
      bool right = true;
      for (index_t i = 0; i < t; ++i)
        for (index_t c = 0; c < d; ++c)
          for (index_t j = 0; j < n; ++j)
            right = right && value(h(i, j, c)) == value(store<A>(m.weights.embed.at(ids[std::size_t(i)], c)));
      CHECK(right);
    });
  }
}

TEMPLATE_TEST_CASE("Compressor on CUDA", "[cuda]", DSV4_STORED_TYPES) {
  using A = TestType;
  exec::ref ref;
  exec::cuda cuda;
  integers r{7};
  const index_t d = 9;
  for (const index_t ratio : {4, 16}) {
    const index_t width = ratio == csa_ratio ? 2 * d : d;
    const auto ape = random_tensor<float>(r, 1, ratio, width);
    for (const index_t entries : {0, 1, 3})
      for (const index_t from : {0, 2}) {
        // Rows of the blocks that close, and of the one before.
        const index_t first = std::max(index_t{0}, from - 1) * ratio, t = (from + entries) * ratio - first;
        const auto kv = random_tensor<double>(r, 2, t, width), logits = random_tensor<double>(r, 2, t, width);
        auto score = logits;
        kernel::add_ape<exec::ref>::run(ref, ape.all(), first, score.all());
        tensor<A, 2> pooled(entries, d), y(entries, d);
        kernel::compressor_pool<exec::ref>::run(
            ref, compressor_rows<double>(first, kv.all(), std::as_const(score).all()), ratio, from,
            pooled.all());
        under_schedules([&] {
          auto s = logits;
          kernel::add_ape<exec::cuda>::run(cuda, on_device(ape), first, on_device(s));
          CHECK(same_bits(s, score));
          kernel::compressor_pool<exec::cuda>::run(
              cuda, compressor_rows<double, mem::device>(first, on_device(kv), on_device(std::as_const(s))),
              ratio, from, on_device(y));
          CHECK(same_bits(y, pooled));
        });
      }
  }
}

TEMPLATE_TEST_CASE("Indexer on CUDA: scores, choices with ties", "[cuda]", DSV4_STORED_TYPES) {
  using A = TestType;
  exec::ref ref;
  exec::cuda cuda;
  integers r{8};
  const index_t h = 4, d = 16, ratio = 4;
  for (const index_t t : edge_rows)
    for (const index_t s : {1, 33, 150})
      for (const index_t start : {0, 70}) {
        auto q = random_tensor<A>(r, 1, t, h, d);
        const auto keys = random_tensor<A>(r, 1, s, d);
        const auto weights = random_tensor<A>(r, 1, t, h);
        tensor<A, 2> scores(t, s), scores2(t, s);
        kernel::index_scores<exec::ref>::run(ref, std::as_const(q).all(), keys.all(), weights.all(),
                                             scores.all());
        auto tied = scores;  // few different values
        for (A& v : tied.all()) v = store<A>(std::floor(value(v)));
        const index_t k = std::min<index_t>(s, 20);
        tensor<std::int32_t, 2> chosen(t, k), chosen2(t, k), of_tied(t, k), all(t, s), all2(t, s);
        kernel::index_select<exec::ref>::run(ref, std::as_const(scores).all(), start, ratio, chosen.all());
        kernel::index_select<exec::ref>::run(ref, std::as_const(tied).all(), start, ratio, of_tied.all());
        for (index_t i = 0; i < t; ++i)
          for (index_t j = 0; j < s; ++j) all(i, j) = j < (start + i + 1) / ratio ? int(j) : -1;
        auto scaled = weights;
        kernel::scale_stored<exec::ref>::run(ref, scaled.all(), 0.3);
        under_schedules([&] {
          kernel::index_scores<exec::cuda>::run(cuda, on_device(std::as_const(q)), on_device(keys),
                                                on_device(weights), on_device(scores2));
          CHECK(same_bits(scores2, scores));
          kernel::index_select<exec::cuda>::run(cuda, on_device(std::as_const(scores2)), start, ratio,
                                                on_device(chosen2));
          CHECK(same_bits(chosen2, chosen));
          kernel::index_select<exec::cuda>::run(cuda, on_device(std::as_const(tied)), start, ratio,
                                                on_device(chosen2));
          CHECK(same_bits(chosen2, of_tied));
          const segment g{0, t, start};
          const view<std::int32_t, 2, mem::device> list = on_device(all2);
          kernel::choose_all_visible<exec::cuda>::run(cuda, std::span(&g, 1), ratio, std::span(&list, 1));
          CHECK(same_bits(all2, all));
          auto w = weights;
          kernel::scale_stored<exec::cuda>::run(cuda, on_device(w), 0.3);
          CHECK(same_bits(w, scaled));
        });
      }
}

TEMPLATE_TEST_CASE("Sparse attention on CUDA", "[cuda]", DSV4_STORED_TYPES) {
  using A = TestType;
  exec::ref ref;
  exec::cuda cuda;
  integers r{9};
  const index_t heads = 2, d = 70, window = 50;
  const auto sink = random_tensor<float>(r, 2, heads);
  for (const index_t t : edge_rows)
    for (const index_t start : {0, 57})
      for (const index_t k : {0, 1, 90}) {
        const index_t first = std::max(index_t{0}, start - window + 1), entries = 100;
        const auto q = random_tensor<A>(r, 3, t, heads, d);
        const auto recent = random_tensor<A>(r, 3, start + t - first, d),
                   entry = random_tensor<A>(r, 3, entries, d);
        tensor<std::int32_t, 2> chosen(t, k);
        for (std::int32_t& c : chosen.all())
          c = static_cast<std::int32_t>(r.below(entries + 30)) - 30 < 0
                  ? -1
                  : static_cast<std::int32_t>(r.below(entries));
        const attention_slots<A> slots{
            start, window, {{}, first, recent.all()}, entry.all(), std::as_const(chosen).all()};
        const attention_slots<A, mem::device> slots2{start,
                                                     window,
                                                     {{}, first, on_device(recent)},
                                                     on_device(entry),
                                                     on_device(std::as_const(chosen))};
        tensor<A, 3> expected(t, heads, d), o(t, heads, d);
        kernel::sparse_attention<exec::ref>::run(ref, q.all(), slots, sink.all(), 0.125, expected.all());
        under_schedules([&] {
          kernel::sparse_attention<exec::cuda>::run(cuda, on_device(q), slots2, on_device(sink), 0.125,
                                                    on_device(o));
          CHECK(same_bits(o, expected));
        });
      }
}

TEST_CASE("Gate on CUDA", "[cuda]") {
  exec::ref ref;
  exec::cuda cuda;
  integers r{10};
  const index_t experts = 37, k = 6, vocab = 20;
  const auto bias = random_tensor<float>(r, 1, experts);
  std::vector<std::int64_t> rows;
  for (index_t i = 0; i < vocab * k; ++i) rows.push_back(r.below(experts));
  const expert_table table{dtype::i64, reinterpret_cast<const std::byte*>(rows.data()), vocab, k};
  for (const index_t t : edge_rows) {
    auto logits = random_tensor<double>(r, 30, t, experts);
    for (index_t i = 0; i < t; ++i) logits(i, 3) = logits(i, 30);  // ties where the bias is left out
    const auto ids = random_ids(t, vocab, 5);
    for (const bool biased_choice : {true, false}) {
      const view<const float, 1> b = biased_choice ? bias.all() : view<const float, 1>();
      auto scores = logits;
      tensor<double, 2> biased(t, experts), weights(t, k);
      tensor<std::int32_t, 2> indices(t, k), by_table(t, k);
      kernel::gate_scores<exec::ref>::run(ref, scores.all(), b, biased.all());
      std::vector<std::int32_t> order(static_cast<std::size_t>(experts));
      for (index_t i = 0; i < t; ++i) {
        top_k(std::span<const double>(biased[i].data(), order.size()), std::span(order),
              std::span(indices[i].data(), std::size_t(k)));
        double sum = 0;
        for (index_t j = 0; j < k; ++j) sum += scores(i, indices(i, j));
        for (index_t j = 0; j < k; ++j) weights(i, j) = gate_weight(scores(i, indices(i, j)), sum, 2.5);
        for (index_t j = 0; j < k; ++j) by_table(i, j) = std::int32_t(table.at(ids[std::size_t(i)], j));
      }
      under_schedules([&] {
        auto s = logits;
        tensor<double, 2> biased2(t, experts), weights2(t, k);
        tensor<std::int32_t, 2> indices2(t, k);
        const view<const float, 1, mem::device> b2(b.data(), b.extents());
        const view<const std::int32_t, 1, mem::device> ids2(ids.data(), t);
        kernel::gate_scores<exec::cuda>::run(cuda, on_device(s), b2, on_device(biased2));
        CHECK(same_bits(s, scores));
        CHECK(same_bits(biased2, biased));
        basic_workspace<mem::device> scratch;
        kernel::choose_experts<exec::cuda>::run(cuda, scratch, on_device(std::as_const(biased2)), {}, ids2,
                                                on_device(indices2));
        CHECK(same_bits(indices2, indices));
        const routing<double, mem::device> route{on_device(indices2), on_device(weights2)};
        kernel::route_weights<exec::cuda>::run(cuda, on_device(std::as_const(s)), 2.5, route);
        CHECK(same_bits(weights2, weights));
        const basic_expert_table<mem::device> table2{table.type, table.data, table.rows, table.k};
        kernel::choose_experts<exec::cuda>::run(cuda, scratch, on_device(std::as_const(biased2)), table2,
                                                ids2, on_device(indices2));
        CHECK(same_bits(indices2, by_table));
      });
    }
  }
}

namespace {
template <class P>
void check_experts(stored_as format) {
  using A = act_t<P>;
  exec::ref ref;
  exec::cuda cuda;
  integers r{11};
  random_model m(tiny_config());
  const index_t experts = 5, k = 3, d = 64, inner = 32;
  std::vector<expert_weights<>> all;
  std::vector<expert_weights<storage::in_memory<mem::device>>> all2;
  for (index_t i = 0; i < experts; ++i) {
    all.push_back({m.matrix(inner, d, format), m.matrix(inner, d, format), m.matrix(d, inner, format)});
    all2.push_back({on_device(all.back().w1), on_device(all.back().w3), on_device(all.back().w2)});
  }
  for (const index_t t : edge_rows) {
    auto x = random_tensor<A>(r, 2, t, d);
    tensor<std::int32_t, 2> indices(t, k);
    auto weights = random_tensor<double>(r, 1, t, k);
    // Any order, and the same expert twice, as a table may have it.
    for (std::int32_t& i : indices.all()) i = static_cast<std::int32_t>(r.below(experts));
    tensor<double, 2> routed(t, d), routed2(t, d);
    workspace scratch;
    kernel::experts<exec::ref>::run<P>(ref, scratch, x.all(), routing<double>{indices.all(), weights.all()},
                                       all, 2, routed.all());
    const auto shared = random_tensor<A>(r, 2, t, d);
    tensor<A, 2> out(t, d), out2(t, d);
    kernel::add_shared<exec::ref>::run(ref, std::as_const(routed).all(), shared.all(), out.all());
    under_schedules([&] {
      basic_workspace<mem::device> scratch2;
      kernel::experts<exec::cuda>::run<P>(
          cuda, scratch2, on_device(x), routing<double, mem::device>{on_device(indices), on_device(weights)},
          all2, 2, on_device(routed2));
      CHECK(same_bits(routed2, routed));
      kernel::add_shared<exec::cuda>::run(cuda, on_device(std::as_const(routed2)), on_device(shared),
                                          on_device(out2));
      CHECK(same_bits(out2, out));
    });
  }
}
}  // namespace

TEST_CASE("Experts on CUDA", "[cuda]") {
  check_experts<official>(stored_as::fp4);
  check_experts<official>(stored_as::fp8);
  check_experts<official>(stored_as::bf16);
  check_experts<float32<>>(stored_as::f32);
}

TEST_CASE("Experts of mixed formats are refused", "[cuda]") {
  exec::cuda cuda;
  random_model m(tiny_config());
  const weight_matrix w1 = m.matrix(32, 64, stored_as::fp4), w2 = m.matrix(64, 32, stored_as::bf16);
  const std::vector<expert_weights<storage::in_memory<mem::device>>> all{
      {on_device(w1), on_device(w1), on_device(w2)}};
  tensor<bf16, 2> x(1, 64);
  tensor<std::int32_t, 2> indices(1, 1);
  tensor<double, 2> weights(1, 1), routed(1, 64);
  basic_workspace<mem::device> scratch;
  CHECK_THROWS_AS(
      kernel::experts<exec::cuda>::run<official>(
          cuda, scratch, on_device(x), routing<double, mem::device>{on_device(indices), on_device(weights)},
          all, 2, on_device(routed)),
      unsupported);
}

TEST_CASE("Rings on CUDA keep the latest rows", "[cuda]") {
  exec::cuda cuda;
  for (const index_t t : edge_rows) {
    const index_t capacity = 7, d = 3, start = 5;
    tensor<float, 2> rows(t, d), ring(capacity, d);
    for (index_t i = 0; i < rows.size(); ++i) rows.data()[i] = float(i + 1);
    const ring_append<float, mem::device> append{0, t, start, on_device(ring)};
    under_schedules([&] {
      kernel::append_rows<exec::cuda>::run(cuda, on_device(std::as_const(rows)), std::span(&append, 1));
      for (index_t p = std::max(start, start + t - capacity); p < start + t; ++p)
        for (index_t c = 0; c < d; ++c) CHECK(ring(p % capacity, c) == rows(p - start, c));
    });
  }
}

}  // namespace dsv4_test
