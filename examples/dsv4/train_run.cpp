// SPDX-License-Identifier: MIT
// One training run from its folder to its folder.
#include <dsv4/trainer/export.hpp>
#include <dsv4/trainer/trainer.hpp>

#include "train.hpp"

namespace cli {
namespace {

/// OUT/float and OUT/official, by who holds the folder's export lock.
void write_models(const train_job& job, const train_session& run) {
  const auto& s = job.settings;
  const float_weights w = float_weights_of(run, s.c);
  const dsv4::view<const float, 1> values = w.values.all();
  dsv4::trainer::write_float(job.folder.float_model(), s.c, w.layout, values, run.routing(), s.tokenizer);
  job.listener.exported(dsv4::trainer::write_official(job.folder.official_model(), s.c, w.layout, values,
                                                      run.routing(), s.tokenizer));
}

}  // namespace

void run_training(train_job& job, open_training& open) {
  using namespace dsv4::trainer;
  const settings& s = job.settings;
  const std::unique_ptr<train_session> run = open(std::move(job.input));
  const std::filesystem::path file = job.folder.checkpoint();
  if (job.export_only) {
    const dsv4::io::file_lock exporting = job.folder.begin_export();
    run->load(file);
    return write_models(job, *run);
  }
  if (job.resume) run->load(file);

  index_t parameters = 0;
  for (const dsv4::train::parameter_info& p : run->layout().all) parameters += p.size();
  job.listener.begin(run->steps_done(), run->training_tokens(), run->held_out_tokens(), run->rows_per_epoch(),
                     parameters);
  const index_t end = job.stop_at > 0 ? std::min(job.stop_at, s.steps) : s.steps;
  const auto save = [&] {
    run->save(file);
    job.listener.saved(run->steps_done());
  };
  bool stopped = false;
  while (run->steps_done() < end && !stopped) {
    const step_report r = run->step();
    job.listener.step(r);
    const index_t done = run->steps_done();
    if (s.eval_every > 0 && done % s.eval_every == 0 && done < s.steps && !r.back_to)
      job.listener.evaluated(run->evaluate(s.eval_rows), false);
    stopped = job.listener.stop();
    if (stopped || done == end || (s.checkpoint_every > 0 && done % s.checkpoint_every == 0)) save();
  }
  if (run->steps_done() < s.steps) return;
  job.listener.evaluated(run->evaluate(0), true);
  const dsv4::io::file_lock exporting = job.folder.begin_export();
  write_models(job, *run);
}

}  // namespace cli
