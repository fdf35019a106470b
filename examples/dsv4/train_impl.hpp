// SPDX-License-Identifier: MIT
#pragma once
/// train_session.hpp for one type of number and one executor; include the executor's kernels first.
#include <utility>

#include <dsv4/trainer/trainer.hpp>

#include "train_session.hpp"

namespace cli {

template <class E>
E train_executor(int threads) {
  E e{};
  if constexpr (requires { e.threads; }) e.threads = threads;
  return e;
}

template <class T, dsv4::execution E, dsv4::execution O>
class training_session final : public train_session {
 public:
  explicit training_session(train_input&& in)
      : run_(in.settings, std::move(in.training), std::move(in.held_out), std::move(in.bytes),
             train_executor<E>(in.threads), train_executor<O>(in.threads)) {}
  dsv4::trainer::step_report step() override { return run_.step(); }
  dsv4::trainer::evaluation evaluate(index_t rows) override { return run_.evaluate(rows); }
  void save(const std::filesystem::path& file) override { run_.save(file); }
  void load(const std::filesystem::path& file) override { run_.load(file); }
  index_t steps_done() const override { return run_.steps_done(); }
  index_t training_tokens() const override { return run_.training_tokens(); }
  index_t held_out_tokens() const override { return run_.held_out_tokens(); }
  index_t rows_per_epoch() override { return run_.rows_per_epoch(); }
  const dsv4::train::parameter_layout& layout() const override { return run_.layout(); }
  parameter_values weights() const override { return {dsv4::dtype_of<T>, run_.weights().data()}; }
  const dsv4::train::routing_tables& routing() const override { return run_.routing(); }

 private:
  dsv4::trainer::training<T, E, O> run_;
};

template <class T, dsv4::execution E, dsv4::execution O = E>
std::unique_ptr<train_session> open_session_of(train_input&& in) {
  return std::make_unique<training_session<T, E, O>>(std::move(in));
}

}  // namespace cli
