// SPDX-License-Identifier: MIT
#pragma once
/// A model and its sequences as the Python objects hold them: each keeps alive what it stands on, and calls from several
/// threads take turns.
#include <atomic>
#include <mutex>
#include <thread>
#include <utility>

#include <dsv4/io/checkpoint.hpp>

#include "common.hpp"
#include "engine.hpp"

namespace dsv4_python {

struct model {
  std::shared_ptr<dsv4::io::checkpoint> weights;
  std::string numerics, executor;
  int threads = 0;
  index_t tokens_per_pass = 0;
  std::unique_ptr<engine> run;

  std::mutex mutex;
  std::atomic<std::thread::id> busy_with{};  ///< the thread that is inside a call

  const dsv4::config& configuration() const { return weights->configuration(); }
  /// A row of logits, for each of `rows`.
  std::size_t logits_bytes(index_t rows) const {
    return dsv4::usize(rows * configuration().vocab_size * dsv4::bits_of(run->logits_type()) / 8);
  }
};

/// Tokens that a model remembers, with their ids.
struct sequence {
  std::shared_ptr<model> of;
  std::unique_ptr<any_sequence> state;
  token_ids ids;

  /// After a call, however it ended: the ids that were read.
  void follow(std::span<const std::int32_t> read) {
    ids.insert(ids.end(), read.begin(), read.end());
    ids.resize(std::min(ids.size(), dsv4::usize(state->length())));
  }
};

/// A model's turn: the interpreter goes on with other threads, of which none may be inside this model.
/// @throws contract_violation a call from within a callback of the same model
class turn {
 public:
  explicit turn(model& m) : model_(m) {
    if (m.busy_with.load() == std::this_thread::get_id())
      throw dsv4::contract_violation(
          "this model is in the middle of a call: its callback cannot use it or its sequences");
    unlocked_ = std::make_unique<nb::gil_scoped_release>();
    model_.mutex.lock();
    model_.busy_with = std::this_thread::get_id();
  }
  ~turn() {
    model_.busy_with = std::thread::id();
    model_.mutex.unlock();
    unlocked_.reset();
  }
  turn(const turn&) = delete;
  turn& operator=(const turn&) = delete;

 private:
  model& model_;
  std::unique_ptr<nb::gil_scoped_release> unlocked_;
};

/// One call of the model.  `m` must be the sequences' own, and its turn have come.
void forward(model& m, std::span<sequence* const> sequences, std::span<const token_ids> ids,
             const logits_memory& logits, const tap_function& tap);

}  // namespace dsv4_python
