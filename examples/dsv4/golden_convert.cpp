// SPDX-License-Identifier: MIT
// dsv4 golden convert.
#include "golden_convert.hpp"
#include "arguments.hpp"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <iostream>

#include <nlohmann/json.hpp>

#include <dsv4/golden/convert/convert.hpp>

#include "golden.hpp"
#include "input.hpp"

namespace cli {

namespace {

namespace golden = dsv4::golden;
namespace fs = std::filesystem;

struct convert_options {
  fs::path in, out, config;
  std::string map, ids, numerics, name;
  bool map_check = false, zstd = false, json = false;
};

}  // namespace

std::string closing_nothing(dsv4::index_t arrays) {
  return std::to_string(arrays) + " arrays of compressors in calls in which no entry closes were left out";
}

std::vector<fs::path> map_directories() {
  std::vector<fs::path> out;
  if (const char* set = std::getenv("DSV4_MAPS")) out.emplace_back(set);
  std::error_code none;
  if (const fs::path self = fs::read_symlink("/proc/self/exe", none); !none)
    out.push_back(self.parent_path() / "../share/dsv4/maps");
#ifdef DSV4_MAPS_DIR
  out.emplace_back(DSV4_MAPS_DIR);
#endif
  return out;
}

namespace {

dsv4::config find_configuration(const convert_options& o) {
  if (!o.config.empty()) return dsv4::io::read_config(o.config);
  std::error_code none;
  for (const fs::path& dir : {o.in, o.in.parent_path().empty() ? fs::path(".") : o.in.parent_path()})
    if (fs::is_directory(dir, none) && fs::exists(dir / "config.json", none))
      return dsv4::io::read_config(dir);
  throw usage_error("--config: no config.json in or beside " + o.in.string() +
                    "; name the model's directory");
}

/// One line for what differs in numbers only, such as layers: with a * for each, or, where the numbers are
/// needed (shapes), the first of them as it is.
void list(const char* title, const std::vector<std::string>& names, bool first_as_it_is = false) {
  std::vector<std::pair<std::string, int>> lines;
  std::vector<std::string> firsts;
  for (const std::string& n : names) {
    std::string line, whole;
    for (const char c : n) {
      const bool digit = c >= '0' && c <= '9';
      const char shown = static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
      whole += shown;
      if (!digit) line += shown;
      if (digit && (line.empty() || line.back() != '*')) line += '*';
    }
    const auto at = std::find_if(lines.begin(), lines.end(), [&](const auto& l) { return l.first == line; });
    if (at == lines.end())
      lines.emplace_back(line, 1), firsts.push_back(whole);
    else
      ++at->second;
  }
  std::printf("%s: %zu%s\n", title, names.size(),
              names.empty()    ? ""
              : first_as_it_is ? " (the first of each kind)"
                               : " (* stands for numbers)");
  for (std::size_t i = 0; i < lines.size(); ++i)
    std::printf("  %-70s %6d\n", (first_as_it_is ? firsts[i] : lines[i].first).c_str(), lines[i].second);
}

void convert(const convert_options& o) {
  const dsv4::config c = find_configuration(o);
  golden::dump source = golden::dump::open(o.in);
  std::vector<std::vector<std::int32_t>> ids = golden::ids_of(source, c);
  if (!o.ids.empty()) ids = {read_ids(o.ids, c)};
  const golden::match_result m =
      golden::match(std::move(source), golden::name_map::find(o.map, map_directories()), c,
                    ids.empty() ? 1 : static_cast<index_t>(ids.size()));
  if (o.map_check) {
    if (o.json) {
      std::cout << nlohmann::json{{"mapped", m.values},
                                  {"ignored", m.ignored},
                                  {"calls", m.calls.size()},
                                  {"unmapped", m.unmapped},
                                  {"superseded", m.twice},
                                  {"sites_missing", m.sites_missing},
                                  {"misfits", m.misfits},
                                  {"left_out", m.left_out},
                                  {"closing_nothing", m.closing_nothing}}
                       .dump()
                << '\n';
    } else {
      std::printf("%lld arrays are sites, in %zu calls; %lld ignored by the map\n",
                  static_cast<long long>(m.values), m.calls.size(), static_cast<long long>(m.ignored));
      list("MISFITS: arrays that cannot be what their rules say", m.misfits, true);
      list("left out: the same, of optional rules", m.left_out, true);
      list("arrays of the dump without a rule", m.unmapped);
      list("arrays that a better rule's array replaces", m.twice);
      list("sites of the model that nothing maps to (first call)", m.sites_missing);
    }
    if (m.values == 0) throw exit_with(exit_structure, "nothing was mapped: the right map?");
    if (!m.misfits.empty())
      throw exit_with(exit_structure, std::to_string(m.misfits.size()) + " arrays do not fit: listed above");
    return;
  }
  if (o.out.empty()) throw usage_error("OUT.v4gold is missing (or --map-check)");
  golden::manifest about;
  about.name = o.name.empty() ? o.out.stem().string() : o.name;
  about.created_by = {{"program", "dsv4 golden convert"},
                      {"version", DSV4_VERSION},
                      {"map", m.map->file().filename().string()}};
  if (!o.numerics.empty()) about.numerics = {{"policy", o.numerics}};
  golden::writer_options how;
  how.zstd = o.zstd;
  const auto left_out = golden::convert(m, ids, o.out, std::move(about), how);
  if (o.json) {
    std::cout << nlohmann::json{{"values", m.values},
                                {"calls", m.calls.size()},
                                {"ignored", m.ignored},
                                {"unmapped", m.unmapped},
                                {"left_out", left_out}}
                     .dump()
              << '\n';
    return;
  }
  std::printf(
      "%s: %lld values in %zu calls; %zu arrays without a rule, %lld ignored by the map, %zu sites not in "
      "the dump%s\n",
      o.out.c_str(), static_cast<long long>(m.values - static_cast<index_t>(left_out.size())), m.calls.size(),
      m.unmapped.size(), static_cast<long long>(m.ignored), m.sites_missing.size(),
      m.unmapped.empty() && m.sites_missing.empty() ? "" : " (--map-check lists them)");
  for (const std::string& what : left_out) std::printf("left out: %s\n", what.c_str());
  if (m.closing_nothing) std::printf("%s\n", closing_nothing(m.closing_nothing).c_str());
}

}  // namespace

void add_golden_convert(CLI::App& verb, std::function<void()>& run) {
  CLI::App& sub = cli::add_verb(verb, "convert", "another engine's dump as a bundle");
  auto o = std::make_shared<convert_options>();
  sub.add_option("IN", o->in, "safetensors, .npy, .npz, raw .bin/.i32, or a directory of them")->required();
  sub.add_option("OUT", o->out, "the bundle to write: a new directory")->type_name("OUT.v4gold");
  sub.add_option("--map", o->map,
                 "what the other engine calls our sites: transformers, official, dsv4, llamacpp, ik_llama, "
                 "ds4, or a file")
      ->required()
      ->type_name("NAME|FILE");
  sub.add_option("--config", o->config,
                 "the model: a directory with config.json, or that file (default: in or beside IN)")
      ->type_name("DIR");
  sub.add_option("--ids", o->ids, "token ids of the run: 1,5,9 or a file (default: the dump's input_ids)")
      ->type_name("FILE|LIST");
  sub.add_option("--numerics", o->numerics, "what the engine computes in (default: what its map says)")
      ->check(CLI::IsMember({"official", "float32"}));
  sub.add_option("--name", o->name, "of the bundle");
  sub.add_flag("--map-check", o->map_check, "write nothing; list what the map does not know, on both sides");
  sub.add_flag("--zstd", o->zstd, "compress the shards");
  sub.add_flag("--json", o->json, "one JSON object instead of text");
  sub.footer(R"(
Examples
  dsv4 golden convert hf.safetensors hf.v4gold --map transformers --config mini
  dsv4 golden convert dump/ --map my-engine.json --map-check
  dsv4 golden convert reference_tests/data/official/flash-mini/taps.safetensors.zst flash-mini.v4gold --map dsv4

Names may begin with their call: prefill/, decode00056/, chunk00005/, prefill_mtp/ (positions of the first
token); raw files are …NAME-LAYER_posP.bin.  Maps are JSON, docs/maps; docs/verify-another-engine.md shows the
whole path.  Compressed npz (savez_compressed) are not read.
Exit codes: 0 done, 2 malformed or does not fit, 4 not implemented, 64 usage, 66 no input, 74 I/O.)");
  sub.callback([o, &run] { run = [o] { with_golden_codes([&] { convert(*o); }); }; });
}

}  // namespace cli
