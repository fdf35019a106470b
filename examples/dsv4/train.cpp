// SPDX-License-Identifier: MIT
// dsv4 train: a model from a text.
#include "train.hpp"
#include "input.hpp"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>

#include <dsv4/io/atomic_file.hpp>
#include <dsv4/io/zstd_stream.hpp>
#include <dsv4/trainer/export.hpp>
#include <dsv4/trainer/held_out.hpp>
#include <dsv4/trainer/trainer.hpp>

#include "arguments.hpp"
#include "golden.hpp"
#include "interrupt.hpp"
#include "outputs.hpp"
#include "progress.hpp"
#include "train_log.hpp"

namespace cli {
namespace {

namespace fs = std::filesystem;
using namespace dsv4::trainer;
using json = nlohmann::ordered_json;

struct train_options {
  fs::path config, data, out;
  std::optional<index_t> steps, stop_at;
  std::optional<std::uint64_t> seed;
  int threads = 0;
  bool resume = false, json = false, ref = false, export_only = false, defaults = false;
  std::vector<fs::path> plot;
};

/// Tells the run on stderr, keeps its settings, its log and its curve.
class teller final : public train_listener {
 public:
  teller(const train_options& o, const settings& s, const run_folder& folder)
      : o_(o), s_(s), folder_(folder) {}

  void begin(index_t done, index_t training, index_t held_out, index_t rows, index_t parameters) override {
    dsv4::io::write_whole(folder_.settings(), dsv4::trainer::to_json(s_).dump(2) + "\n");
    log_.emplace(folder_.log(), done);
    std::fprintf(stderr, "%lld parameters; %lld tokens to train on (%lld rows of %lld), %lld held out\n",
                 ll(parameters), ll(training), ll(rows), ll(s_.data.length), ll(held_out));
    if (done > 0) std::fprintf(stderr, "goes on after step %lld of %lld\n", ll(done), ll(s_.steps));
  }
  void step(const step_report& r) override {
    add(to_json(r));
    if (r.back_to)
      line("step %lld: loss %.4f is a spike, back to step %lld with anticipatory routing", ll(r.step), r.loss,
           ll(*r.back_to));
    else if (r.spike)
      line("step %lld: loss %.4f is a spike", ll(r.step), r.loss);
    if (r.skipped) line("step %lld: the gradient is not finite, nothing is updated", ll(r.step));
    tokens_ += r.tokens;
    seconds_ += r.seconds;
    if (!r.back_to && (r.step % s_.log_every == 0 || r.step == s_.steps)) {
      line(
          "step %lld/%lld  loss %.4f  mtp %.4f  index %.4f  rate %.2e  norm %.3f  load %.2f  %.0f tokens/s%s",
          ll(r.step), ll(s_.steps), r.loss, r.mtp_loss, r.index_kl, r.learning_rate, r.gradient_norm,
          r.busiest_over_mean, seconds_ > 0 ? static_cast<double>(tokens_) / seconds_ : 0,
          r.anticipatory ? "  anticipatory" : "");
      tokens_ = 0;
      seconds_ = 0;
    }
    bar_("train", r.step, s_.steps, "steps");
  }
  void evaluated(const evaluation& e, bool final) override {
    if (e.tokens == 0) return;
    add(to_json(e, final));
    line("step %lld: held-out loss %.4f, %.4f bits per byte, mtp %.4f, load %.2f (%lld tokens, %lld bytes)",
         ll(e.step), e.loss, e.bits_per_byte, e.mtp_loss, e.busiest_over_mean, ll(e.tokens), ll(e.bytes));
    if (final) draw_curve();
  }
  void saved(index_t) override { draw_curve(); }
  void exported(const dsv4::trainer::export_report& r) override {
    line("wrote %s and %s (%.2f MB; experts %s to FP8)", folder_.float_model().c_str(),
         folder_.official_model().c_str(), static_cast<double>(r.bytes) * 1e-6,
         r.lossless() ? "cast losslessly" : "do not cast losslessly");
  }
  bool stop() override { return interrupt_.pressed(); }
  bool interrupted() const { return interrupt_.pressed(); }

 private:
  static long long ll(index_t n) { return n; }
  template <class... V>
  void line(const char* format, V... values) {
    bar_.clear();
    std::fprintf(stderr, format, values...);
    std::fputc('\n', stderr);
  }
  void add(const json& what) {
    log_->add(what);
    if (!o_.json) return;
    std::cout << what.dump() << '\n';
    check_output_arrives();
  }
  void draw_curve() {
    loss_curve c = log_->curve();
    c.name = o_.out.filename().string();
    dsv4::io::write_whole(folder_.curve(), draw({c}, "loss, " + c.name));
  }

  const train_options& o_;
  const settings& s_;
  const run_folder& folder_;
  std::optional<train_log> log_;
  progress bar_;
  interrupt_guard interrupt_;
  index_t tokens_ = 0;
  double seconds_ = 0;
};

/// The text of a file, which may be .zst.
std::string read_data(const fs::path& path) {
  if (path.extension() == ".zst") {
    const dsv4::io::owned_bytes bytes = dsv4::io::read_zstd(path, std::size_t{1} << 36);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size};
  }
  const dsv4::io::mapped_file file(path);
  return std::string(file.text());
}

/// --plot: curves of several runs in one picture.
void plot(const train_options& o) {
  if (o.out.empty()) throw usage_error("--plot: --out names the picture, e.g. --out compare.svg");
  check_output_file("--out", o.out, o.plot);
  std::vector<loss_curve> curves;
  for (const fs::path& p : o.plot) {
    const bool folder = fs::is_directory(p);
    const fs::path file = folder ? p / run_folder::log_name : p;
    curves.push_back(read_curve(
        file, folder ? fs::absolute(p).lexically_normal().filename().string() : p.stem().string()));
  }
  dsv4::io::write_whole(o.out, draw(curves, "loss"));
}

/// The folder, once everything else is known to be right.
run_folder open_folder(const train_options& o) {
  if (o.export_only) return run_folder::to_read(o.out);
  run_folder f = run_folder::to_train(o.out, o.resume);
  if (!f.lockable())
    std::fprintf(stderr,
                 "dsv4: warning: %s: this file system knows no locks; do not train there twice at a time\n",
                 o.out.c_str());
  if (o.resume && !f.has_checkpoint())
    std::fprintf(stderr, "no checkpoint in %s: begins anew\n", o.out.c_str());
  return f;
}

void train(const train_options& o) {
  if (o.defaults) {
    std::cout << dsv4::trainer::to_json(settings()).dump(2) << '\n';
    return;
  }
  if (!o.plot.empty()) return plot(o);
  if (o.config.empty() || o.data.empty() || o.out.empty())
    throw usage_error("--config, --data and --out are required");
  settings s = read_settings(o.config);
  if (o.steps) s.steps = *o.steps;
  if (o.seed) s.seed = *o.seed;

  // Text to tokens.
  const auto tokenizer = open_tokenizer(s.tokenizer);
  if (tokenizer.vocab_size() > s.c.vocab_size)
    throw dsv4::format_error(s.tokenizer + ": has " + std::to_string(tokenizer.vocab_size()) +
                             " tokens, the model only " + std::to_string(s.c.vocab_size) + " (vocab_size)");
  const std::string text = read_data(o.data);
  const text_split parts = split_text(text, s.data.held_out);
  const run_folder folder = open_folder(o);
  teller tell(o, s, folder);
  train_job job{.settings = s,
                .input = {.settings = s,
                          .training = tokenize_documents(tokenizer, parts.train, s.data.text),
                          .held_out = tokenize_documents(tokenizer, parts.held_out, s.data.text),
                          .bytes = token_bytes(tokenizer),
                          .threads = o.threads},
                .folder = folder,
                .resume = folder.has_checkpoint(),
                .export_only = o.export_only,
                .stop_at = o.stop_at.value_or(0),
                .listener = tell};
  job.input.bytes.resize(static_cast<std::size_t>(s.c.vocab_size));
  run_training(job, o.ref ? open_training_ref : open_training_cpu);
  constexpr int interrupted = 130;  // 128 + SIGINT, as shells have it
  if (tell.interrupted()) throw exit_with(interrupted, "stopped; --resume goes on");
}

}  // namespace

void add_train(CLI::App& app, std::function<void()>& run) {
  CLI::App& verb = cli::add_verb(app, "train", "a model from a text");
  auto o = std::make_shared<train_options>();
  verb.add_option("--config", o->config, "the settings, JSON (--defaults prints them)")
      ->type_name("TRAIN.json");
  verb.add_option("--data", o->data, "plain text, UTF-8; .zst is unpacked")->type_name("FILE");
  verb.add_option("--out", o->out, "folder of the run; of --plot, the picture")->type_name("DIR");
  verb.add_flag("--resume", o->resume, "go on from the checkpoint in --out; without one, begin");
  verb.add_option("--steps", o->steps, "instead of the settings' steps")->check(CLI::PositiveNumber);
  verb.add_option("--seed", o->seed, "instead of the settings' seed")->check(CLI::NonNegativeNumber);
  verb.add_option("--stop-at", o->stop_at, "save and stop after this step; schedules stay those of all steps")
      ->check(CLI::PositiveNumber);
  add_threads(verb, o->threads);
  verb.add_flag("--ref", o->ref, "the readable specification, in double, on one thread");
  verb.add_flag("--json", o->json, "the log on standard output, a JSON object a line");
  verb.add_flag("--export-only", o->export_only, "only write the models from the checkpoint in --out");
  verb.add_flag("--defaults", o->defaults, "print every setting with its default");
  verb.add_option("--plot", o->plot,
                  "draw the curves of these runs (folders, or log.jsonl files) in one picture")
      ->type_name("DIR...");
  verb.footer(R"(
Examples
  dsv4 train --defaults > train.json                               then put in "model" and "tokenizer"
  dsv4 train --config train.json --data bible.txt --out run1
  dsv4 train --config train.json --data bible.txt --out run1 --resume          after a kill: the same bits
  dsv4 train --config train.json --data bible.txt --out try --steps 50 --json | jq .loss
  dsv4 train --plot run1 run2 --out compare.svg

A settings file as short as can be; everything else has a default:
  {"model": "config.json", "tokenizer": "tokenizer.json", "steps": 2000,
   "data": {"length": 256, "separator": "blank-line"}, "batch": {"rows": 16},
   "learning_rate": {"peak": 2e-3, "warm_up": 60, "decay": 0.7}}
"model": a config.json of the hub's form, or its fields.  Places in a run ("decay", "warm_up", "quantise.from", ...)
are steps, or with a point parts of the run: 60 is step 60, 0.7 is after 70 % of the steps, null is never.

The folder gets checkpoint.safetensors.zst (replaced in one step), log.jsonl, loss.svg, settings.json and, at the
end, with the tokenizer, float/: the model in float32, for dsv4 generate --numerics float32 and for transformers,
and official/: FP4 experts, FP8 and BF16 elsewhere, as DeepSeek publishes its models.
Ctrl-C saves and stops.  The number of threads changes no bit.  One process trains in a folder (run.lock); --export-only
may read it meanwhile.  What a kill left unfinished, NAME.part-XXXXXX, is removed when the run goes on.)");
  verb.callback([o, &run] { run = [o] { train(*o); }; });
}

}  // namespace cli
