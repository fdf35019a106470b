// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of checkpoint.hpp.
#include <utility>

#include <nlohmann/json.hpp>
#include "checkpoint.hpp"
#include "config_json.hpp"
#include "gguf_deepseek4.hpp"
#include "json_text.hpp"
#include "mapped_file.hpp"
#include "quantisation.hpp"
#include "weight_reader.hpp"

namespace dsv4::io {

namespace detail {

/// Fills every field of model_weights from the tensor of the hub's name, with the shape that the tree gives it.
class weight_binder {
 public:
  weight_binder(const config& c, tensor_table& files, realigned_matrices& copies)
      : c_(c), files_(files), read_(files, copies) {}

  model_weights<> run() {
    drafter_ = find_drafter();
    auto w = weight_tree<storage::stored>(c_, stored_mtp_blocks(), c_.n_routed_experts);
    each_weight(w, c_, [&](const weight_info& i, auto& field) { bind(i, field); });
    if (!drafter_.empty()) bind_drafter(w);
    return w;
  }

 private:
  /// The model is good without its drafter: one that cannot be read is left out, and the reason kept for those who ask
  /// for drafts.
  void bind_drafter(model_weights<>& w) {
    if (!c_.dspark.present()) {
      w.foreign_drafter = drafter_ + "; config.json does not say how it drafts: no dspark_block_size";
      return;
    }
    model_weights<> all;  // the names of everything else are passed over
    all.dspark = weight_tree_of_drafter<storage::stored>(c_.dspark.stages, c_.n_routed_experts);
    try {
      each_weight(all, c_, [&](const weight_info& i, auto& field) {
        if (i.name.starts_with("mtp.")) bind(i, field);
      });
      w.dspark = std::move(all.dspark);
    } catch (const error& e) {
      w.foreign_drafter = drafter_ + ", which cannot be used: " + e.what();
    }
  }
  void bind(const weight_info& i, weight_matrix& m) {
    if (i.expert >= 0 && is_stacked(i)) {
      m = stacked(i);
      return;
    }
    m = read_.matrix(i.name, i.scale_name(), i.shape[0], i.shape[1]);
  }
  template <int R>
  void bind(const weight_info& i, tensor<float, R>& values) {
    values = read_.floats<R>(i);
  }
  void bind(const weight_info& i, expert_table& ids) {
    ids = read_.ids(i.name, i.shape[0], i.shape[1], c_.n_routed_experts);
  }

  /// transformers stacks the experts of a layer: w1 over w3 as gate_up, w2 as down (tensor_names.hpp).
  static std::string experts_of(const weight_info& i) {
    constexpr std::string_view folder = ".experts.";
    return i.name.substr(0, i.name.find(folder) + folder.size());
  }
  bool is_stacked(const weight_info& i) const {
    const std::string p = experts_of(i);
    return files_.has(p + "gate_up.weight") || files_.has(p + "down.weight");
  }
  weight_matrix stacked(const weight_info& i) {
    const std::string p = experts_of(i);
    const bool down = i.name.ends_with(".w2.weight"), up = i.name.ends_with(".w3.weight");
    const std::string stem = p + (down ? "down" : "gate_up");
    const weight_reader::stack place{c_.n_routed_experts, i.expert, down ? 1 : 2, up ? 1 : 0};
    return read_.matrix(stem + ".weight", stem + ".scale", i.shape[0], i.shape[1], place);
  }

  /// All that the configuration has, or none: transformers drops them, and a drafter is no MTP.
  index_t stored_mtp_blocks() {
    if (!drafter_.empty()) return 0;
    // -Base ships copies of embed and head here; they are the model's own and are not read.
    for (index_t b = 0; b < c_.num_nextn_predict_layers; ++b)
      for (const char* copy : {"emb.tok_emb.weight", "head.weight"}) files_.take(mtp_prefix(b) + copy);
    bool any = false;
    for (const stored_tensor& t : files_.tensors()) any = any || (!t.used && t.name.starts_with("mtp."));
    return any ? c_.num_nextn_predict_layers : 0;
  }
  static std::string mtp_prefix(index_t b) { return "mtp." + std::to_string(b) + "."; }

  /// Checkpoints of the -0731 kind keep another network, a DSpark drafter, under the same prefix.  Its description, ""
  /// if there is none.
  std::string find_drafter() const {
    const auto dspark = [](const std::string& why) {
      return "the tensors under mtp.* are a DSpark drafter (" + why +
             "), not a multi-token-prediction module";
    };
    for (const stored_tensor& t : files_.tensors()) {
      if (!t.name.starts_with("mtp.")) continue;
      for (const char* part : {"main_proj", "markov_head"})
        if (t.name.find(part) != std::string_view::npos) return dspark("found " + in_quotes(t.stored->name));
    }
    for (index_t b = 0; b < c_.num_nextn_predict_layers; ++b) {
      const std::string p = mtp_prefix(b);
      if (files_.has_prefix(p + "attn") && !files_.has(p + "enorm.weight") && !files_.has(p + "hnorm.weight"))
        return dspark("neither " + in_quotes(p + "enorm.weight") + " nor " + in_quotes(p + "hnorm.weight") +
                      " is there");
    }
    return {};
  }

  const config& c_;
  tensor_table& files_;
  weight_reader read_;
  std::string drafter_;
};

}  // namespace detail

DSV4_INLINE checkpoint checkpoint::open(const std::filesystem::path& path,
                                        const checkpoint_options& options) {
  namespace fs = std::filesystem;
  std::error_code none;
  if (!fs::exists(path, none)) fail_format(path, "does not exist");
  const fs::path beside = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const fs::path folder = fs::is_directory(path, none) ? path : beside;
  checkpoint opened;
  contents& c = *opened.contents_;
  if (path.extension() == ".gguf" && !fs::is_directory(path, none)) {
    const gguf file = gguf::open(path);
    c.config = config_of(file);
    c.files = tensor_table::of(path, gguf_in_memory(file, c.config, options.max_decompressed));
  } else {
    const mapped_file text(find_config(folder));
    c.config = parse_config_text(text.path(), text.text());
    check_quantisation(text.path(), parse_json(text.path(), text.text()));
    check_modelopt_file(folder);
    c.files = tensor_table::open(path, options.max_decompressed);
  }
  c.weights = detail::weight_binder(c.config, c.files, c.copies).run();
  const bool small = opened.bytes() <= automatic_scan_limit;
  if (options.scan == scan_rule::always || (options.scan == scan_rule::automatic && small)) c.scan();
  return opened;
}

DSV4_INLINE const tensor_info* checkpoint::find(std::string_view name) const& {
  const stored_tensor* t = contents_->files.find(name);
  return t ? t->stored : nullptr;
}

DSV4_INLINE std::vector<const stored_tensor*> checkpoint::unused() const& {
  std::vector<const stored_tensor*> out;
  for (const stored_tensor& t : tensors())
    if (!t.used) out.push_back(&t);
  return out;
}

DSV4_INLINE std::size_t checkpoint::bytes() const {
  std::size_t sum = 0;
  for (const stored_tensor& t : tensors()) sum += t.stored->bytes;
  return sum;
}

DSV4_INLINE void checkpoint::contents::scan() {
  const weight_reader read(files, copies);
  for (const stored_tensor& t : files.tensors())
    if (t.used) read.check_finite(t);
}

}  // namespace dsv4::io
