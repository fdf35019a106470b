// SPDX-License-Identifier: MIT
// dsv4 golden weights, dsv4 golden ladder.
#include "golden_weights.hpp"

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <iostream>

#include <nlohmann/json.hpp>

#include <dsv4/golden/make/recipe_checkpoint.hpp>
#include <dsv4/io/folders.hpp>
#include <dsv4/io/mapped_file.hpp>
#include <dsv4/text/tokenizer.hpp>

#include "arguments.hpp"
#include "golden.hpp"
#include "progress.hpp"

namespace cli {

namespace {

namespace golden = dsv4::golden;
namespace fs = std::filesystem;
using dsv4::config;

struct weights_options {
  fs::path from, out, tokenizer;
  std::uint64_t seed = 1;
  index_t experts = 0, vocabulary = 0;  ///< 0: as the configuration says
  bool json = false;
};

struct ladder_options {
  weights_options weights;
  std::string layer;
  bool hash = false;
  make_options bundle;
};

/// What one block writes and what later calls read of it; single tokens are recorded whole.
constexpr const char* ladder_sites =
    R"((attn_norm|attn\.kv|compressor\.entry|topk_idxs|attn\.out|gate\.indices|gate\.weights|ffn\.out)$|^head\.norm$)";
constexpr const char* mtp_sites = R"(|^layers\.0\.out$)";

void reduce(config& c, const weights_options& o) {
  if (o.experts > 0) c.n_routed_experts = o.experts;
  if (o.vocabulary > 0) c.vocab_size = o.vocabulary;
  if (c.n_routed_experts < c.num_experts_per_tok)
    throw usage_error("--experts " + std::to_string(o.experts) + ": a token chooses " +
                      std::to_string(c.num_experts_per_tok) + " of them");
}

/// One layer of that kind at the configuration's dimensions.
config one_layer(config c, const std::string& kind, bool hash) {
  index_t ratio = kind == "csa" ? dsv4::csa_ratio : 0;
  for (index_t l = 0; kind == "hca" && l < c.num_hidden_layers; ++l)
    if (c.kind(l) == dsv4::attention_kind::hca) ratio = c.ratio(l);
  if (kind == "hca" && ratio == 0) throw usage_error("--layer hca: this configuration has no such layer");
  c.num_hidden_layers = 1;
  c.num_hash_layers = hash;
  c.num_nextn_predict_layers = kind == "mtp";
  c.compress_ratios = {ratio};
  if (kind == "mtp") c.compress_ratios.push_back(0);
  return c;
}

golden::checkpoint_size write_weights(const fs::path& dir, const config& c, std::uint64_t seed,
                                      golden::recipe_options options = {}) {
  std::error_code none;
  if (fs::exists(dir, none) && !(fs::is_directory(dir, none) && fs::is_empty(dir, none)))
    throw usage_error("--out: " + dir.string() +
                      " is there already; a checkpoint is written into a new directory");
  progress bar;
  options.progress = [&](index_t done, index_t total) {
    constexpr index_t mib = index_t{1} << 20;
    bar("golden weights", done / mib, total / mib, "MiB");
  };
  return golden::write_recipe_checkpoint(dir, c, seed, options);
}

void make_weights(const weights_options& o) {
  std::error_code none;
  if (!fs::exists(o.from, none)) throw exit_with(exit_no_input, o.from.string() + ": does not exist");
  config c;
  std::uint64_t seed = o.seed;
  if (golden::is_bundle(o.from)) {
    const auto b = golden::bundle::open(o.from);
    if (b.about().weights.kind != "recipe")
      throw usage_error(o.from.string() + ": its weights are no recipe's, but " + b.about().weights.kind);
    if (b.about().weights.recipe != golden::weight_recipe::name)
      throw dsv4::unsupported("weights: recipe " + b.about().weights.recipe);
    c = b.model(), seed = b.about().weights.seed;
  } else {
    c = dsv4::io::read_config(o.from);
  }
  if (!o.tokenizer.empty() && o.vocabulary == 0)
    c.vocab_size = std::max(c.vocab_size, dsv4::text::tokenizer::load(o.tokenizer).vocab_size());
  reduce(c, o);
  golden::recipe_options options;
  if (!o.tokenizer.empty()) {
    const dsv4::io::mapped_file tokenizer(o.tokenizer);
    options.beside.emplace_back("tokenizer.json", tokenizer.text());
  }
  const auto size = write_weights(o.out, c, seed, std::move(options));
  if (o.json) {
    const nlohmann::ordered_json summary{{"out", o.out.string()}, {"recipe", golden::weight_recipe::name},
                                         {"seed", seed},          {"tensors", size.tensors},
                                         {"files", size.files},   {"bytes", size.bytes}};
    std::cout << summary.dump() << '\n';
  } else {
    std::printf("%s: %zu tensors in %zu files, %.1f MB, recipe %s, seed %llu\n", o.out.c_str(), size.tensors,
                size.files, static_cast<double>(size.bytes) / 1e6,
                std::string(golden::weight_recipe::name).c_str(), static_cast<unsigned long long>(seed));
  }
}

void make_ladder(ladder_options o) {
  using clock = std::chrono::steady_clock;
  std::error_code none;
  if (!fs::exists(o.weights.from, none))
    throw exit_with(exit_no_input, o.weights.from.string() + ": does not exist");
  config c = one_layer(dsv4::io::read_config(o.weights.from), o.layer, o.hash);
  reduce(c, o.weights);
  const fs::path model = o.weights.out / "model";
  const auto begin = clock::now();
  const auto size = write_weights(model, c, o.weights.seed);
  const auto seconds = [&] { return std::chrono::duration<double>(clock::now() - begin).count(); };
  std::fprintf(stderr, "%s: %zu tensors, %.1f MB, seed %llu; %.1f s\n", model.c_str(), size.tensors,
               static_cast<double>(size.bytes) / 1e6, static_cast<unsigned long long>(o.weights.seed),
               seconds());
  o.bundle.engine.model = model;
  o.bundle.out = o.weights.out / (o.layer + (o.hash ? "-hash" : "") + ".v4gold");
  o.bundle.mtp = o.layer == "mtp";
  if (o.bundle.sites.empty()) o.bundle.sites = std::string(ladder_sites) + (o.bundle.mtp ? mtp_sites : "");
  if (o.bundle.decode_sites.empty()) o.bundle.decode_sites = ".";
  o.bundle.equal_chunks = "none";
  make_bundle(o.bundle);
  std::fprintf(stderr, "%s: %.1f s in all\n", o.bundle.out.c_str(), seconds());
}

void add_weights(CLI::App& verb, weights_options& o, index_t experts, index_t vocabulary) {
  o.experts = experts, o.vocabulary = vocabulary;
  verb.add_option("--seed", o.seed, "of the weights")
      ->capture_default_str()
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 53));
  verb.add_option("--experts", o.experts,
                  experts ? "routed experts; 0: as many as the configuration has"
                          : "routed experts instead of the configuration's")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb.add_option("--vocabulary", o.vocabulary,
                  vocabulary ? "token ids; 0: as many as the configuration has"
                             : "token ids instead of the configuration's")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

}  // namespace

dsv4::io::checkpoint weights_of(const golden::bundle& b, const fs::path& model) {
  if (!model.empty()) {
    auto c = dsv4::io::checkpoint::open(model);
    if (golden::sha256_of(c.configuration()) != b.about().config_sha256)
      throw exit_with(
          exit_not_comparable,
          "--model: " + model.string() + " is not the model of the golden: its configuration is another");
    return c;
  }
  const golden::weights_identity& w = b.about().weights;
  if (w.kind != "recipe")
    throw usage_error("--model is missing: the checkpoint that " + b.path().string() +
                      " is a run of (it has no recipe for its weights)");
  if (w.recipe != golden::weight_recipe::name)
    throw dsv4::unsupported(b.path().string() + ": weights of recipe " + w.recipe);
  const dsv4::io::scratch_folder folder("dsv4-weights");
  write_weights(folder.path(), b.model(), w.seed);
  return dsv4::io::checkpoint::open(folder.path());  // the mappings outlive the names
}

void add_golden_weights(CLI::App& parent, std::function<void()>& run) {
  {
    CLI::App& sub = cli::add_verb(parent, "weights",
                                  "write a checkpoint of weights that a seed makes, in the published layout");
    auto o = std::make_shared<weights_options>();
    sub.add_option(
           "CONFIG", o->from,
           "a config.json, a directory with one, or a bundle of recipe weights (its configuration and seed)")
        ->required();
    sub.add_option("--out", o->out, "the checkpoint's directory, made here")->required()->type_name("DIR");
    sub.add_option("--tokenizer", o->tokenizer,
                   "a tokenizer.json to put beside them; the vocabulary becomes at least as large")
        ->type_name("FILE");
    sub.add_flag("--json", o->json, "tell what was done as one JSON object");
    add_weights(sub, *o, 0, 0);
    sub.footer(R"(
Examples
  dsv4 golden weights reference_tests/data/bundles/tiny.v4gold --out tiny
  dsv4 golden weights DeepSeek-V4-Flash/config.json --experts 8 --out flash-8

The recipe is splitmix-v1: integers and powers of two, the same bits in any language (docs/recipe.py makes them
with numpy).  Nothing larger than a row of a matrix is held in memory; the disk needs the checkpoint's size.)");
    sub.callback([o, &run] { run = [o] { with_golden_codes([&] { make_weights(*o); }); }; });
  }
  {
    CLI::App& sub = cli::add_verb(
        parent, "ladder", "one layer at real dimensions: its weights from a seed, and a bundle of it");
    auto o = std::make_shared<ladder_options>();
    constexpr index_t few_experts = 8, few_ids = 1024,
                      enough_tokens = 8192;  // Pro's indexer chooses 1024 entries of 4 tokens
    o->bundle.max_tokens = enough_tokens;
    sub.add_option("CONFIG", o->weights.from, "a config.json, or a directory with one")->required();
    sub.add_option("--layer", o->layer, "swa, csa, hca, or mtp (a window layer and the MTP block)")
        ->required()
        ->check(CLI::IsMember({"swa", "csa", "hca", "mtp"}));
    sub.add_flag("--hash", o->hash, "the layer takes its experts from a table");
    sub.add_option("--out", o->weights.out, "a new directory: model/ and LAYER.v4gold/ are made in it")
        ->required()
        ->type_name("DIR");
    add_weights(sub, o->weights, few_experts, few_ids);
    sub.add_option("--exec", o->bundle.engine.exec, "ref or cpu (the same narrow bits)")
        ->check(CLI::IsMember({"ref", "cpu"}))
        ->capture_default_str();
    add_threads(sub, o->bundle.engine.threads);
    sub.add_option("--max-tokens", o->bundle.max_tokens,
                   "cap of the tokens that the position ladder asks for")
        ->check(CLI::Range(index_t{2}, index_t{1} << 20))
        ->capture_default_str();
    sub.add_option("--sites", o->bundle.sites,
                   "what the prompt's call records (default: the block's outputs, its choices, and what "
                   "later calls read)")
        ->type_name("REGEX");
    sub.add_option("--decode-sites", o->bundle.decode_sites,
                   "what single-token calls record (default: everything)")
        ->type_name("REGEX");
    sub.add_flag("--zstd", o->bundle.zstd, "compress the shards");
    sub.add_flag("--json", o->bundle.json, "tell what was done as one JSON object");
    sub.footer(R"(
Examples
  dsv4 golden ladder DeepSeek-V4-Flash/config.json --layer csa --out flash-csa
  dsv4 golden ladder DeepSeek-V4-Pro/config.json --layer hca --experts 0 --max-tokens 600 --out pro-hca

A mini model passes bit for bit, and the real one fails: tiles, split reductions and large positions have no
counterpart at small sizes.  This bundle has the real ones, on weights that any engine can make (dsv4 golden
weights, docs/recipe.py).  The single tokens at the end are recorded whole: sampled rows of every site.)");
    sub.callback([o, &run] { run = [o] { with_golden_codes([&] { make_ladder(*o); }); }; });
  }
}

}  // namespace cli
