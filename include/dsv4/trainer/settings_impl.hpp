// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of settings.hpp.
#include "../core/config_macros.hpp"
#include "settings.hpp"

namespace dsv4::trainer {

DSV4_INLINE index_t settings::rows_of(index_t s) const {
  const index_t until = batch.full.of(steps);
  if (batch.first_rows <= 0 || s >= until) return batch.rows;
  return batch.first_rows + (batch.rows - batch.first_rows) * s / until;
}

DSV4_INLINE nlohmann::ordered_json to_json(const settings& s) {
  settings_writer w;
  setting_fields(w, s);
  return std::move(w.out);
}

DSV4_INLINE settings parse_settings(const std::filesystem::path& file, const nlohmann::json& object) {
  if (!object.is_object()) io::fail_format(file, "expected an object of settings");
  settings s;
  settings_reader r(file, object);
  setting_fields(r, s);
  r.refuse_unknown();
  if (s.model.is_null())
    io::fail_format(file,
                    "field 'model' is missing: the fields of a config.json, or the name of such a file");
  const std::filesystem::path folder = file.parent_path();
  if (s.model.is_string()) {
    const io::mapped_file text(io::find_config(folder / s.model.get<std::string>()));
    s.c = io::parse_config_text(text.path(), text.text());
    s.model = io::parse_json(text.path(), text.text());
  } else {
    s.c = io::parse_config(file, s.model);
  }
  s.tokenizer = std::filesystem::absolute(folder / s.tokenizer)
                    .lexically_normal()
                    .string();  // to_json(s) may be read elsewhere
  const auto even = [&](const char* name, index_t n) {
    if (n % 2)
      io::fail_format(file, "field 'model." + std::string(name) + "': found " + std::to_string(n) +
                                ", expected an even number: FP4 is stored in pairs");
  };
  even("hidden_size", s.c.hidden_size);
  even("moe_intermediate_size", s.c.moe_intermediate_size);
  if (s.rate.warm_up.never)
    io::fail_format(
        file,
        "field 'learning_rate.warm_up': found null, expected a place in the run: the rate would stay near 0");
  if (s.data.length > s.c.max_position_embeddings)
    io::fail_format(file, "field 'data.length': found " + std::to_string(s.data.length) +
                              ", expected at most max_position_embeddings, " +
                              std::to_string(s.c.max_position_embeddings));
  if (s.anticipatory.duration < s.anticipatory.snapshot_every)
    io::fail_format(file, "field 'anticipatory.duration': found " + std::to_string(s.anticipatory.duration) +
                              ", expected at least snapshot_every, so that a spike is not met again at once");
  return s;
}

DSV4_INLINE settings read_settings(const std::filesystem::path& file) {
  const io::mapped_file text(file);
  return parse_settings(file, io::parse_json(file, text.text(), {.comments = true}));
}

DSV4_INLINE std::string difference(const nlohmann::json& a, const nlohmann::json& b,
                                   const std::string& prefix) {
  static const std::vector<std::string> harmless{"tokenizer", "checkpoint_every", "eval_every",
                                                 "eval_rows", "log_every",        "recompute"};
  std::string out;
  nlohmann::json names = a;
  names.update(b);
  for (const auto& [name, any] : names.items()) {
    if (prefix.empty() && std::find(harmless.begin(), harmless.end(), name) != harmless.end()) continue;
    const nlohmann::json in_a = a.value(name, nlohmann::json()), in_b = b.value(name, nlohmann::json());
    if (in_a.is_object() && in_b.is_object()) {
      const std::string inner = difference(in_a, in_b, prefix + name + ".");
      if (!inner.empty()) out += (out.empty() ? "" : ", ") + inner;
    } else if (in_a != in_b) {
      out += (out.empty() ? "" : ", ") + prefix + name;
    }
  }
  return out;
}

}  // namespace dsv4::trainer
