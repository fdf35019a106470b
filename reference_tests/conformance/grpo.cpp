// SPDX-License-Identifier: MIT
// GRPO against TRL (golden/grpo): every case of the batches, the further settings, advantages and off-policy masks; losses
// within 1e-12, gradients with respect to the logits within 1e-10, in double.
#include <cstdio>
#include <set>

#include "dsv4/post/advantage.hpp"
#include "dsv4/post/grpo.hpp"
#include "dsv4/post/token_probability.hpp"
#include "golden_file.hpp"

namespace dsv4_test::conformance_grpo {
namespace {

using namespace dsv4;
using namespace dsv4::post;
using dsv4::index_t;

constexpr double loss_tolerance = 1e-12, gradient_tolerance = 1e-10;
/// TRL's fused head computes in float32, on logits of order 1.
constexpr double float_tolerance = 1e-6;

constexpr const char* kinds[] = {"grpo", "bnpo", "dr_grpo", "dapo"};

std::vector<std::filesystem::path> files(const char* begin) {
  const auto folder = golden("grpo");
  REQUIRE(folder);  // the project has a part of it: reference_tests/data
  std::vector<std::filesystem::path> found;
  for (const auto& f : std::filesystem::directory_iterator(*folder))
    if (f.path().filename().string().starts_with(begin) && f.path().extension() == ".safetensors")
      found.push_back(f.path());
  std::sort(found.begin(), found.end());
  REQUIRE(!found.empty());
  return found;
}

/// The answers of a file, as T.
template <class T>
struct answers {
  tensor<T, 3> logits;                    // [b,t,v]
  tensor<T, 2> lp, entropy, old, ref;     // [b,t]
  tensor<std::int32_t, 2> ids;            // [b,t]
  tensor<std::uint8_t, 2> written, mask;  // [b,t]
  double items;

  explicit answers(const golden_file& f)
      : logits(f.tensor<3, T>("logits")),
        lp(logits.extent(0), logits.extent(1)),
        entropy(lp),
        old(f.tensor<2, T>("old_per_token_logps")),
        ref(f.tensor<2, T>("ref_per_token_logps")),
        ids(f.tensor<2, std::int32_t>("completion_ids")),
        written(f.tensor<2, std::uint8_t>("completion_mask")),
        mask(f.tensor<2, std::uint8_t>("loss_mask")),
        items(f.scalar("num_items_in_batch")) {
    token_probabilities<T>(logits, {ids, written}, lp, entropy);
  }

  struct outcome {
    double loss;
    tensor<T, 3> gradient;  // [b,t,v]
  };
  /// Loss and gradient with respect to the logits.
  outcome run(const grpo_settings& s, const std::vector<double>& advantage, bool with_old = true) const {
    tensor<T, 1> a(static_cast<index_t>(advantage.size()));
    for (index_t b = 0; b < a.size(); ++b) a[b] = T(advantage[std::size_t(b)]);
    tensor<T, 2> dlp(lp.extent(0), lp.extent(1));
    answer_batch<T> batch{.lp = lp,
                          .old = with_old ? old.all() : view<const T, 2>{},
                          .ref = ref,
                          .entropy = entropy,
                          .advantage = a,
                          .mask = mask};
    outcome o{grpo_loss<T>(s, batch, dlp).loss,
              tensor<T, 3>(logits.extent(0), logits.extent(1), logits.extent(2))};
    token_probabilities_backward<T>(logits, {ids, written}, dlp, o.gradient);
    return o;
  }
};

/// The worst found in a file.
struct worst_case {
  double loss = 0, gradient = 0;
  index_t cases = 0;

  template <class T>
  void compare(const typename answers<T>::outcome& found, double loss, const tensor<double, 3>& expected) {
    const double e = std::fabs(found.loss - loss), g = distance(found.gradient, expected);
    CHECK(e <= loss_tolerance);
    CHECK(g <= gradient_tolerance * std::min(1.0, magnitude(expected) + loss_tolerance));
    this->loss = std::max(this->loss, e);
    gradient = std::max(gradient, g);
    ++cases;
  }
  void show(const std::filesystem::path& file) const {
    std::printf("%s: %lld cases, loss within %.1e, gradient within %.1e\n", file.filename().string().c_str(),
                static_cast<long long>(cases), loss, gradient);
  }
};

TEST_CASE("grpo: log-probabilities, entropies and every case of the batches") {
  for (const auto& path : files("batch")) {
    INFO(path.filename().string());
    const golden_file f(path);
    const answers<double> a(f);
    CHECK(distance(a.lp, f.tensor<2>("per_token_logps")) <= loss_tolerance);
    CHECK(distance(a.entropy, f.tensor<2>("entropies")) <= loss_tolerance);
    for (const std::string name : {"old", "ref"}) {
      tensor<double, 2> lp(a.lp.extent(0), a.lp.extent(1)), entropy(lp);
      const auto logits = f.tensor<3>(name + "_logits");
      token_probabilities<double>(logits, {a.ids, a.written}, lp, entropy);
      CHECK(distance(lp, f.tensor<2>(name + "_per_token_logps")) <= loss_tolerance);
    }
    CHECK(std::count(a.mask.data(), a.mask.data() + a.mask.size(), 1) == a.items);

    const std::vector<double> advantage = f.list("advantages");
    const auto cases = f.tensor<2>("cases");
    worst_case worst;
    for (index_t i = 0; i < cases.extent(0); ++i) {
      INFO("case " << i);
      grpo_settings s;
      REQUIRE((0 <= cases(i, 0) && cases(i, 0) < 4));
      s.aggregate = {
          .kind = static_cast<loss_kind>(cases(i, 0)), .longest = a.lp.extent(1), .items = a.items};
      s.beta = cases(i, 1);
      s.corrected_kl = cases(i, 2) != 0;
      if (cases(i, 3) > 0) s.clip.delta = cases(i, 3);
      if (cases(i, 4) >= 0) s.off_policy_threshold = cases(i, 4);
      const bool with_old = cases(i, 5) != 0;
      tensor<double, 3> expected(a.logits);
      for (index_t k = 0; k < expected.size(); ++k)
        expected.data()[k] = f.at("grad", i * expected.size() + k);
      worst.compare<double>(a.run(s, advantage, with_old), f.at("loss", i), expected);
    }
    CHECK(worst.cases == f.extent("loss", 0));
    worst.show(path);

    // The same formulas in float, against the head that computes in float.
    grpo_settings fused{.beta = 0.04, .off_policy_threshold = 0.5};
    fused.clip.delta = 2;
    fused.aggregate = {.kind = loss_kind::dapo, .items = a.items};
    const answers<float> narrow(f);
    for (const bool with_old : {false, true}) {
      const std::string name = std::string(".ratio") + (with_old ? "1" : "0");
      const auto o = narrow.run(fused, advantage, with_old);
      CHECK(std::fabs(o.loss - f.scalar("fused32_loss" + name)) <= float_tolerance);
      CHECK(distance(o.gradient, f.tensor<3>("fused32_grad" + name)) <= float_tolerance);
    }
    // Which answers the off-policy mask keeps.
    const auto keep = f.list<int>("off_policy_mask");
    for (index_t b = 0; b < a.lp.extent(0); ++b)
      CHECK(is_on_policy<double>(advantage[std::size_t(b)], a.lp, a.old, a.mask, b, 0.5) ==
            (keep[std::size_t(b)] != 0));
  }
}

/// "name_0.1_0.28" -> 0.1, 0.28
std::vector<double> numbers_in(const std::string& name) {
  std::vector<double> found;
  for (std::size_t at = 0; (at = name.find_first_of("0123456789", at)) != name.npos;) {
    std::size_t used = 0;
    found.push_back(std::stod(name.substr(at), &used));
    at += used;
  }
  return found;
}

TEST_CASE("grpo: ratio of a whole answer, bounds, entropy mask, accumulated batches, scales") {
  const auto path = files("extra").front();
  const golden_file f(path);
  const answers<double> a(f);
  std::set<std::string> settings;
  worst_case worst;
  for (const std::string& name : f.names()) {
    if (!name.ends_with(".loss")) continue;
    const std::string without = name.substr(0, name.size() - 5),
                      kind = without.substr(without.rfind('.') + 1),
                      what = without.substr(0, without.rfind('.'));
    INFO(without);
    settings.insert(what);
    const auto known = std::find(std::begin(kinds), std::end(kinds), kind);
    REQUIRE(known != std::end(kinds));
    grpo_settings s{.beta = 0.04};
    s.aggregate = {.kind = static_cast<loss_kind>(known - std::begin(kinds)),
                   .longest = a.lp.extent(1),
                   .items = a.items};
    std::string advantage = "advantages.group";
    const std::vector<double> n = numbers_in(what);
    if (what == "sequence") {
      s.level = ratio_level::sequence;
    } else if (what == "sequence_delta_mask") {
      s.level = ratio_level::sequence;
      s.clip.delta = 1.3;
      s.off_policy_threshold = 0.5;
    } else if (what.starts_with("delta_")) {
      s.clip.delta = n.at(0);
    } else if (what.starts_with("eps_")) {
      s.clip.low = n.at(0), s.clip.high = n.at(1);
      s.corrected_kl = false;
    } else if (what.starts_with("entropy_quantile_")) {
      s.entropy_share = n.at(0);
    } else if (what.starts_with("accum")) {
      s.aggregate.batches_per_step = static_cast<index_t>(n.at(0));
      s.aggregate.steps_per_rollout =
          n.size() > 1 ? static_cast<index_t>(n[1]) : s.aggregate.batches_per_step;
      s.aggregate.items = 57;  // of the whole rollout that was recorded
    } else if (what.starts_with("scale_")) {
      advantage = "advantages." + what.substr(6);
    } else {
      FAIL("an unknown setting");
    }
    worst.compare<double>(a.run(s, f.list(advantage)), f.scalar(name), f.tensor<3>(without + ".grad"));
  }
  CHECK(worst.cases == static_cast<index_t>(settings.size() * std::size(kinds)));
  CHECK(settings.size() >= 9);
  worst.show(path);

  // Rewards to advantages; the file does not say how large a group is.
  bool explained = false;
  const auto rewards = f.tensor<2>("rewards");
  for (index_t group = 2; group <= rewards.extent(0); ++group) {
    if (rewards.extent(0) % group != 0) continue;
    const auto as = [&](reward_scale scale, const char* name) {
      return distance(advantages(rewards, group, {.scale = scale}), f.list(name)) <= loss_tolerance;
    };
    explained = explained ||
                (as(reward_scale::none, "advantages.none") && as(reward_scale::group, "advantages.group") &&
                 as(reward_scale::batch, "advantages.batch"));
  }
  CHECK(explained);
}

TEST_CASE("grpo: advantages") {
  const golden_file f(files("advantages").front());
  index_t compared = 0;
  for (const std::string& name : f.names()) {
    const auto at = name.find(".adv.");
    if (at == name.npos) continue;
    INFO(name);
    const std::string one = name.substr(0, at), scale = name.substr(at + 5);
    advantage_rule rule;
    if (scale == "none")
      rule.scale = reward_scale::none;
    else if (scale == "batch")
      rule.scale = reward_scale::batch;
    else if (scale == "normalize_then_sum")
      rule.each_function_first = true;
    else
      REQUIRE(scale == "group");
    const std::vector<double> weights =
        f.has(one + ".weights") ? f.list(one + ".weights") : std::vector<double>{};
    const auto found =
        advantages(f.tensor<2>(one + ".rewards"), f.at<index_t>(one + ".group", 0), rule, weights);
    CHECK(distance(found, f.list(name)) <= loss_tolerance);
    ++compared;
  }
  CHECK(compared >= 30);
}

TEST_CASE("grpo: off-policy masks, exactly") {
  const golden_file f(files("off_policy_mask").front());
  index_t compared = 0;
  for (const std::string& name : f.names()) {
    const auto at = name.find(".keep.");
    if (at == name.npos) continue;
    INFO(name);
    const std::string one = name.substr(0, at) + ".";
    const double threshold = std::stod(name.substr(at + 6));
    const auto lp = f.tensor<2>(one + "per_token_logps"),
               sampler = f.tensor<2>(one + "sampling_per_token_logps");
    const auto mask = f.tensor<2, std::uint8_t>(one + "mask");
    for (index_t b = 0; b < lp.extent(0); ++b, ++compared)
      CHECK(is_on_policy<double>(f.at(one + "advantages", b), lp, sampler, mask, b, threshold) ==
            (f.at<int>(name, b) != 0));
  }
  CHECK(compared > 0);
}

}  // namespace
}  // namespace dsv4_test::conformance_grpo
