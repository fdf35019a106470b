// SPDX-License-Identifier: MIT
// dsv4 look: what a model did with a text, as one self-contained page.  look.html is the page, look_run.cpp the run;
// this file puts the one into the other.
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include <dsv4/io/atomic_file.hpp>

#include "look.hpp"
#include "look_run.hpp"
#include "outputs.hpp"

namespace cli {

extern const char* const look_page;  // look.html, by CMakeLists.txt

namespace {

struct look_options {
  watch_options watch;
  std::filesystem::path out;
  bool no_rounding = false, json = false;
};

/// JSON that may stand in a script element: a text in it cannot end the element.
std::string for_script(std::string text) {
  std::string safe;
  safe.reserve(text.size());
  for (const char c : text) c == '<' ? safe += "\\u003c" : safe += c;
  return safe;
}

void look(const look_options& o) {
  check_output_file("--out", o.out, {o.watch.engine.model, o.watch.ids});
  const nlohmann::ordered_json run = look_run(o.watch, !o.no_rounding);
  std::string page = look_page;
  const std::string place = "RUN_OF_THIS_PAGE";
  page.replace(page.find(place), place.size(), for_script(run.dump()));
  dsv4::io::atomic_file file(o.out);
  file.write(page.data(), page.size());
  file.commit();
  const auto tokens = run["ids"].size();
  if (o.json)
    std::cout << nlohmann::ordered_json{{"out", o.out.string()},
                                        {"tokens", tokens},
                                        {"bytes", page.size()},
                                        {"seconds", run["seconds"]}}
              << '\n';
  else
    std::printf("%s: %zu tokens, %.1f MB; open it in a browser\n", o.out.c_str(), tokens,
                static_cast<double>(page.size()) / 1e6);
}

}  // namespace

void add_look(CLI::App& app, std::function<void()>& run) {
  CLI::App& verb = *app.add_subcommand("look", "what a model did with a text, as one page to look at");
  auto o = std::make_shared<look_options>();
  add_watched(verb, o->watch);
  verb.add_option("--out", o->out, "the HTML file to write")->required()->type_name("FILE");
  verb.add_flag("--no-rounding", o->no_rounding,
                "leave out the comparison with float32 numerics (a second run of up to 256 tokens)");
  verb.add_flag("--json", o->json, "tell what was done as one JSON object");
  verb.footer(R"(
Examples
  dsv4 look --model examples/kjv-mini --prompt 'And it came to pass, that' --out run.html
  dsv4 look --model DeepSeek-V4-Flash --ids prompt.json --out run.html
  dsv4 look --model mini --prompt - --out run.html < chapter.txt

The page needs no network and no server.  It shows, over all tokens: how likely each was, the mass of attention on
window, entries and sink, how far back it reaches, the load of the experts and the margins of their choice, norms of
the streams and the matrices of mHC, what the answer would have been after every layer (logit lens), the guesses of
MTP, and how far rounding moves every site.  For single tokens also the experts and entries chosen, with weights: for
all of a short text, for the last 96 and 64 others of a long one.  dsv4 trace has all of it as JSON lines.)");
  verb.callback([o, &run] { run = [o] { look(*o); }; });
}

}  // namespace cli
