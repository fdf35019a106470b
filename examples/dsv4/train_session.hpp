// SPDX-License-Identifier: MIT
#pragma once
/// A training run and the gradient of one text behind functions, so that each type of number and executor is compiled
/// in a file of its own (train_engine_*.cpp, grad_engine.cpp).  The command line and the Python module
/// (examples/python) share these objects; nothing here knows either.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include <dsv4/io/checkpoint.hpp>
#include <dsv4/train/parameters.hpp>
#include <dsv4/trainer/dataset.hpp>
#include <dsv4/trainer/settings.hpp>

namespace dsv4::trainer {
struct step_report;
struct evaluation;
}  // namespace dsv4::trainer

namespace cli {

using dsv4::index_t;

/// A buffer of parameters (train/parameters.hpp): F32 or F64, by the type of number that a run computes with.
struct parameter_values {
  dsv4::dtype type = dsv4::dtype::f32;
  const void* data = nullptr;
  /// Element i, exact.
  double at(index_t i) const {
    return type == dsv4::dtype::f32 ? double(static_cast<const float*>(data)[i])
                                    : static_cast<const double*>(data)[i];
  }
};

/// trainer/trainer.hpp, class training.
class train_session {
 public:
  virtual ~train_session() = default;
  virtual dsv4::trainer::step_report step() = 0;
  virtual dsv4::trainer::evaluation evaluate(index_t rows) = 0;
  virtual void save(const std::filesystem::path&) = 0;
  virtual void load(const std::filesystem::path&) = 0;
  virtual index_t steps_done() const = 0;
  virtual index_t training_tokens() const = 0;
  virtual index_t held_out_tokens() const = 0;
  virtual index_t rows_per_epoch() = 0;
  virtual const dsv4::train::parameter_layout& layout() const = 0;
  /// The master weights, where they are: valid as long as the session.
  virtual parameter_values weights() const = 0;
  virtual const dsv4::train::routing_tables& routing() const = 0;
};

struct train_input {
  const dsv4::trainer::settings& settings;  ///< copied
  dsv4::trainer::token_list training, held_out;
  std::vector<std::int32_t> bytes;  ///< of the text of each token
  int threads = 0;
};
using open_training = std::unique_ptr<train_session>(train_input&&);
open_training open_training_cpu, open_training_ref;

/// The weights of a run, as floats in the layout of floats (buffers of double begin their parameters elsewhere).
struct float_weights {
  dsv4::train::parameter_layout layout;
  dsv4::tensor<float, 1> values;
};
float_weights float_weights_of(const train_session&, const dsv4::config&);

/// The loss of one text and its gradient by every parameter.
struct gradient_result {
  double loss = 0, seconds = 0;
  index_t tokens = 0;
  dsv4::train::parameter_layout layout;
  parameter_values gradients;
  std::shared_ptr<const void> memory;  ///< of the gradients
};
/// Plain mathematics: quantised weights are read as the numbers they stand for, the choices are constants, the MTP
/// block is not trained.  cpu: float on all threads; ref: double, the specification.
using compute_gradients = gradient_result(const dsv4::io::checkpoint&, std::vector<std::int32_t> ids,
                                          int threads);
compute_gradients gradients_cpu, gradients_ref;

}  // namespace cli
