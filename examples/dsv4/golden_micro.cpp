// SPDX-License-Identifier: MIT
// dsv4 golden micro.
#include "arguments.hpp"
#include "golden_weights.hpp"

#include <CLI/CLI.hpp>
#include <cstdio>

#include <dsv4/golden/make/micro.hpp>
#include <dsv4/golden/make/record.hpp>

#include "golden.hpp"

namespace cli {

namespace {

namespace golden = dsv4::golden;

void make_micro(const std::filesystem::path& to) {
  std::error_code none;
  if (std::filesystem::exists(to, none))
    throw usage_error("--out: " + to.string() +
                      " is there already; a bundle is written into a new directory");
  golden::manifest about;
  about.name = to.stem().string();
  about.created_by = {{"program", "dsv4 golden micro"}, {"version", DSV4_VERSION}};
  about.oracle = {{"kind", "dsv4"}, {"exec", "ref"}, {"source", "dsv4 " DSV4_VERSION ", include/dsv4"}};
  about.numerics = golden::numerics_json(true, "f64");
  about.model = golden::micro_config();
  golden::writer_options options;
  options.small = true;
  golden::bundle_writer writer(to, about, options);
  golden::write_micro(writer, golden::micro_suite<dsv4::exec::ref>().run());
  writer.finish();
  std::printf("%s: %zu tensors\n", to.c_str(), writer.entries().size());
}

}  // namespace

void add_golden_micro(CLI::App& parent, std::function<void()>& run) {
  CLI::App& sub =
      cli::add_verb(parent, "micro", "a bundle of the operators one by one, formats exhaustively");
  auto out = std::make_shared<std::filesystem::path>();
  sub.add_option("--out", *out, "the bundle's directory, made here")->required()->type_name("DIR.v4gold");
  sub.footer(R"(
Names are op.KERNEL.NAME; an output has its inputs as dependencies.  reference_tests/data/bundles/micro.v4gold is this.)");
  sub.callback([out, &run] { run = [out] { with_golden_codes([&] { make_micro(*out); }); }; });
}

}  // namespace cli
