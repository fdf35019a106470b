// SPDX-License-Identifier: MIT
// dsv4 forward: ids in, logits and taps out.
#include <cstdio>
#include <iostream>
#include <regex>

#include <nlohmann/json.hpp>

#include <dsv4/io/checkpoint.hpp>
#include <dsv4/io/safetensors_writer.hpp>

#include "engine.hpp"
#include "input.hpp"
#include "outputs.hpp"
#include "progress.hpp"
#include "recorder.hpp"

namespace cli {

const engine& find_engine(const engine_options& o) {
  if (o.exec == "ref" && o.fast) throw usage_error("--fast: exec ref has no fast mode; use --exec cpu");
  const bool official = o.numerics == "official";
  if (o.exec == "ref") return official ? official_ref : float32_ref;
  if (o.fast) return official ? official_cpu_fast : float32_cpu_fast;
  return official ? official_cpu : float32_cpu;
}

namespace {

/// Without taps the split into calls cannot be seen: chunks bound the scratch memory.
constexpr index_t silent_chunk = 512;

std::function<bool(const std::string&)> compile(const std::optional<std::string>& pattern) {
  if (!pattern) return {};
  try {
    return [r = std::regex(*pattern, std::regex::ECMAScript)](const std::string& name) {
      return std::regex_search(name, r);
    };
  } catch (const std::regex_error& e) {
    throw usage_error("--taps: '" + *pattern + "' is not a regular expression: " + e.what());
  }
}

}  // namespace

void forward(const forward_options& o) {
  const engine& e = find_engine(o.engine);
  auto filter = compile(o.taps);
  check_output_file("--out", o.out, {o.engine.model, o.ids});
  const auto model = open_model(o.engine.model);
  const dsv4::config& c = model.configuration();
  const std::vector<std::int32_t> ids = read_ids(o.ids, c);
  const auto n = static_cast<index_t>(ids.size());

  recorder taps(c, n, std::move(filter), !e.wide_is_double);
  std::vector<index_t> chunks = o.chunks;
  if (chunks.empty()) chunks.push_back(o.taps ? n : silent_chunk);
  progress bar;
  const auto on_call = [&](index_t done, index_t total) { bar("forward", done, total); };
  forward_result r =
      e.forward({c, model.weights(), ids, std::move(chunks), o.mtp, o.engine.threads, taps, on_call});
  bar.clear();

  const index_t sites = taps.size();
  if (o.taps && sites == 0)
    std::fprintf(stderr,
                 "dsv4: warning: --taps '%s' matches no site of this run; names are like layers.3.attn.out\n",
                 o.taps->c_str());
  dsv4::io::safetensors_writer file;
  file.metadata = {{"numerics", o.engine.numerics}, {"exec", o.engine.exec + (o.engine.fast ? " fast" : "")}};
  file.add("logits", r.logits.type, {r.logits.rows, c.vocab_size}, std::move(r.logits.bytes));
  if (o.mtp)
    file.add("mtp.0.logits", r.mtp_logits.type, {r.mtp_logits.rows, c.vocab_size},
             std::move(r.mtp_logits.bytes));
  taps.move_to(file);
  file.write(o.out);

  const double rate = r.seconds > 0 ? static_cast<double>(n) / r.seconds : 0;
  if (o.json) {
    const nlohmann::ordered_json summary{{"out", o.out.string()},         {"tokens", n},
                                         {"vocab_size", c.vocab_size},    {"sites", sites},
                                         {"numerics", o.engine.numerics}, {"exec", o.engine.exec},
                                         {"fast", o.engine.fast},         {"seconds", r.seconds},
                                         {"tokens_per_second", rate}};
    std::cout << summary.dump() << '\n';
  } else {
    std::printf("%s: logits [%lld, %lld]%s and %lld sites; %lld tokens in %.3f s (%.1f per second)\n",
                o.out.c_str(), static_cast<long long>(n), static_cast<long long>(c.vocab_size),
                o.mtp ? ", mtp.0.logits" : "", static_cast<long long>(sites), static_cast<long long>(n),
                r.seconds, rate);
  }
}

}  // namespace cli
