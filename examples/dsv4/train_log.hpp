// SPDX-License-Identifier: MIT
#pragma once
/// What a training run has said so far, in OUT/log.jsonl: one JSON object a line.
///   {"step":1,"loss":6.2,...}   {"step":100,"held_out":{...}}   {"step":340,"back_to":325}
#include <filesystem>
#include <fstream>
#include <string>

#include <nlohmann/json.hpp>

#include <dsv4/trainer/loss_curve.hpp>
#include <dsv4/trainer/trainer.hpp>

namespace cli {

nlohmann::ordered_json to_json(const dsv4::trainer::step_report&);
nlohmann::ordered_json to_json(const dsv4::trainer::evaluation&, bool final);

/// The curve of a log; lines that are not whole (a kill) are left out.  @throws dsv4::format_error no such file
dsv4::trainer::loss_curve read_curve(const std::filesystem::path& log, const std::string& name);

/// A file that appears whole or not at all.
void write_text(const std::filesystem::path& path, const std::string& text);

/// Appends lines, and keeps the curve that they make.
class train_log {
 public:
  /// Goes on after `steps` steps: later lines of an earlier attempt are dropped.
  train_log(std::filesystem::path path, dsv4::index_t steps);
  void add(const nlohmann::ordered_json& line);
  const dsv4::trainer::loss_curve& curve() const { return curve_; }

 private:
  std::ofstream file_;
  dsv4::trainer::loss_curve curve_;
};

}  // namespace cli
