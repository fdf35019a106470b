// SPDX-License-Identifier: MIT
// dsv4 inspect: what a checkpoint is and what it costs.
#include <cstdio>
#include <iostream>
#include <map>

#include <nlohmann/json.hpp>

#include <dsv4/io/checkpoint.hpp>
#include <dsv4/io/config_out.hpp>
#include <dsv4/model/accounting.hpp>

#include "commands.hpp"
#include "input.hpp"

namespace cli {
namespace {

using nlohmann::ordered_json;

struct dtype_row {
  index_t count = 0, elements = 0, bytes = 0;
};

struct facts {
  dsv4::config c;
  dsv4::parameter_count parameters;
  dsv4::kv_bytes kv;
  index_t context = 0;
  bool has_files = false;
  index_t files = 0, tensors = 0, bytes = 0, stored_parameters = 0, realigned = 0;
  std::map<std::string, dtype_row> by_dtype;
  std::vector<std::string> unused;
  std::string drafter;  ///< one that nothing reads
  bool dspark = false;  ///< one that is read
  index_t drafter_tensors = 0;
};

/// Scales, tables of hash routing and the copies of embed and head under mtp.* are no parameters.
bool holds_parameters(const dsv4::io::stored_tensor& t) {
  if (!t.used || t.name.ends_with(".scale") || t.name.ends_with(".tid2eid")) return false;
  return !(t.name.starts_with("mtp.") && (t.name.ends_with(".emb.tok_emb.weight") ||
                                          (t.name.ends_with(".head.weight") && t.name.size() < 20)));
}

facts collect(const inspect_options& o) {
  facts f;
  if (o.path.extension() == ".json") {  // a configuration alone
    f.c = dsv4::io::read_config(o.path);
  } else {
    const auto scan = o.scan ? dsv4::io::scan_rule::always : dsv4::io::scan_rule::never;
    const auto model = open_model(o.path, {.scan = scan});
    f.c = model.configuration();
    f.has_files = true;
    f.files = static_cast<index_t>(model.files().size());
    f.tensors = static_cast<index_t>(model.tensors().size());
    f.bytes = static_cast<index_t>(model.bytes());
    f.realigned = static_cast<index_t>(model.realigned_bytes());
    for (const auto& t : model.tensors()) {
      dtype_row& row = f.by_dtype[std::string(dsv4::name_of(t.stored->type))];
      ++row.count;
      row.elements += t.stored->elements;
      row.bytes += static_cast<index_t>(t.stored->bytes);
      // An I8 byte holds two FP4 parameters.
      if (holds_parameters(t))
        f.stored_parameters += t.stored->elements * (t.stored->type == dsv4::dtype::i8 ? 2 : 1);
    }
    f.dspark = model.weights().dspark.has_value();
    for (const auto& t : model.tensors())
      f.drafter_tensors += f.dspark && t.used && t.name.starts_with("mtp.");
    for (const auto* t : model.unused()) f.unused.push_back(t->stored->name);
    f.drafter = model.drafter();
  }
  f.parameters = dsv4::count_parameters(f.c);
  f.kv = dsv4::count_kv_bytes(f.c);
  f.context = o.context.value_or(f.c.max_position_embeddings);
  return f;
}

std::vector<index_t> layers_of(const dsv4::config& c, dsv4::attention_kind kind) {
  std::vector<index_t> r;
  for (index_t l = 0; l < c.num_hidden_layers; ++l)
    if (c.kind(l) == kind) r.push_back(l);
  return r;
}

ordered_json json_of(const facts& f, const inspect_options& o) {
  const dsv4::config& c = f.c;
  ordered_json j;
  j["path"] = o.path.string();
  j["config"] = dsv4::io::to_json(c);
  j["layers"] = {{"window", layers_of(c, dsv4::attention_kind::window)},
                 {"csa", layers_of(c, dsv4::attention_kind::csa)},
                 {"hca", layers_of(c, dsv4::attention_kind::hca)}};
  j["parameters"] = {{"total", f.parameters.total},
                     {"active", f.parameters.active},
                     {"active_with_embedding", f.parameters.active + f.parameters.embedding},
                     {"embedding", f.parameters.embedding},
                     {"mtp", f.parameters.mtp}};
  if (c.dspark.present()) j["parameters"]["drafter"] = f.parameters.drafter;
  j["kv"] = {{"bytes_per_token", f.kv.per_token},
             {"window_bytes", f.kv.windows},
             {"context", f.context},
             {"bytes_at_context", f.kv.at(f.context)}};
  if (!f.has_files) return j;
  j["parameters"]["stored"] = f.stored_parameters;
  j["tensors"] = {
      {"count", f.tensors}, {"files", f.files}, {"bytes", f.bytes}, {"realigned_bytes", f.realigned}};
  for (const auto& [name, row] : f.by_dtype)
    j["tensors"]["by_dtype"][name] = {{"count", row.count}, {"elements", row.elements}, {"bytes", row.bytes}};
  j["tensors"]["unused"] = f.unused;
  if (!f.drafter.empty()) j["drafter"] = f.drafter;
  if (f.dspark) j["drafter"] = {{"kind", "DSpark"}, {"tensors", f.drafter_tensors}};
  return j;
}

/// 284332240471 -> "284.332 B"; thousands in powers of ten.
std::string scaled(double v, const char* const (&units)[4]) {
  int u = 0;
  for (; v >= 1000 && u < 3; ++u) v /= 1000;
  char text[64];
  std::snprintf(text, sizeof text, u ? "%.3f%s%s" : "%.0f%s%s", v, *units[u] ? " " : "", units[u]);
  return text;
}
std::string count_text(index_t n) { return scaled(static_cast<double>(n), {"", "K", "M", "B"}); }
std::string bytes_text(double n) { return scaled(n, {"B", "KB", "MB", "GB"}); }
std::string grouped(index_t n) {
  std::string s = std::to_string(n);
  for (auto at = static_cast<std::ptrdiff_t>(s.size()) - 3; at > 0; at -= 3)
    s.insert(static_cast<std::size_t>(at), ",");
  return s;
}

/// Layer numbers, arithmetic runs shortened: "0-1", "2,4,...,42", "3".
std::string runs(const std::vector<index_t>& v) {
  std::string out;
  for (std::size_t i = 0; i < v.size();) {
    std::size_t end = i + 1;  // the run is [i, end)
    const index_t step = end < v.size() ? v[end] - v[i] : 0;
    while (end < v.size() && v[end] - v[end - 1] == step) ++end;
    const auto n = [&](std::size_t at) { return std::to_string(v[at]); };
    if (end - i == 2 && step > 1) --end;  // two numbers are no run
    out += (out.empty() ? "" : ",") + n(i);
    if (end - i >= 2 && step == 1) out += "-" + n(end - 1);
    if (end - i == 3 && step > 1) out += "," + n(i + 1) + "," + n(i + 2);
    if (end - i > 3 && step > 1) out += "," + n(i + 1) + ",...," + n(end - 1);
    i = end;
  }
  return out;
}

/// "HCA (ratio 128) 20: 3,5,...,41", one part per kind that occurs.
std::string kinds_text(const dsv4::config& c) {
  std::string out;
  const auto add = [&](const char* name, dsv4::attention_kind kind) {
    const auto l = layers_of(c, kind);
    if (l.empty()) return;
    out += out.empty() ? "" : "; ";
    out += std::to_string(l.size()) + " " + name;
    if (kind != dsv4::attention_kind::window) out += " (ratio " + std::to_string(c.ratio(l[0])) + ")";
    out += ": " + runs(l);
  };
  add("window", dsv4::attention_kind::window);
  add("CSA", dsv4::attention_kind::csa);
  add("HCA", dsv4::attention_kind::hca);
  if (c.num_nextn_predict_layers > 0) {
    const auto kind = dsv4::kind_of_ratio(c.mtp_ratio());
    out += "; " + std::to_string(c.num_nextn_predict_layers) + " MTP (" +
           (kind == dsv4::attention_kind::window ? "window"
            : kind == dsv4::attention_kind::csa  ? "CSA"
                                                 : "HCA") +
           ")";
  }
  return out;
}

void print(const facts& f, const inspect_options& o) {
  const dsv4::config& c = f.c;
  const auto line = [](const char* name, const std::string& text) {
    std::printf("%-11s %s\n", name, text.c_str());
  };
  const auto n = [](index_t v) { return std::to_string(v); };
  line("model", o.path.string() + ": " + n(c.num_hidden_layers) + " layers, hidden " + n(c.hidden_size) +
                    ", " + n(c.hc_mult) + " streams, vocabulary " + n(c.vocab_size) + ", context " +
                    grouped(c.max_position_embeddings));
  line("layers", kinds_text(c));
  line("attention", n(c.num_attention_heads) + " heads of " + n(c.head_dim) + " (rotary " +
                        n(c.qk_rope_head_dim) + "), query rank " + n(c.q_lora_rank) + ", output " +
                        n(c.o_groups) + " groups of rank " + n(c.o_lora_rank) + ", window " +
                        n(c.sliding_window));
  if (!layers_of(c, dsv4::attention_kind::csa).empty())
    line("indexer", n(c.index_n_heads) + " heads of " + n(c.index_head_dim) + ", top " + n(c.index_topk));
  line("experts", n(c.num_experts_per_tok) + " of " + n(c.n_routed_experts) + " routed + " +
                      n(c.n_shared_experts) + " shared, inner " + n(c.moe_intermediate_size) +
                      (c.num_hash_layers ? ", by table in " + n(c.num_hash_layers) + " layers" : ""));
  const dsv4::parameter_count& p = f.parameters;
  line("parameters", count_text(p.total) + " total, " + count_text(p.active) + " active (" +
                         count_text(p.active + p.embedding) + " with the embedding table)" +
                         (p.mtp ? ", MTP " + count_text(p.mtp) : "") +
                         (p.drafter ? ", DSpark drafter " + count_text(p.drafter) : ""));
  if (const dsv4::dspark_config& d = c.dspark; d.present())
    line("drafter", "DSpark: " + n(d.stages) + " stages on layers " + runs(d.target_layers) + ", blocks of " +
                        n(d.block_size) + ", Markov rank " + n(d.markov_rank) + ", noise token " +
                        n(d.noise_token) + (f.dspark ? "; " + grouped(f.drafter_tensors) + " tensors" : ""));
  char per_token[32];
  std::snprintf(per_token, sizeof per_token, "%.2f", f.kv.per_token);
  line("KV cache", std::string(per_token) + " bytes per token + " +
                       bytes_text(static_cast<double>(f.kv.windows)) + " of windows; " +
                       bytes_text(f.kv.at(f.context)) + " at " + grouped(f.context) + " tokens");
  if (!f.has_files) return;
  line("tensors", grouped(f.tensors) + " in " + n(f.files) + " file" + (f.files == 1 ? "" : "s") + ", " +
                      grouped(f.bytes) + " bytes (" + bytes_text(static_cast<double>(f.bytes)) + "), " +
                      count_text(f.stored_parameters) + " parameters stored");
  std::printf("  %-8s %9s %19s %19s\n", "dtype", "tensors", "elements", "bytes");
  for (const auto& [name, row] : f.by_dtype)
    std::printf("  %-8s %9s %19s %19s\n", name.c_str(), grouped(row.count).c_str(),
                grouped(row.elements).c_str(), grouped(row.bytes).c_str());
  if (f.realigned)
    line("realigned",
         bytes_text(static_cast<double>(f.realigned)) + " copied because the file does not align them");
  if (!f.unused.empty()) {
    constexpr std::size_t most = 5;
    std::string names;
    for (std::size_t i = 0; i < std::min(most, f.unused.size()); ++i)
      names += (i ? ", " : "") + dsv4::io::in_quotes(f.unused[i]);
    line("unused", n(static_cast<index_t>(f.unused.size())) + " tensors that are no part of the model: " +
                       names + (f.unused.size() > most ? ", ..." : ""));
  }
  if (!f.drafter.empty()) line("drafter", "not implemented, not read: " + f.drafter);
  if (o.scan) line("scan", "all weights are finite");
}

}  // namespace

void inspect(const inspect_options& o) {
  const facts f = collect(o);
  if (o.json)
    std::cout << json_of(f, o).dump(-1, ' ', false, ordered_json::error_handler_t::replace) << '\n';
  else
    print(f, o);
}

}  // namespace cli
