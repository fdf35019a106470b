// SPDX-License-Identifier: MIT
#pragma once
/// dsv4 train and dsv4 grad: the options, and the jobs that train_engine_*.cpp run with an executor each.
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <dsv4/io/checkpoint.hpp>
#include <dsv4/trainer/run_folder.hpp>
#include <dsv4/trainer/settings.hpp>

#include "commands.hpp"

namespace dsv4::trainer {
struct step_report;
struct evaluation;
struct export_report;
}  // namespace dsv4::trainer

namespace cli {

void add_train(CLI::App& app, std::function<void()>& run);
void add_grad(CLI::App& app, std::function<void()>& run);

/// What happens in a training run, as it happens.
struct train_listener {
  virtual ~train_listener() = default;
  virtual void begin(index_t steps_done, index_t training_tokens, index_t held_out_tokens,
                     index_t rows_per_epoch, index_t parameters) = 0;
  virtual void step(const dsv4::trainer::step_report&) = 0;
  virtual void evaluated(const dsv4::trainer::evaluation&, bool final) = 0;
  virtual void saved(index_t step) = 0;
  virtual void exported(const dsv4::trainer::export_report& official) = 0;
  virtual bool stop() = 0;  ///< asked after every step
};

struct train_job {
  const dsv4::trainer::settings& settings;
  dsv4::trainer::token_list training, held_out;
  std::vector<std::int32_t> bytes;  ///< of the text of each token
  const dsv4::text::tokenizer& tokenizer;
  const dsv4::trainer::run_folder& folder;
  bool resume = false, export_only = false;
  index_t stop_at = 0;  ///< steps done; 0: to the end
  int threads = 0;
  train_listener& listener;
};

struct grad_job {
  const dsv4::io::checkpoint& model;
  std::vector<std::int32_t> ids;
  std::filesystem::path out;
  int threads = 0;
};
struct grad_result {
  double loss = 0, seconds = 0;
  index_t tokens = 0, parameters = 0;
};

struct train_engine {
  void (*train)(train_job&);
  grad_result (*grad)(const grad_job&);
};
extern const train_engine train_cpu, train_ref;

}  // namespace cli
