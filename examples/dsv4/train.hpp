// SPDX-License-Identifier: MIT
#pragma once
/// dsv4 train and dsv4 grad: the verbs, and a run with its listener.  What runs: train_session.hpp.
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <dsv4/trainer/run_folder.hpp>
#include <dsv4/trainer/settings.hpp>

#include "commands.hpp"
#include "train_session.hpp"

namespace dsv4::trainer {
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
  train_input input;
  const dsv4::trainer::run_folder& folder;
  bool resume = false, export_only = false;
  index_t stop_at = 0;  ///< steps done; 0: to the end
  train_listener& listener;
};

/// The whole run, or what --export-only leaves of it.
void run_training(train_job& job, open_training& open);

}  // namespace cli
