// SPDX-License-Identifier: MIT
// dsv4 gguf export, dsv4 gguf import.
#include "gguf.hpp"

#include <cstdio>
#include <filesystem>
#include <memory>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <dsv4/io/checkpoint.hpp>
#include <dsv4/io/config_out.hpp>
#include <dsv4/io/folders.hpp>
#include <dsv4/io/gguf_deepseek4.hpp>
#include <dsv4/io/gguf_export.hpp>

#include "arguments.hpp"
#include "commands.hpp"
#include "input.hpp"
#include "outputs.hpp"

namespace cli {

namespace {

namespace fs = std::filesystem;
namespace io = dsv4::io;

struct gguf_options {
  fs::path from, out;
};

void export_file(const gguf_options& o) {
  check_output_file("--out", o.out, {o.from});
  const io::checkpoint model = open_model(o.from, {.scan = io::scan_rule::never});
  for (const std::string& what : io::export_gguf(model, o.out))
    std::fprintf(stderr, "Note: %s\n", what.c_str());
  std::printf("%s: %.1f MB\n", o.out.c_str(), static_cast<double>(fs::file_size(o.out)) / 1e6);
}

void import_file(const gguf_options& o) {
  const io::gguf file = io::gguf::open(o.from);
  const dsv4::config c = io::config_of(file);
  io::new_folder folder(o.out, "a checkpoint");
  io::safetensors_writer w;
  std::size_t tensors = 0, bytes = 0;
  for (io::imported_tensor& t : io::import_gguf(file, c)) {
    ++tensors, bytes += t.bytes();
    w.add(std::move(t.name), t.type, std::move(t.shape), std::move(t.make));
  }
  io::write_whole(folder.file("config.json"), io::to_json(c).dump(2) + "\n");
  w.write(folder.file("model.safetensors"));
  folder.keep();
  std::printf("%s: %zu tensors, %.1f MB\n", o.out.c_str(), tensors, static_cast<double>(bytes) / 1e6);
}

}  // namespace

void add_gguf(CLI::App& app, std::function<void()>& run) {
  CLI::App& verb = cli::add_verb(app, "gguf", "checkpoints to GGUF (architecture deepseek4) and back");
  verb.require_subcommand(1);
  {
    CLI::App& sub = cli::add_verb(verb, "export", "a checkpoint as one GGUF file, every weight exact");
    auto o = std::make_shared<gguf_options>();
    sub.add_option("--model", o->from, "checkpoint directory")->required()->type_name("DIR");
    sub.add_option("--out", o->out, "the file to write")->required()->type_name("FILE.gguf");
    sub.footer(R"(
Example
  dsv4 gguf export --model mini --out mini.gguf

FP4 experts become MXFP4, FP8 projections BF16 (code times scale, exact), with the scales as metadata so that
`import` gives the codes back.  Weights and sizes only: no tokenizer, no MTP.)");
    sub.callback([o, &run] { run = [o] { export_file(*o); }; });
  }
  {
    CLI::App& sub = cli::add_verb(verb, "import", "a GGUF file as a checkpoint directory");
    auto o = std::make_shared<gguf_options>();
    sub.add_option("FILE", o->from, "F32, F16, BF16, Q8_0 and MXFP4 tensors")
        ->required()
        ->type_name("FILE.gguf");
    sub.add_option("--out", o->out, "the directory, made here")->required()->type_name("DIR");
    sub.footer(R"(
Example
  dsv4 gguf import mini.gguf --out mini

Where a checkpoint is expected, --model FILE.gguf reads one as it is (converted in memory, up to 1 GiB).)");
    sub.callback([o, &run] { run = [o] { import_file(*o); }; });
  }
}

}  // namespace cli
