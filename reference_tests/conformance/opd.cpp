// SPDX-License-Identifier: MIT
// On-policy distillation against torch, TRL and miles (golden/opd), in double to 1e-12: the divergence of every position
// and its gradient, from logits and from hidden states and heads; all teachers, one teacher per answer; what torch makes
// NaN of and this library does not.
#include <cstdio>

#include "dsv4/post/distill.hpp"
#include "dsv4/post/divergence.hpp"
#include "golden_file.hpp"

namespace dsv4_test::conformance_opd {
namespace {

using namespace dsv4;
using namespace dsv4::post;
using dsv4::index_t;

constexpr double tolerance = 1e-12;
/// Figures that TRL computed in float32.
constexpr double float_tolerance = 1e-6;

/// [b, t, x] as [b t, x]
template <class T>
view<const T, 2> flat(const tensor<T, 3>& x) {
  return x.all().reshape(x.extent(0) * x.extent(1), x.extent(2));
}

struct student {
  golden_file f;
  tensor<double, 3> hidden = f.tensor<3>("student_hidden"), logits = f.tensor<3>("student_logits");
  tensor<double, 2> head = f.tensor<2>("student_head"), mask = f.tensor<2>("mask");
  std::vector<double> weights = f.list("weights");
  std::vector<index_t> teacher = f.list<index_t>("teacher_index");
  double counted = 0;
  index_t n = hidden.extent(0) * hidden.extent(1), v = head.extent(0), h = head.extent(1);

  explicit student(const std::filesystem::path& p) : f(p) {
    for (index_t i = 0; i < mask.size(); ++i) counted += mask.data()[i];
  }
  std::string name(std::size_t k) const { return "teacher" + std::to_string(k); }
};

std::vector<std::filesystem::path> files(const char* begin) {
  const auto folder = golden("opd");
  REQUIRE(folder);  // the project has it: reference_tests/data
  std::vector<std::filesystem::path> found;
  for (const auto& f : std::filesystem::directory_iterator(*folder))
    if (f.path().filename().string().starts_with(begin) && f.path().extension() == ".safetensors")
      found.push_back(f.path());
  std::sort(found.begin(), found.end());
  REQUIRE(!found.empty());
  return found;
}

/// Mean over the mask of a divergence, and its gradient.
struct outcome {
  double loss = 0;
  tensor<double, 2> dlogits;  // [n,v]
};
outcome mean_divergence(const student& s, const tensor<double, 3>& teacher, const divergence_rule& rule) {
  outcome o{0, tensor<double, 2>(s.n, s.v)};
  for (index_t n = 0; n < s.n; ++n)
    if (const double m = s.mask.data()[n] / s.counted; m != 0)
      o.loss += m * divergence<double>(flat(s.logits)[n], flat(teacher)[n], rule, m, o.dlogits[n]);
  return o;
}

TEST_CASE("opd: every position from its logits; other temperatures and directions") {
  for (const auto& path : files("case")) {
    INFO(path.filename().string());
    const student s(path);
    double worst = 0;
    for (std::size_t k = 0; k < s.weights.size(); ++k) {
      INFO(s.name(k));
      const auto logits = s.f.tensor<3>(s.name(k) + ".logits");
      for (index_t n = 0; n < s.n; ++n) {
        const double kl = divergence<double>(flat(s.logits)[n], flat(logits)[n], {}, 0, {}),
                     expected = s.f.at("per_token_kl", static_cast<index_t>(k) * s.n + n);
        CHECK(std::fabs(kl - expected) <= tolerance);
        worst = std::max(worst, std::fabs(kl - expected));
      }
      // TRL: temperatures, and everything between forward and reverse.
      index_t compared = 0;
      for (const std::string& name : s.f.names()) {
        const std::string prefix = "trl." + s.name(k) + ".";
        if (!name.starts_with(prefix) || !name.ends_with(".loss")) continue;
        INFO(name);
        const std::string what = name.substr(prefix.size(), name.size() - prefix.size() - 5);
        divergence_rule rule;
        if (what.starts_with("beta"))
          rule.beta = std::stod(what.substr(4));
        else {
          REQUIRE(what.starts_with("T"));
          rule.temperature = std::stod(what.substr(1));
        }
        const outcome o = mean_divergence(s, logits, rule);
        CHECK(std::fabs(o.loss - s.f.scalar(name)) <= tolerance);
        CHECK(distance(o.dlogits, s.f.tensor<2>(prefix + what + ".grad_logits")) <= tolerance);
        ++compared;
      }
      CHECK(compared >= 2);
    }
    std::printf("%s: %lld positions, %zu teachers, KL within %.1e\n", path.filename().string().c_str(),
                static_cast<long long>(s.n), s.weights.size(), worst);
  }
}

/// The loss of all teachers or of each answer's own, by distill(), as T.
template <class T>
struct distilled {
  double loss = 0;
  tensor<T, 2> dhidden, dhead;
  std::vector<T> kl;

  distilled(const student& s, const std::vector<std::vector<double>>& weights /*[k][n]*/, bool by_logits) {
    dhidden = tensor<T, 2>(s.n, s.h), dhead = tensor<T, 2>(s.v, s.h);
    const auto hidden = s.f.tensor<2, T>("student_hidden"), head = s.f.tensor<2, T>("student_head");
    exec::ref e;
    workspace scratch;
    for (std::size_t k = 0; k < weights.size(); ++k) {
      const auto states = s.f.tensor<2, T>(s.name(k) + ".hidden"), of = s.f.tensor<2, T>(s.name(k) + ".head");
      tensor<T, 1> w(s.n), one(s.n);
      for (index_t n = 0; n < s.n; ++n) w[n] = T(weights[k][std::size_t(n)]);
      const hidden_payload<T> me{hidden, head};
      if (by_logits) {
        tensor<T, 2> logits(s.n, s.v);
        kernel::products<exec::ref>::forward<T>(e, states, of, logits);
        loss += distill(e, scratch, me, logit_payload<T>{logits}, w, one, dhidden, dhead);
      } else {
        loss += distill(e, scratch, me, hidden_payload<T>{states, of}, w, one, dhidden, dhead);
      }
      kl.insert(kl.end(), one.data(), one.data() + one.size());
    }
  }
};

TEST_CASE("opd: all teachers and routed, from hidden states and from logits") {
  for (const auto& path : files("case")) {
    INFO(path.filename().string());
    const student s(path);
    const index_t length = s.mask.extent(1);
    for (const std::string name : {"all_teachers", "routed"}) {
      INFO(name);
      std::vector<std::vector<double>> w(s.weights.size(), std::vector<double>(std::size_t(s.n), 0.0));
      for (std::size_t k = 0; k < w.size(); ++k)
        for (index_t n = 0; n < s.n; ++n)
          if (name == "all_teachers" || s.teacher[std::size_t(n / length)] == static_cast<index_t>(k))
            w[k][std::size_t(n)] = s.weights[k] * s.mask.data()[n] / s.counted;
      const distilled<double> d(s, w, false), by_logits(s, w, true);
      CHECK(std::fabs(d.loss - s.f.scalar(name + ".loss")) <= tolerance);
      CHECK(distance(d.dhidden, s.f.tensor<2>(name + ".grad_hidden")) <= tolerance);
      CHECK(distance(d.dhead, s.f.tensor<2>(name + ".grad_head")) <= tolerance);
      for (std::size_t i = 0; i < d.kl.size(); ++i)
        if (w[i / std::size_t(s.n)][i % std::size_t(s.n)] != 0)
          CHECK(std::fabs(d.kl[i] - s.f.at("per_token_kl", static_cast<index_t>(i))) <= tolerance);
      // Both payloads: the same bits.
      CHECK(by_logits.loss == d.loss);
      CHECK(distance(by_logits.dhidden, d.dhidden) == 0);
      CHECK(distance(by_logits.dhead, d.dhead) == 0);

      // Through the logits: rows of the gradient sum to 0.
      tensor<double, 2> g(s.n, s.v);
      for (std::size_t k = 0; k < w.size(); ++k) {
        const auto logits = s.f.tensor<3>(s.name(k) + ".logits");
        for (index_t n = 0; n < s.n; ++n)
          divergence<double>(flat(s.logits)[n], flat(logits)[n], {}, w[k][std::size_t(n)], g[n]);
      }
      CHECK(distance(g, s.f.tensor<2>(name + ".grad_logits")) <= tolerance);
      for (index_t n = 0; n < s.n; ++n)
        CHECK(std::fabs(fold(s.v, 0.0, [&](index_t v) { return g(n, v); })) <= tolerance);
    }

    // One teacher at a time in float, as TRL's tiled head.
    for (std::size_t k = 0; k < s.weights.size(); ++k) {
      std::vector<std::vector<double>> w(s.weights.size(), std::vector<double>(std::size_t(s.n), 0.0));
      for (index_t n = 0; n < s.n; ++n) w[k][std::size_t(n)] = s.mask.data()[n] / s.counted;
      const distilled<float> d(s, w, false);
      for (const std::string tiles : {"chunked", "unchunked"}) {
        const std::string name = "trl32." + tiles + "." + s.name(k);
        INFO(name);
        CHECK(std::fabs(d.loss - s.f.scalar(name + ".loss")) <= float_tolerance);
        CHECK(distance(d.dhidden, s.f.tensor<2>(name + ".grad_hidden")) <= float_tolerance);
        CHECK(distance(d.dhead, s.f.tensor<2>(name + ".grad_head")) <= float_tolerance);
      }
    }
  }
}

TEST_CASE("opd: the estimate from the drawn token as an advantage") {
  for (const auto& path : files("case")) {
    const student s(path);
    const auto in = s.f.tensor<2>("sampled.advantages_in"),
               expected = s.f.tensor<2>("sampled.advantages_out");
    const auto ids = s.f.tensor<2, std::int32_t>("sampled.ids");
    const auto lengths = s.f.list<index_t>("sampled.lengths");
    tensor<double, 2> found = in;
    for (index_t b = 0; b < in.extent(0); ++b) {
      const auto logits = s.f.tensor<3>(s.name(std::size_t(s.teacher[std::size_t(b)])) + ".logits");
      for (index_t t = 0; t < lengths[std::size_t(b)]; ++t)
        found(b, t) = sampled_advantage(
            in(b, t), probability_of<double>(s.logits[b][t], ids(b, t)).log_probability,
            probability_of<double>(logits[b][t], ids(b, t)).log_probability, s.f.scalar("sampled.coef"));
    }
    CHECK(distance(found, expected) <= tolerance);
  }
}

TEST_CASE("opd: edges, where torch has a number and where it has none") {
  const golden_file f(files("edge").front());
  const auto student = f.tensor<2>("student_logits"), teacher = f.tensor<2>("teacher_logits"),
             gradient = f.tensor<2>("grad");
  const index_t vocabulary = student.extent(1);
  index_t finite = 0, infinite = 0, limits = 0;
  for (index_t n = 0; n < student.extent(0); ++n) {
    INFO("row " << n);
    const double expected = f.at("kl", n);
    tensor<double, 1> g(vocabulary);
    const double kl = divergence<double>(student[n], teacher[n], {}, 1, g);
    if (std::isfinite(expected)) {
      CHECK(std::fabs(kl - expected) <= tolerance * std::max(1.0, expected));
      for (index_t v = 0; v < vocabulary; ++v)
        CHECK(std::fabs(g[v] - gradient(n, v)) <= tolerance * std::max(1.0, expected));
      ++finite;
    } else if (std::isinf(expected)) {
      CHECK(kl == expected);
      ++infinite;
    } else {
      // 0 (-inf - x) = 0: the tokens the student allows, with the teacher's probabilities of the whole vocabulary.
      const double lse = log_sum_exp(student[n].data(), vocabulary),
                   of = log_sum_exp(teacher[n].data(), vocabulary);
      double limit = 0;
      for (index_t v = 0; v < vocabulary; ++v)
        if (const double a = student(n, v) - lse; std::isfinite(a))
          limit += std::exp(a) * (a - (teacher(n, v) - of));
      CHECK(std::isfinite(limit));
      CHECK(std::fabs(kl - limit) <= tolerance);
      for (index_t v = 0; v < vocabulary; ++v) {
        const double a = student(n, v) - lse;
        const double slope = std::isfinite(a) ? std::exp(a) * (a - (teacher(n, v) - of) - limit) : 0;
        CHECK(std::fabs(g[v] - slope) <= tolerance);
      }
      ++limits;
    }
  }
  CHECK((finite >= 4 && infinite >= 1 && limits >= 1));
}

}  // namespace
}  // namespace dsv4_test::conformance_opd
