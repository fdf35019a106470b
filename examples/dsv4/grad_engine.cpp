// SPDX-License-Identifier: MIT
#include <dsv4/cpu/cpu.hpp>

#include <chrono>

#include <dsv4/train/model.hpp>
#include <dsv4/trainer/load.hpp>

#include "train_session.hpp"

namespace cli {
namespace {

template <class T, dsv4::execution E>
gradient_result gradients_of(const dsv4::io::checkpoint& from, std::vector<std::int32_t> ids, E executor) {
  using namespace dsv4::train;
  const dsv4::config c = dsv4::trainer::trained_config(from);
  gradient_result r;
  r.layout = parameter_layout::of<T>(c);
  dsv4::tensor<T, 1> w(r.layout.size);
  const auto g = std::make_shared<dsv4::tensor<T, 1>>(r.layout.size);
  dsv4::trainer::load_parameters(from, w.all());
  const routing_tables routing = dsv4::trainer::load_routing(c, from.weights());
  const batch one = batch::of(std::move(ids));
  objective goal;
  goal.mtp_weight = goal.balance_weight = 0;
  goal.index = index_stage::off;

  network<T, E> model(c);
  const auto gradients = bind<T>(c, g->data());
  const auto begin = std::chrono::steady_clock::now();
  const report found = model.run(executor, bind<const T>(c, w.data()), routing, one, goal, &gradients);
  r.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  r.loss = found.loss;
  r.tokens = found.tokens;
  r.gradients = {dsv4::dtype_of<T>, g->data()};
  r.memory = std::shared_ptr<const void>(g, g->data());
  return r;
}

}  // namespace

gradient_result gradients_cpu(const dsv4::io::checkpoint& from, std::vector<std::int32_t> ids, int threads) {
  return gradients_of<float>(from, std::move(ids), dsv4::exec::cpu{threads});
}
gradient_result gradients_ref(const dsv4::io::checkpoint& from, std::vector<std::int32_t> ids, int) {
  return gradients_of<double>(from, std::move(ids), dsv4::exec::ref{});
}

float_weights float_weights_of(const train_session& run, const dsv4::config& c) {
  float_weights out{dsv4::train::parameter_layout::of<float>(c), {}};
  out.values = dsv4::tensor<float, 1>(out.layout.size);
  const parameter_values from = run.weights();
  for (std::size_t i = 0; i < out.layout.all.size(); ++i)
    for (index_t k = 0; k < out.layout.all[i].size(); ++k)
      out.values(out.layout.all[i].offset + k) = static_cast<float>(from.at(run.layout().all[i].offset + k));
  return out;
}

}  // namespace cli
