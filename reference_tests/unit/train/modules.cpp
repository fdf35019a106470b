// SPDX-License-Identifier: MIT
// Every module but attention: its gradients against finite differences, in double.
#include "dsv4/train/cross_entropy.hpp"
#include "dsv4/train/moe.hpp"
#include "dsv4/train/mtp.hpp"
#include "dsv4/train/rope.hpp"
#include "finite_difference.hpp"

namespace dsv4_test::train_modules {
namespace {

using T = double;
exec::ref e;

TEST_CASE("differences: a right gradient passes, and tells a wrong one", "[train]") {
  std::vector<double> x{0.3, -2, 1.5};
  const auto f = [&] { return std::sin(x[0]) * std::exp(x[1]) + x[2] * x[2] * x[0]; };
  const std::vector<double> g{std::cos(0.3) * std::exp(-2.0) + 2.25, std::sin(0.3) * std::exp(-2.0),
                              2 * 1.5 * 0.3};
  check_gradient("by hand", x, g, f);
  std::vector<double> unit(3, 0.0);
  unit[1] = 1;
  CHECK(std::fabs(slope(x, unit, f) - g[1]) < 1e-12);
}

TEST_CASE("products", "[train]") {
  integers r{1};
  const index_t t = 3, k = 5, o = 4;
  variable<2> x(r, 1, t, k), w(r, 1, o, k);
  auto dy = numbers(r, 1, t, o);
  tensor<T, 2> y(t, o);
  const auto loss = [&] {
    train::project<exec::ref, T>(e, x, w.constant(), y);
    return inner(dy, y);
  };
  train::project_backward<exec::ref, T>(e, dy, x, w.constant(), x.gradient, w.gradient);
  x.check("x", loss);
  w.check("w", loss);
  // Without dx: only w learns.
  x.forget(before);
  w.forget(before);
  train::project_backward<exec::ref, T>(e, dy, x, w.constant(), {}, w.gradient);
  w.check("w alone", loss);
}

TEST_CASE("RMSNorm with a weight, and of a head", "[train]") {
  for (const double eps : {1e-6, 0.1}) {
    integers r{2};
    variable<2> x(r, 1, 4, 6);
    variable<1> w(r, 1, 6);
    tensor<T, 1> factor(4);
    tensor<T, 2> y(4, 6);
    auto dy = numbers(r, 1, 4, 6);
    const auto loss = [&] {
      train::rms_norm<exec::ref, T>(e, x, w.constant(), eps, factor, y);
      return inner(dy, y);
    };
    loss();
    train::rms_norm_backward<exec::ref, T>(e, dy, x, w.constant(), factor, x.gradient, w.gradient);
    x.check("x", loss);
    w.check("w", loss);

    variable<3> q(r, 1, 3, 2, 5);
    auto dq = numbers(r, 1, 3, 2, 5);
    tensor<T, 3> normed;
    tensor<T, 2> head_factor(3, 2);
    const auto head_loss = [&] {
      normed = q.value;
      train::head_norm<exec::ref, T>(e, normed, eps, head_factor);
      return inner(dq, normed);
    };
    head_loss();
    q.gradient = dq;  // in place
    train::head_norm_backward<exec::ref, T>(e, q.gradient, normed, head_factor);
    q.check("q", head_loss, 0);
  }
}

TEST_CASE("rotation: its gradient is the rotation back, by the position's angle", "[train]") {
  config c = smallest_config();
  for (const index_t ratio : {0, 4}) {
    const train::rotary_table table(c, ratio, 40);
    integers r{3};
    variable<3> x(r, 1, 3, 2, c.head_dim);
    auto dy = numbers(r, 1, 3, 2, c.head_dim);
    tensor<T, 3> y;
    const auto at = [](index_t t) { return 17 * t + 1; };
    for (const rotation way : {rotation::forward, rotation::inverse}) {
      const auto loss = [&] {
        y = x.value;
        train::rotate<exec::ref, T>(e, y, table, at, way);
        return inner(dy, y);
      };
      x.gradient = dy;
      train::rotate<exec::ref, T>(e, x.gradient, table, at,
                                  way == rotation::forward ? rotation::inverse : rotation::forward);
      x.check("x", loss, 0);
    }
  }
}

TEST_CASE("rotation: two roundings a product and a sum, whoever compiles the loop", "[train]") {
  const config c = smallest_config();
  const train::rotary_table table(c, 0, 200);
  integers r{31};
  auto x = numbers(r, 1, 200, 1, c.head_dim), y = x;
  for (index_t i = 0; i < x.size(); ++i) x.data()[i] /= 3, y.data()[i] /= 3;  // all bits in use
  train::rotate<exec::ref, T>(e, y, table, [](index_t t) { return t; }, rotation::forward);
  for (index_t t = 0; t < 200; ++t)
    for (index_t i = 0; i < 2; ++i) {
      const volatile T a = x(t, 0, 2 + 2 * i), b = x(t, 0, 3 + 2 * i), cos = T(table.cos(t, i)),
                       sin = T(table.sin(t, i));
      const volatile T ac = a * cos, bs = b * sin, as = a * sin, bc = b * cos;
      CHECK((y(t, 0, 2 + 2 * i) == ac - bs && y(t, 0, 3 + 2 * i) == as + bc));
    }
}

TEST_CASE("embedding: every stream, tokens that come twice", "[train]") {
  integers r{4};
  const std::vector<std::int32_t> ids{3, 1, 3, 0};
  variable<2> table(r, 1, 5, 3);
  auto dh = numbers(r, 1, 4, 2, 3);
  tensor<T, 3> h(4, 2, 3);
  const auto loss = [&] {
    train::embed_streams<exec::ref, T>(e, ids, table.constant(), h);
    return inner(dh, h);
  };
  train::embed_backward<exec::ref, T>(e, ids, dh, table.gradient);
  table.check("table", loss);
  for (index_t d = 0; d < 3; ++d) CHECK((table.gradient(2, d) == before && table.gradient(4, d) == before));
}

TEST_CASE("Sinkhorn: sizes, iterations, logits near and far apart", "[train]") {
  for (const index_t n : {2, 3, 4})
    for (const index_t iterations : {1, 2, 20})
      for (const double spread : {1.0, 6.0}) {
        integers r{std::uint64_t(10 * n + iterations)};
        variable<2> logits(r, spread, n, n);
        auto dy = numbers(r, 1, n, n);
        tensor<T, 2> y;
        const auto loss = [&] {
          y = logits.value;
          sinkhorn<T>(y, iterations, 1e-6);
          return inner(dy, y);
        };
        // Eight matrices side by side, this one in an inner place among others.
        workspace scratch;
        const auto steps = train::sinkhorn_steps<T>::take(scratch, n, iterations);
        auto g = scratch.take<T>(n, n, train::sinkhorn_lanes);
        constexpr index_t lane = 5;
        const auto entry = [&](const auto& v, index_t at) -> T& {
          return v.data()[at * train::sinkhorn_lanes + lane];
        };
        for (index_t at = 0; at < n * n * train::sinkhorn_lanes; ++at)
          steps.softmax.data()[at] = spread * r.unit(), g.data()[at] = r.unit();
        for (index_t at = 0; at < n * n; ++at)
          entry(steps.softmax, at) = logits.value.data()[at], entry(g, at) = dy.data()[at];
        exec::ref e;
        steps.forward(e, 1e-6);
        steps.backward(g);
        loss();
        for (index_t at = 0; at < n * n; ++at) {
          CHECK(entry(steps.result(), at) == y.data()[at]);
          logits.gradient.data()[at] = entry(g, at);
        }
        INFO("n " << n << ", iterations " << iterations << ", spread " << spread);
        logits.check("logits", loss, 0);
      }
}

TEST_CASE("mHC: read and write", "[train]") {
  for (const index_t n : {2, 4}) {
    config c = smallest_config({0, 0});
    c.hc_mult = n;
    trained_model<> m(c, 5);
    const index_t tokens = 5, d = c.hidden_size;
    integers r{6};
    variable<3> h(r, 2, tokens, n, d);
    variable<2> f(r, 2, tokens, d);
    auto dnext = numbers(r, 1, tokens, n, d);
    auto dy = numbers(r, 1, tokens, d);
    tensor<T, 3> next(tokens, n, d);
    tensor<T, 2> y(tokens, d);
    workspace scratch;
    const auto s = train::hyper_saved<T>::take(scratch, tokens, n),
               ds = train::hyper_saved<T>::take(scratch, tokens, n);
    const auto w = m.w();
    const auto loss = [&] {
      train::hyper_read<exec::ref, T>(e, c, h, w.layers[0].hc_attn, s, y);
      train::hyper_write<exec::ref, T>(e, h, f, s, next);
      return inner(dnext, next) + inner(dy, y);
    };
    loss();
    h.forget(not_a_number);  // write sets, read adds
    f.forget(not_a_number);
    train::hyper_write_backward<exec::ref, T>(e, dnext, h, f, s, h.gradient, f.gradient, ds);
    train::hyper_read_backward<exec::ref, T>(e, c, dy, h, w.layers[0].hc_attn, s, ds, h.gradient,
                                             m.g().layers[0].hc_attn);
    h.check("h", loss, 0);
    f.check("f", loss, 0);
    m.check("layers.0.hc_attn", loss);
    m.check_untouched("hc_ffn");
  }
}

TEST_CASE("read-out and cross-entropy: with and without targets, more tokens than a piece", "[train]") {
  const config c = smallest_config({0, 0});
  trained_model<> m(c, 7);
  const auto w = m.w();
  const train::readout_parameters<const T> from{w.hc_head, w.norm, w.head};
  const train::readout_parameters<T> to{m.g().hc_head, m.g().norm, m.g().head};
  workspace scratch;
  for (const index_t tokens : {index_t{6}, train::readout_piece + 3}) {
    integers r{8};
    variable<3> h(r, 1, tokens, c.hc_mult, c.hidden_size);
    const auto target = [&](index_t t) { return std::int32_t(t % 4 == 1 ? -1 : (5 * t + 2) % c.vocab_size); };
    const double scale = 1.0 / double(tokens);
    const auto loss = [&] {
      return scale * train::readout_loss<exec::ref, T>(e, scratch, c, h, from, target, scale, {}, nullptr);
    };
    m.forget();
    const double sum =
        train::readout_loss<exec::ref, T>(e, scratch, c, h, from, target, scale, h.gradient, &to);
    CHECK(sum * scale == loss());
    h.check("h", loss);
    m.check("hc_head", loss);
    m.check("norm.weight", loss);
    m.check("head.weight", loss);
  }
}

TEST_CASE("cross-entropy: by hand, and logits far apart", "[train]") {
  exec::ref e;
  tensor<T, 1> z(3);
  z[0] = 1, z[1] = 2, z[2] = 4;
  const double sum = std::exp(1.0) + std::exp(2.0) + std::exp(4.0);
  CHECK(train::cross_entropy<exec::ref, T>(e, z, 1, 2.0) == Catch::Approx(std::log(sum) - 2).epsilon(1e-15));
  CHECK(z[0] == Catch::Approx(2 * std::exp(1.0) / sum).epsilon(1e-14));
  CHECK(z[1] == Catch::Approx(2 * std::exp(2.0) / sum - 2).epsilon(1e-14));
  tensor<float, 1> far(2);
  far[0] = 3e4f, far[1] = -3e4f;
  CHECK(train::cross_entropy<exec::ref, float>(e, far, 1, 1.0f) == 6e4);
  CHECK((far[0] == 1 && far[1] == -1));
}

// ---- experts

TEST_CASE("SwiGLU: gradients, and none where it is clamped", "[train]") {
  exec::ref e;
  const T limit = 2, weight = 0.7;
  //                 inside          gate above   up above   up below   gate far below: not clamped   both
  std::vector<T> a{0.5, -1.2, 1.9, 2.5, 3.1, 0.4, -0.9, -6, -40, 2.2},
      u{1.5, -0.4, -1.9, 1, -1.8, 2.5, -2.6, 1.2, 0.3, 2.8};
  const index_t n = 10;
  std::vector<T> dz{0.3, -1, 0.8, 1, 0.5, -0.7, 0.9, 1, 1, 0.6}, z(10), da(10), du(10);
  T w = weight;
  const auto loss = [&] {
    train::swiglu<exec::ref, T>(e, a.data(), u.data(), n, limit, w, z.data());
    T sum = 0;
    for (std::size_t i = 0; i < 10; ++i) sum += dz[i] * z[i];
    return sum;
  };
  const T dw = train::swiglu_backward<exec::ref, T>(e, a.data(), u.data(), dz.data(), n, limit, weight,
                                                    da.data(), du.data());
  check_gradient("a", a, da, loss);
  check_gradient("u", u, du, loss);
  check_gradient("weight", std::span(&w, 1), std::span(&dw, 1), loss);
  for (std::size_t i = 0; i < 10; ++i) {
    CHECK((da[i] == 0) == (a[i] > limit));
    CHECK((du[i] == 0) == (std::abs(u[i]) > limit));
  }
  // The border itself belongs to the inside.
  const T edge_a[] = {limit, 1, 1}, edge_u[] = {1, limit, -limit}, one[] = {1, 1, 1};
  T ea[3], eu[3];
  train::swiglu_backward<exec::ref, T>(e, edge_a, edge_u, one, 3, limit, weight, ea, eu);
  CHECK((ea[0] != 0 && eu[1] != 0 && eu[2] != 0));
}

TEST_CASE("an expert", "[train]") {
  const config c = smallest_config({0, 0});
  trained_model<> m(c, 9);
  const index_t rows = 6, inner_width = c.moe_intermediate_size;
  integers r{10};
  variable<2> x(r, 1.5, rows, c.hidden_size);
  variable<1> weight(r, 1, rows);
  auto dy = numbers(r, 1, rows, c.hidden_size);
  tensor<T, 2> y(rows, c.hidden_size);
  workspace scratch;
  const train::expert_saved<T> s{{}, scratch.take<T>(rows, inner_width), scratch.take<T>(rows, inner_width)};
  const auto w = m.w().layers[0].ffn.experts[2];
  const auto of = [&](index_t i) { return weight.value[i]; };
  const auto loss = [&] {
    train::expert_forward<exec::ref, T>(e, c, x, w, s, of, y);
    return inner(dy, y);
  };
  loss();
  index_t clamped_gates = 0, clamped_ups = 0;
  for (index_t i = 0; i < s.a.size(); ++i) {
    clamped_gates += s.a.data()[i] > c.swiglu_limit;
    clamped_ups += std::abs(s.u.data()[i]) > c.swiglu_limit;
  }
  CHECK(clamped_gates > 0);
  CHECK(clamped_ups > 0);
  CHECK(clamped_gates + clamped_ups < s.a.size());
  weight.forget(not_a_number);
  train::expert_backward<exec::ref, T>(
      e, c, dy, x, w, s, of, [&](index_t i, T v) { weight.gradient[i] = v; }, x.gradient,
      m.g().layers[0].ffn.experts[2]);
  x.check("x", loss);
  weight.check("weight", loss, 0);
  m.check("layers.0.ffn.experts.2.", loss);
  m.check_untouched("experts.1.");
}

// ---- routing

/// Gate of 5 experts over 7 tokens of two samples.
struct gate_case {
  config c = smallest_config({0, 0});
  trained_model<> m{c, 11};
  integers r{12};
  train::batch b = packed({4, 3}, c.vocab_size, 13);
  variable<2> x{r, 1.5, 7, c.hidden_size};
  workspace scratch;
  train::gate_saved<T> s = train::gate_saved<T>::take(scratch, c, 7);
  tensor<float, 1> bias = tensor<float, 1>(5);
  tensor<std::int32_t, 2> table = tensor<std::int32_t, 2>(c.vocab_size, 2);
  tensor<T, 2> dweights = numbers(r, 1, 7, 2);
  bool hash = false;

  gate_case() {
    for (index_t i = 0; i < c.vocab_size; ++i)
      table(i, 0) = std::int32_t(i % 5), table(i, 1) = std::int32_t((i + 2) % 5);
    bias[1] = 0.3f, bias[3] = -0.2f;
  }
  void forward() {
    train::gate<exec::ref, T>(e, c, x, b.ids, m.w().layers[0].ffn.gate.weight,
                              hash ? view<const float, 1>{} : bias.all(),
                              hash ? table.all() : view<std::int32_t, 2>{}, {}, s);
  }
  void backward(view<T, 2> dw, view<T, 2> dscores) {
    train::gate_backward<exec::ref, T>(e, c, dw, dscores, x, m.w().layers[0].ffn.gate.weight, s, x.gradient,
                                       m.g().layers[0].ffn.gate.weight);
  }
};

TEST_CASE("gate: the chosen experts' weights, learned and by table", "[train]") {
  gate_case g;
  for (const bool hash : {false, true}) {
    g.hash = hash;
    g.x.forget(before);
    g.m.forget();
    g.forward();
    const std::vector<std::int32_t> chosen(g.s.indices.begin(), g.s.indices.end());
    if (hash)
      for (index_t t = 0; t < 7; ++t)
        CHECK((g.s.indices(t, 0) == g.b.ids[std::size_t(t)] % 5 &&
               g.s.indices(t, 1) == (g.b.ids[std::size_t(t)] + 2) % 5));
    const auto loss = [&] {
      g.forward();
      if (!std::equal(chosen.begin(), chosen.end(), g.s.indices.begin())) return not_a_number;
      return inner(g.dweights, g.s.weights);
    };
    tensor<T, 2> dscores(7, 5);
    g.backward(g.dweights, dscores);
    g.x.check("x", loss);
    g.m.check("layers.0.ffn.gate", loss);
  }
}

TEST_CASE("gate: the bias moves the choice, never a gradient", "[train]") {
  gate_case g;
  g.forward();
  tensor<T, 2> dscores(7, 5);
  g.backward(g.dweights, dscores);
  const tensor<T, 2> expected = g.x.gradient;
  for (index_t i = 0; i < 5; ++i) g.bias[i] += 0.25f;  // all the same: the same choice
  g.x.forget(before);
  g.forward();
  tensor<T, 2> again(7, 5);
  g.backward(g.dweights, again);
  CHECK(std::equal(expected.data(), expected.data() + expected.size(), g.x.gradient.data()));
}

TEST_CASE("balance loss: by hand, and its gradient", "[train]") {
  gate_case g;
  const auto loss_of = [&](view<T, 2> dscores, T scale) {
    return train::balance_loss<T>(g.c, g.s, 0, 4, scale, dscores) +
           train::balance_loss<T>(g.c, g.s, 4, 7, scale, dscores);
  };
  g.forward();
  // sum_e f_e P_e of the second sample, as the paper writes it.
  double by_hand = 0;
  for (index_t i = 0; i < 5; ++i) {
    double f = 0, p = 0;
    for (index_t t = 4; t < 7; ++t) {
      double sum = 0;
      for (index_t j = 0; j < 5; ++j) sum += g.s.scores(t, j);
      p += g.s.scores(t, i) / sum / 3;
      for (index_t j = 0; j < 2; ++j) f += g.s.indices(t, j) == i ? 5.0 / (2 * 3) : 0;
    }
    by_hand += f * p;
  }
  CHECK(train::balance_loss<T>(g.c, g.s, 4, 7, 1.0, {}) == Catch::Approx(by_hand).epsilon(1e-13));

  const std::vector<std::int32_t> chosen(g.s.indices.begin(), g.s.indices.end());
  const auto loss = [&] {
    g.forward();
    return std::equal(chosen.begin(), chosen.end(), g.s.indices.begin()) ? 3 * loss_of({}, 0) : not_a_number;
  };
  tensor<T, 2> dscores(7, 5), none(7, 2);
  loss_of(dscores, 3);
  g.backward(none, dscores);
  g.x.check("x", loss);
  g.m.check("layers.0.ffn.gate", loss);
}

TEST_CASE("selection bias: down where too many tokens came, up where too few", "[train]") {
  tensor<float, 1> bias(4);
  bias[0] = 1;
  const std::vector<index_t> load{9, 3, 0, 0};
  train::update_bias(bias, load, 0.25);
  CHECK((bias[0] == 0.75f && bias[1] == 0 && bias[2] == 0.25f && bias[3] == 0.25f));
}

TEST_CASE("mixture of experts: routed, shared, routes and balance", "[train]") {
  const config c = smallest_config({0, 0});
  const train::batch b = packed({4, 3}, c.vocab_size, 14);
  for (const bool learned : {true, false}) {
    trained_model<> m(c, 15);
    const auto w = m.w().layers[0].ffn;
    const index_t tokens = 7;
    integers r{16};
    variable<2> x(r, 1.5, tokens, c.hidden_size);
    auto dout = numbers(r, 1, tokens, c.hidden_size);
    tensor<T, 2> out(tokens, c.hidden_size);
    tensor<std::int32_t, 2> table(c.vocab_size, 2);
    for (index_t i = 0; i < c.vocab_size; ++i)
      table(i, 0) = std::int32_t(1 + i % 4), table(i, 1) = std::int32_t(1 + (i + 1) % 4);
    workspace scratch;
    std::vector<std::int32_t> chosen;
    const double balance_scale = 2;
    auto s = train::moe_saved<T>::take(scratch, c, tokens);
    const auto loss = [&] {
      train::gate<exec::ref, T>(e, c, x, b.ids, w.gate.weight,
                                learned ? m.tables.bias[0].all() : view<float, 1>{},
                                learned ? view<std::int32_t, 2>{} : table.all(), {}, s.gate);
      if (chosen.empty()) chosen.assign(s.gate.indices.begin(), s.gate.indices.end());
      if (!std::equal(chosen.begin(), chosen.end(), s.gate.indices.begin())) return not_a_number;
      s.rows = train::assignments::of(scratch, c, s.gate);
      train::experts<exec::ref, T>(e, scratch, c, x, w, s, out);
      double balance = 0;
      for (index_t i = 0; i < 2; ++i)
        balance += train::balance_loss<T>(c, s.gate, b.begin(i), b.end(i), 0, {});
      return inner(dout, out) + (learned ? balance_scale * balance : 0);  // a table cannot be balanced
    };
    loss();
    const std::vector<index_t> load = train::expert_load(c, s.gate, 0, tokens);
    const double balance = train::moe_backward<exec::ref, T>(e, scratch, c, b, dout, x, w, s, balance_scale,
                                                             learned, x.gradient, m.g().layers[0].ffn);
    CHECK((balance > 0) == learned);
    x.check("x", loss);
    m.check("layers.0.ffn.gate", loss);
    m.check("layers.0.ffn.shared", loss);
    index_t unused = 0;
    for (index_t i = 0; i < c.n_routed_experts; ++i) {
      const std::string name = "layers.0.ffn.experts." + std::to_string(i) + ".";
      if (load[std::size_t(i)])
        m.check(name, loss);
      else
        m.check_untouched(name), ++unused;
    }
    if (!learned) CHECK(unused >= 1);  // expert 0 is not in the table
  }
}

TEST_CASE("input of the MTP module", "[train]") {
  const config c = smallest_config({0, 0});
  trained_model<> m(c, 17);
  const index_t tokens = 4, n = c.hc_mult, d = c.hidden_size;
  const std::vector<std::int32_t> next{2, 0, 2, 7};
  integers r{18};
  variable<3> h(r, 1, tokens, n, d);
  auto dx = numbers(r, 1, tokens, n, d);
  tensor<T, 3> x(tokens, n, d);
  workspace scratch;
  const auto s = train::mtp_saved<T>::take(scratch, tokens, n, d);
  const auto w = m.w();
  const auto loss = [&] {
    train::mtp_input<exec::ref, T>(e, scratch, c, next, w.embed, w.mtp[0], h, s, x);
    return inner(dx, x);
  };
  loss();
  train::mtp_input_backward<exec::ref, T>(e, scratch, dx, next, w.mtp[0], h, s, h.gradient, m.g().embed,
                                          m.g().mtp[0]);
  h.check("h", loss);
  for (const char* name : {"embed.weight", "mtp.0.enorm", "mtp.0.hnorm", "mtp.0.e_proj", "mtp.0.h_proj"})
    m.check(name, loss);
}

}  // namespace
}  // namespace dsv4_test::train_modules
