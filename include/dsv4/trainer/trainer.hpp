// SPDX-License-Identifier: MIT
#pragma once
/// The training loop: one step after another, from nothing or from a checkpoint, to the same bits.
/// @paper{DSV4, sections 2.4 (who updates what), 4.2.2 (schedules), 4.2.3 (anticipatory routing), 5.2.1 (QAT)}
/// deviates docs/deviations.md, "Training"
///
///   batch -> loss and gradients (train/model.hpp) -> clip -> Muon, AdamW -> bias of the gates
///
/// Threads change no bit: a parameter's update, a row of a product, a sum in a fixed order are one thread's work.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <numbers>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../train/model.hpp"
#include "../train/quantise.hpp"
#include "checkpoint.hpp"
#include "settings.hpp"
#include "step_report.hpp"
#include "updates.hpp"

namespace dsv4::trainer {

using train::bind, train::index_stage, train::model_parameters, train::objective, train::route_choice;

/// A training run.  T and E: number type and executor of the model; O: executor of Newton-Schulz.
/// A call that throws leaves the run as it was between two steps, to be called again; or, if weights were being
/// changed, not intact(): everything but load() refuses, and half a step gets into no file and no further step.
template <class T, execution E, execution O = E>
class training {
 public:
  /// `bytes`: how many bytes of text each token id stands for (token_bytes, dataset.hpp).
  training(const settings& s, token_list tokens, token_list held_out, std::vector<std::int32_t> bytes,
           E executor = {}, O optimiser_executor = {})
      : s_(s),
        schedule_(s.schedule()),
        executor_(executor),
        optimiser_executor_(optimiser_executor),
        text_(hash_of(tokens)),
        data_(std::move(tokens), s.data.length, s.seed, s.data.shift),
        held_out_(std::move(held_out)),
        bytes_(std::move(bytes)),
        layout_(parameter_layout::of<T>(s.c), s.matrices == optimiser::adamw),
        state_(layout_),
        gradients_(layout_.layout.size),
        updates_(layout_, s_),
        network_(s.c, s.recompute) {
    initial_weights(layout_.layout, s_.initial, s_.seed, state_.w.all());
    state_.routing = initial_routing(s_.c, token_counts(data_.tokens(), s_.c.vocab_size), s_.seed);
  }

  index_t steps_done() const { return state_.step; }
  /// Whether weights, momenta and routing are those between two steps.
  bool intact() const { return intact_; }
  const parameter_layout& layout() const { return layout_.layout; }
  /// The master weights, never the quantised ones.
  view<const T, 1> weights() const {
    expect_intact();
    return state_.w;
  }
  const routing_tables& routing() const { return state_.routing; }
  index_t rows_per_epoch() { return data_.rows_per_epoch(); }
  index_t training_tokens() const { return data_.tokens().size(); }
  index_t held_out_tokens() const { return held_out_.size(); }

  step_report step() {
    expect_intact();
    step_report r;
    kernel::scope<E>::run(executor_, [&] { r = run_step(); });
    return r;
  }

  /// Loss of the held-out part, from `rows` rows spread evenly over it; 0: from all of them.
  evaluation evaluate(index_t rows = 0) {
    expect_intact();
    evaluation v;
    kernel::scope<E>::run(executor_, [&] { v = run_evaluation(rows); });
    return v;
  }

  void save(const std::filesystem::path& path) {
    expect_intact();
    io::safetensors_writer arrays;
    add_state(arrays, "", layout_, state_);
    nlohmann::json run = place_of(state_);
    if (snapshot_) {
      add_state(arrays, "snapshot.", layout_, *snapshot_);
      run["snapshot"] = place_of(*snapshot_);
    }
    nlohmann::json queue = nlohmann::json::array();
    for (std::size_t q = 0; q < ahead_.size(); ++q) {
      queue.push_back(ahead_[q].size());
      for (std::size_t p = 0; p < ahead_[q].size(); ++p)
        for (std::size_t l = 0; l < ahead_[q][p].size(); ++l)
          arrays.add(route_name(q, p, l), ahead_[q][p][l].all());
    }
    run["ahead"] = queue;
    run["anticipate_until"] = anticipate_until_;
    run["rollbacks"] = rollbacks_;
    run["text"] = std::to_string(text_);
    run["settings"] = to_json(s_);
    write_checkpoint(path, arrays, std::move(run));
  }

  /// @throws format_error what differs: settings or text (the run is as before), the model, or damage (not intact)
  void load(const std::filesystem::path& path) {
    const auto [file, run] = open_checkpoint(path);
    try {
      if (const std::string other = difference(run.at("settings"), nlohmann::json(to_json(s_)));
          !other.empty())
        io::fail_format(path, "was written by a run with other settings: " + other +
                                  " (a run is resumed with the settings that it began with)");
      if (run.at("text") != std::to_string(text_))
        io::fail_format(path, "was written by a run on another text, or with another tokenizer");
      intact_ = false;  // until all of it is read
      read_state(file, "", layout_, state_);
      set_place(state_, run, path);
      snapshot_.reset();
      if (run.contains("snapshot")) {
        snapshot_ = state_;  // gives it its shapes; the values are read next
        read_state(file, "snapshot.", layout_, *snapshot_);
        set_place(*snapshot_, run["snapshot"], path);
      }
      read_ahead(file, run.at("ahead"));
      anticipate_until_ = run.at("anticipate_until").template get<index_t>();
      rollbacks_ = run.at("rollbacks").template get<index_t>();
      intact_ = true;
    } catch (const nlohmann::json::exception& e) {
      io::fail_format(path, std::string("its \"run\" is damaged: ") + e.what());
    }
  }

 private:
  void expect_intact() const {
    expects(
        intact_,
        "training: an earlier call was ended while it changed weights, and half a step is not kept; load() a "
        "checkpoint, or begin again");
  }

  using parts = std::vector<route_choice>;  // experts chosen for each part of a step's batch

  static std::uint64_t hash_of(const token_list& t) {
    const std::uint64_t h = counter_random::fnv1a(
        {reinterpret_cast<const char*>(t.ids.data()), t.ids.size() * sizeof(std::int32_t)});
    return counter_random::fnv1a(
        {reinterpret_cast<const char*>(t.begins.data()), t.begins.size() * sizeof(index_t)}, h);
  }
  static std::string route_name(std::size_t q, std::size_t p, std::size_t l) {
    return "routes." + std::to_string(q) + "." + std::to_string(p) + "." + std::to_string(l);
  }

  /// The queue of routes: one for each part of the steps that come.
  void read_ahead(const io::safetensors& file, const nlohmann::json& queue) {
    const auto most = usize(s_.anticipatory.delay) + 1;
    if (queue.size() > most)
      io::fail_format(file.path(), "routes chosen ahead: found those of " + std::to_string(queue.size()) +
                                       " steps, expected at most " + std::to_string(most));
    const auto blocks = usize(s_.c.num_hidden_layers + s_.c.num_nextn_predict_layers);
    ahead_.clear();
    cursor at = state_.data;
    for (std::size_t q = 0; q < queue.size(); ++q) {
      const std::vector<batch> work = batches(state_.step + static_cast<index_t>(q), at);
      if (queue.at(q) != work.size())
        io::fail_format(file.path(), "parts of a step routed ahead: found " + queue.at(q).dump() +
                                         ", expected " + std::to_string(work.size()));
      parts& choice = ahead_.emplace_back(work.size());
      for (std::size_t p = 0; p < work.size(); ++p)
        for (std::size_t l = 0; l < blocks; ++l) {
          tensor<std::int32_t, 2> one(work[p].tokens(), s_.c.num_experts_per_tok);
          read_tensor(file, route_name(q, p, l), {one.extent(0), one.extent(1)}, one.data());
          choice[p].push_back(std::move(one));
        }
    }
  }

  // ---- one step ----
  step_report run_step() {
    const auto begin = std::chrono::steady_clock::now();
    step_report r;
    take_snapshot();
    const index_t now = state_.step;
    cursor next = state_.data;
    const std::vector<batch> work = batches(now, next);
    const objective goal = objective_of(now);
    const view<const T, 1> used = weights_of(now);
    const auto w = bind<const T>(s_.c, used.data());
    r.anticipatory = anticipates(now);
    if (r.anticipatory) {
      look_ahead(now, w, goal);
      expects_equal(static_cast<index_t>(ahead_.front().size()), static_cast<index_t>(work.size()),
                    "training: parts routed ahead against parts of the step");
    }

    // Loss and gradients: the mean of the parts.
    train::set_zero(executor_, gradients_.data(), gradients_.size());
    auto g = bind<T>(s_.c, gradients_.data());
    std::vector<std::vector<index_t>> load;
    index_t mtp_tokens = 0;
    for (std::size_t p = 0; p < work.size(); ++p) {
      const train::report one = network_.run(executor_, w, state_.routing, work[p], goal, &g,
                                             r.anticipatory ? &ahead_.front()[p] : nullptr);
      r.loss += one.loss * static_cast<double>(one.tokens);
      r.mtp_loss += one.mtp_loss * static_cast<double>(one.mtp_tokens);
      r.balance += one.balance / static_cast<double>(work.size());
      r.index_kl += one.index_kl / static_cast<double>(work.size());
      r.tokens += one.tokens;
      mtp_tokens += one.mtp_tokens;
      add_load(load, one.load);
    }
    r.loss /= static_cast<double>(std::max<index_t>(r.tokens, 1));
    r.mtp_loss /= static_cast<double>(std::max<index_t>(mtp_tokens, 1));
    r.busiest_over_mean = worst_load(load);
    r.learning_rate = schedule_.at(now + 1);

    r.spike = is_spike(r, now);
    if (r.spike) {
      if (roll_back()) {
        r.step = now + 1;
        r.back_to = state_.step;
        return r;
      }
      if (!std::isfinite(r.loss))
        throw error("the loss of step " + std::to_string(now + 1) +
                    " is not a number: lower learning_rate.peak, or set anticipatory.when");
    }

    const std::vector<char> learn = learning(now);
    r.gradient_norm = updates_.norm(executor_, gradients_, learn) / static_cast<double>(work.size());
    r.skipped = !std::isfinite(r.gradient_norm);
    intact_ = false;  // from here on the run changes: an exception would leave half a step
    if (!r.spike && now >= anticipate_until_) state_.detector.remember(r.loss, s_.anticipatory);
    if (!r.skipped) {
      const double factor =
          (s_.clip > 0 ? clip_factor(r.gradient_norm, s_.clip) : 1.0) / static_cast<double>(work.size());
      updates_.run(executor_, optimiser_executor_, state_, gradients_, learn, now + 1, r.learning_rate,
                   factor);
      if (now < s_.bias.until.of(s_.steps) && !only_indexer(now)) move_bias(load);
    }
    state_.step = r.step = now + 1;
    state_.data = next;
    if (r.anticipatory) ahead_.pop_front();
    if (!anticipates(state_.step)) ahead_.clear();
    intact_ = true;
    r.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return r;
  }

  std::vector<batch> batches(index_t step, cursor& at) {
    const index_t rows = s_.rows_of(step), most = s_.batch.rows_at_once > 0 ? s_.batch.rows_at_once : rows;
    std::vector<batch> out;
    for (index_t done = 0; done < rows; done += most)
      out.push_back(data_.next(at, std::min(most, rows - done)));
    return out;
  }

  objective objective_of(index_t step) const {
    objective o;
    o.mtp_weight = step < schedule_.decay_begin ? s_.loss.mtp : s_.loss.mtp_in_decay;
    o.balance_weight = s_.loss.balance;
    o.index_weight = s_.loss.index;
    const index_t warm_up = s_.index_stages.warm_up.of(s_.steps),
                  sparse = s_.index_stages.sparse.of(s_.steps);
    o.dense_attention = step < sparse;
    o.index = step >= sparse ? index_stage::sparse : step >= warm_up ? index_stage::dense : index_stage::off;
    o.quantise_index = quantised(step) && s_.quantise.index;
    return o;
  }
  bool only_indexer(index_t step) const {
    return s_.index_stages.only_indexer && objective_of(step).index == index_stage::dense;
  }
  bool quantised(index_t step) const { return step >= s_.quantise.from.of(s_.steps); }

  /// The master weights, or what a published checkpoint would make of them.
  view<const T, 1> weights_of(index_t step) {
    if (!quantised(step)) return state_.w;
    if (quantised_.empty()) quantised_ = tensor<T, 1>(layout_.layout.size);
    kernel::rows<E>::run(executor_, static_cast<index_t>(layout_.all.size()), 1,
                         [&](index_t from, index_t to) {
                           for (index_t i = from; i < to; ++i) {
                             const parameter_info& p = layout_.all[usize(i)].info;
                             train::fake_quantise(p.name, p.format, state_.w.data() + p.offset, p.shape[0],
                                                  p.columns(), quantised_.data() + p.offset);
                           }
                         });
    return quantised_;
  }

  /// Which parameters learn now: the indexer's only while it has an objective, the others unless all but it are frozen.
  std::vector<char> learning(index_t step) const {
    const bool indexer = objective_of(step).index != index_stage::off, others = !only_indexer(step);
    std::vector<char> learn;
    for (const placed_parameter& p : layout_.all)
      learn.push_back(p.info.name.find(".indexer.") != p.info.name.npos ? indexer : others);
    return learn;
  }

  // ---- balance ----
  static void add_load(std::vector<std::vector<index_t>>& sum, const std::vector<std::vector<index_t>>& one) {
    if (sum.empty()) sum.resize(one.size());
    for (std::size_t l = 0; l < one.size(); ++l) {
      sum[l].resize(std::max(sum[l].size(), one[l].size()));
      for (std::size_t e = 0; e < one[l].size(); ++e) sum[l][e] += one[l][e];
    }
  }
  static index_t total(const std::vector<index_t>& load) {
    index_t n = 0;
    for (const index_t x : load) n += x;
    return n;
  }
  double worst_load(const std::vector<std::vector<index_t>>& load) const {
    double worst = 0;
    for (std::size_t l = 0; l < load.size(); ++l)
      if (const index_t all = total(load[l]); all > 0 && !state_.routing.bias[l].empty())
        worst = std::max(worst, double(*std::max_element(load[l].begin(), load[l].end())) *
                                    double(load[l].size()) / double(all));
    return worst;
  }
  /// Overloaded experts become less likely to be chosen, underloaded ones more.
  void move_bias(const std::vector<std::vector<index_t>>& load) {
    for (std::size_t l = 0; l < load.size(); ++l)
      if (auto& bias = state_.routing.bias[l]; !bias.empty())
        train::update_bias(bias, load[l], s_.bias.speed);
  }

  // ---- anticipatory routing ----
  bool anticipates(index_t step) const {
    return s_.anticipatory.when == anticipate::always || step < anticipate_until_;
  }

  /// Today's choices for the batches up to `delay` steps ahead that have none yet.
  void look_ahead(index_t now, const model_parameters<const T>& w, const objective& goal) {
    cursor at = state_.data;
    for (index_t j = 0; j <= s_.anticipatory.delay; ++j) {
      const std::vector<batch> work = batches(now + j, at);
      if (j < static_cast<index_t>(ahead_.size())) continue;
      parts choice;
      for (const batch& b : work)
        choice.push_back(network_.run(executor_, w, state_.routing, b, goal, nullptr).routes);
      ahead_.push_back(std::move(choice));
    }
  }

  bool is_spike(const step_report& r, index_t now) const {
    // While a spike is being passed the detector rests, and remembers nothing.
    if (now < anticipate_until_ && std::isfinite(r.loss)) return false;
    return state_.detector.is_spike(r.loss, s_.anticipatory) &&
           (s_.anticipatory.when == anticipate::on_spike || !std::isfinite(r.loss));
  }
  void take_snapshot() {
    if (s_.anticipatory.when != anticipate::on_spike) return;
    if (snapshot_ && state_.step < snapshot_->step + s_.anticipatory.snapshot_every) return;
    snapshot_.reset();  // never half an old and half a new one: without memory the next try finds none
    snapshot_.emplace(state_);
  }
  /// Back to the snapshot, and into anticipatory routing.  False: there is none, or it has been done too often.
  bool roll_back() {
    if (!snapshot_ || rollbacks_ >= s_.anticipatory.most_rollbacks) return false;
    state_ = training_state<T>(*snapshot_);  // all or nothing
    ++rollbacks_;
    ahead_.clear();
    anticipate_until_ = state_.step + s_.anticipatory.duration;
    return true;
  }

  // ---- held-out part ----
  evaluation run_evaluation(index_t rows) {
    evaluation v;
    v.step = state_.step;
    if (held_out_.size() == 0) return v;
    objective goal = objective_of(state_.step);
    goal.balance_weight = 0;
    goal.index = index_stage::off;
    const auto w = bind<const T>(s_.c, weights_of(state_.step).data());
    std::vector<std::vector<index_t>> load;
    index_t mtp_tokens = 0;
    const index_t at_once = s_.batch.rows_at_once > 0 ? s_.batch.rows_at_once : s_.batch.rows;
    for (const batch& b : held_out_batches(held_out_, s_.data.length, at_once, rows)) {
      const train::report one = network_.run(executor_, w, state_.routing, b, goal, nullptr);
      v.loss += one.loss * static_cast<double>(one.tokens);
      v.mtp_loss += one.mtp_loss * static_cast<double>(one.mtp_tokens);
      v.tokens += one.tokens;
      mtp_tokens += one.mtp_tokens;
      add_load(load, one.load);
      for (const std::int32_t id : b.targets)
        if (id >= 0) v.bytes += bytes_[usize(id)];
    }
    if (v.bytes > 0) v.bits_per_byte = v.loss / std::numbers::ln2 / static_cast<double>(v.bytes);
    v.loss /= static_cast<double>(std::max<index_t>(v.tokens, 1));
    v.mtp_loss /= static_cast<double>(std::max<index_t>(mtp_tokens, 1));
    v.busiest_over_mean = worst_load(load);
    return v;
  }

  settings s_;
  learning_rate_schedule schedule_;
  E executor_;
  O optimiser_executor_;
  std::uint64_t text_;
  dataset data_;
  token_list held_out_;
  std::vector<std::int32_t> bytes_;
  placed_layout layout_;
  training_state<T> state_;
  tensor<T, 1> gradients_, quantised_;  // [layout.size]
  updates<T, E, O> updates_;
  train::network<T, E> network_;

  std::optional<training_state<T>> snapshot_;
  std::deque<parts> ahead_;  // choices made ahead, for this step and the next ones
  index_t anticipate_until_ = 0, rollbacks_ = 0;
  bool intact_ = true;
};

}  // namespace dsv4::trainer
