// SPDX-License-Identifier: MIT
#pragma once
/// What a training run has said so far, in OUT/log.jsonl: one JSON object a line.
///   {"step":1,"loss":6.2,...}   {"step":100,"held_out":{...}}   {"step":340,"back_to":325}
#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

#include <dsv4/trainer/loss_curve.hpp>
#include <dsv4/trainer/trainer.hpp>

namespace cli {

nlohmann::ordered_json to_json(const dsv4::trainer::step_report&);
nlohmann::ordered_json to_json(const dsv4::trainer::evaluation&, bool final);

/// The curve of a log; lines that are not whole (a kill) are left out.  @throws dsv4::format_error no such file
dsv4::trainer::loss_curve read_curve(const std::filesystem::path& log, const std::string& name);

/// Appends lines, and keeps the curve that they make.
class train_log {
 public:
  /// Goes on after `steps` steps: later lines of an earlier attempt are dropped.
  /// @throws dsv4::error it cannot be read or written
  train_log(std::filesystem::path path, dsv4::index_t steps);
  ~train_log();
  train_log(const train_log&) = delete;
  train_log& operator=(const train_log&) = delete;
  /// @throws dsv4::error the line cannot be written
  void add(const nlohmann::ordered_json& line);
  const dsv4::trainer::loss_curve& curve() const { return curve_; }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  dsv4::trainer::loss_curve curve_;
};

}  // namespace cli
