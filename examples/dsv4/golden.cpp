// SPDX-License-Identifier: MIT
// dsv4 golden make, dsv4 golden check.
#include "golden.hpp"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <regex>

#include <nlohmann/json.hpp>

#include <dsv4/golden/bundle/check.hpp>
#include <dsv4/golden/make/ladder.hpp>
#include <dsv4/io/checkpoint.hpp>

#include "arguments.hpp"
#include "golden_engine.hpp"
#include "input.hpp"
#include "progress.hpp"

namespace cli {

void with_golden_codes(const std::function<void()>& f) {
  try {
    f();
  } catch (const exit_with&) {
    throw;
  } catch (const usage_error& e) {
    throw exit_with(exit_golden_usage, e.what());
  } catch (const dsv4::contract_violation& e) {
    throw exit_with(exit_golden_usage, e.what());
  } catch (const dsv4::golden::missing_input& e) {
    throw exit_with(exit_no_input, e.what());
  } catch (const dsv4::golden::damaged& e) {
    throw exit_with(exit_io, e.what());
  } catch (const dsv4::format_error& e) {
    throw exit_with(exit_structure, e.what());
  } catch (const dsv4::unsupported& e) {
    throw exit_with(exit_not_comparable, e.what());
  } catch (const dsv4::internal_error& e) {
    throw exit_with(exit_software, e.what());
  } catch (const dsv4::error& e) {
    throw exit_with(exit_io, e.what());  // "cannot be written"
  } catch (const std::filesystem::filesystem_error& e) {
    throw exit_with(exit_io, e.what());
  } catch (const std::bad_alloc&) {
    throw exit_with(exit_software, "out of memory");
  }
}

namespace {

namespace golden = dsv4::golden;
namespace fs = std::filesystem;

struct check_options {
  fs::path path;
  bool json = false;
};

std::function<bool(const std::string&)> compile_sites(const std::string& pattern) {
  if (pattern.empty()) return {};
  try {
    return [r = std::regex(pattern, std::regex::ECMAScript)](const std::string& name) {
      return std::regex_search(name, r);
    };
  } catch (const std::regex_error& e) {
    throw usage_error("--sites: '" + pattern + "' is not a regular expression: " + e.what());
  }
}

/// Ids of every sequence; `auto` ones differ in seed, and in length so that a batch is ragged.
golden::run_plan plan_of(const make_options& o, const dsv4::config& c, std::string& ladder_text) {
  golden::run_plan plan;
  plan.mtp = o.mtp;
  plan.decode = std::max(o.decode, index_t{0});
  for (std::size_t s = 0; s < o.ids.size(); ++s) {
    if (o.ids[s] != "auto") {
      std::error_code none;
      const bool list = o.ids[s].find_first_not_of("0123456789,[] \t\r\n-+") == std::string::npos;
      if (!list && !fs::exists(o.ids[s], none))
        throw exit_with(exit_no_input, "--ids: " + o.ids[s] + ": no such file, and not a list of ids");
      plan.ids.push_back(read_ids(o.ids[s], c));
      continue;
    }
    const golden::position_ladder l = golden::ladder_of(c, o.max_tokens, o.decode);
    constexpr index_t shorter = 3;
    const index_t tokens = std::max(l.tokens - shorter * static_cast<index_t>(s), l.decode + 1);
    plan.ids.push_back(golden::ladder_ids(tokens, c.vocab_size, o.seed + s));
    if (o.decode < 0) plan.decode = std::max(plan.decode, l.decode);
    if (s > 0) continue;
    ladder_text =
        "auto, seed " + std::to_string(o.seed) + ": " + std::to_string(l.tokens) + " tokens cross positions";
    for (const index_t p : l.positions) ladder_text += " " + std::to_string(p);
    for (const std::string& m : l.missed) {
      ladder_text += "; NOT " + m;
      std::fprintf(stderr, "dsv4: note: not crossed by %lld tokens: %s (--max-tokens)\n",
                   static_cast<long long>(l.tokens), m.c_str());
    }
  }
  if (!o.chunks.empty()) plan.chunks = parse_chunks(o.chunks);
  for (std::size_t s = 0; s < plan.ids.size(); ++s)
    if (static_cast<index_t>(plan.ids[s].size()) <= plan.decode)
      throw usage_error("--decode " + std::to_string(plan.decode) + ": sequence " + std::to_string(s) +
                        " has only " + std::to_string(plan.ids[s].size()) +
                        " tokens, and one must come before the decode steps");
  return plan;
}

}  // namespace

void make_bundle(const make_options& o) {
  std::error_code none;
  if (!fs::exists(o.engine.model, none))
    throw exit_with(exit_no_input, o.engine.model.string() + ": does not exist");
  if (fs::exists(o.out, none) && !(fs::is_directory(o.out, none) && fs::is_empty(o.out, none)))
    throw usage_error("--out: " + o.out.string() +
                      " is there already; a bundle is written into a new directory");
  golden::record_options what;
  const auto of_prompt = compile_sites(o.sites),
             of_decode = o.decode_sites.empty() ? of_prompt : compile_sites(o.decode_sites);
  auto now = golden::call_kind::prefill;
  if (of_prompt || of_decode)
    what.wanted = [&](const std::string& name) {
      const auto& f = now == golden::call_kind::decode ? of_decode : of_prompt;
      return !f || f(name);
    };
  if (o.equal_chunks != "none") what.equal_chunks = parse_chunks(o.equal_chunks);
  if (o.equal_rewind != "none") {
    const auto r = parse_chunks(o.equal_rewind);
    if (r.size() != 2)
      throw usage_error(
          "--equal-rewind: expected two numbers, tokens of a call and tokens taken back after it");
    what.equal_rewind = {r[0], r[1]};
  }

  const auto model = open_model(o.engine.model);
  const dsv4::config& c = model.configuration();
  if (o.mtp && model.weights().mtp.empty())
    throw dsv4::unsupported("--mtp: this checkpoint has no MTP module (mtp.0.*)");
  golden::manifest about;
  const golden::run_plan plan = plan_of(o, c, about.input.ladder);

  const bool official = o.engine.numerics == "official", ref = o.engine.exec == "ref";
  about.name = o.name.empty() ? o.out.stem().string() : o.name;
  about.created_by = {{"program", "dsv4 golden make"},
                      {"version", DSV4_VERSION},
                      {"options",
                       {{"ids", o.ids},
                        {"seed", o.seed},
                        {"chunks", o.chunks},
                        {"sites", o.sites},
                        {"decode_sites", o.decode_sites},
                        {"noise", o.noise}}}};
  about.oracle = {
      {"kind", "dsv4"}, {"exec", o.engine.exec}, {"source", "dsv4 " DSV4_VERSION ", include/dsv4"}};
  about.numerics = golden::numerics_json(official, ref ? "f64" : "exact: narrow stores have the bits of f64");
  about.model = c;
  about.weights = weights_identity_of(model, !o.no_weight_hash);

  progress bar;
  what.progress = [&](const golden::call_info& call, index_t count) {
    now = call.kind;
    bar("golden make", call.step, count, "calls");
  };
  golden::writer_options options;
  options.zstd = o.zstd, options.small = o.small;
  golden::bundle_writer to(o.out, std::move(about), options);
  golden_record* const record = official ? ref ? record_official_ref : record_official_cpu
                                : ref    ? record_float32_ref
                                         : record_float32_cpu;
  const index_t recorded = record({c, model.weights(), plan, to, what, o.engine.threads});
  bar.clear();
  if (recorded == 0)
    throw usage_error("--sites '" + o.sites +
                      "' matches no value of this run; names are like layers.3.attn.out");
  to.finish();

  auto b = golden::bundle::open(o.out);
  if (o.noise > 0)
    golden::write_manifest(
        o.out, b.about(),
        (official ? noise_official : noise_float32)(b, model.weights(), o.noise, o.engine.threads));
  std::uintmax_t bytes = 0;
  for (const auto& f : fs::directory_iterator(o.out)) bytes += fs::file_size(f.path());
  index_t tokens = 0;
  for (const auto& s : plan.ids) tokens += static_cast<index_t>(s.size());
  if (o.json) {
    const nlohmann::ordered_json summary{{"out", o.out.string()},
                                         {"tensors", b.tensors().size()},
                                         {"calls", b.about().calls.size()},
                                         {"sequences", plan.ids.size()},
                                         {"tokens", tokens},
                                         {"decode", plan.decode},
                                         {"noise_runs", o.noise},
                                         {"bytes", bytes}};
    std::cout << summary.dump() << '\n';
  } else {
    std::printf("%s: %zu tensors of %zu calls, %zu sequences, %lld tokens; %.1f MB\n", o.out.c_str(),
                b.tensors().size(), b.about().calls.size(), plan.ids.size(), static_cast<long long>(tokens),
                static_cast<double>(bytes) / 1e6);
  }
}

namespace {

void check(const check_options& o) {
  const golden::check_report r = golden::check(o.path);
  if (o.json) {
    nlohmann::ordered_json summary{{"bundle", o.path.string()},
                                   {"ok", r.ok()},
                                   {"tensors", r.tensors},
                                   {"files", r.files},
                                   {"bytes", r.bytes},
                                   {"exit_code", r.exit_code()},
                                   {"problems", nlohmann::json::array()},
                                   {"truncated", r.truncated}};
    for (const auto& p : r.problems) {
      using kind = golden::check_problem::kind_t;
      summary["problems"].push_back({{"kind", p.kind == kind::missing   ? "missing"
                                              : p.kind == kind::damaged ? "damaged"
                                                                        : "structure"},
                                     {"what", p.what}});
    }
    std::cout << summary.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
  } else {
    constexpr std::size_t shown = 20;
    for (std::size_t i = 0; i < std::min(shown, r.problems.size()); ++i)
      std::printf("%s\n", r.problems[i].what.c_str());
    if (r.problems.size() > shown) std::printf("and %zu more\n", r.problems.size() - shown);
    std::printf("%s: %s: %lld tensors, %.1f MB, %lld files checked, %zu problems\n", o.path.c_str(),
                r.ok() ? "ok" : "NOT OK", static_cast<long long>(r.tensors),
                static_cast<double>(r.bytes) / 1e6, static_cast<long long>(r.files), r.problems.size());
  }
  if (!r.ok()) throw exit_with(r.exit_code(), "");
}

}  // namespace

void add_golden(CLI::App& app, std::function<void()>& run) {
  CLI::App& verb = cli::add_verb(app, "golden", "golden bundles: record them, check them");
  verb.require_subcommand(1);
  {
    CLI::App& sub = cli::add_verb(verb, "make", "record a bundle from a checkpoint");
    auto o = std::make_shared<make_options>();
    sub.add_option("--model", o->engine.model, "checkpoint directory")->required()->type_name("DIR");
    sub.add_option("--ids", o->ids,
                   "token ids: a list, a file of one, or auto; once per sequence of the batch")
        ->type_name("FILE|LIST|auto")
        ->capture_default_str();
    sub.add_option("--out", o->out, "the bundle's directory, made here")->required()->type_name("DIR.v4gold");
    sub.add_option("--numerics", o->engine.numerics, "official or float32")
        ->check(CLI::IsMember({"official", "float32"}))
        ->capture_default_str();
    sub.add_option("--exec", o->engine.exec, "ref or cpu (official: the same narrow bits)")
        ->check(CLI::IsMember({"ref", "cpu"}))
        ->capture_default_str();
    add_threads(sub, o->engine.threads);
    sub.add_option("--seed", o->seed, "of auto ids")->capture_default_str();
    sub.add_option("--max-tokens", o->max_tokens, "cap of auto ids")
        ->check(CLI::Range(index_t{2}, index_t{1} << 20))
        ->capture_default_str();
    sub.add_option("--decode", o->decode,
                   "single-token calls at the end (default: auto: by the ladder; else 0)")
        ->check(CLI::NonNegativeNumber);
    sub.add_option("--chunks", o->chunks, "split the prompt into calls of these lengths, the last repeats")
        ->type_name("5,1,9");
    sub.add_option("--equal-chunks", o->equal_chunks,
                   "a second run in these lengths must give the same logits; none: no such run")
        ->capture_default_str();
    sub.add_option("--equal-rewind", o->equal_rewind,
                   "a third run in calls of A tokens, B others run and taken back after each, must give the "
                   "same values; none: no such run")
        ->type_name("A,B")
        ->capture_default_str();
    sub.add_option("--sites", o->sites, "record only names that match (ECMAScript, searched anywhere)")
        ->type_name("REGEX");
    sub.add_option("--decode-sites", o->decode_sites,
                   "the same for the single-token calls (default: as --sites; . is all)")
        ->type_name("REGEX");
    sub.add_option("--name", o->name, "of the bundle, in its manifest (default: as the directory)");
    sub.add_option("--noise", o->noise,
                   "measure noise by so many runs with other sums (models that fit memory twice)")
        ->check(CLI::Range(0, 100))
        ->capture_default_str();
    sub.add_flag("--mtp", o->mtp, "also the MTP module, on every pair before the decode steps");
    sub.add_flag("--zstd", o->zstd, "compress the shards");
    sub.add_flag("--small", o->small,
                 "compress everything as far as it goes, the manifest too: bundles for a repository");
    sub.add_flag("--no-weight-hash", o->no_weight_hash, "do not read the whole checkpoint for its SHA-256");
    sub.add_flag("--json", o->json, "tell what was done as one JSON object");
    sub.footer(R"(
Examples
  dsv4 golden make --model mini --out mini.v4gold --mtp --noise 3
  dsv4 golden make --model mini --ids auto --ids 5,1,9,4,4 --decode 2 --out batch.v4gold
  dsv4 golden make --model DeepSeek-V4-Flash --exec cpu --sites '^(layers\.[0-3]|head)\.' --out flash.v4gold --zstd

auto chooses as many tokens as cross every boundary of the configuration: compressor blocks, the window,
the indexer's choice.  docs/bundle-format.md describes what is written.
Exit codes: 0 done, 2 a bad input file, 4 not implemented, 64 usage, 66 no input, 74 cannot write.)");
    sub.callback([o, &run] { run = [o] { with_golden_codes([&] { make_bundle(*o); }); }; });
  }
  {
    CLI::App& sub = cli::add_verb(verb, "check", "confirm everything that a bundle says of itself");
    auto o = std::make_shared<check_options>();
    sub.add_option("BUNDLE", o->path, "a .v4gold directory")->required();
    sub.add_flag("--json", o->json, "one JSON object instead of text");
    sub.footer(R"(
Schema, order and dependencies, the hash of every file and tensor, statistics, ids.
Exit codes: 0 ok, 2 structure, 66 the bundle or a file of it is not there, 74 truncated or a wrong hash.)");
    sub.callback([o, &run] { run = [o] { with_golden_codes([&] { check(*o); }); }; });
  }
}

}  // namespace cli
