// SPDX-License-Identifier: MIT
// The loop: it learns, resumes to the same bits from any step in every mode, and threads change nothing; after a failed
// allocation it can go on, or refuses until it is loaded.
#include <cstring>
#include <limits>
#include <list>
#include <memory>
#include <thread>

#include <tbb/global_control.h>

#include <dsv4/cpu/cpu.hpp>
#include <dsv4/io/config_out.hpp>
#include <dsv4/trainer/trainer.hpp>

#include "../io/io_test.hpp"
#include "../text/tokenizer_test.hpp"
#include "catch.hpp"
#include "failing_allocations.hpp"
#include "random_model.hpp"

namespace dsv4::trainer::trainer_training {

using nlohmann::json;

namespace {

using run = training<float, dsv4::exec::cpu, dsv4::exec::cpu_fast>;

/// Three words, over and over: something can be learned in a few steps.
std::string text() {
  std::string t;
  const counter_random r(3, "text");
  for (index_t i = 0; i < 1500; ++i) t += std::array{"one ", "two ", "three "}[std::size_t(r.below(i, 3))];
  return t;
}

json smallest() {
  dsv4::config c = dsv4_test::tiny_config();
  c.vocab_size = dsv4::text::trained().vocab_size();
  c.hidden_size = 32;
  return {{"model", dsv4::io::to_json(c)},
          {"steps", 12},
          {"data", {{"length", 24}}},
          {"batch", {{"rows", 3}}},
          {"learning_rate", {{"peak", 0.01}, {"final", 0.001}}},
          {"index", {{"warm_up", 2}, {"sparse", 4}}}};
}
settings with(const json& more) {
  json j = smallest();
  j.merge_patch(more);
  return parse_settings("train.json", j);
}
run start(const settings& s, int threads = 2) {
  const auto& t = dsv4::text::trained();
  const std::string all = text();
  const std::string_view v = all;
  auto bytes = token_bytes(t);
  return {s,
          tokenize_documents(t, v.substr(0, v.size() - 600), s.data.text),
          tokenize_documents(t, v.substr(v.size() - 600), s.data.text),
          std::move(bytes),
          dsv4::exec::cpu{threads},
          dsv4::exec::cpu_fast{threads}};
}
/// Weights and selection biases: all that a run leaves.
std::vector<float> result(const run& r) {
  std::vector<float> out(r.weights().begin(), r.weights().end());
  for (const auto& bias : r.routing().bias) out.insert(out.end(), bias.data(), bias.data() + bias.size());
  return out;
}
std::vector<float> trained_through(const settings& s, int threads = 2) {
  run r = start(s, threads);
  while (r.steps_done() < s.steps) r.step();
  return result(r);
}

/// The checkpoint `from` again: another "run", and perhaps other arrays.
template <class F, class G>
void write_again(const std::filesystem::path& from, const std::filesystem::path& to, F change_run,
                 G change_array) {
  const auto file = dsv4::io::safetensors::open(from, {.max_decompressed = std::size_t{1} << 30});
  dsv4::io::safetensors_writer arrays;
  std::list<std::vector<std::byte>> kept;
  for (const dsv4::io::tensor_info& t : file.tensors()) {
    auto& bytes = kept.emplace_back(t.data, t.data + t.bytes);
    std::vector<index_t> shape = t.shape;
    change_array(t.name, shape, bytes);
    arrays.add(t.name, t.type, shape, static_cast<const void*>(bytes.data()));
  }
  json run = json::parse(file.metadata().at("run"));
  change_run(run);
  arrays.metadata["run"] = run.dump();
  dsv4::io::atomic_file out(to);
  dsv4::io::zstd_encoder packed(dsv4::io::zstd_encoder::fast,
                                [&](const void* data, std::size_t bytes) { out.write(data, bytes); });
  arrays.write_to([&](const void* data, std::size_t bytes) { packed.write(data, bytes); });
  packed.finish();
  out.commit();
}

// Every mode of a run.  At too high a rate the loss goes up and down, and this detector sees spikes everywhere.
const std::vector<std::pair<std::string, json>> modes{
    {"plain", json::object()},
    {"parts", {{"batch", {{"rows", 5}, {"rows_at_once", 2}, {"first_rows", 1}, {"full", 0.5}}}}},
    {"adamw", {{"matrices", "adamw"}}},
    {"qat", {{"quantise", {{"from", 5}}}}},
    {"only indexer", {{"index", {{"only_indexer", true}}}}},
    {"anticipatory", {{"anticipatory", {{"when", "always"}, {"delay", 3}}}}},
    {"spikes",
     {{"learning_rate", {{"peak", 0.2}}},
      {"anticipatory",
       {{"when", "on_spike"},
        {"delay", 2},
        {"spike", 0.01},
        {"memory", 3},
        {"quiet", 5},
        {"snapshot_every", 2},
        {"duration", 3},
        {"most_rollbacks", 3}}}}},
};

}  // namespace

TEST_CASE("it learns", "[trainer]") {
  const settings s = with({{"steps", 30}});
  run r = start(s);
  const double before = r.evaluate().loss;
  const double uniform = std::log(double(s.c.vocab_size));
  CHECK(before == Catch::Approx(uniform).margin(0.1));
  while (r.steps_done() < s.steps) r.step();
  const evaluation after = r.evaluate();
  CHECK(after.loss < 0.6 * before);
  CHECK(after.bytes == 600);
  CHECK(after.bits_per_byte == Catch::Approx(after.loss * double(after.tokens) / std::log(2.0) / 600));
}

TEST_CASE("a run resumed from any step ends in the same bits, in every mode", "[trainer]") {
  const temporary_directory folder;
  for (const auto& [name, more] : modes) {
    INFO(name);
    const settings s = with(more);
    const std::vector<float> whole = trained_through(s);
    // Save after every step, throw everything away, go on from the file.
    std::unique_ptr<run> r(new run(start(s)));
    std::size_t calls = 0;
    while (r->steps_done() < s.steps) {
      r->step();
      REQUIRE(++calls < 100);
      r->save(folder / "checkpoint.safetensors.zst");
      r.reset(new run(start(s)));
      r->load(folder / "checkpoint.safetensors.zst");
    }
    CHECK(result(*r) == whole);
  }
}

TEST_CASE("threads change no bit", "[trainer]") {
  using control = tbb::global_control;
  const control more(control::max_allowed_parallelism, 3);  // also on a machine with fewer
  for (const auto& [name, more] : modes) {
    INFO(name);
    const settings s = with(more);
    CHECK(trained_through(s, 1) == trained_through(s, 3));
  }
}

TEST_CASE("seeds and modes do change it", "[trainer]") {
  std::vector<std::vector<float>> all{trained_through(with({{"seed", 2}}))};
  for (const auto& [name, more] : modes)
    if (name != "parts" && name != "spikes") all.push_back(trained_through(with(more)));
  for (std::size_t a = 0; a < all.size(); ++a)
    for (std::size_t b = 0; b < a; ++b) CHECK(all[a] != all[b]);
}

TEST_CASE("a checkpoint of other settings, another text or no checkpoint is refused", "[trainer]") {
  const temporary_directory folder;
  const auto file = folder / "checkpoint.safetensors.zst";
  run r = start(with(json::object()));
  r.step();
  r.save(file);
  using Catch::Matchers::ContainsSubstring;
  run other = start(with({{"clip", 3}, {"muon", {{"momentum", 0.9}}}}));
  CHECK_THROWS_WITH(other.load(file), ContainsSubstring("other settings: clip, muon.momentum"));
  const settings s = with(json::object());
  const auto& t = dsv4::text::trained();
  run elsewhere(s, tokenize_documents(t, text() + "four", s.data.text), {}, token_bytes(t));
  CHECK_THROWS_WITH(elsewhere.load(file), ContainsSubstring("another text"));
  dsv4::io::safetensors_writer empty;
  empty.write(folder / "empty.safetensors");
  CHECK_THROWS_WITH(r.load(folder / "empty.safetensors"),
                    ContainsSubstring("no checkpoint of a training run"));
  // Torn: zstd has a checksum and an end.
  const std::string bytes = read_file(file);
  write_file(folder / "torn.zst", bytes.substr(0, bytes.size() / 2));
  CHECK_THROWS_AS(r.load(folder / "torn.zst"), dsv4::format_error);
}

TEST_CASE("a damaged checkpoint is refused, and the file named", "[trainer]") {
  const temporary_directory folder;
  const auto file = folder / "checkpoint.safetensors.zst", damaged = folder / "damaged.zst";
  const settings s = with(
      {{"batch", {{"rows", 3}, {"rows_at_once", 2}}}, {"anticipatory", {{"when", "always"}, {"delay", 2}}}});
  run r = start(s);
  r.step();
  r.save(file);
  const auto nothing = [](auto&&...) {};
  const auto refusal = [&](auto change_run, auto change_array) {
    write_again(file, damaged, change_run, change_array);
    run other = start(s);
    const std::string told = message<dsv4::format_error>([&] { other.load(damaged); });
    if (told != "<no exception>") CHECK_THAT(told, Catch::Matchers::ContainsSubstring("damaged.zst: "));
    return told;
  };
  using Catch::Matchers::ContainsSubstring;
  CHECK(refusal(nothing, nothing) == "<no exception>");
  const auto set = [&](const char* pointer, const json& value) {
    return refusal([&](json& run) { run[json::json_pointer(pointer)] = value; }, nothing);
  };
  for (const char* name : {"/step", "/epoch", "/position", "/detector/count"})
    CHECK_THAT(set(name, -1), ContainsSubstring("found -1, expected 0 to 2^53"));
  CHECK_THAT(set("/version", "1"), ContainsSubstring("checkpoint version: found \"1\", expected 1"));
  for (const char* name : {"/settings", "/detector", "/step", "/ahead"})
    CHECK_THAT(set(name, "no"), ContainsSubstring("damaged"));
  for (const char* name : {"settings", "text", "ahead", "step"})
    CHECK_THAT(refusal([&](json& run) { run.erase(name); }, nothing), ContainsSubstring("damaged"));
  // Routes ahead: as many as there are parts, of as many tokens, for no more steps than the delay.
  CHECK_THAT(set("/ahead/0", 1000000000000), ContainsSubstring("found 1000000000000, expected 2"));
  CHECK_THAT(set("/ahead/0", 0), ContainsSubstring("found 0, expected 2"));
  CHECK_THAT(set("/ahead", {2, 2, 2, 2}), ContainsSubstring("found those of 4 steps, expected at most 3"));
  const auto cut = [](const std::string& name, std::vector<index_t>& shape, std::vector<std::byte>& bytes) {
    if (name != "routes.0.1.2") return;
    shape = {std::ssize(bytes) / 4};
  };
  CHECK_THAT(refusal(nothing, cut), ContainsSubstring("'routes.0.1.2'"));
  const auto longer = [](const std::string& name, std::vector<index_t>& shape,
                         std::vector<std::byte>& bytes) {
    if (name != "routes.0.1.2") return;
    shape[0] *= 4;
    bytes.resize(4 * bytes.size());
  };
  CHECK_THAT(refusal(nothing, longer), ContainsSubstring("'routes.0.1.2'"));
}

TEST_CASE("a spike goes back to the snapshot and comes again with other routing", "[trainer]") {
  const settings s = with(modes.back().second);
  run r = start(s);
  index_t rollbacks = 0, anticipatory = 0;
  for (int calls = 0; r.steps_done() < s.steps; ++calls) {
    REQUIRE(calls < 100);
    const index_t before = r.steps_done();
    const step_report one = r.step();
    anticipatory += one.anticipatory && !one.back_to;
    if (!one.back_to) continue;
    ++rollbacks;
    CHECK(one.spike);
    CHECK(*one.back_to <= before);
    CHECK(*one.back_to >= before - 2);
    CHECK(r.steps_done() == *one.back_to);
  }
  CHECK(rollbacks > 0);
  CHECK(rollbacks <= 3);
  CHECK(anticipatory >= rollbacks * 3);
}

TEST_CASE("a loss that is no number ends the run when there is no way back", "[trainer]") {
  const temporary_directory folder;
  const auto file = folder / "checkpoint.safetensors.zst", bad = folder / "bad.zst";
  run r = start(with(json::object()));
  r.step();
  r.save(file);
  write_again(
      file, bad, [](json&) {},
      [](const std::string& name, std::vector<index_t>&, std::vector<std::byte>& bytes) {
        const float nan = std::numeric_limits<float>::quiet_NaN();
        if (name == "w.norm.weight") std::memcpy(bytes.data(), &nan, sizeof nan);
      });
  r.load(bad);
  CHECK_THAT(message<dsv4::error>([&] { r.step(); }),
             Catch::Matchers::ContainsSubstring("the loss of step 2 is not a number"));
}

TEST_CASE("the bias goes down where many tokens went, up where few did", "[trainer]") {
  const settings s = with({{"bias", {{"speed", 0.25}}}});
  run r = start(s);
  // The first batch, routed by the first weights.
  const auto& t = dsv4::text::trained();
  const std::string all = text();
  dataset data(tokenize_documents(t, std::string_view(all).substr(0, all.size() - 600), s.data.text),
               s.data.length, s.seed, s.data.shift);
  cursor at;
  train::objective goal;
  goal.index = index_stage::off;
  goal.dense_attention = true;
  dsv4::exec::cpu e{2};
  train::network<float, dsv4::exec::cpu> net(s.c);
  const train::report found = net.run(e, bind<const float>(s.c, r.weights().data()), r.routing(),
                                      data.next(at, s.batch.rows), goal, nullptr);
  r.step();
  bool up = false, down = false;
  for (std::size_t l = 0; l < found.load.size(); ++l) {
    const auto& bias = r.routing().bias[l];
    index_t total = 0;
    for (const index_t n : found.load[l]) total += n;
    for (index_t i = 0; i < bias.size(); ++i) {
      const index_t above = found.load[l][std::size_t(i)] * bias.size() - total;
      CHECK(bias[i] == (above > 0 ? -0.25f : above < 0 ? 0.25f : 0.0f));
      (above > 0 ? down : up) |= above != 0;
    }
  }
  CHECK((up && down));
}

TEST_CASE("the bias moves against the load by its speed, and stops", "[trainer]") {
  const settings s = with({{"bias", {{"speed", 0.25}, {"until", 6}}}});
  run r = start(s);
  std::vector<std::vector<float>> biases;
  const auto look = [&] {
    std::vector<float> all;
    for (const auto& bias : r.routing().bias) all.insert(all.end(), bias.data(), bias.data() + bias.size());
    return all;
  };
  std::vector<float> before = look();
  while (r.steps_done() < s.steps) {
    r.step();
    const std::vector<float> after = look();
    for (std::size_t i = 0; i < after.size(); ++i) {
      const float moved = std::abs(after[i] - before[i]);
      CHECK((moved == 0 || (moved == 0.25f && r.steps_done() <= 6)));
    }
    CHECK((after != before) == (r.steps_done() <= 6));
    before = after;
  }
}

namespace {

using dsv4_test::allocations_of, dsv4_test::beyond_json_destructors, dsv4_test::failing,
    dsv4_test::with_failing_allocation;

/// About `most` of the numbers [0, count).
std::vector<long> some_of(long count, long most) {
  std::vector<long> all;
  for (long n = 0; n < count; n += std::max(1L, count / most)) all.push_back(n);
  return all;
}

/// The run between two steps again, or in the state that only load() ends.
void check_refuses(run& r, const std::filesystem::path& elsewhere) {
  using Catch::Matchers::ContainsSubstring;
  CHECK_THROWS_WITH(r.step(), ContainsSubstring("load()"));
  CHECK_THROWS_WITH(r.evaluate(1), ContainsSubstring("load()"));
  CHECK_THROWS_WITH(r.save(elsewhere), ContainsSubstring("load()"));
  CHECK_THROWS_WITH(r.weights(), ContainsSubstring("load()"));
  CHECK_FALSE(std::filesystem::exists(elsewhere));
}

}  // namespace

TEST_CASE(
    "the n-th allocation of a step fails: the step can be made again, or the run refuses until it is loaded",
    "[trainer]") {
  const temporary_directory folder;
  const auto file = folder / "checkpoint.safetensors.zst", elsewhere = folder / "elsewhere.zst";
  index_t again = 0;
  for (const auto& [name, more] : modes) {
    if (name == "adamw" || name == "only indexer" || name == "parts") continue;
    const settings s = with(more);
    run r = start(s, 1);
    for (int i = 0; i < 3; ++i) r.step();
    r.save(file);
    r.step();
    const std::vector<float> expected = result(r);
    // A thread of its own, so that scratch which a thread keeps is allocated again.
    const auto step = [&](const auto& how) {
      std::thread own([&] { how([&] { r.step(); }); });
      own.join();
    };
    r.load(file);
    long count = 0;
    step([&](const auto& f) { count = allocations_of(f); });
    REQUIRE(count > 100);
    for (const long n : some_of(count, 10)) {
      CAPTURE(name, n, count);
      r.load(file);
      failing what{};
      step([&](const auto& f) { what = with_failing_allocation(n, f); });
      if (what.threw && !r.intact()) {
        check_refuses(r, elsewhere);
        r.load(file);
      }
      if (what.threw) {
        ++again;
        r.step();
      }
      CHECK(result(r) == expected);
    }
  }
  CHECK(again > 20);
}

TEST_CASE("allocations of saving, loading and evaluating fail: nothing has changed, or the run refuses",
          "[trainer]") {
  const temporary_directory folder;
  const auto file = folder / "checkpoint.safetensors.zst", later = folder / "later.zst",
             elsewhere = folder / "elsewhere.zst";
  const settings s = with(modes.back().second);
  run r = start(s, 1);
  r.step();
  r.save(file);
  r.step();
  r.save(later);
  const std::string kept = read_file(file), wanted = read_file(later);
  const double loss = r.evaluate(2).loss;

  for (const long n : some_of(allocations_of([&] { r.save(file); }, beyond_json_destructors), 40)) {
    write_file(file, kept);
    const failing what = with_failing_allocation(n, [&] { r.save(file); }, beyond_json_destructors);
    CHECK(read_file(file) == (what.threw ? kept : wanted));
  }
  const std::filesystem::directory_iterator all(folder);
  CHECK(std::distance(begin(all), end(all)) == 2);  // no unfinished file
  for (const long n : some_of(allocations_of([&] { r.evaluate(2); }), 12)) {
    with_failing_allocation(n, [&] { r.evaluate(2); });
    CHECK(r.evaluate(2).loss == loss);
  }
  r.step();
  const std::vector<float> expected = result(r);
  write_file(file, kept);
  index_t refused = 0;
  for (const long n : some_of(allocations_of([&] { r.load(later); }, beyond_json_destructors), 40)) {
    r.load(later);
    const failing what = with_failing_allocation(n, [&] { r.load(file); }, beyond_json_destructors);
    CHECK((what.threw || r.intact()));
    refused += !r.intact();
    if (!r.intact()) check_refuses(r, elsewhere);
    if (!r.intact() || !what.threw) r.load(later);
    r.step();
    CHECK(result(r) == expected);
  }
  CHECK(refused > 0);
}

}  // namespace dsv4::trainer::trainer_training
