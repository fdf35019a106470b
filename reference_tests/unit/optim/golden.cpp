// SPDX-License-Identifier: MIT
// golden/optimizer: every case, every step, every tensor, in double and in float, on every executor.
#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <string>

#include "catch.hpp"
#include "data.hpp"
#include "dsv4/cpu/optim/muon.hpp"
#include "dsv4/io/tensor_table.hpp"
#include "dsv4/optim/adamw.hpp"
#include "dsv4/optim/muon.hpp"
#include "executors.hpp"
#include "operands.hpp"

namespace dsv4_test {
namespace {

constexpr double learning_rate = 2.7e-4;

/// The tensors of the file as T; a vector is one row.
template <class T>
struct steps {
  io::safetensors file = io::safetensors::open(
      io::detail::plain_or_compressed(golden("optimizer") ? *golden("optimizer") / "steps.safetensors"
                                                          : test_data("optimizer/steps.safetensors")));

  bool has(const std::string& name) const { return file.find(name); }
  tensor<T, 2> at(const std::string& name) const {
    const auto& t = file.at(name);
    REQUIRE(t.type == dtype::f64);
    const index_t rows = t.shape.size() == 2 ? t.shape[0] : 1;
    tensor<T, 2> x(rows, t.elements / rows);
    for (index_t n = 0; n < x.size(); ++n) {
      double v;
      std::memcpy(&v, t.data + n * index_t{sizeof v}, sizeof v);
      x.data()[n] = T(v);
    }
    return x;
  }
  std::set<std::string> cases() const {
    std::set<std::string> names;
    for (const auto& t : file.tensors()) names.insert(t.name.substr(0, t.name.find('.')));
    return names;
  }
};

template <class A, class B>
double error(const tensor<A, 2>& found, const tensor<B, 2>& expected) {
  double worst = 0;
  for (index_t n = 0; n < found.size(); ++n) {
    const double d = std::fabs(double(found.data()[n]) - double(expected.data()[n]));
    worst = std::isnan(d) ? d : std::max(worst, d);
  }
  return worst;
}

/// Cases whose gradients have directions below 3e-4 of the norm: rounding the inputs to float moves these
/// directions, and with them the exact result, by more than 1e-5.
bool weak_directions(const std::string& name) {
  return name.starts_with("lowrank") || name.starts_with("illcond");
}

template <class T, class E>
void follow_muon(E e, const steps<double>& exact, const steps<T>& given, const std::string& name) {
  const double tolerance = std::is_same_v<T, double> ? 1e-10 : 1e-5;
  workspace scratch;
  auto w = given.at(name + ".w0");
  tensor<T, 2> m(w.extent(0), w.extent(1)), ns = m;
  int steps_done = 0;
  for (int t = 0; given.has(name + ".g" + std::to_string(t)); ++t, ++steps_done) {
    const auto g = given.at(name + ".g" + std::to_string(t));
    muon_step<T>(e, scratch, g, m, w, learning_rate);
    // The direction by itself, of the momentum just stored.
    tensor<T, 2> ahead = m;
    for (index_t n = 0; n < g.size(); ++n)
      ahead.data()[n] = T(0.95 * double(m.data()[n]) + double(g.data()[n]));
    newton_schulz(e, scratch, ahead.all(), ns.all());
    const std::string before = std::to_string(t), after = std::to_string(t + 1);
    const double error_ns = error(ns, exact.at(name + ".ns" + before)),
                 error_m = error(m, exact.at(name + ".m" + after)),
                 error_w = error(w, exact.at(name + ".w" + after));
    CAPTURE(name, t, sizeof(T), error_ns, error_m, error_w);
    CHECK(error_m <= tolerance);
    CHECK(error_w <= tolerance);
    if (std::is_same_v<T, double> || !weak_directions(name)) {
      CHECK(error_ns <= tolerance);
    } else {
      // The float inputs' own result, exactly, where the executor does not round in between …
      tensor<double, 2> same(g.extent(0), g.extent(1)), of_same = same;
      for (index_t n = 0; n < g.size(); ++n) same.data()[n] = double(ahead.data()[n]);
      exec::ref ref;
      newton_schulz(ref, scratch, same.all(), of_same.all());
      if (std::is_same_v<wide_t<E>, double>) CHECK(error(ns, of_same) <= 0x1p-23);
      // … and everywhere no further off than rounding that grew as it may.
      CHECK(error_ns <= newton_schulz_growth * 0x1p-24);
    }
  }
  CHECK(steps_done >= 1);
}

template <class T>
void follow_adamw(const steps<double>& exact, const steps<T>& given, const std::string& name) {
  const double tolerance = std::is_same_v<T, double> ? 1e-10 : 1e-5;
  auto w = given.at(name + ".w0");
  tensor<T, 2> m(w.extent(0), w.extent(1)), v = m;
  const auto flat = [](auto& x) { return x.all().reshape(x.size()); };
  int t = 1;
  for (; given.has(name + ".g" + std::to_string(t - 1)); ++t) {
    const auto g = given.at(name + ".g" + std::to_string(t - 1));
    adamw_step<T>(flat(g), flat(m), flat(v), flat(w), t, learning_rate);
    const std::string after = std::to_string(t);
    const double error_m = error(m, exact.at(name + ".m" + after)),
                 error_v = error(v, exact.at(name + ".v" + after)),
                 error_w = error(w, exact.at(name + ".w" + after));
    CAPTURE(name, t, sizeof(T), error_m, error_v, error_w);
    CHECK(error_m <= tolerance);
    CHECK(error_v <= tolerance);
    CHECK(error_w <= tolerance);
  }
  CHECK(t == 5);
}

}  // namespace

TEMPLATE_TEST_CASE("muon follows golden/optimizer", "[optim][golden]", DSV4_TEST_EXECUTORS) {
  const steps<double> exact;
  const steps<float> rounded;
  int matrices = 0;
  for (const auto& name : exact.cases()) {
    if (name.starts_with("adamw")) continue;
    follow_muon(TestType{}, exact, exact, name);
    follow_muon(TestType{}, exact, rounded, name);
    ++matrices;
  }
  CHECK(matrices == 8);
}

TEST_CASE("adamw follows golden/optimizer", "[optim][golden]") {
  const steps<double> exact;
  const steps<float> rounded;
  for (const std::string name : {"adamw33", "adamw8x5"}) {
    follow_adamw(exact, exact, name);
    follow_adamw(exact, rounded, name);
  }
}

}  // namespace dsv4_test
