// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of export.hpp.
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "../io/atomic_file.hpp"
#include "../io/config_out.hpp"
#include "../io/mapped_file.hpp"
#include "../io/safetensors_writer.hpp"
#include "export.hpp"

namespace dsv4::trainer {

namespace detail {

template <class T>
std::vector<std::byte> bytes_of(const T* x, index_t n) {
  std::vector<std::byte> out(usize(n) * sizeof(T));
  if (n) std::memcpy(out.data(), x, out.size());
  return out;
}

/// Codes of a quantised matrix, FP4 in pairs along the row, and its scales.
struct quantised_matrix {
  std::vector<std::byte> codes;
  tensor<e8m0, 2> scale;
};
DSV4_INLINE quantised_matrix quantised(view<const float, 2> w, weight_format s) {
  const train::scale_tile tile = train::tile_of(s);
  const index_t rows = w.extent(0), cols = w.extent(1);
  quantised_matrix q{{}, tensor<e8m0, 2>(tile.count_rows(rows), tile.count_cols(cols))};
  train::tile_scales(w, s, q.scale.all());
  q.codes.assign(usize(s == weight_format::fp4 ? rows * cols / 2 : rows * cols), std::byte{0});
  for (index_t o = 0; o < rows; ++o)
    for (index_t i = 0; i < cols; ++i) {
      const double v = w(o, i) / q.scale(o / tile.rows, i / tile.cols).decode();
      const index_t at = o * cols + i;
      if (s == weight_format::fp8)
        q.codes[usize(at)] = std::byte{e4m3::encode(v).bits};
      else  // the even column is the low half
        q.codes[usize(at / 2)] |= std::byte(e2m1::encode(v).bits << (i % 2 ? 4 : 0));
    }
  return q;
}

/// One directory, in either form.
class exporter {
 public:
  exporter(const std::filesystem::path& dir, const config& c, const train::parameter_layout& layout,
           view<const float, 1> weights, const train::routing_tables& routing)
      : dir_(dir), c_(c), layout_(layout), weights_(weights), routing_(routing) {
    // contract
    expects_equal(weights.extent(0), layout.size, "export: elements of the weights");
    const index_t gates = c.num_hidden_layers + c.num_nextn_predict_layers;
    expects_equal(static_cast<index_t>(routing.bias.size()), gates,
                  "export: selection biases, one per layer and MTP block");
    expects_equal(static_cast<index_t>(routing.table.size()), gates,
                  "export: hash tables, one per layer and MTP block");
    for (const train::parameter_info& p : layout.all)
      train::detail::check_weights(p.name, weights.data() + p.offset, p.size(), p.columns());
  }

  export_report run(bool official, const std::filesystem::path& tokenizer) {
    std::error_code failed;
    std::filesystem::create_directories(dir_, failed);
    if (failed) throw error(dir_.string() + ": cannot be made: " + failed.message());
    nlohmann::json fields = config_fields(official);
    if (!tokenizer.empty()) copy_tokenizer(tokenizer, fields);

    for (const train::parameter_info& p : layout_.all) official ? add_official(p) : add_float(p);
    std::size_t gate = 0;
    each_weight(weight_tree<storage::none>(c_), c_, [&](const weight_info& i, const auto&) {
      if (i.rule == update_rule::routing) add_routing(i, gate++);
    });

    const std::string shard = "model-00001-of-00001.safetensors";
    writer_.metadata = {{"format", "pt"}};  // transformers asks for it
    writer_.write(dir_ / shard);
    nlohmann::json map = nlohmann::json::object();
    for (const std::string& name : names_) map[name] = shard;
    io::write_whole(
        dir_ / "model.safetensors.index.json",
        nlohmann::json{{"metadata", {{"total_size", report_.bytes}}}, {"weight_map", map}}.dump(1) + "\n");
    io::write_whole(dir_ / "config.json", fields.dump(2) + "\n");
    report_.tensors = names_.size();
    return report_;
  }

 private:
  /// The hub's fields beyond the numbers of `config`, as the published config.json has them.
  nlohmann::json config_fields(bool official) const {
    nlohmann::json j = io::to_json(c_);
    j.update({{"attention_bias", false},
              {"attention_dropout", 0.0},
              {"bos_token_id", 0},
              {"eos_token_id", 1},
              {"hidden_act", "silu"},
              {"norm_topk_prob", true},
              {"tie_word_embeddings", false},
              {"topk_method", "noaux_tc"},
              {"torch_dtype", official ? "bfloat16" : "float32"},
              {"use_cache", true}});
    if (official) {
      j["expert_dtype"] = "fp4";
      j["quantization_config"] = {{"activation_scheme", "dynamic"},
                                  {"fmt", "e4m3"},
                                  {"quant_method", "fp8"},
                                  {"scale_fmt", "ue8m0"},
                                  {"weight_block_size", {fp8_tile, fp8_tile}}};
    }
    return j;
  }

  /// tokenizer.json and tokenizer_config.json, made where there is none; the ids that begin and end a text.
  void copy_tokenizer(const std::filesystem::path& from, nlohmann::json& fields) {
    namespace fs = std::filesystem;
    const fs::path file = fs::is_directory(from) ? from / "tokenizer.json" : from;
    const text::tokenizer t = text::tokenizer::load(file);
    expects(t.vocab_size() <= c_.vocab_size, file.string() + ": has " + std::to_string(t.vocab_size()) +
                                                 " ids, the model's vocabulary is " +
                                                 std::to_string(c_.vocab_size));
    if (t.bos()) fields["bos_token_id"] = *t.bos();
    if (t.eos()) fields["eos_token_id"] = *t.eos();
    // Read whole first: the one that is copied may be the one that is replaced.
    const auto copy = [&](const fs::path& of, const char* name) {
      const io::mapped_file source(of);
      const std::string bytes(source.text());
      io::write_whole(dir_ / name, bytes);
    };
    copy(file, "tokenizer.json");
    const fs::path names = file.parent_path() / "tokenizer_config.json";
    if (fs::exists(names)) {
      copy(names, "tokenizer_config.json");
    } else if (t.bos() && t.eos()) {
      // transformers knows the two tokens from here alone.
      const nlohmann::json told{{"tokenizer_class", "PreTrainedTokenizerFast"},
                                {"add_bos_token", false},
                                {"add_eos_token", false},
                                {"bos_token", std::string(*t.id_to_token(*t.bos()))},
                                {"eos_token", std::string(*t.id_to_token(*t.eos()))},
                                {"model_max_length", c_.max_position_embeddings}};
      io::write_whole(dir_ / "tokenizer_config.json", told.dump(2) + "\n");
    }
  }

  void add_float(const train::parameter_info& p) {
    add(p.name, dtype::f32, p.shape, bytes_of(weights_.data() + p.offset, p.size()));
  }

  void add_official(const train::parameter_info& p) {
    const float* w = weights_.data() + p.offset;
    const weight_format s = p.format;
    if (s == weight_format::f32) return add_float(p);
    if (s == weight_format::bfloat16) {
      std::vector<bf16> narrow(usize(p.size()));
      for (std::size_t k = 0; k < narrow.size(); ++k) narrow[k] = round_bf16(w[k]);
      return add(p.name, dtype::bf16, p.shape, bytes_of(narrow.data(), p.size()));
    }
    const index_t rows = p.shape[0], cols = p.shape[1];
    const bool fp4 = s == weight_format::fp4;
    expects(!fp4 || cols % 2 == 0,
            p.name + ": FP4 is stored in pairs of columns, found " + std::to_string(cols));
    quantised_matrix q = quantised({w, rows, cols}, s);
    if (fp4) note_spread(p, q);
    add(p.scale_name(), dtype::f8_e8m0, {q.scale.extent(0), q.scale.extent(1)},
        bytes_of(q.scale.data(), q.scale.size()));
    add(p.name, fp4 ? dtype::i8 : dtype::f8_e4m3, {rows, fp4 ? cols / 2 : cols}, std::move(q.codes));
  }
  void note_spread(const train::parameter_info& p, const quantised_matrix& q) {
    weight_matrix w;
    w.type = dtype::f4_e2m1, w.data = q.codes.data(), w.rows = p.shape[0], w.cols = p.shape[1];
    w.scale = reinterpret_cast<const std::byte*>(q.scale.data()), w.tile_rows = 1,
    w.tile_cols = fp4_tile_cols;
    const std::optional<fp4_spread> s = widest_spread(w);
    if (s && (!report_.widest || s->ratio() > report_.widest->ratio()))
      report_.widest = s, report_.widest_name = p.name;
  }

  /// The selection bias or the table of a gate.
  void add_routing(const weight_info& i, std::size_t gate) {
    if (i.format == weight_format::f32) {
      const tensor<float, 1>& bias = routing_.bias[gate];
      expects_equal(bias.size(), i.shape[0], i.name + ": experts");
      train::detail::check_weights(i.name, bias.data(), bias.size(), 0);
      return add(i.name, dtype::f32, i.shape, bytes_of(bias.data(), bias.size()));
    }
    const tensor<std::int32_t, 2>& table = routing_.table[gate];
    expects_equal(table.extent(0), i.shape[0], i.name + ": tokens");
    expects_equal(table.extent(1), i.shape[1], i.name + ": experts per token");
    const std::vector<std::int64_t> wide(table.data(), table.data() + table.size());
    add(i.name, dtype::i64, i.shape, bytes_of(wide.data(), table.size()));
  }

  void add(const std::string& name, dtype type, std::vector<index_t> shape, std::vector<std::byte> data) {
    report_.bytes += data.size();
    names_.push_back(name);
    writer_.add(name, type, std::move(shape), std::move(data));
  }

  const std::filesystem::path& dir_;
  const config& c_;
  const train::parameter_layout& layout_;
  view<const float, 1> weights_;
  const train::routing_tables& routing_;
  io::safetensors_writer writer_;
  std::vector<std::string> names_;
  export_report report_;
};

}  // namespace detail

DSV4_INLINE export_report write_float(const std::filesystem::path& dir, const config& c,
                                      const train::parameter_layout& layout, view<const float, 1> weights,
                                      const train::routing_tables& routing,
                                      const std::filesystem::path& tokenizer) {
  return detail::exporter(dir, c, layout, weights, routing).run(false, tokenizer);
}

DSV4_INLINE export_report write_official(const std::filesystem::path& dir, const config& c,
                                         const train::parameter_layout& layout, view<const float, 1> weights,
                                         const train::routing_tables& routing,
                                         const std::filesystem::path& tokenizer) {
  return detail::exporter(dir, c, layout, weights, routing).run(true, tokenizer);
}

}  // namespace dsv4::trainer
