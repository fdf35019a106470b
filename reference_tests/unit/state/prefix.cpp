// SPDX-License-Identifier: MIT
// A prompt that begins like an earlier one: what is restored has the bits of reading it again, whichever way
// the window rows were kept, around every block boundary.
#include "catch.hpp"
#include "data.hpp"
#include "state_run.hpp"

#include <dsv4/gen/prefix_file.hpp>
#include <dsv4/io/checkpoint.hpp>

namespace dsv4_test {
namespace {

struct rule {
  window_rule how;
  index_t period;
  const char* name;
};

/// Prompts that share `common` tokens with the stored run, and go on with `more` others.
template <class Run, class P>
void check_prompt(Run& run, const stored_prefix<P>& stored, index_t common, index_t more, bool mtp) {
  const config& c = run.c();
  std::vector<std::int32_t> prompt(stored.ids().begin(), stored.ids().begin() + common);
  for (const std::int32_t id : random_ids(more, c.vocab_size, 77)) prompt.push_back(id);
  if (more && common < stored.length()) {  // really another token
    auto& first = prompt[static_cast<std::size_t>(common)];
    if (first == stored.ids()[static_cast<std::size_t>(common)])
      first = (first + 1) % static_cast<std::int32_t>(c.vocab_size);
  }
  const auto n = static_cast<index_t>(prompt.size());
  INFO(common << " tokens in common, a prompt of " << n << (mtp ? ", with MTP" : ""));

  auto r = stored.restore(run.model, prompt, n + 8, 0, mtp);
  const index_t block = prefix_block(c), cut = r.plan.cut;
  CHECK(cut == std::min(common, n - 1) / block * block);
  CHECK(r.sequence.length() == cut);
  CHECK(r.plan.again() <= std::min(cut, prefix_depth(c, mtp)));

  // Reading it again, split at the cut.
  auto fresh = run.model.new_sequence(n + 8);
  typename Run::extras_type x, y;
  const auto all = std::span<const std::int32_t>(prompt);
  if (cut) run.feed(fresh, x, all.first(static_cast<std::size_t>(cut)), mtp);
  y.ids = x.ids;
  y.logits = x.logits;
  if (mtp) {
    CHECK(r.sequence.mtp_length() == fresh.mtp_length());
    if (cut) REQUIRE(std::equal(x.streams.data(), x.streams.data() + x.streams.size(), r.streams.data()));
    y.streams = std::move(r.streams);
  } else {
    y.streams = x.streams;
    REQUIRE(
        (run.encoded(fresh, x) == run.encoded(r.sequence, y)));  // every row, every entry, wide values too
    x.streams = y.streams = {};
  }
  REQUIRE((run.feed(fresh, x, all.subspan(static_cast<std::size_t>(cut)), mtp) ==
           run.feed(r.sequence, y, all.subspan(static_cast<std::size_t>(cut)), mtp)));
  for (const std::int32_t id : random_ids(7, c.vocab_size, 78)) {
    const std::int32_t next[] = {id};
    REQUIRE((run.feed(fresh, x, next, mtp) == run.feed(r.sequence, y, next, mtp)));
  }
}

template <class P, class Run>
stored_prefix<P> store(Run& run, const rule& how, std::span<const std::int32_t> ids) {
  stored_prefix<P> stored(run.c(), how.how, how.period);
  auto s = run.model.new_sequence(static_cast<index_t>(ids.size()));
  read_and_keep(run.model, s, ids, stored);
  CHECK(stored.length() == s.length());
  return stored;
}

constexpr rule rules[] = {{window_rule::full, 0, "full"},
                          {window_rule::periodic, 16, "periodic(16)"},
                          {window_rule::periodic, 40, "periodic(40)"},
                          {window_rule::periodic, 5, "periodic(5)"},
                          {window_rule::zero, 0, "zero"}};

template <numerics_policy P, execution E>
void check_rules(const random_model& model, std::initializer_list<index_t> commons, bool mtp) {
  state_run<P, E> run(model);
  const auto ids = random_ids(150, model.c.vocab_size, 41);
  for (const rule& how : rules) {
    INFO(how.name);
    const auto stored = store<P>(run, how, ids);
    for (const index_t common : commons)
      for (const index_t more :
           {common % 3 ? index_t{1} : index_t{0}, index_t{6}})  // 0: the prompt is a part of what is stored
        if (common + more > 0) check_prompt(run, stored, common, more, mtp);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("a reused prefix has the bits of a fresh prefill, around every boundary", "[prefix]",
                   DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config());  // blocks of 16; 4 layers of window 8
  SECTION("official") {
    check_rules<official, TestType>(
        model, {0, 1, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 80, 112, 143, 144, 145, 150}, false);
  }
  SECTION("official, MTP") {
    check_rules<official, TestType>(model, {0, 15, 16, 17, 32, 33, 79, 80, 81, 144, 150}, true);
  }
  SECTION("float32") {
    check_rules<float32<float>, TestType>(model, {16, 31, 32, 33, 80, 143, 144, 145}, false);
  }
  SECTION("float32, MTP") { check_rules<float32<float>, TestType>(model, {16, 33, 145}, true); }
}

TEMPLATE_TEST_CASE("prefixes of other models", "[prefix]", DSV4_TEST_EXECUTORS) {
  const auto check = [](const config& c, std::initializer_list<index_t> commons) {
    const random_model model(c);
    check_rules<official, TestType>(model, commons, false);
    check_rules<official, TestType>(model, commons, true);
  };
  SECTION("window only: any length is a boundary") { check(tiny_config({0, 0, 0}), {1, 7, 8, 9, 30, 99}); }
  SECTION("without CSA") { check(tiny_config({16, 0, 8}), {15, 16, 17, 50}); }
  SECTION("a window of one") { check(tiny_config({4, 16, 4}, 1), {16, 17, 48, 149}); }
  SECTION("a window of two, ratios with a common multiple of 60") {
    check(tiny_config({4, 10, 6}, 2), {59, 60, 61, 120, 150});
  }
  SECTION("a window longer than the blocks") {
    check(tiny_config({4, 8, 4, 8, 0}, 20), {8, 64, 88, 136, 149});
  }
}

TEST_CASE("what each rule stores and runs again", "[prefix]") {
  const random_model model(tiny_config());
  state_run<official, exec::ref> run(model);
  const auto ids = random_ids(150, model.c.vocab_size, 41);
  const config& c = model.c;
  CHECK(prefix_block(c) == 16);
  CHECK(prefix_tail(c) == 4);
  CHECK(prefix_depth(c) == 4 * 7);

  const index_t row = c.num_hidden_layers * c.head_dim * index_t{sizeof(bf16)};
  // Entries: two CSA layers with keys, one HCA layer.
  const index_t entries =
      (150 / 4 * 2 * (c.head_dim + c.index_head_dim) + 150 / 16 * c.head_dim) * index_t{sizeof(bf16)};
  const auto full = store<official>(run, rules[0], ids), every16 = store<official>(run, rules[1], ids),
             every40 = store<official>(run, rules[2], ids), every5 = store<official>(run, rules[3], ids),
             zero = store<official>(run, rules[4], ids);
  for (const auto* p : {&full, &every16, &every40, &every5, &zero}) CHECK(p->entry_bytes() == entries);
  CHECK(full.window_bytes() == 150 * row);
  CHECK(every16.window_bytes() == 9 * 7 * row);  // 7 rows before 16, 32, … 144
  CHECK(every40.window_bytes() == 3 * 7 * row);
  CHECK(every5.window_bytes() == 150 * row);  // periods within a window overlap: no row twice
  CHECK(zero.window_bytes() == 0);

  const auto again = [&](const auto& p, index_t common) {
    return p.plan(std::span(ids).first(static_cast<std::size_t>(common + 1))).again();
  };
  CHECK(again(full, 144) == 4);
  CHECK(again(every16, 144) == 16);  // back from 140 to 128
  CHECK(again(every40, 144) == 24);  // to 120
  CHECK(again(every40, 112) == 28);  // to 80 would be 32: entries alone are cheaper
  CHECK(again(every5, 144) == 4);    // to 140
  CHECK(again(zero, 144) == 28);
  CHECK(again(zero, 16) == 16);  // never more than there is
}

TEST_CASE("prefixes on disk: saved by ref, reused by cpu and the other way round", "[prefix]") {
  const random_model model(tiny_config());
  state_run<official, exec::ref> ref(model);
  state_run<official, exec::cpu> cpu(model);
  state_run<official, exec::cpu_fast> fast(model);
  const auto ids = random_ids(150, model.c.vocab_size, 41);
  const scratch_folder folder;
  const auto path = folder.path / "prompt.prefix";
  for (const rule& how : rules) {
    INFO(how.name);
    const auto stored = store<official>(ref, how, ids);
    save_prefix(path, ref.identity, stored);
    const auto loaded = load_prefix<official>(path, cpu.identity, model.c, 150);
    CHECK(loaded.bytes() == stored.bytes());
    for (const index_t common : {15, 16, 17, 79, 80, 81, 150}) {
      CHECK(loaded.plan(std::span(ids).first(static_cast<std::size_t>(common))).again() ==
            stored.plan(std::span(ids).first(static_cast<std::size_t>(common))).again());
      check_prompt(cpu, loaded, common, 3, common % 2 == 0);
    }
    save_prefix(path, cpu.identity, store<official>(cpu, how, ids));
    check_prompt(ref, load_prefix<official>(path, ref.identity, model.c, 150), 100, 3, false);
  }

  using Catch::Matchers::ContainsSubstring;
  CHECK_THROWS_WITH(load_prefix<official>(path, fast.identity, model.c, 150),
                    ContainsSubstring("prompt.prefix") && ContainsSubstring("stored_bits"));
  CHECK_THROWS_WITH(load_prefix<official>(path, ref.identity, model.c, 149), ContainsSubstring("150"));
  const random_model other(tiny_config(), published, 2);
  CHECK_THROWS_WITH(load_prefix<official>(path, state_run<official, exec::ref>(other).identity, model.c, 150),
                    ContainsSubstring("weights_sha256"));
  CHECK_THROWS_WITH(load_state(path, ref.identity, ref.model, {150, 0}), ContainsSubstring("dsv4-prefix/1"));
  const std::string good = read_bytes(path);
  for (std::size_t n = 0; n < good.size(); n += 97) {
    write_bytes(path, good.substr(0, n));
    CHECK_THROWS_AS(load_prefix<official>(path, ref.identity, model.c, 150), format_error);
  }
}

TEST_CASE("runs of window rows that lie are refused", "[prefix]") {
  const random_model model(tiny_config({0, 0}));
  state_run<official, exec::ref> run(model);
  const auto decode = [&](std::vector<std::int32_t> bounds, index_t rows) {
    io::safetensors_writer w;
    w.metadata = {{"format", "dsv4-prefix/1"},
                  {"config_sha256", run.identity.config},
                  {"weights_sha256", run.identity.weights},
                  {"policy", run.identity.policy},
                  {"stored_bits", "exact"}};
    const std::vector<std::int32_t> ids(20);
    const std::vector<bf16> zeros(static_cast<std::size_t>(rows * model.c.head_dim));
    w.add("ids", dtype::i32, {20}, ids.data());
    w.add("runs", dtype::i32, {static_cast<index_t>(bounds.size()) / 2, 2}, bounds.data());
    for (const char* layer : {"layers.0.window", "layers.1.window"})
      w.add(layer, dtype::bf16, {rows, model.c.head_dim}, zeros.data());
    std::string bytes;
    w.write_to([&](const void* data, std::size_t n) { bytes.append(static_cast<const char*>(data), n); });
    return decode_prefix<official>("prefix", bytes_of(bytes), run.identity, model.c, 20).runs().size();
  };
  CHECK(decode({0, 8, 9, 20}, 19) == 2);
  CHECK(decode({}, 0) == 0);
  for (const auto& bounds : std::vector<std::vector<std::int32_t>>{{0, 21},
                                                                   {-1, 8},
                                                                   {8, 8},
                                                                   {8, 4},
                                                                   {4, 8, 2, 6},
                                                                   {0, 8, 8, 9},
                                                                   {0, 8, 0, 8},
                                                                   {2147483647, -2147483647}})
    for (const index_t rows : {0, 8, 19}) CHECK_THROWS_AS(decode(bounds, rows), format_error);
  CHECK_THROWS_AS(decode({0, 8}, 7), format_error);
  CHECK_THROWS_AS(decode({0, 8}, 9), format_error);
}

TEST_CASE("the figures of the paper for window rows that are not kept", "[prefix]") {
  const auto published = [](const char* name) { return io::read_config(test_data("configs") / name); };
  const config flash = published("DeepSeek-V4-Flash.config.json"),
               pro = published("DeepSeek-V4-Pro.config.json");
  for (const config* c : {&flash, &pro}) {
    CHECK(prefix_block(*c) == 128);
    CHECK(prefix_tail(*c) == 4);
    // L W of the paper; L less are enough.
    CHECK(prefix_depth(*c) == c->num_hidden_layers * c->sliding_window - c->num_hidden_layers);
  }
  CHECK(flash.num_hidden_layers * flash.sliding_window == 5504);
  CHECK(pro.num_hidden_layers * pro.sliding_window == 7808);
}

TEST_CASE("prefixes: the best of several, and misuse", "[prefix]") {
  const random_model model(tiny_config());
  state_run<official, exec::ref> run(model);
  const auto ids = random_ids(150, model.c.vocab_size, 41), other = random_ids(150, model.c.vocab_size, 42);
  std::vector<stored_prefix<official>> several;
  several.push_back(store<official>(run, rules[4], ids));
  several.push_back(store<official>(run, rules[0], std::span(ids).first(100)));
  several.push_back(store<official>(run, rules[0], other));
  const auto best = [&](std::span<const std::int32_t> prompt) -> index_t {
    const auto* p = best_prefix(std::span<const stored_prefix<official>>(several), prompt);
    return p ? p - several.data() : -1;
  };
  CHECK(best(ids) == 0);                        // 144 - 28 tokens spared, against 96 - 4
  CHECK(best(std::span(ids).first(110)) == 1);  // 96 - 4 against 96 - 28
  CHECK(best(other) == 2);
  CHECK(best(std::span(other).first(9)) == -1);
  CHECK(best({}) == -1);
  CHECK(several[0].plan({}).cut == 0);

  CHECK_THROWS_AS(stored_prefix<official>(model.c, window_rule::periodic), contract_violation);
  stored_prefix<official> full(model.c, window_rule::full);
  CHECK(full.longest_call() == 8);
  auto s = run.model.new_sequence(150);
  typename state_run<official, exec::ref>::extras_type x;
  run.feed(s, x, std::span(ids).first(9), false);
  CHECK_THROWS_AS(full.keep(s, std::span<const std::int32_t>(ids).first(9)),
                  contract_violation);  // the ring has lost a row
  CHECK_THROWS_AS(full.keep(s, std::span<const std::int32_t>(ids).first(8)),
                  contract_violation);                                           // not what s has read
  CHECK_THROWS_AS(several[0].restore(run.model, ids, 100), contract_violation);  // no room for 144
  // Another model's sequence; MTP that is not there.
  const random_model stranger(tiny_config({4, 16}));
  state_run<official, exec::ref> elsewhere(stranger);
  auto foreign = elsewhere.model.new_sequence(10);
  CHECK_THROWS_AS(full.keep(foreign, {}), contract_violation);
  CHECK_THROWS_AS(several[0].restore(elsewhere.model, ids, 150), contract_violation);
  model_weights<> without = model.weights;
  without.mtp.clear();
  state_run<official, exec::ref> no_mtp(model.c, without);
  CHECK_THROWS_AS(several[0].restore(no_mtp.model, ids, 150, 0, true), unsupported);
  CHECK(several[0].restore(no_mtp.model, ids, 150).plan.cut == 144);
  // A restored sequence cannot go back behind the cut, but to the beginning.
  auto r = several[0].restore(run.model, ids, 150, 10);
  CHECK_THROWS_AS(r.sequence.rewind(143), contract_violation);
  const std::int32_t next[] = {1, 2, 3};
  run.feed(r.sequence, x, next, false);
  CHECK_NOTHROW(r.sequence.rewind(144));
  CHECK_NOTHROW(r.sequence.rewind(0));
}

TEMPLATE_TEST_CASE("prefixes of the mini checkpoint", "[prefix]", DSV4_TEST_EXECUTORS) {
  const auto dir = ::golden("official/flash-mini");
  if (!dir) SKIP("golden/official/flash-mini is not here (set DSV4_GOLDEN)");
  const io::checkpoint weights = io::checkpoint::open(*dir);
  state_run<official, TestType> run(weights.configuration(), weights.weights());
  const config& c = run.c();
  const index_t block = prefix_block(c);
  const auto ids = random_ids(prefix_depth(c, true) + 2 * block, c.vocab_size, 43);
  const index_t n = static_cast<index_t>(ids.size()), last = n / block * block;
  for (const rule& how :
       {rules[0], rule{window_rule::periodic, 2 * block, "periodic(two blocks)"}, rules[4]}) {
    const auto stored = store<official>(run, how, ids);
    if (std::getenv("DSV4_FIGURES"))
      WARN(how.name << ": " << stored.entry_bytes() << " bytes of entries and " << stored.window_bytes()
                    << " of window rows for " << n << " tokens; runs again " << stored.plan(ids).again()
                    << " of " << stored.plan(ids).cut);
    check_prompt(run, stored, last - 1, 2, false);
    check_prompt(run, stored, last, 2, false);
    check_prompt(run, stored, last + 1, 2, true);
  }
}

}  // namespace dsv4_test
