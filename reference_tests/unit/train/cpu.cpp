// SPDX-License-Identifier: MIT
// The kernels of exec::cpu against the specification, both in double; and that threads change no bit.
#include <atomic>

#include "dsv4/cpu/train/sparse_attention.hpp"
#include "dsv4/train/model.hpp"
#include "finite_difference.hpp"

namespace dsv4_test::train_cpu {
namespace {

using bytes = std::vector<std::uint8_t>;
constexpr double rounding = 1e-11;  // of the largest: sums of a few hundred doubles in another order
exec::ref spec;

template <class A, class B>
void same_up_to_rounding(const char* name, const A& found, const B& expected) {
  INFO(name);
  REQUIRE(found.size() == expected.size());
  double worst = 0, largest = 1e-3;
  bool finite = true;
  for (index_t i = 0; i < found.size(); ++i) {
    finite &= std::isfinite(found.data()[i]);
    largest = std::max(largest, std::fabs(expected.data()[i]));
    worst = std::max(worst, std::fabs(found.data()[i] - expected.data()[i]));
  }
  CHECK(finite);
  CHECK(worst <= rounding * largest);
}

TEST_CASE("cpu: the loop covers every piece once", "[train]") {
  for (const int threads : {1, 2, 3})
    for (const index_t n : {0, 1, 15, 16, 17, 300})
      for (const index_t grain : {1, 16}) {
        exec::cpu e{threads};
        std::vector<std::atomic<int>> seen(std::size_t(n) + 1);
        kernel::scope<exec::cpu>::run(e, [&] {
          kernel::rows<exec::cpu>::run(e, n, grain, [&](index_t begin, index_t end) {
            for (index_t i = begin; i < end; ++i) ++seen[std::size_t(i)];
          });
        });
        for (index_t i = 0; i < n; ++i) CHECK(seen[std::size_t(i)] == 1);
      }
}

TEST_CASE("cpu: products, tiles whole and partial", "[train]") {
  struct {
    index_t t, k, o;
  } const sizes[] = {{1, 1, 1}, {3, 5, 7}, {130, 17, 150}, {257, 40, 129}, {600, 300, 130}, {2, 300, 128}};
  for (const auto& [t, k, o] : sizes)
    for (const int threads : {1, 3}) {
      integers r{std::uint64_t(t)};
      exec::cpu e{threads};
      const auto x = numbers(r, 1, t, k), w = numbers(r, 1, o, k), dy = numbers(r, 1, t, o);
      tensor<double, 2> y(t, o), y0(t, o);
      auto dx = numbers(r, 1, t, k), dw = numbers(r, 1, o, k);  // added to
      auto dx0 = dx;
      auto dw0 = dw, dw_only = dw;
      kernel::scope<exec::cpu>::run(e, [&] {
        kernel::products<exec::cpu>::forward<double>(e, x, w, y);
        kernel::products<exec::cpu>::backward<double>(e, dy, x, w, dx, dw);
        kernel::products<exec::cpu>::backward<double>(e, dy, x, w, {}, dw_only);
      });
      kernel::products<exec::ref>::forward<double>(spec, x, w, y0);
      kernel::products<exec::ref>::backward<double>(spec, dy, x, w, dx0, dw0);
      same_up_to_rounding("y", y, y0);
      same_up_to_rounding("dx", dx, dx0);
      same_up_to_rounding("dw", dw, dw0);
      CHECK(std::equal(dw.data(), dw.data() + dw.size(), dw_only.data()));
    }
}

TEST_CASE("cpu: exponentials, the same wherever a number stands", "[train]") {
  exec::cpu e;
  integers r{4};
  constexpr index_t most = 70;
  const auto x = numbers(r, 40, most);
  for (index_t n = 0; n <= most; ++n) {
    std::vector<float> single(std::size_t(n) + 1, 7);
    std::vector<double> twice(std::size_t(n) + 1, 7);
    std::copy_n(x.data(), n, twice.data());
    std::copy_n(x.data(), n, single.data());
    kernel::exponential<exec::cpu>::run(e, single.data(), n);
    kernel::exponential<exec::cpu>::run(e, twice.data(), n);
    CHECK((single[std::size_t(n)] == 7 && twice[std::size_t(n)] == 7));
    for (index_t i = 0; i < n; ++i) {
      CHECK(twice[std::size_t(i)] == Catch::Approx(std::exp(x[i])).epsilon(1e-14));
      float alone = float(x[i]);
      CHECK(single[std::size_t(i)] == Catch::Approx(std::exp(double(alone))).epsilon(3e-7));
      kernel::exponential<exec::cpu>::run(e, &alone, 1);
      CHECK(single[std::size_t(i)] == alone);
    }
  }
  float edges[] = {-INFINITY, -1000, 0, NAN};
  kernel::exponential<exec::cpu>::run(e, edges, 4);
  CHECK((edges[0] < 1e-37f && edges[1] < 1e-37f && edges[2] == 1 && std::isnan(edges[3])));
}

/// Operands and results of core attention.
template <class T>
struct attend_case {
  index_t tokens, entries, heads = 3, d = 8, window;
  tensor<T, 3> q, dout, o, dq;
  tensor<T, 2> kv, es, lse, delta, dkv, des, mass;
  tensor<T, 1> sink, dsink;
  bytes chosen;

  attend_case(index_t tokens, index_t entries, index_t window)
      : tokens(tokens), entries(entries), window(window) {
    integers r{std::uint64_t(tokens * 100 + window)};
    const auto fill = [&](auto& x, double size) {
      for (index_t i = 0; i < x.size(); ++i) x.data()[i] = T(size * double(r.unit()));
    };
    q = dout = o = dq = tensor<T, 3>(tokens, heads, d);
    kv = dkv = tensor<T, 2>(tokens, d);
    es = des = tensor<T, 2>(entries, d);
    lse = delta = tensor<T, 2>(tokens, heads);
    mass = tensor<T, 2>(tokens, entries);
    sink = dsink = tensor<T, 1>(heads);
    fill(q, 3), fill(dout, 1), fill(kv, 2), fill(es, 2), fill(dkv, 1), fill(des, 1), fill(sink, 1),
        fill(dsink, 1);
    sink[0] = 25, sink[1] = -25;
    // Entry 1 is seen by nobody, the last two by nobody, some queries see none.
    for (index_t t = 0; t < tokens; ++t)
      for (index_t s = 0; s < entries; ++s)
        chosen.push_back(s != 1 && s < entries - 2 && s < t / 4 && r.below(3) > 0);
  }
  template <class E>
  void run() {
    using kernel = kernel::attend<E>;
    const view<const std::uint8_t, 2> mask(chosen.data(), tokens, entries);
    const train::attention_keys<T> keys{window, kv, es, mask}, dkeys{window, dkv, des, {}};
    kernel::template forward<T>(std::as_const(q), keys, std::as_const(sink), o, lse);
    for (index_t t = 0; t < tokens; ++t)
      for (index_t h = 0; h < heads; ++h) {
        delta(t, h) = 0;
        for (index_t i = 0; i < d; ++i) delta(t, h) += dout(t, h, i) * o(t, h, i);
      }
    kernel::template backward<T>(std::as_const(q), keys, std::as_const(sink), std::as_const(lse),
                                 std::as_const(dout), std::as_const(delta), dq, dkeys, dsink);
    if (entries)
      kernel::template mass<T>(std::as_const(q), std::as_const(es), mask, std::as_const(lse), mass);
  }
};

TEST_CASE("cpu: core attention, tiles whole and partial, masks, windows, sinks", "[train]") {
  for (const index_t tokens : {1, 31, 32, 33, 70})
    for (const index_t window : {1, 8, 33, 200})
      for (const index_t entries : {0, 3, 12}) {
        INFO(tokens << " tokens, window " << window << ", " << entries << " entries");
        attend_case<double> expected(tokens, entries, window), found = expected;
        expected.run<exec::ref>();
        found.run<exec::cpu>();
        same_up_to_rounding("o", found.o, expected.o);
        same_up_to_rounding("lse", found.lse, expected.lse);
        same_up_to_rounding("dq", found.dq, expected.dq);
        same_up_to_rounding("dkv", found.dkv, expected.dkv);
        same_up_to_rounding("dentries", found.des, expected.des);
        same_up_to_rounding("dsink", found.dsink, expected.dsink);
        same_up_to_rounding("mass", found.mass, expected.mass);
      }
}

TEST_CASE("cpu: an entry that nobody chose may score beyond any softmax", "[train]") {
  attend_case<double> a(40, 12, 8);
  for (index_t i = 0; i < a.d; ++i)
    a.es(1, i) = 1e5 * a.q(39, 2, i), a.es(11, i) = 1e5;  // exp of it: infinite
  attend_case<double> b = a;
  a.run<exec::cpu>();
  b.run<exec::ref>();
  same_up_to_rounding("o", a.o, b.o);
  same_up_to_rounding("dq", a.dq, b.dq);
  same_up_to_rounding("dentries", a.des, b.des);
  same_up_to_rounding("mass", a.mass, b.mass);
}

// ---- the whole network

/// Samples shorter and longer than tiles of 128 rows, of 32 queries and pieces of 16 tokens.
const std::vector<index_t> lengths{150, 1, 40, 70, 33, 3};

config large() {
  config c = smallest_config({0, 4, 6, 0});
  c.num_hash_layers = 1;
  c.vocab_size = 150;
  c.index_topk = 5;
  return c;
}
train::objective everything() {
  train::objective want;
  want.balance_weight = 0.1;
  return want;
}

// In double, where a sum in another order shows at once.  In float: conformance/gradients.cpp.
TEST_CASE("cpu: threads, recomputation and forced routes change no bit", "[train]") {
  trained_model<> m(large(), 31);
  const train::batch b = packed(lengths, m.c.vocab_size, 32);
  const auto w = m.w();
  const auto g = m.g();
  train::report first;
  tensor<double, 1> expected;
  for (const int threads : {1, 2, 3})
    for (const bool recompute : {true, false}) {
      exec::cpu e{threads};
      train::network<double, exec::cpu> net(m.c, recompute);
      m.forget();
      const train::report r = net.run(e, w, m.tables, b, everything(), &g);
      if (expected.empty()) expected = m.gradients, first = r;
      INFO(threads << " threads" << (recompute ? ", recomputed" : ""));
      CHECK(std::equal(expected.data(), expected.data() + expected.size(), m.gradients.data()));
      CHECK((r.loss == first.loss && r.mtp_loss == first.mtp_loss && r.balance == first.balance &&
             r.index_kl == first.index_kl));
      CHECK(r.load == first.load);
      // Forced to take the routes it took: the same bits.
      m.forget();
      net.run(e, w, m.tables, b, everything(), &g, &first.routes);
      CHECK(std::equal(expected.data(), expected.data() + expected.size(), m.gradients.data()));
    }
}

TEST_CASE("cpu: a step is the specification's", "[train]") {
  trained_model<> m(large(), 31);
  const train::batch b = packed(lengths, m.c.vocab_size, 32);
  const auto g = m.g();
  exec::cpu e{2};
  train::network<double, exec::cpu> net(m.c);
  const train::report found = net.run(e, m.w(), m.tables, b, everything(), &g);
  const trained_model<> first = m;
  m.forget();
  train::network<double, exec::ref> plain(m.c);
  const train::report expected = plain.run(spec, m.w(), m.tables, b, everything(), &g);
  for (const train::parameter_info& p : m.layout.all) {
    const auto x = first.added(p), y = m.added(p);
    same_up_to_rounding(p.name.c_str(), view<const double, 1>(x.data(), p.size()),
                        view<const double, 1>(y.data(), p.size()));
  }
  CHECK(std::fabs(found.loss - expected.loss) < rounding);
  CHECK(std::fabs(found.mtp_loss - expected.mtp_loss) < rounding);
  CHECK(std::fabs(found.balance - expected.balance) < rounding);
  CHECK(std::fabs(found.index_kl - expected.index_kl) < rounding);
  CHECK(found.load == expected.load);
}

}  // namespace
}  // namespace dsv4_test::train_cpu
