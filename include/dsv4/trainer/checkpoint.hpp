// SPDX-License-Identifier: MIT
#pragma once
/// A training run on disk: one safetensors file in zstd, replaced in one step, so that a kill at any time leaves the
/// old one or the new one.
///
///   w.NAME  m.NAME  v.NAME   weights, momenta, second moments, by hub name       bias.L, table.L   routing of layer L
///   snapshot.*               the same of the snapshot that a spike goes back to   routes.S.P.L     experts chosen ahead
///   metadata "run"           JSON: step, cursor, detector, settings, text, ...    (numbers exact: shortest decimal form)
/// @throws format_error a file that is no such checkpoint, or of another model: tensor, expected, found
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "../io/atomic_file.hpp"
#include "../io/json_text.hpp"
#include "../io/safetensors_writer.hpp"
#include "../io/zstd_encoder.hpp"
#include "training_state.hpp"

namespace dsv4::trainer {

inline constexpr int checkpoint_version = 1;

inline nlohmann::json to_json(const spike_detector& d) {
  return {{"mean", d.mean}, {"variance", d.variance}, {"count", d.count}};
}
inline spike_detector detector_of(const nlohmann::json& j) {
  return {j.at("mean").get<double>(), j.at("variance").get<double>(), j.at("count").get<index_t>()};
}

/// The small numbers of a state.
template <class T>
nlohmann::json place_of(const training_state<T>& s) {
  return {{"step", s.step},
          {"epoch", s.data.epoch},
          {"position", s.data.position},
          {"detector", to_json(s.detector)}};
}
template <class T>
void set_place(training_state<T>& s, const nlohmann::json& j, const std::filesystem::path& file) {
  s.step = j.at("step").get<index_t>();
  s.data = {j.at("epoch").get<index_t>(), j.at("position").get<index_t>()};
  s.detector = detector_of(j.at("detector"));
  constexpr index_t most = index_t{1} << 53;
  for (const auto& [name, n] : {std::pair{"step", s.step},
                                {"epoch", s.data.epoch},
                                {"position", s.data.position},
                                {"count", s.detector.count}})
    if (n < 0 || n > most)
      io::fail_format(file, "its \"run\" is damaged: '" + std::string(name) + "': found " +
                                std::to_string(n) + ", expected 0 to 2^53");
}

/// Adds the arrays of a state, which must outlive the writer.
template <class T>
void add_state(io::safetensors_writer& out, const std::string& prefix, const placed_layout& layout,
               const training_state<T>& s) {
  for (const placed_parameter& p : layout.all) {
    const auto put = [&](const char* what, const T* data) {
      out.add(prefix + what + p.info.name, dtype_of<T>, p.info.shape, data);
    };
    put("w.", s.w.data() + p.info.offset);
    put("m.", s.m.data() + p.info.offset);
    if (p.second >= 0) put("v.", s.v.data() + p.second);
  }
  for (std::size_t l = 0; l < s.routing.bias.size(); ++l) {
    if (!s.routing.bias[l].empty()) out.add(prefix + "bias." + std::to_string(l), s.routing.bias[l].all());
    if (!s.routing.table[l].empty()) out.add(prefix + "table." + std::to_string(l), s.routing.table[l].all());
  }
}

/// Reads one tensor of exactly this type and shape.
template <class T>
void read_tensor(const io::safetensors& file, const std::string& name, const std::vector<index_t>& shape,
                 T* to) {
  const io::tensor_info& t = file.at(name);
  const dtype wanted = dtype_of<T>;
  if (t.type != wanted || t.shape != shape)
    io::fail_format(file.path(), "tensor " + io::in_quotes(name) + ": found " + std::string(name_of(t.type)) +
                                     " " + io::shape_text(t.shape) + ", expected " +
                                     std::string(name_of(wanted)) + " " + io::shape_text(shape));
  if (t.bytes) std::memcpy(to, t.data, t.bytes);
}

/// Fills a state made for this layout, whose routing has the shapes of the model.
template <class T>
void read_state(const io::safetensors& file, const std::string& prefix, const placed_layout& layout,
                training_state<T>& s) {
  for (const placed_parameter& p : layout.all) {
    read_tensor(file, prefix + "w." + p.info.name, p.info.shape, s.w.data() + p.info.offset);
    read_tensor(file, prefix + "m." + p.info.name, p.info.shape, s.m.data() + p.info.offset);
    if (p.second >= 0) read_tensor(file, prefix + "v." + p.info.name, p.info.shape, s.v.data() + p.second);
  }
  for (std::size_t l = 0; l < s.routing.bias.size(); ++l) {
    auto& bias = s.routing.bias[l];
    auto& table = s.routing.table[l];
    if (!bias.empty()) read_tensor(file, prefix + "bias." + std::to_string(l), {bias.extent(0)}, bias.data());
    if (!table.empty())
      read_tensor(file, prefix + "table." + std::to_string(l), {table.extent(0), table.extent(1)},
                  table.data());
  }
}

/// Writes what was added, whole or not at all.
inline void write_checkpoint(const std::filesystem::path& path, io::safetensors_writer& arrays,
                             nlohmann::json run) {
  run["version"] = checkpoint_version;
  arrays.metadata["run"] = run.dump();
  io::atomic_file file(path);
  io::zstd_encoder packed(io::zstd_encoder::fast,
                          [&](const void* data, std::size_t bytes) { file.write(data, bytes); });
  arrays.write_to([&](const void* data, std::size_t bytes) { packed.write(data, bytes); });
  packed.finish();
  file.commit();
}

/// The arrays and the "run" of a checkpoint.
inline std::pair<io::safetensors, nlohmann::json> open_checkpoint(const std::filesystem::path& path) {
  constexpr std::size_t most = std::size_t{1} << 40;
  io::safetensors file = io::safetensors::open(path, {.max_decompressed = most});
  const auto at = file.metadata().find("run");
  const auto run = at == file.metadata().end() ? nlohmann::json()
                                               : io::parse_json(path.string() + ", \"run\"", at->second);
  if (!run.is_object())
    io::fail_format(path, "is no checkpoint of a training run: it has no \"run\" in its metadata");
  if (const auto version = run.find("version"); version == run.end() || *version != checkpoint_version)
    io::fail_format(path, "checkpoint version: found " + (version == run.end() ? "none" : version->dump()) +
                              ", expected " + std::to_string(checkpoint_version));
  return {std::move(file), run};
}

}  // namespace dsv4::trainer
