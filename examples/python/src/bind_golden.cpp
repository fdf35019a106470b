// SPDX-License-Identifier: MIT
// Golden bundles: read, recorded, checked, and what a run is worth against one.
#include <regex>

#include <dsv4/golden/bundle/check.hpp>
#include <dsv4/golden/judge/verify.hpp>
#include <dsv4/golden/make/recipe_checkpoint.hpp>
#include <dsv4/golden/report/report_html.hpp>
#include <dsv4/golden/report/report_json.hpp>
#include <dsv4/golden/report/report_text.hpp>

#include "../../dsv4/golden_engine.hpp"
#include "common.hpp"

namespace dsv4_python {
namespace {

namespace golden = dsv4::golden;
using dsv4::io::checkpoint;

std::shared_ptr<golden::bundle> open_bundle(const path& p, bool check_hashes) {
  golden::open_options o;
  o.check_hashes = check_hashes;
  return std::make_shared<golden::bundle>(golden::bundle::open(p, o));
}

/// An entry that keeps its bundle.
struct entry {
  std::shared_ptr<golden::bundle> of;
  const golden::tensor_entry* what;
};

nb::object read(const entry& e) {
  struct kept {
    std::shared_ptr<golden::bundle> of;
    golden::tensor_data data;
  };
  std::shared_ptr<kept> d;
  {
    const nb::gil_scoped_release unlocked;
    d = std::make_shared<kept>(kept{e.of, e.of->read(*e.what)});
  }
  return array_over(d->data.bytes().data(), e.what->carrier, e.what->shape, owner_of(d), false);
}

entry find_entry(const std::shared_ptr<golden::bundle>& b, const std::string& name, index_t step,
                 index_t sequence) {
  const golden::tensor_entry* t = b->find(step, sequence, name);
  if (!t)
    throw nb::key_error((name + ": " + b->path().string() + " has no such tensor of call " +
                         std::to_string(step) + ", sequence " + std::to_string(sequence))
                            .c_str());
  return {b, t};
}

std::shared_ptr<golden::bundle> make_bundle(const checkpoint& model, const path& out,
                                            const std::vector<token_ids>& ids, const std::string& numerics,
                                            const std::string& executor, index_t decode,
                                            const std::vector<index_t>& chunks, bool mtp,
                                            const std::string& sites, bool zstd,
                                            const std::optional<std::string>& name, int threads) {
  const bool official = numerics == "official", ref = executor == "ref";
  if ((!official && numerics != "float32") || (!ref && executor != "cpu"))
    throw dsv4::contract_violation("make_bundle: found numerics '" + numerics + "' and executor '" +
                                   executor + "', expected official or float32, and ref or cpu");
  golden::run_plan plan{ids, decode, chunks, mtp};
  golden::record_options what;
  if (!sites.empty()) try {
      what.wanted = [r = std::regex(sites, std::regex::ECMAScript)](const std::string& n) {
        return std::regex_search(n, r);
      };
    } catch (const std::regex_error& e) {
      throw dsv4::contract_violation("sites: '" + sites + "' is not a regular expression: " + e.what());
    }
  interrupts signals;
  what.progress = [&](const golden::call_info&, index_t) { signals.poll(); };
  golden::manifest about;
  about.name = name ? *name : out.stem().string();
  about.created_by = {{"program", "dsv4 (Python)"}, {"version", DSV4_VERSION}};
  about.oracle = {{"kind", "dsv4"}, {"exec", executor}, {"source", "dsv4 " DSV4_VERSION ", include/dsv4"}};
  about.numerics = golden::numerics_json(official, ref ? "f64" : "exact: narrow stores have the bits of f64");
  about.model = model.configuration();

  const nb::gil_scoped_release unlocked;
  about.weights = cli::weights_identity_of(model, true);
  golden::writer_options options;
  options.zstd = zstd;
  golden::bundle_writer to(out, std::move(about), options);
  cli::golden_record* const record = official ? ref ? cli::record_official_ref : cli::record_official_cpu
                                     : ref    ? cli::record_float32_ref
                                              : cli::record_float32_cpu;
  const index_t recorded = record({model.configuration(), model.weights(), plan, to, what, threads});
  if (recorded == 0)
    throw dsv4::contract_violation("sites: '" + sites +
                                   "' matches no value of this run; names are like layers.3.attn.out");
  to.finish();
  return std::make_shared<golden::bundle>(golden::bundle::open(out));
}

std::shared_ptr<checkpoint> make_recipe_checkpoint(const golden::bundle& b, const path& out) {
  const golden::weights_identity& w = b.about().weights;
  if (w.kind != "recipe")
    throw dsv4::contract_violation(b.path().string() + ": its weights are no recipe's, but " + w.kind);
  if (w.recipe != golden::weight_recipe::name)
    throw dsv4::unsupported(b.path().string() + ": weights of recipe " + w.recipe);
  golden::write_recipe_checkpoint(out, b.model(), w.seed);
  return std::make_shared<checkpoint>(checkpoint::open(out));
}

golden::verify_result verify(const golden::bundle& reference, const golden::bundle& test,
                             const checkpoint* model, const std::string& mode, const std::string& policy,
                             const std::string& only, const std::string& allow_skip, double k_noise,
                             bool hints) {
  golden::verify_options o;
  if (mode == "forced" || mode == "free")
    o.mode = mode == "forced" ? golden::verify_mode::forced : golden::verify_mode::free_running;
  else if (mode != "auto")
    throw dsv4::contract_violation("verify: found mode '" + mode + "', expected auto, free or forced");
  bool known = false;
  for (std::size_t p = 0; p < std::size(golden::tolerance_policy_names); ++p)
    if (policy == golden::tolerance_policy_names[p])
      o.policy = static_cast<golden::tolerance_policy>(p), known = true;
  if (!known)
    throw dsv4::contract_violation("verify: found policy '" + policy +
                                   "', expected strict, faithful or quant");
  o.only = only, o.allow_skip = allow_skip, o.k_noise = k_noise, o.hints = hints;
  if (model) o.weights = &model->weights();
  const nb::gil_scoped_release unlocked;
  return golden::verify(reference, test, o);
}

}  // namespace

void bind_golden(nb::module_& m) {
  nb::class_<entry>(m, "BundleTensor", "One recorded value of a bundle.")
      .def_prop_ro("name", [](const entry& e) { return e.what->name; })
      .def_prop_ro("site", [](const entry& e) { return e.what->site; })
      .def_prop_ro(
          "layer", [](const entry& e) { return e.what->layer; }, "-1: of the head.")
      .def_prop_ro(
          "step", [](const entry& e) { return e.what->step; }, "Number of the call.")
      .def_prop_ro(
          "call", [](const entry& e) { return std::string(golden::name_of(e.what->call)); },
          "prefill, chunk, decode or mtp.")
      .def_prop_ro("sequence", [](const entry& e) { return e.what->sequence; })
      .def_prop_ro(
          "shape", [](const entry& e) { return nb::tuple(nb::cast(e.what->shape)); },
          nb::sig("def shape(self) -> tuple[int, ...]"))
      .def_prop_ro("axes", [](const entry& e) { return e.what->axes; })
      .def_prop_ro(
          "dtype", [](const entry& e) { return std::string(dsv4::name_of(e.what->carrier)); }, "As stored.")
      .def_prop_ro(
          "logical", [](const entry& e) { return e.what->logical; },
          "What the stored bits mean: bf16, f32, f8_e4m3, ...")
      .def("read", &read, nb::sig("def read(self) -> numpy.typing.NDArray[typing.Any]"),
           "The values in the mapped file, read-only; their hash is checked at the first reading.")
      .def(
          "float32",
          [](const entry& e) {
            const golden::tensor_data d = e.of->read(*e.what);
            return float_copy(d.bytes().data(), e.what->carrier, e.what->shape);
          },
          nb::sig("def float32(self) -> numpy.typing.NDArray[numpy.float32]"), "A copy, BF16 decoded.")
      .def("__repr__", [](const entry& e) {
        return "<dsv4.BundleTensor " + e.what->name + " of call " + std::to_string(e.what->step) + ">";
      });

  nb::class_<golden::bundle>(m, "Bundle",
                             "A golden bundle: every intermediate value of a run (docs/bundle-format.md).")
      .def_static("open", &open_bundle, "path"_a, "check_hashes"_a = true,
                  nb::sig("def open(path: str | os.PathLike[str], check_hashes: bool = True) -> Bundle"))
      .def_prop_ro("path", [](const golden::bundle& b) { return b.path().string(); })
      .def_prop_ro("name", [](const golden::bundle& b) { return b.about().name; })
      .def_prop_ro(
          "numerics", [](const golden::bundle& b) { return b.about().policy(); }, "official or float32.")
      .def_prop_ro("sequences", &golden::bundle::sequences)
      .def("ids", &golden::bundle::ids, "sequence"_a = 0, "Token ids of a sequence.")
      .def_prop_ro(
          "manifest",
          [](const golden::bundle& b) { return from_json(golden::manifest_text(b.about(), b.tensors())); },
          nb::sig("def manifest(self) -> dict[str, typing.Any]"), "manifest.json.")
      .def_prop_ro(
          "tensors",
          [](const std::shared_ptr<golden::bundle>& b) {
            std::vector<entry> out;
            for (const auto& t : b->tensors()) out.push_back({b, &t});
            return out;
          },
          "All of them, in the order of execution.")
      .def("find", &find_entry, "name"_a, "step"_a = 0, "sequence"_a = 0,
           "One recorded value.  Raises KeyError.")
      .def("__len__", [](const golden::bundle& b) { return b.tensors().size(); });

  m.def(
      "check_bundle",
      [](const path& p) {
        std::vector<std::string> problems;
        for (auto& found : golden::check(p).problems) problems.push_back(std::move(found.what));
        return problems;
      },
      "path"_a, nb::call_guard<nb::gil_scoped_release>(),
      nb::sig("def check_bundle(path: str | os.PathLike[str]) -> list[str]"),
      "Everything that a bundle says of itself, confirmed.  Returns what is wrong: nothing, for a good one.");
  m.def(
      "make_bundle", &make_bundle, "checkpoint"_a, "out"_a, "ids"_a, nb::kw_only(), "numerics"_a = "official",
      "executor"_a = "cpu", "decode"_a = 0, "chunks"_a = nb::make_tuple(), "mtp"_a = false, "sites"_a = "",
      "zstd"_a = false, "name"_a = nb::none(), "threads"_a = 0,
      nb::sig(
          "def make_bundle(checkpoint: Checkpoint, out: str | os.PathLike[str], ids: "
          "collections.abc.Sequence[collections.abc.Sequence[int]], *, numerics: str = 'official', executor: "
          "str = 'cpu', "
          "decode: int = 0, chunks: collections.abc.Sequence[int] = (), mtp: bool = False, sites: str = '', "
          "zstd: bool = False, name: str | None = None, threads: int = 0) -> Bundle"),
      "Record a run as a bundle, in a new directory.  ids: one list for each sequence of the batch; decode: "
      "single-token "
      "calls at the end; sites: a regular expression over names.");
  m.def("make_recipe_checkpoint", &make_recipe_checkpoint, "bundle"_a, "out"_a,
        nb::call_guard<nb::gil_scoped_release>(),
        nb::sig("def make_recipe_checkpoint(bundle: Bundle, out: str | os.PathLike[str]) -> Checkpoint"),
        "The checkpoint that a bundle with weights from a seed is a run of, written to a new directory.");

  nb::class_<golden::verify_result>(m, "Verdict", "What a run is worth against a golden.")
      .def_ro("exit_code", &golden::verify_result::exit_code, "That of `dsv4 verify`; 0: all right.")
      .def_prop_ro("passed", [](const golden::verify_result& r) { return r.exit_code == 0; })
      .def_ro("summary", &golden::verify_result::summary, "One sentence.")
      .def_prop_ro(
          "culprit",
          [](const golden::verify_result& r) {
            return r.culprit.found ? std::optional<std::string>(r.tensors[r.culprit.at].name) : std::nullopt;
          },
          "The first wrong tensor whose inputs are right; None if there is none.")
      .def(
          "text", [](const golden::verify_result& r, bool all) { return golden::report_text(r, all); },
          "all"_a = false)
      .def(
          "json", [](const golden::verify_result& r) { return from_json(golden::report_json(r).dump()); },
          nb::sig("def json(self) -> dict[str, typing.Any]"))
      .def(
          "html", [](const golden::verify_result& r) { return golden::html_report(r); },
          "One self-contained page.")
      .def("__repr__", [](const golden::verify_result& r) { return "<dsv4.Verdict " + r.summary + ">"; });
  m.def("verify", &verify, "golden"_a, "test"_a, "checkpoint"_a.none() = nb::none(), nb::kw_only(),
        "mode"_a = "auto", "policy"_a = "faithful", "only"_a = "", "allow_skip"_a = "^$", "k_noise"_a = 8.0,
        "hints"_a = true,
        "Which tensor of `test` is wrong first, and why (docs/verification.md).  Forced mode and hints "
        "recompute operators "
        "with the checkpoint's weights.");
}

}  // namespace dsv4_python
