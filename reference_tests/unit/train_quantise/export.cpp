// SPDX-License-Identifier: MIT
// Trained weights as hub directories: what is written is what fake_quantise computed, and it runs.
#include <unistd.h>
#include <nlohmann/json.hpp>

#include <dsv4/io/checkpoint.hpp>
#include <dsv4/io/hub_layout.hpp>
#include <dsv4/model/transformer.hpp>
#include <dsv4/trainer/export.hpp>
#include <filesystem>
#include <fstream>

#include "catch.hpp"
#include "data.hpp"
#include "quantise_test.hpp"

namespace dsv4_test {
using Catch::Matchers::ContainsSubstring;
namespace fs = std::filesystem;

namespace {

struct folder {
  fs::path path;
  folder() {
    std::string name = (fs::temp_directory_path() / "dsv4-export-XXXXXX").string();
    if (!::mkdtemp(name.data())) throw std::runtime_error("no temporary directory");
    path = name;
  }
  ~folder() { fs::remove_all(path); }
};

train::routing_tables routing(const config& c) {
  train::routing_tables r;
  integers random{11};
  for (index_t g = 0; g < c.num_hidden_layers + c.num_nextn_predict_layers; ++g) {
    r.bias.emplace_back();
    r.table.emplace_back();
    if (g < c.num_hash_layers) {
      r.table.back() = tensor<std::int32_t, 2>(c.vocab_size, c.num_experts_per_tok);
      for (index_t v = 0; v < c.vocab_size; ++v)
        for (index_t k = 0; k < c.num_experts_per_tok; ++k)
          r.table.back()(v, k) = std::int32_t((v + 2 * k) % c.n_routed_experts);
    } else {
      r.bias.back() = tensor<float, 1>(c.n_routed_experts);
      for (index_t e = 0; e < c.n_routed_experts; ++e) r.bias.back()(e) = random.unit() * 0.01f;
    }
  }
  return r;
}

/// A stored tensor's element, whatever the type.
double stored_at(const io::checkpoint& model, const train::parameter_info& p, index_t o, index_t i) {
  const io::tensor_info& t = *model.find(p.name);
  weight_matrix w;
  w.type = t.type == dtype::i8 ? dtype::f4_e2m1 : t.type;
  w.data = t.data;
  w.cols = p.shape.size() == 2 ? p.shape[1] : 1;
  w.rows = p.size() / w.cols;
  if (w.quantised()) {
    const std::string scale = p.name.substr(0, p.name.rfind('.')) + ".scale";
    const io::tensor_info* found = model.find(scale);
    if (!found) throw std::runtime_error("no " + scale);
    w.scale = found->data;
    w.tile_rows = w.type == dtype::f4_e2m1 ? 1 : 128;
    w.tile_cols = w.type == dtype::f4_e2m1 ? 32 : 128;
  }
  return w.at(o, i);
}

std::vector<double> logits_of(const io::checkpoint& model) {
  transformer<float32<double>, exec::ref> m(model.configuration(), model.weights());
  auto sequence = m.new_sequence(32);
  const std::vector<std::int32_t> ids = random_ids(24, model.configuration().vocab_size, 5);
  tensor<double, 2> logits(24, model.configuration().vocab_size);
  m.forward(sequence, ids, logits.all());
  return {logits.data(), logits.data() + logits.size()};
}

}  // namespace

TEST_CASE("write_official: the published tensors, decoded to what fake_quantise computed, bit for bit",
          "[train_quantise]") {
  for (const config& c : {tiny_config(), partial_config()}) {
    const auto layout = parameter_layout::of<float>(c);
    const tensor<float, 1> master = master_weights(layout, 9);
    tensor<float, 1> quantised(layout.size);
    fake_quantise(layout, master.all(), quantised.all());
    const train::routing_tables tables = routing(c);
    const folder out, plain;
    const trainer::export_report report = trainer::write_official(out.path, c, layout, master.all(), tables);
    const io::checkpoint model = io::checkpoint::open(out.path);

    // Names, types and shapes of the published list, no more and no less.
    const auto all = io::hub_layout(c);
    CHECK(all.size() == report.tensors);
    CHECK(all.size() == model.tensors().size());
    CHECK(model.unused().empty());
    CHECK(report.bytes == model.bytes());
    for (const io::hub_tensor& t : all) {
      INFO(t.name);
      const io::tensor_info* stored = model.find(t.name);
      REQUIRE(stored);
      CHECK(stored->type == t.type);
      CHECK(stored->shape == t.shape);
    }
    // Every value.
    std::size_t wrong = 0;
    for (const train::parameter_info& p : layout.all) {
      const index_t cols = p.shape.size() == 2 ? p.shape[1] : 1;
      for (index_t k = 0; k < p.size(); ++k) {
        const double found = stored_at(model, p, k / cols, k % cols), expected = quantised(p.offset + k);
        wrong += found != expected || std::signbit(found) != std::signbit(expected);
      }
    }
    CHECK(wrong == 0);
    // The same model: quantised weights written as F32 give the same logits, to the last bit.
    trainer::write_float(plain.path, c, layout, quantised.all(), tables);
    const io::checkpoint same = io::checkpoint::open(plain.path);
    CHECK(same.find("layers.1.ffn.experts.0.w1.weight")->type == dtype::f32);
    CHECK(same.weights().mtp.size() == 1);
    CHECK(logits_of(model) == logits_of(same));
    CHECK(model.weights().layers[1].ffn.gate.bias(2) == tables.bias[1](2));
    CHECK(model.weights().layers[0].ffn.gate.tid2eid.at(7, 1) == tables.table[0](7, 1));
  }
}

TEST_CASE("the experts' cast to FP8 is judged on what is written", "[train_quantise]") {
  const config c = tiny_config();
  const auto layout = parameter_layout::of<float>(c);
  tensor<float, 1> w(layout.size);
  for (const train::parameter_info& p : layout.all) std::fill_n(w.data() + p.offset, p.size(), 0.01f);
  const folder out;
  CHECK(trainer::write_official(out.path, c, layout, std::as_const(w).all(), routing(c)).lossless());
  const train::parameter_info& p = *layout.find("layers.2.ffn.experts.4.w3.weight");
  std::fill_n(w.data() + p.offset + 6 * p.shape[1], p.shape[1], 0.01f * 0x1p-13f);
  const trainer::export_report report =
      trainer::write_official(out.path, c, layout, std::as_const(w).all(), routing(c));
  CHECK(!report.lossless());
  CHECK(report.lossless(cast_limit::exact));
  CHECK(report.widest_name == p.name);
  REQUIRE(report.widest);
  CHECK((report.widest->ratio() == 13 && report.widest->smallest_row == 6));
}

TEST_CASE("exports say what they are, bring the tokenizer, and replace an older one", "[train_quantise]") {
  config c = tiny_config();
  c.vocab_size = 4096;
  const auto layout = parameter_layout::of<float>(c);
  tensor<float, 1> w = master_weights(layout, 2);
  const folder out;
  const fs::path tokenizer = test_data("text/tokenizer.json");
  for (const bool official : {true, false}) {
    official ? trainer::write_official(out.path, c, layout, std::as_const(w).all(), routing(c), tokenizer)
             : trainer::write_float(out.path, c, layout, std::as_const(w).all(), routing(c), tokenizer);
    CHECK(fs::file_size(out.path / "tokenizer.json") == fs::file_size(tokenizer));
    const auto fields = nlohmann::json::parse(std::ifstream(out.path / "config.json"));
    CHECK(fields["eos_token_id"] == 1);
    CHECK(text::tokenizer::load(out.path).eos() == 1);
    CHECK(fields["torch_dtype"] == (official ? "bfloat16" : "float32"));
    CHECK(fields.contains("quantization_config") == official);
    CHECK(io::read_config(out.path).compress_ratios == c.compress_ratios);
    std::size_t files = 0;
    for ([[maybe_unused]] const auto& f : fs::directory_iterator(out.path)) ++files;
    CHECK(files == 5);  // no unfinished one is left
  }
  // What cannot be written is refused before anything is.
  const folder empty;
  w(layout.find("layers.1.attn.wkv.weight")->offset) = std::nanf("");
  CHECK_THAT(message_of([&] {
               trainer::write_float(empty.path / "x", c, layout, std::as_const(w).all(), routing(c));
             }),
             ContainsSubstring("layers.1.attn.wkv.weight: the weight at [0, 0]"));
  CHECK(!fs::exists(empty.path / "x"));
  c.vocab_size = 48;
  const auto small = parameter_layout::of<float>(c);
  const tensor<float, 1> v = master_weights(small, 2);
  CHECK_THAT(message_of([&] { trainer::write_float(empty.path, c, small, v.all(), routing(c), tokenizer); }),
             ContainsSubstring("the model's vocabulary is 48"));
}

}  // namespace dsv4_test
