// SPDX-License-Identifier: MIT
#include "train_log.hpp"

#include <fcntl.h>
#include <unistd.h>
#include <cerrno>
#include <fstream>

#include <dsv4/core/error.hpp>
#include <dsv4/io/atomic_file.hpp>
#include <dsv4/io/json_text.hpp>

namespace cli {
namespace {

using dsv4::trainer::loss_curve;
using json = nlohmann::ordered_json;

/// One line as points of a curve.
void add_line(loss_curve& c, const json& line) {
  const auto keep_until = [](auto& points, double step) {
    while (!points.empty() && points.back().first > step) points.pop_back();
  };
  // What is not a number is written as null, and is no point.
  const auto number = [](const json& in, const char* name) {
    return in.is_object() && in.contains(name) && in[name].is_number();
  };
  const double step = line.value("step", 0.0);
  if (number(line, "back_to")) {
    keep_until(c.train, line["back_to"].get<double>());
    keep_until(c.held_out, line["back_to"].get<double>());
  } else if (line.contains("held_out")) {
    if (number(line["held_out"], "loss"))
      c.held_out.emplace_back(step, line["held_out"]["loss"].get<double>());
  } else if (number(line, "loss")) {
    c.train.emplace_back(step, line["loss"].get<double>());
  }
}

/// f(text, parsed) for every whole line of a log.
template <class F>
void each_line(const std::filesystem::path& path, F f) {
  std::error_code none;
  if (!std::filesystem::exists(path, none)) return;
  std::ifstream in(path);
  if (!in) throw dsv4::error(path.string() + ": cannot be read: " + dsv4::io::detail::reason(errno));
  for (std::string text; std::getline(in, text);) {
    const json line = dsv4::io::try_parse_json<json>(text).value_or(json());  // the last one may be cut off
    if (line.is_object() && line.contains("step") && line["step"].is_number()) f(text, line);
  }
  if (in.bad()) throw dsv4::error(path.string() + ": cannot be read to its end");
}

}  // namespace

json to_json(const dsv4::trainer::step_report& r) {
  json j{{"step", r.step},          {"loss", r.loss},
         {"mtp_loss", r.mtp_loss},  {"balance", r.balance},
         {"index_kl", r.index_kl},  {"rate", r.learning_rate},
         {"norm", r.gradient_norm}, {"load", r.busiest_over_mean},
         {"tokens", r.tokens},      {"seconds", r.seconds}};
  if (r.anticipatory) j["anticipatory"] = true;
  if (r.spike) j["spike"] = true;
  if (r.skipped) j["skipped"] = true;
  if (r.back_to) j["back_to"] = *r.back_to;
  return j;
}

json to_json(const dsv4::trainer::evaluation& e, bool final) {
  json j{{"step", e.step},
         {"held_out",
          {{"loss", e.loss},
           {"mtp_loss", e.mtp_loss},
           {"bits_per_byte", e.bits_per_byte},
           {"load", e.busiest_over_mean},
           {"tokens", e.tokens},
           {"bytes", e.bytes}}}};
  if (final) j["final"] = true;
  return j;
}

loss_curve read_curve(const std::filesystem::path& log, const std::string& name) {
  std::error_code none;
  if (!std::filesystem::is_regular_file(log, none))
    throw dsv4::format_error(log.string() + ": no such file, expected the log.jsonl of a training run");
  loss_curve c;
  c.name = name;
  each_line(log, [&](const std::string&, const json& line) { add_line(c, line); });
  if (c.train.empty()) throw dsv4::format_error(log.string() + ": holds no line with \"step\" and \"loss\"");
  return c;
}

train_log::train_log(std::filesystem::path path, dsv4::index_t steps) : path_(std::move(path)) {
  std::string kept;
  each_line(path_, [&](const std::string& text, const json& line) {
    if (line["step"].get<double>() > static_cast<double>(steps)) return;
    kept += text + '\n';
    add_line(curve_, line);
  });
  dsv4::io::write_whole(path_, kept);
  fd_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (fd_ < 0) throw dsv4::error(path_.string() + ": cannot be written: " + dsv4::io::detail::reason(errno));
}
train_log::~train_log() {
  if (fd_ >= 0) ::close(fd_);
}

void train_log::add(const json& line) {
  const std::string text = line.dump() + "\n";
  if (const int code = dsv4::io::detail::write_all(fd_, text.data(), text.size()))
    throw dsv4::error(path_.string() + ": cannot be written: " + dsv4::io::detail::reason(code));
  add_line(curve_, line);
}

}  // namespace cli
