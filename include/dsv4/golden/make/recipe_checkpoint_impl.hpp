// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of recipe_checkpoint.hpp.
#include "../../core/config_macros.hpp"
#include "recipe_checkpoint.hpp"

namespace dsv4::golden {

DSV4_INLINE checkpoint_size write_recipe_checkpoint(const std::filesystem::path& dir, const config& c,
                                                    std::uint64_t seed, const recipe_options& options) {
  namespace fs = std::filesystem;
  std::error_code none;
  io::new_folder folder(dir, "a checkpoint");
  const std::vector<io::hub_tensor> all = io::hub_layout(c);
  const weight_recipe recipe(seed, c.n_routed_experts);
  index_t total = 0;
  for (const io::hub_tensor& t : all) total += t.bytes();
  if (const auto space = fs::space(dir, none); !none && space.available < static_cast<std::uintmax_t>(total))
    throw error(dir.string() + ": the checkpoint needs " + std::to_string(total) + " bytes, the disk has " +
                std::to_string(space.available));
  nlohmann::json fields = io::to_json(c);
  fields["dsv4_note"] = "random weights (recipe " + std::string(weight_recipe::name) + ", seed " +
                        std::to_string(seed) + "): a model to test programs with, its words have no meaning";
  io::write_whole(folder.file("config.json"), fields.dump(2) + "\n");

  // Files in the order of the layers, each as full as the limit allows.
  std::vector<std::pair<std::size_t, std::size_t>> files;  // tensors [first, end)
  index_t in_file = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (files.empty() || in_file + all[i].bytes() > options.shard_bytes)
      files.emplace_back(i, i), in_file = 0;
    files.back().second = i + 1;
    in_file += all[i].bytes();
  }
  nlohmann::json map = nlohmann::json::object();
  index_t done = 0;
  for (std::size_t f = 0; f < files.size(); ++f) {
    char name[64];
    std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", f + 1, files.size());
    io::safetensors_writer writer;
    writer.metadata = {{"recipe", std::string(weight_recipe::name)}, {"seed", std::to_string(seed)}};
    for (std::size_t i = files[f].first; i < files[f].second; ++i) {
      map[all[i].name] = name;
      writer.add(all[i].name, all[i].type, all[i].shape,
                 [&, t = &all[i]](index_t at, std::span<std::byte> out) {
                   recipe.fill(*t, at, out);
                   done += static_cast<index_t>(out.size());
                   if (options.progress) options.progress(done, total);
                 });
    }
    writer.write(folder.file(name));
  }
  for (const auto& [name, content] : options.beside) io::write_whole(folder.file(name), content);
  const nlohmann::json index{{"metadata", {{"total_size", total}}}, {"weight_map", map}};
  io::write_whole(folder.file("model.safetensors.index.json"), index.dump(1) + "\n");
  folder.keep();
  return {all.size(), files.size(), usize(total)};
}

DSV4_INLINE std::optional<weights_identity> recipe_of(const io::checkpoint& model) {
  if (model.files().empty()) return std::nullopt;
  const auto& said = model.files()[0].metadata();
  const auto name = said.find("recipe"), seed = said.find("seed");
  if (name == said.end() || seed == said.end() || name->second != weight_recipe::name) return std::nullopt;
  weights_identity w{"recipe", {}, name->second, 0};
  const std::string& digits = seed->second;
  if (std::from_chars(digits.data(), digits.data() + digits.size(), w.seed).ptr !=
      digits.data() + digits.size())
    return std::nullopt;

  const std::vector<io::hub_tensor> all = io::hub_layout(model.configuration());
  const weight_recipe recipe(w.seed, model.configuration().n_routed_experts);
  if (all.size() != model.tensors().size()) return std::nullopt;
  std::vector<std::byte> piece;
  for (const io::hub_tensor& t : all) {
    const io::tensor_info* stored = model.find(t.name);
    if (!stored || stored->type != t.type || stored->shape != t.shape) return std::nullopt;
    const index_t row = t.bytes() / t.shape[0];
    constexpr index_t about = index_t{1} << 20;
    const index_t step = std::max(row, about / row * row);
    for (index_t at = 0; at < t.bytes(); at += step) {
      piece.resize(usize(std::min(step, t.bytes() - at)));
      recipe.fill(t, at, piece);
      if (std::memcmp(piece.data(), stored->data + at, piece.size()) != 0) return std::nullopt;
    }
  }
  return w;
}

}  // namespace dsv4::golden
