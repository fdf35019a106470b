// SPDX-License-Identifier: MIT
// exec::far (far.hpp): a model whose memory the host cannot touch has the bits of exec::ref on every official mini:
// in one prefill, in chunks, in every decode step, in MTP, in a batch, after a rewind, after saving and loading,
// with drafts, and with an observer that replaces values.
#include "far.hpp"

#include <setjmp.h>
#include <signal.h>

#include "catch.hpp"
#include "dsv4/gen/mtp_drafter.hpp"
#include "dsv4/gen/prefix_cache.hpp"
#include "dsv4/gen/sampler.hpp"
#include "dsv4/gen/speculative.hpp"
#include "dsv4/gen/state_file.hpp"
#include "golden_run.hpp"
#include "model_run.hpp"

namespace dsv4_test::conformance_official_far {
namespace {
using namespace dsv4;
using dsv4::index_t;
using far_model = transformer<official, exec::far>;

constexpr double wide_tolerance = 1e-12;  // double sums in another order: docs/numerics.md

const conformance::bundle* open(const char* name) {
  const auto dir = golden(std::string("official/") + name);
  if (!dir) return nullptr;
  static std::map<std::string, conformance::bundle> bundles;
  return &bundles.try_emplace(name, conformance::bundle::open(*dir)).first->second;
}

void check(const char* name, const std::vector<index_t>& chunks) {
  const auto* b = open(name);
  if (!b) SKIP("golden/official/" << name << " is not here (set DSV4_GOLDEN)");
  conformance::comparer compare(*b, wide_tolerance);
  conformance::run<official, exec::far>(*b, chunks, compare);
  for (const auto& f : compare.failures) UNSCOPED_INFO(f);
  INFO(name << ": " << compare.compared << " rows, " << compare.values << " values compared");
  CHECK(compare.failures.empty());
  CHECK(compare.compared > 1000);
}

/// Logits of every token, and streams, wherever the executor keeps them, in host memory.
template <execution E>
struct session {
  transformer<official, E> model;
  sequence<official, E> s;
  using memory = mem_of<E>;

  session(const conformance::bundle& b, index_t tokens, index_t max_rewind)
      : model(b.c(), b.checkpoint.weights()), s(model.new_sequence(tokens, max_rewind)) {}

  template <class Tap = no_tap>
  std::vector<double> feed(std::span<const std::int32_t> ids, Tap&& tap = Tap{}) {
    const auto n = static_cast<index_t>(ids.size());
    tensor<double, 2, memory> logits(n, model.configuration().vocab_size);
    model.forward(s, ids, logits, tap);
    tensor<double, 2> host(n, logits.extent(1));
    copy(model.executor(), logits.all(), host.all());
    return {host.data(), host.data() + host.size()};
  }
};

/// Adds to every value of one site.
struct pusher {
  static constexpr bool on = true;
  void operator()(const tap_event& e) {
    if (e.where != site::ffn_norm || e.scope.number != 1) return;
    for (bf16& v : e.values<bf16>()) v = store<bf16>(widen<double>(v) + 0.125);
  }
};
}  // namespace

TEST_CASE("far equals flash-mini", "[golden][far]") { check("flash-mini", {1000}); }
TEST_CASE("far equals pro-mini", "[golden][far]") { check("pro-mini", {1000}); }
TEST_CASE("far equals base-mini", "[golden][far]") { check("base-mini", {1000}); }
TEST_CASE("far equals real-ratio", "[golden][far]") { check("real-ratio", {1000}); }
TEST_CASE("far equals edge-mini", "[golden][far]") { check("edge-mini", {1000}); }
TEST_CASE("far equals the minis in chunks", "[golden][far][chunks]") {
  for (const char* name : {"flash-mini", "pro-mini", "base-mini", "edge-mini"})
    if (open(name)) check(name, {1, 2, 3, 5, 8, 13, 21});
}

TEST_CASE("far equals flash-mini as one sequence of a batch", "[golden][far]") {
  const auto* b = open("flash-mini");
  if (!b) SKIP("golden/official/flash-mini is not here (set DSV4_GOLDEN)");
  conformance::comparer compare(*b, wide_tolerance);
  conformance::run_in_batch<official, exec::far>(*b, 9, compare);
  for (const auto& f : compare.failures) UNSCOPED_INFO(f);
  CHECK(compare.failures.empty());
  CHECK(compare.compared > 1000);
}

TEST_CASE("far has the bits of ref after a rewind, a fork, a saved state and under a replacing observer",
          "[far]") {
  const auto* b = open("flash-mini");
  if (!b) SKIP("golden/official/flash-mini is not here (set DSV4_GOLDEN)");
  const std::span<const std::int32_t> ids(b->ids);
  const index_t n = 30, rewind = 6;
  session<exec::far> far(*b, 64, rewind);
  session<exec::ref> ref(*b, 64, rewind);
  const auto both = [&](std::span<const std::int32_t> part) { return far.feed(part) == ref.feed(part); };
  CHECK(both(ids.first(n)));
  far.s.rewind(n - 5), ref.s.rewind(n - 5);
  CHECK(both(ids.subspan(n - 5, 4)));
  const auto fork = far.s;
  CHECK(both(ids.subspan(n - 1, 3)));
  far.s = fork;
  ref.s.rewind(n - 1);
  CHECK(both(ids.subspan(n - 1, 3)));

  // The same state in the same bytes, and back.
  const auto identity = identity_of(far.model);
  state_extras<official, exec::far> extras;
  extras.ids.assign(ids.begin(), ids.begin() + far.s.length());
  state_extras<official, exec::ref> ref_extras;
  ref_extras.ids = extras.ids;
  std::string bytes, ref_bytes;
  encode_state(identity, b->c(), far.s, extras, far.model.executor())
      .write_to(
          [&](const void* data, std::size_t size) { bytes.append(static_cast<const char*>(data), size); });
  encode_state(identity, b->c(), ref.s, ref_extras).write_to([&](const void* data, std::size_t size) {
    ref_bytes.append(static_cast<const char*>(data), size);
  });
  CHECK(bytes == ref_bytes);
  far.s = decode_state<official, exec::far>("state",
                                            {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()},
                                            identity, b->c(), {64, rewind})
              .sequence;
  CHECK(both(ids.subspan(n + 2, 3)));

  // An observer sees a copy, and what it writes is taken back.
  pusher push;
  const auto pushed = far.feed(ids.subspan(n + 5, 2), push);
  CHECK(pushed == ref.feed(ids.subspan(n + 5, 2), push));
  far.s.rewind(n + 5);
  CHECK(pushed != far.feed(ids.subspan(n + 5, 2)));
}

TEST_CASE("far generates what ref generates, with drafts and from a reused prefix", "[far]") {
  const auto* b = open("flash-mini");
  if (!b) SKIP("golden/official/flash-mini is not here (set DSV4_GOLDEN)");
  const std::span<const std::int32_t> prompt = std::span<const std::int32_t>(b->ids).first(40);
  const auto answer = [&]<class E>(E) {
    transformer<official, E> model(b->c(), b->checkpoint.weights());
    auto s = model.new_sequence(96, 3);
    sampler choose(sampling{.temperature = 0}, b->c().vocab_size, 96);
    mtp_drafter<official, E> drafter(model, 3, 3);
    std::vector<std::int32_t> made;
    generate_options options;
    options.max_new = 12;
    generate_speculative(model, s, prompt, options, choose, drafter, 3, [&](std::int32_t id) {
      made.push_back(id);
      return true;
    });
    stored_prefix<official> kept(b->c(), window_rule::full);
    auto whole = model.new_sequence(96);
    read_and_keep(model, whole, prompt, kept);
    auto again = kept.restore(model, prompt, 96);
    made.push_back(static_cast<std::int32_t>(again.plan.cut));
    sampler greedy(sampling{.temperature = 0}, b->c().vocab_size, 96);
    generate(model, again.sequence, prompt.subspan(std::size_t(again.plan.cut)), options, greedy,
             [&](std::int32_t id) {
               made.push_back(id);
               return true;
             });
    return made;
  };
  const auto far = answer(exec::far{});
  CHECK(far.size() == 25);
  CHECK(far == answer(exec::ref{}));
}

namespace {
sigjmp_buf back;
void jump(int) { siglongjmp(back, 1); }
/// Does reading this byte end in SIGSEGV?
bool faults(const volatile std::byte* p) {
  struct sigaction catching {
  }, before{};
  catching.sa_handler = jump;
  sigaction(SIGSEGV, &catching, &before);
  volatile bool caught = true;  // the compiler does not know that the read below may jump
  if (sigsetjmp(back, 1) == 0) {
    [[maybe_unused]] const std::byte read = *p;
    caught = false;
  }
  sigaction(SIGSEGV, &before, nullptr);
  return caught;
}
template <class T, int R>
bool faults(const view<T, R, mem::device>& v) {
  const auto* first = reinterpret_cast<const volatile std::byte*>(v.data());
  return faults(first) && faults(first + static_cast<std::size_t>(v.size()) * sizeof(T) - 1);
}
}  // namespace

TEST_CASE("a host that touches far memory faults: caches, outputs, scratch, copies of weights", "[far]") {
  dsv4_test::random_model weights(dsv4_test::tiny_config());
  far_model model(weights.c, weights.weights);
  auto s = model.new_sequence(40, 3);
  const auto ids = dsv4_test::random_ids(20, weights.c.vocab_size, 5);
  tensor<double, 2, mem::device> logits(20, weights.c.vocab_size);
  model.forward(s, ids, logits);

  CHECK(faults(logits.all()));
  CHECK(faults(s.layer(0).window.ring()));
  for (index_t l = 0; l < weights.c.num_hidden_layers; ++l)
    if (weights.c.ratio(l) > 0) CHECK(faults(s.layer(l).compressor.entries.all()));
  basic_workspace<mem::device> scratch;
  CHECK(faults(scratch.take<float>(100)));
  exec::far e;
  const auto there = prepare(e, weights.weights, weights.c);
  CHECK(faults(there.tree().norm.all()));
  CHECK(faults(view<const std::byte, 1, mem::device>(there.tree().embed.data, 8)));

  // The one way in and out.
  tensor<double, 2> host(20, weights.c.vocab_size);
  copy(model.executor(), logits.all(), host.all());
  CHECK(faults(logits.all()));
  transformer<official, exec::ref> plain(weights.c, weights.weights);
  auto same = plain.new_sequence(40, 3);
  tensor<double, 2> expected(20, weights.c.vocab_size);
  plain.forward(same, ids, expected);
  CHECK(std::equal(host.data(), host.data() + host.size(), expected.data()));

  // exec::ref and exec::cpu take weights as they are.
  exec::ref ref;
  CHECK(&prepare(ref, weights.weights, weights.c).tree() == &weights.weights);
}

}  // namespace dsv4_test::conformance_official_far
