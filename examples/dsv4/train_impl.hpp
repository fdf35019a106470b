// SPDX-License-Identifier: MIT
#pragma once
/// The jobs of train.hpp for one type of number and one executor; include the executor's kernels first.
#include <chrono>

#include <dsv4/trainer/export.hpp>
#include <dsv4/trainer/load.hpp>
#include <dsv4/trainer/trainer.hpp>

#include "engine_impl.hpp"
#include "train.hpp"

namespace cli {

/// OUT/float and OUT/official, by who holds the folder's export lock.
template <class Trainer>
void write_models(const train_job& job, const Trainer& t) {
  using dsv4::train::parameter_layout;
  const auto& s = job.settings;
  // As floats: buffers of double begin their parameters elsewhere.
  const auto layout = parameter_layout::of<float>(s.c);
  dsv4::tensor<float, 1> weights(layout.size);
  for (std::size_t i = 0; i < layout.all.size(); ++i)
    std::copy_n(t.weights().data() + t.layout().all[i].offset, layout.all[i].size(),
                weights.data() + layout.all[i].offset);
  const dsv4::view<const float, 1> w = std::as_const(weights).all();
  dsv4::trainer::write_float(job.folder.float_model(), s.c, layout, w, t.routing(), s.tokenizer);
  job.listener.exported(
      dsv4::trainer::write_official(job.folder.official_model(), s.c, layout, w, t.routing(), s.tokenizer));
}

template <class T, dsv4::execution E, dsv4::execution O>
void run_training(train_job& job) {
  using namespace dsv4::trainer;
  const settings& s = job.settings;
  training<T, E, O> t(s, std::move(job.training), std::move(job.held_out), std::move(job.bytes),
                      make_executor<E>(job.threads), make_executor<O>(job.threads));
  const std::filesystem::path file = job.folder.checkpoint();
  if (job.export_only) {
    const dsv4::io::file_lock exporting = job.folder.begin_export();
    t.load(file);
    return write_models(job, t);
  }
  if (job.resume) t.load(file);

  index_t parameters = 0;
  for (const dsv4::train::parameter_info& p : t.layout().all) parameters += p.size();
  job.listener.begin(t.steps_done(), t.training_tokens(), t.held_out_tokens(), t.rows_per_epoch(),
                     parameters);
  const index_t end = job.stop_at > 0 ? std::min(job.stop_at, s.steps) : s.steps;
  const auto save = [&] {
    t.save(file);
    job.listener.saved(t.steps_done());
  };
  bool stopped = false;
  while (t.steps_done() < end && !stopped) {
    const step_report r = t.step();
    job.listener.step(r);
    const index_t done = t.steps_done();
    if (s.eval_every > 0 && done % s.eval_every == 0 && done < s.steps && !r.back_to)
      job.listener.evaluated(t.evaluate(s.eval_rows), false);
    stopped = job.listener.stop();
    if (stopped || done == end || (s.checkpoint_every > 0 && done % s.checkpoint_every == 0)) save();
  }
  if (t.steps_done() < s.steps) return;
  job.listener.evaluated(t.evaluate(), true);
  const dsv4::io::file_lock exporting = job.folder.begin_export();
  write_models(job, t);
}

template <class T, dsv4::execution E>
grad_result run_grad(const grad_job& job) {
  using namespace dsv4::train;
  using namespace dsv4::trainer;
  const dsv4::config c = trained_config(job.model);
  const parameter_layout layout = parameter_layout::of<T>(c);
  dsv4::tensor<T, 1> w(layout.size), g(layout.size);
  load_parameters(job.model, w.all());
  const routing_tables routing = load_routing(c, job.model.weights());
  const batch one = batch::of(job.ids);
  objective goal;
  goal.mtp_weight = goal.balance_weight = 0;
  goal.index = index_stage::off;

  network<T, E> model(c);
  E executor = make_executor<E>(job.threads);
  const auto gradients = bind<T>(c, g.data());
  const auto begin = std::chrono::steady_clock::now();
  const report found = model.run(executor, bind<const T>(c, w.data()), routing, one, goal, &gradients);
  grad_result r{found.loss, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(),
                found.tokens, static_cast<index_t>(layout.all.size())};

  // F32, as the goldens have it.
  dsv4::tensor<float, 1> narrow(layout.size), loss(1);
  std::copy_n(g.data(), g.size(), narrow.data());
  loss(0) = static_cast<float>(found.loss);
  dsv4::io::safetensors_writer out;
  out.add("loss", loss.all());
  for (const parameter_info& p : layout.all)
    out.add(p.name, dsv4::dtype::f32, p.shape, narrow.data() + p.offset);
  out.write(job.out);
  return r;
}

template <class T, dsv4::execution E, dsv4::execution O = E>
inline constexpr train_engine train_engine_of{run_training<T, E, O>, run_grad<T, E>};

}  // namespace cli
