// SPDX-License-Identifier: MIT
// dsv4 verify GOLDEN TEST.
#include "verify.hpp"
#include "arguments.hpp"

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>
#include <iostream>

#include <dsv4/golden/convert/convert.hpp>
#include <dsv4/golden/judge/verify.hpp>
#include <dsv4/golden/report/report_html.hpp>
#include <dsv4/golden/report/report_issue.hpp>
#include <dsv4/golden/report/report_json.hpp>
#include <dsv4/golden/report/report_text.hpp>
#include <dsv4/io/atomic_file.hpp>
#include <dsv4/io/checkpoint.hpp>
#include <dsv4/io/folders.hpp>

#include "commands.hpp"
#include "golden.hpp"
#include "golden_convert.hpp"
#include "golden_weights.hpp"
#include "input.hpp"
#include "outputs.hpp"

namespace cli {

void write_report(const std::filesystem::path& to, const std::string& text) {
  if (to == "-") {
    std::cout << text;
    return;
  }
  dsv4::io::write_whole(to, text);
}

namespace {

namespace golden = dsv4::golden;
namespace fs = std::filesystem;

/// "3:7", "3:", ":7", "3" as [3, 7), [3, end), [0, 7), [3, 4).
golden::index_range parse_range(const std::string& option, const std::string& text) {
  golden::index_range r;
  if (text.empty()) return r;
  const auto number = [&](std::string_view s, index_t& to) {
    const auto [end, fault] = std::from_chars(s.data(), s.data() + s.size(), to);
    if (fault != std::errc() || end != s.data() + s.size() || to < 0)
      throw usage_error(option + ": '" + text + "' is not a range a:b");
  };
  const std::size_t colon = text.find(':');
  const std::string_view all(text), from = all.substr(0, colon);
  if (!from.empty()) number(from, r.from);
  if (colon == std::string::npos) {
    r.to = r.from + 1;
  } else if (const auto to = all.substr(colon + 1); !to.empty()) {
    number(to, r.to);
  }
  if (r.to <= r.from) throw usage_error(option + ": '" + text + "' is empty");
  return r;
}

golden::open_options options_of(const verify_arguments& o) {
  golden::open_options options;
  options.check_hashes = !o.no_hash;
  return options;
}

/// What became of a dump beside the bundle.
struct conversion {
  std::optional<dsv4::io::scratch_folder> scratch;  ///< where the bundle lies, as long as it is open
  std::vector<std::string> left_out;                ///< in words
  std::set<std::string> absent;                     ///< what its engine is known not to have
  std::string engine;                               ///< what it is a dump of
};

/// The one place where another engine's dump becomes a bundle.
golden::bundle open_test(const verify_arguments& o, const golden::bundle& reference, conversion& to) {
  std::error_code none;
  if (o.map.empty() && (golden::is_bundle(o.test) || !fs::exists(o.test, none)))
    return golden::bundle::open(o.test, options_of(o));
  if (o.map.empty())
    throw usage_error(
        "TEST is not a bundle; --map says what engine it is a dump of (transformers, official, dsv4, "
        "llamacpp, ik_llama, ds4, or a file)");
  const dsv4::config& c = reference.model();
  golden::dump source = golden::dump::open(o.test);
  auto ids = golden::ids_of(source, c);
  if (!o.ids.empty()) ids = {read_ids(o.ids, c)};
  if (ids.empty())
    for (index_t s = 0; s < reference.sequences(); ++s) ids.push_back(reference.ids(s));
  const auto m = golden::match(std::move(source), golden::name_map::find(o.map, map_directories()), c,
                               static_cast<index_t>(ids.size()));
  to.scratch.emplace("dsv4-verify");
  const fs::path dir = to.scratch->path() / "test.v4gold";
  golden::manifest about;
  about.name = o.test.stem().string();
  about.created_by = {
      {"program", "dsv4 verify"}, {"version", DSV4_VERSION}, {"map", m.map->file().filename().string()}};
  if (!o.numerics.empty()) about.numerics = {{"policy", o.numerics}};
  to.left_out = golden::convert(m, ids, dir, std::move(about), {});
  for (std::string& what : to.left_out) what = "not converted: " + std::move(what);
  if (m.closing_nothing) to.left_out.push_back(closing_nothing(m.closing_nothing));
  to.absent = m.map->absent_names(c), to.engine = m.map->engine();
  return golden::bundle::open(dir, options_of(o));
}

void verify(const verify_arguments& o) {
  const std::vector<fs::path> inputs{o.golden, o.test, o.model, o.map, o.ids};
  for (const auto& [option, to] : {std::pair<const char*, fs::path>{"--json", o.json},
                                   {"--junit", o.junit},
                                   {"--html", o.html},
                                   {"--issue", o.issue}})
    try {
      if (!to.empty() && to != "-") check_output_file(option, to, inputs);
    } catch (const usage_error& e) {
      throw exit_with(exit_io, e.what());
    }
  if (o.mutate) {
    if (const int code = run_mutations(o)) throw exit_with(code, "");
    return;
  }
  if (o.test.empty()) throw usage_error("TEST is missing");
  if (!o.more.empty()) throw usage_error("one GOLDEN and one TEST, found also " + o.more[0].string());
  golden::verify_options options;
  if (o.mode != "auto")
    options.mode = o.mode == "forced" ? golden::verify_mode::forced : golden::verify_mode::free_running;
  for (std::size_t p = 0; p < std::size(golden::tolerance_policy_names); ++p)
    if (o.policy == golden::tolerance_policy_names[p])
      options.policy = static_cast<golden::tolerance_policy>(p);
  options.k_noise = o.k_noise;
  options.only = o.only, options.allow_skip = o.allow_skip;
  options.layers = parse_range("--layers", o.layers), options.positions = parse_range("--pos", o.positions);
  options.werror = o.werror, options.hints = !o.no_hints;

  const golden::bundle reference = golden::bundle::open(o.golden, options_of(o));
  conversion dump;
  const golden::bundle test = open_test(o, reference, dump);
  options.absent = dump.absent;
  std::optional<dsv4::io::checkpoint> model;
  if (!o.model.empty() || o.mode == "forced" || reference.about().weights.kind == "recipe") {
    model.emplace(weights_of(reference, o.model));
    options.weights = &model->weights();
  }
  golden::verify_result r = golden::verify(reference, test, options);
  r.test = o.test.string();
  for (std::string& what : dump.left_out) r.notes.push_back(std::move(what));
  if (!o.json.empty()) write_report(o.json, golden::report_json(r).dump(1) + "\n");
  if (!o.junit.empty()) write_report(o.junit, golden::report_junit(r));
  if (!o.html.empty()) write_report(o.html, golden::html_report(r));
  if (!o.issue.empty()) {
    const auto smallest = golden::shrink(r, reference, [&](index_t layers, index_t tokens) {
      golden::verify_options part = options;
      part.layers.to = std::min(part.layers.to, layers),
      part.positions.to = std::min(part.positions.to, tokens);
      part.hints = false;
      return golden::verify(reference, test, part);
    });
    write_report(o.issue, golden::report_issue(r, reference, dump.engine, DSV4_VERSION, smallest));
  }
  if (o.json != "-" && o.issue != "-") std::fputs(golden::report_text(r, o.all).c_str(), stdout);
  if (r.exit_code) throw exit_with(r.exit_code, "");
}

}  // namespace

void add_verify(CLI::App& app, std::function<void()>& run) {
  CLI::App& verb = cli::add_verb(app, "verify", "which tensor of a run is wrong first, and why");
  auto o = std::make_shared<verify_arguments>();
  verb.add_option("GOLDEN", o->golden, "a .v4gold bundle")->required();
  verb.add_option("TEST", o->test, "a bundle, or with --map a dump of another engine");
  verb.add_option("MORE", o->more, "with --mutate, as TEST: further goldens");
  verb.add_option("--model", o->model,
                  "the checkpoint: forced mode and the hints recompute operators with it (default: what the "
                  "golden's recipe makes)")
      ->type_name("DIR");
  verb.add_option("--mode", o->mode,
                  "forced: each operator on the test's own inputs; free: value against value")
      ->check(CLI::IsMember({"auto", "free", "forced"}))
      ->capture_default_str();
  verb.add_option("--policy", o->policy,
                  "strict: bits; faithful: another order of summation; quant: other weights' formats")
      ->check(CLI::IsMember({"strict", "faithful", "quant"}))
      ->capture_default_str();
  verb.add_option("--map", o->map,
                  "TEST is a dump with the names of: transformers, official, dsv4, llamacpp, ik_llama, ds4, "
                  "or a map file");
  verb.add_option("--ids", o->ids, "with --map: token ids, if the dump has none (default: the golden's)");
  verb.add_option("--numerics", o->numerics, "with --map: what the engine computed in")
      ->check(CLI::IsMember({"official", "float32"}));
  verb.add_option("--only", o->only, "only names that match")->type_name("REGEX");
  verb.add_option("--layers", o->layers, "only layers [a, b)")->type_name("a:b");
  verb.add_option("--pos", o->positions, "only positions [a, b)")->type_name("a:b");
  verb.add_option("--k-noise", o->k_noise, "errors up to this times the golden's measured noise pass")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb.add_option("--allow-skip", o->allow_skip, "names that the test need not have")
      ->type_name("REGEX")
      ->capture_default_str();
  verb.add_flag("--all", o->all, "also list every failing tensor");
  verb.add_flag("--werror", o->werror, "warnings give exit code 6");
  verb.add_flag("--no-hints", o->no_hints, "do not try the known mistakes");
  verb.add_flag("--no-hash", o->no_hash, "do not check the SHA-256 of the tensors that are read");
  verb.add_option("--json", o->json, "everything as JSON; - is standard output")->type_name("FILE|-");
  verb.add_option("--junit", o->junit, "a test case per class of tensors")->type_name("FILE");
  verb.add_option(
          "--issue", o->issue,
          "Markdown for a bug tracker: the fault, its cause, and the smallest input; - is standard output")
      ->type_name("FILE|-");
  verb.add_option("--html", o->html, "one self-contained page")->type_name("FILE");
  verb.add_flag(
      "--mutate", o->mutate,
      "plant every known bug in our own model and prove that GOLDEN, or one of several, catches it");
  verb.add_option("--bugs", o->bugs, "with --mutate: only these numbers")->delimiter(',');
  verb.footer(R"(
Examples
  dsv4 verify flash-mini.v4gold mine.v4gold --model flash-mini
  dsv4 verify flash-mini.v4gold mine.v4gold --policy strict
  dsv4 verify hf.v4gold hf.safetensors --map transformers --model tiny --html report.html
  dsv4 verify hf.v4gold hf.safetensors --map transformers --model tiny --issue issue.md
  dsv4 verify --mutate flash-mini.v4gold --model flash-mini
  dsv4 verify --mutate reference_tests/data/bundles/{tiny,block-*}.v4gold

auto is forced for official numerics where the weights are at hand (--model, or a golden with a recipe) and the
policy is not strict, else free: with quantised activations two runs that are not bit-identical drift apart, so that only operators can be compared.  Forced mode recomputes every operator of the
test with exec::ref from the test's own recorded inputs.
Exit codes: 0 pass, 1 wrong values, 2 structure or missing tensors, 3 a choice differs beyond its margin, 4 not
comparable (ids, configuration, weights, numerics), 5 NaN or infinity, 6 warnings with --werror, 64 usage,
66 no input, 74 I/O or a wrong hash.)");
  verb.callback([o, &run] { run = [o] { with_golden_codes([&] { verify(*o); }); }; });
}

}  // namespace cli
