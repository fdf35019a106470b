// SPDX-License-Identifier: MIT
#pragma once
/// Every knob of a training run, as one JSON file.  `dsv4 train --defaults` prints them all.
/// @paper{DSV4, sections 2.4, 4.2, 5.2.1}
/// deviates where the report gives no number the default is ours: docs/deviations.md, "Training"
///
/// Rates and lengths default to what suits a model of a few million parameters on one machine; the report's own
/// values stand in the comments where they differ.  Unknown names are refused (settings_json.hpp).
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>

#include "../core/config.hpp"
#include "../io/json_text.hpp"
#include "../optim/adamw.hpp"
#include "../optim/muon.hpp"
#include "../optim/schedule.hpp"
#include "anticipatory.hpp"
#include "dataset.hpp"
#include "initial_weights.hpp"
#include "settings_json.hpp"

namespace dsv4::trainer {

struct data_settings {
  index_t length = 256;  ///< tokens of a row.  Paper: 4K, later 16K, 64K, 1M
  text_options text;
  double held_out = 0.05;  ///< the last part of the text, never trained on
  bool shift = true;       ///< rows begin elsewhere in every epoch
};

struct batch_settings {
  index_t rows = 16;       ///< of a step.  Paper: 18,432 (Flash), 23,040 (Pro)
  index_t first_rows = 0;  ///< of the first step, growing to `rows` until `full`; 0: `rows` at once
  moment full = moment::share(0);
  index_t rows_at_once =
      0;  ///< a step in parts of so many rows, whose gradients are averaged; 0: all at once
};

struct rate_settings {
  double peak = 2e-3;   ///< paper: 2.7e-4 (Flash), 2.0e-4 (Pro)
  double final = 2e-4;  ///< paper: a tenth of peak
  moment warm_up = moment::share(0.03),
         decay = moment::share(0.7);  ///< decay: from here to the end, a cosine
};

struct loss_settings {
  double mtp = 0.3, mtp_in_decay = 0.1;  ///< weight of the MTP loss, before and after the decay has begun
  double balance = 1e-4;                 ///< of the sequence-wise balance loss
  double index = 1;                      ///< of the indexer's own objective; its gradient meets no other
};

/// Auxiliary-loss-free balancing: the selection bias moves by `speed` against the load, until `until`.  Paper: 0.001, over
/// hundreds of thousands of steps; in a thousand steps that leaves experts without work (max / mean load 2.7 of 4).
struct bias_settings {
  double speed = 1e-2;
  moment until = moment::share(0.97);  ///< V3: 0 for the last 3 % of the tokens
};

/// CSA layers: first dense attention without an indexer, then the indexer learns beside it, then it chooses.
struct index_settings {
  moment warm_up = moment::share(0.05);  ///< from here on the indexer learns over all visible entries
  moment sparse = moment::share(0.15);   ///< from here on CSA layers attend to what it chooses
  bool only_indexer = false;             ///< nothing else learns during warm-up (V3.2)
};

/// Quantisation-aware training: the forward pass sees the weights as the published formats store them.
struct quantise_settings {
  moment from = moment::none();  ///< paper: post-training only
  bool index = true;             ///< the indexer's queries and keys in FP4, too
};

enum class optimiser { muon, adamw };

struct settings {
  nlohmann::json model;  ///< fields of config.json, or the name of such a file
  config c;
  std::string tokenizer = "tokenizer.json";  ///< file, or folder that has one; seen from the settings file

  index_t steps = 1000;
  std::uint64_t seed = 1;
  data_settings data;
  batch_settings batch;
  initial_settings initial;
  rate_settings rate;
  optimiser matrices = optimiser::muon;  ///< adamw: also for what Muon would update, to compare the two
  muon_options muon;
  adamw_options adamw;
  bool decay_vectors = false;  ///< weight decay of norms, biases, sinks as well
  double clip = 1;             ///< of the norm of all gradients; 0: none
  loss_settings loss;
  bias_settings bias;
  index_settings index_stages;
  quantise_settings quantise;
  anticipatory_settings anticipatory;

  index_t checkpoint_every = 100;  ///< steps; 0: only at the end
  index_t eval_every = 100;        ///< steps between looks at the held-out part; 0: only at the end
  index_t eval_rows = 32;          ///< of it, but at the end all; 0: always all
  index_t log_every = 1;
  bool recompute = true;  ///< activations again in the backward pass instead of keeping them

  learning_rate_schedule schedule() const {
    return {rate.peak, rate.final, rate.warm_up.of(steps), rate.decay.of(steps), steps};
  }
  /// Rows of step `s`, from 0.
  index_t rows_of(index_t s) const;
};

/// The one list of names (settings_json.hpp).
template <class F, class S>
void setting_fields(F& f, S& s) {
  constexpr double much = 1e12;
  f.json("model", s.model);
  f("tokenizer", s.tokenizer);
  f("steps", s.steps, 1, much);
  f("seed", s.seed);
  f.group("data", [&](auto& g) {
    g("length", s.data.length, 2, 1e9);
    g("separator", s.data.text.separator);
    g("keep_separator", s.data.text.keep_separator);
    g("begin", s.data.text.begin,
      {{"sample", begin_token::sample}, {"document", begin_token::document}, {"none", begin_token::none}});
    g("end", s.data.text.end_token);
    g("held_out", s.data.held_out, 0, 0.9);
    g("shift", s.data.shift);
  });
  f.group("batch", [&](auto& g) {
    g("rows", s.batch.rows, 1, 1e6);
    g("first_rows", s.batch.first_rows, 0, 1e6);
    g("full", s.batch.full);
    g("rows_at_once", s.batch.rows_at_once, 0, 1e6);
  });
  f.group("initial", [&](auto& g) {
    g("std", s.initial.std, 0, 10);
    g("embedding_std", s.initial.embedding_std, 0, 10);
    g("head_std", s.initial.head_std, 0, 10);
    g("by_width", s.initial.by_width);
    g("hyper_std", s.initial.hyper_std, 0, 10);
    g("hyper_alpha", s.initial.hyper_alpha, 0, 10);
  });
  f.group("learning_rate", [&](auto& g) {
    g("peak", s.rate.peak, 0, 10);
    g("final", s.rate.final, 0, 10);
    g("warm_up", s.rate.warm_up);
    g("decay", s.rate.decay);
  });
  f("matrices", s.matrices, {{"muon", optimiser::muon}, {"adamw", optimiser::adamw}});
  f.group("muon", [&](auto& g) {
    g("momentum", s.muon.momentum, 0, 1);
    g("decay", s.muon.decay, 0, 100);
    g("gamma", s.muon.gamma, 0, 100);
    g("nesterov", s.muon.nesterov);
  });
  f.group("adamw", [&](auto& g) {
    g("beta1", s.adamw.beta1, 0, 1);
    g("beta2", s.adamw.beta2, 0, 1);
    g("eps", s.adamw.eps, 0, 1);
    g("decay", s.adamw.decay, 0, 100);
    g("decay_vectors", s.decay_vectors);
  });
  f("clip", s.clip, 0, much);
  f.group("loss", [&](auto& g) {
    g("mtp", s.loss.mtp, 0, 100);
    g("mtp_in_decay", s.loss.mtp_in_decay, 0, 100);
    g("balance", s.loss.balance, 0, 100);
    g("index", s.loss.index, 0, 100);
  });
  f.group("bias", [&](auto& g) {
    g("speed", s.bias.speed, 0, 10);
    g("until", s.bias.until);
  });
  f.group("index", [&](auto& g) {
    g("warm_up", s.index_stages.warm_up);
    g("sparse", s.index_stages.sparse);
    g("only_indexer", s.index_stages.only_indexer);
  });
  f.group("quantise", [&](auto& g) {
    g("from", s.quantise.from);
    g("index", s.quantise.index);
  });
  f.group("anticipatory", [&](auto& g) {
    g("when", s.anticipatory.when,
      {{"never", anticipate::never}, {"on_spike", anticipate::on_spike}, {"always", anticipate::always}});
    g("delay", s.anticipatory.delay, 1, 1e6);
    g("spike", s.anticipatory.spike, 0, much);
    g("memory", s.anticipatory.memory, 1, much);
    g("quiet", s.anticipatory.quiet, 0, much);
    g("snapshot_every", s.anticipatory.snapshot_every, 1, much);
    g("duration", s.anticipatory.duration, 1, much);
    g("most_rollbacks", s.anticipatory.most_rollbacks, 0, much);
  });
  f("checkpoint_every", s.checkpoint_every, 0, much);
  f("eval_every", s.eval_every, 0, much);
  f("eval_rows", s.eval_rows, 0, much);
  f("log_every", s.log_every, 1, much);
  f("recompute", s.recompute);
}

nlohmann::ordered_json to_json(const settings& s);

/// `file` is for messages, and for names of files, which are seen from its folder.  @throws format_error, unsupported
settings parse_settings(const std::filesystem::path& file, const nlohmann::json& object);

settings read_settings(const std::filesystem::path& file);

/// The settings in which two runs differ and that change their numbers; "" if there are none.  How often a run is
/// saved, logged or evaluated changes no number.
std::string difference(const nlohmann::json& a, const nlohmann::json& b, const std::string& prefix = {});

}  // namespace dsv4::trainer

#if !defined(DSV4_COMPILED)
#include "settings_impl.hpp"
#endif
