// SPDX-License-Identifier: MIT
// Training, and the gradient of one text by every weight.
#include <nanobind/stl/variant.h>

#include <mutex>
#include <variant>

#include <dsv4/io/json_text.hpp>
#include <dsv4/trainer/export.hpp>
#include <dsv4/trainer/held_out.hpp>
#include <dsv4/trainer/trainer.hpp>

#include "../../dsv4/train_session.hpp"
#include "common.hpp"

namespace dsv4_python {
namespace {

using dsv4::io::checkpoint;

const dsv4::train::parameter_info& find(const dsv4::train::parameter_layout& l, const std::string& name) {
  const dsv4::train::parameter_info* p = l.find(name);
  if (!p) throw nb::key_error((name + ": no parameter of this name").c_str());
  return *p;
}
std::vector<std::string> names_of(const dsv4::train::parameter_layout& l) {
  std::vector<std::string> names;
  for (const auto& p : l.all) names.push_back(p.name);
  return names;
}
/// One parameter of a buffer.
nb::object parameter(const dsv4::train::parameter_layout& l, const cli::parameter_values& v,
                     const std::string& name, const nb::object& owner, bool writable) {
  const auto& p = find(l, name);
  const auto* data = static_cast<const std::byte*>(v.data) + p.offset * dsv4::bits_of(v.type) / 8;
  return array_over(data, v.type, p.shape, owner, writable);
}

struct trainer {
  dsv4::trainer::settings settings;
  std::shared_ptr<cli::train_session> run;
  std::mutex mutex;
};

/// f(run), while the interpreter goes on; calls of several threads take turns.
template <class F>
auto alone(trainer& t, F&& f) {
  const nb::gil_scoped_release unlocked;
  const std::lock_guard one(t.mutex);
  return f(*t.run);
}

std::shared_ptr<trainer> open_trainer(const std::variant<nb::dict, path>& settings, const std::string& text,
                                      int threads) {
  const auto t = std::make_shared<trainer>();
  if (const auto* given = std::get_if<nb::dict>(&settings))
    t->settings =
        dsv4::trainer::parse_settings("settings", dsv4::io::parse_json("settings", to_json_text(*given)));
  else
    t->settings = dsv4::trainer::read_settings(std::get<path>(settings));
  const dsv4::trainer::settings& s = t->settings;
  const nb::gil_scoped_release unlocked;
  const auto tokenizer = dsv4::text::tokenizer::load(s.tokenizer);
  if (tokenizer.vocab_size() > s.c.vocab_size)
    throw dsv4::format_error(s.tokenizer + ": has " + std::to_string(tokenizer.vocab_size()) +
                             " tokens, the model only " + std::to_string(s.c.vocab_size) + " (vocab_size)");
  const dsv4::trainer::text_split parts = dsv4::trainer::split_text(text, s.data.held_out);
  cli::train_input in{s, dsv4::trainer::tokenize_documents(tokenizer, parts.train, s.data.text),
                      dsv4::trainer::tokenize_documents(tokenizer, parts.held_out, s.data.text),
                      dsv4::trainer::token_bytes(tokenizer), threads};
  in.bytes.resize(dsv4::usize(s.c.vocab_size));
  t->run = cli::open_training_cpu(std::move(in));
  return t;
}

nb::dict step(trainer& t) {
  const auto r = alone(t, [](cli::train_session& run) { return run.step(); });
  interrupts::check();
  nb::dict out;
  out["step"] = r.step, out["loss"] = r.loss, out["mtp_loss"] = r.mtp_loss, out["balance"] = r.balance;
  out["index_kl"] = r.index_kl, out["learning_rate"] = r.learning_rate,
  out["gradient_norm"] = r.gradient_norm;
  out["busiest_over_mean"] = r.busiest_over_mean, out["tokens"] = r.tokens, out["seconds"] = r.seconds;
  out["anticipatory"] = r.anticipatory, out["spike"] = r.spike, out["skipped"] = r.skipped,
  out["back_to"] = r.back_to;
  return out;
}

nb::dict evaluate(trainer& t, index_t rows) {
  const auto r = alone(t, [&](cli::train_session& run) { return run.evaluate(rows); });
  nb::dict out;
  out["step"] = r.step, out["tokens"] = r.tokens, out["bytes"] = r.bytes, out["loss"] = r.loss,
  out["mtp_loss"] = r.mtp_loss;
  out["bits_per_byte"] = r.bits_per_byte, out["busiest_over_mean"] = r.busiest_over_mean;
  return out;
}

void write(trainer& t, const path& dir, bool official) {
  alone(t, [&](cli::train_session& run) {
    const auto& s = t.settings;
    const cli::float_weights w = cli::float_weights_of(run, s.c);
    const auto export_as = official ? dsv4::trainer::write_official : dsv4::trainer::write_float;
    export_as(dir, s.c, w.layout, w.values.all(), run.routing(), s.tokenizer);
  });
}

cli::gradient_result gradients(const checkpoint& model, const token_ids& ids, const std::string& executor,
                               int threads) {
  if (executor != "cpu" && executor != "ref")
    throw dsv4::contract_violation("gradients: found executor '" + executor + "', expected cpu or ref");
  if (ids.size() < 2)
    throw dsv4::contract_violation("gradients: found " + std::to_string(ids.size()) +
                                   " tokens, expected at least two: a token predicts the next");
  const nb::gil_scoped_release unlocked;
  return (executor == "ref" ? cli::gradients_ref : cli::gradients_cpu)(model, ids, threads);
}

}  // namespace

void bind_train(nb::module_& m) {
  using cli::gradient_result;
  nb::class_<gradient_result>(m, "Gradients", "The loss of one text, and its gradient by every parameter.")
      .def_ro("loss", &gradient_result::loss, "Mean over the tokens that have one before them, in nats.")
      .def_ro("tokens", &gradient_result::tokens)
      .def_prop_ro(
          "names", [](const gradient_result& g) { return names_of(g.layout); },
          "The hub's names of the weights.")
      .def(
          "__getitem__",
          [](const gradient_result& g, const std::string& name) {
            return parameter(g.layout, g.gradients, name, owner_of(g.memory), true);
          },
          "name"_a, nb::sig("def __getitem__(self, name: str) -> numpy.typing.NDArray[typing.Any]"),
          "The gradient's own memory: float32, or float64 of ref.")
      .def("__len__", [](const gradient_result& g) { return g.layout.all.size(); });
  m.def("gradients", &gradients, "checkpoint"_a, "ids"_a, nb::kw_only(), "executor"_a = "cpu",
        "threads"_a = 0,
        "Loss of these tokens and its gradient by every weight, as plain mathematics: quantised weights are "
        "read as the "
        "numbers they stand for, the choices are constants.  executor: cpu (float), ref (double, the "
        "specification).");

  m.def(
      "training_settings", [] { return from_json(dsv4::trainer::to_json(dsv4::trainer::settings()).dump()); },
      nb::sig("def training_settings() -> dict[str, typing.Any]"),
      "Every setting of a training run with its default; \"model\" is to be put in (docs/training.md).");
  nb::class_<trainer>(m, "Trainer", "A training run, step by step; the numbers of threads change no bit.")
      .def(nb::new_(&open_trainer), "settings"_a, "text"_a, nb::kw_only(), "threads"_a = 0,
           "settings: as `dsv4 train --config` reads them, a dict or a file.  text: what is learned from.")
      .def_prop_ro(
          "steps", [](const trainer& t) { return t.settings.steps; }, "Of the whole run.")
      .def_prop_ro("steps_done", [](trainer& t) { return alone(t, [](auto& r) { return r.steps_done(); }); })
      .def_prop_ro(
          "names", [](trainer& t) { return names_of(t.run->layout()); }, "The hub's names of the weights.")
      .def("step", &step, nb::sig("def step(self) -> dict[str, typing.Any]"),
           "One step; returns its losses, rate, norm and times.  Ctrl-C is seen when a step is done.")
      .def("evaluate", &evaluate, "rows"_a = 0,
           nb::sig("def evaluate(self, rows: int = 0) -> dict[str, typing.Any]"),
           "Loss of the held-out part, from so many rows of it; 0: all.")
      .def(
          "weight",
          [](trainer& t, const std::string& name) {
            const auto& p = find(t.run->layout(), name);
            std::vector<float> values(dsv4::usize(p.size()));
            alone(t, [&](cli::train_session& run) {
              for (index_t i = 0; i < p.size(); ++i)
                values[dsv4::usize(i)] = static_cast<float>(run.weights().at(p.offset + i));
            });
            return array_of(std::move(values), p.shape);
          },
          "name"_a, nb::sig("def weight(self, name: str) -> numpy.typing.NDArray[numpy.float32]"),
          "A master weight as it is now: a copy, because a step may put the whole state into other memory.")
      .def(
          "save", [](trainer& t, const path& p) { alone(t, [&](auto& r) { r.save(p); }); }, "path"_a,
          nb::sig("def save(self, path: str | os.PathLike[str]) -> None"),
          "Everything, so that a run goes on to the same bits.")
      .def(
          "load", [](trainer& t, const path& p) { alone(t, [&](auto& r) { r.load(p); }); }, "path"_a,
          nb::sig("def load(self, path: str | os.PathLike[str]) -> None"))
      .def("export", &write, "directory"_a, "official"_a = false,
           nb::sig("def export(self, directory: str | os.PathLike[str], official: bool = False) -> None"),
           "A checkpoint directory: float32, or the published formats.");
}

}  // namespace dsv4_python
