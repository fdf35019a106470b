// SPDX-License-Identifier: MIT
#pragma once
/// A transformer<Policy, Exec> behind four functions, so that every combination is compiled in a file of
/// its own (engine_*.cpp) and the verbs know none of them.
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include <dsv4/core/dtype.hpp>
#include <dsv4/core/tap.hpp>
#include <dsv4/gen/log_probability.hpp>
#include <dsv4/gen/speculative.hpp>
#include <dsv4/trainer/score.hpp>

#include "commands.hpp"
#include "session.hpp"

namespace cli {

/// Rows of logits in the type in which they are written: F64 from ref, F32 from cpu.
struct logits_rows {
  dsv4::dtype type = dsv4::dtype::f32;
  index_t rows = 0;
  std::vector<std::byte> bytes;
};

struct forward_job {
  const dsv4::config& config;
  const dsv4::model_weights<>& weights;
  std::span<const std::int32_t> ids;
  std::vector<index_t> chunks;  ///< lengths of calls, the last repeats; never empty
  bool mtp = false;
  int threads = 0;
  dsv4::any_tap taps;
  std::function<void(index_t, index_t)> on_call;  ///< (tokens done, tokens in all)
  bool keep_logits = true;                        ///< else the taps are all that is seen of them
};
struct forward_result {
  logits_rows logits, mtp_logits;
  double seconds = 0;
};

struct generate_job {
  const dsv4::config& config;
  const dsv4::model_weights<>& weights;
  std::span<const std::int32_t> ids;
  dsv4::generate_options options;
  dsv4::sampling sampling;
  dsv4::draft_settings draft;       ///< drafts per call; above 0 needs a drafter
  std::optional<index_t> logprobs;  ///< so many of the likeliest tokens at each place
  int threads = 0;
  std::function<bool(std::int32_t)> on_token;  ///< as a token is made; false ends the generation
};
struct generate_result {
  std::vector<std::int32_t> tokens;
  dsv4::speculative_generation generated;
  std::vector<double> log_probabilities;                  // [tokens], if asked for
  std::vector<std::vector<dsv4::token_probability>> top;  // [tokens] the likeliest of each place
};

struct evaluate_job {
  const dsv4::config& config;
  const dsv4::model_weights<>& weights;
  std::span<const std::int32_t> ids;    ///< of the text
  std::span<const std::int32_t> bytes;  ///< of each token id
  dsv4::trainer::score_options text;
  dsv4::trainer::draft_options drafts;  ///< no prompts: none
  int threads = 0;
};
struct evaluate_result {
  dsv4::trainer::text_score text;
  dsv4::trainer::draft_score drafts;
  double seconds = 0;  ///< of reading the text
};

struct engine {
  forward_result (*forward)(const forward_job&);
  generate_result (*generate)(const generate_job&);
  std::unique_ptr<session> (*open)(const session_job&);
  evaluate_result (*evaluate)(const evaluate_job&);
  bool wide_is_double;  ///< what is wide is written as F64
};

extern const engine official_ref, official_cpu, official_cpu_fast;
extern const engine float32_ref, float32_cpu, float32_cpu_fast;

/// @throws usage_error  a combination that does not exist
const engine& find_engine(const engine_options&);

}  // namespace cli
