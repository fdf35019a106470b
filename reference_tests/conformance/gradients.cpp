// SPDX-License-Identifier: MIT
// Training against Hugging Face transformers in float32 (golden/transformers/seed0): the loss within 1e-6 and every
// gradient within relative L2 1e-4, by the specification in double and in float and by the fast executor; threads
// and recomputation change nothing.
#include <cstdio>

#include "catch.hpp"
#include "data.hpp"
#include "dsv4/cpu/cpu.hpp"
#include "dsv4/io/checkpoint.hpp"
#include "dsv4/train/model.hpp"

namespace dsv4_test::conformance_gradients {
namespace {

using namespace dsv4;
using dsv4::index_t;

constexpr double loss_tolerance = 1e-6, gradient_tolerance = 1e-4;

struct oracle {
  config c;
  io::safetensors weights, gradients;
  train::batch batch;
};
const oracle* seed0() {
  const auto dir = golden("transformers/seed0");
  if (!dir) return nullptr;
  static const oracle o = [&] {
    const auto file = [&](const char* name) {
      return io::safetensors::open(io::detail::plain_or_compressed(*dir / name));
    };
    oracle r{io::read_config(*dir), file("weights.safetensors"), file("grads.safetensors"), {}};
    const io::tensor_info& t = r.gradients.at("input_ids");
    std::vector<std::int32_t> ids;
    for (index_t i = 0; i < t.elements; ++i) {
      std::int64_t id;
      std::memcpy(&id, t.data + 8 * i, 8);
      ids.push_back(static_cast<std::int32_t>(id));
    }
    r.batch = train::batch::of(ids);
    return r;
  }();
  return &o;
}

float f32(const io::tensor_info& t, index_t i) {
  float v;
  std::memcpy(&v, t.data + 4 * i, 4);
  return v;
}

template <class T>
struct trained {
  train::parameter_layout layout;
  tensor<T, 1> weights, gradients;
  train::routing_tables tables;
};
template <class T>
trained<T> load(const oracle& o) {
  trained<T> m{train::parameter_layout::of<T>(o.c), {}, {}, {}};
  m.weights = tensor<T, 1>(m.layout.size);
  m.gradients = tensor<T, 1>(m.layout.size);
  for (const train::parameter_info& p : m.layout.all) {
    const io::tensor_info& t = o.weights.at(p.name);
    REQUIRE(t.shape == p.shape);
    for (index_t i = 0; i < p.size(); ++i) m.weights[p.offset + i] = T(f32(t, i));
  }
  for (index_t l = 0; l < o.c.num_hidden_layers; ++l) {
    const std::string gate = "layers." + std::to_string(l) + ".ffn.gate.";
    m.tables.bias.emplace_back();
    m.tables.table.emplace_back();
    if (o.c.is_hash_layer(l)) {
      tensor<std::int32_t, 2> table(o.c.vocab_size, o.c.num_experts_per_tok);
      const io::tensor_info& t = o.weights.at(gate + "tid2eid");
      for (index_t i = 0; i < table.size(); ++i) {
        std::int64_t id;
        std::memcpy(&id, t.data + 8 * i, 8);
        table.data()[i] = static_cast<std::int32_t>(id);
      }
      m.tables.table.back() = std::move(table);
    } else {
      tensor<float, 1> bias(o.c.n_routed_experts);
      const io::tensor_info& t = o.weights.at(gate + "bias");
      for (index_t i = 0; i < bias.size(); ++i) bias[i] = f32(t, i);
      m.tables.bias.back() = std::move(bias);
    }
  }
  return m;
}

template <class T, class E>
train::report run(E& e, const oracle& o, trained<T>& m, bool recompute = true) {
  std::fill_n(m.gradients.data(), m.layout.size, T(0));
  train::network<T, E> net(o.c, recompute);
  const auto g = train::bind<T>(o.c, m.gradients.data());
  train::objective want;
  want.balance_weight = 0;
  want.index = train::index_stage::off;
  return net.run(e, train::bind<const T>(o.c, m.weights.data()), m.tables, o.batch, want, &g);
}

template <class T, class E>
void compare(const char* who) {
  const oracle* o = seed0();
  REQUIRE(o);  // the project has it: reference_tests/data
  E e;
  auto m = load<T>(*o);
  const train::report r = run(e, *o, m);
  const double loss = f32(o->gradients.at("loss"), 0);
  double worst = 0;
  std::string where;
  index_t compared = 0;
  for (const train::parameter_info& p : m.layout.all) {
    const io::tensor_info* t = o->gradients.find(p.name);
    double difference = 0, norm = 0;
    for (index_t i = 0; i < p.size(); ++i) {
      const double expected = t ? f32(*t, i) : 0, found = double(m.gradients[p.offset + i]);
      difference += (expected - found) * (expected - found);
      norm += expected * expected;
    }
    if (!t) {  // the indexer: the choice has no gradient
      CHECK(o->gradients.find(p.name + "#nograd"));
      CHECK(difference == 0);
      continue;
    }
    ++compared;
    // An expert that no token was sent to has a gradient of exact zeros.
    const double relative = norm > 0 ? std::sqrt(difference / norm) : difference;
    INFO(p.name);
    CHECK(relative <= gradient_tolerance);
    if (relative > worst) worst = relative, where = p.name;
  }
  std::printf("%s: loss %.7f against %.7f (%.1e), %lld gradients, worst relative L2 %.1e (%s)\n", who, r.loss,
              loss, std::abs(r.loss - loss), static_cast<long long>(compared), worst, where.c_str());
  CHECK(std::abs(r.loss - loss) <= loss_tolerance);
  CHECK(compared == 286);
}

TEST_CASE("gradients of transformers, specification in double") { compare<double, exec::ref>("ref, double"); }
TEST_CASE("gradients of transformers, specification in float") { compare<float, exec::ref>("ref, float"); }
TEST_CASE("gradients of transformers, cpu") { compare<float, exec::cpu>("cpu, float"); }

TEST_CASE("gradients: threads and recomputation change no bit") {
  const oracle* o = seed0();
  REQUIRE(o);
  auto m = load<float>(*o);
  exec::cpu one{1};
  run(one, *o, m);
  const tensor<float, 1> expected = m.gradients;
  for (const int threads : {2, 3})
    for (const bool recompute : {true, false}) {
      exec::cpu e{threads};
      run(e, *o, m, recompute);
      CHECK(std::equal(expected.data(), expected.data() + expected.size(), m.gradients.data()));
    }
}

}  // namespace
}  // namespace dsv4_test::conformance_gradients
