// SPDX-License-Identifier: MIT
// A model, its sequences, its calls, and what can be seen of them.
#include <map>
#include <regex>

#include <dsv4/core/memory.hpp>

#include "model.hpp"

namespace dsv4_python {

void forward(model& m, std::span<sequence* const> sequences, std::span<const token_ids> ids,
             const logits_memory& logits, const tap_function& tap) {
  std::vector<new_tokens> batch;
  index_t tokens = 0;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    if (sequences[i]->of.get() != &m)
      throw dsv4::contract_violation("a sequence of another model (make it with this model's new_sequence)");
    batch.push_back({sequences[i]->state.get(), ids[i]});
    tokens += static_cast<index_t>(ids[i].size());
  }
  struct follow_up {
    std::span<sequence* const> sequences;
    std::span<const token_ids> ids;
    ~follow_up() {
      for (std::size_t i = 0; i < sequences.size(); ++i) sequences[i]->follow(ids[i]);
    }
  };
  const follow_up keep_ids{sequences, ids};
  if (tap || tokens <= 1) return m.run->forward(batch, logits, tap);
  // A long call is watched only so that Ctrl-C can end it midway.
  interrupts signals;
  m.run->forward(batch, logits, [&](const dsv4::tap_event&) { signals.poll(); });
}

namespace {

using memory = std::shared_ptr<void>;

memory new_memory(std::size_t bytes) {
  using host = dsv4::memory_space<dsv4::mem::host>;
  return {host::allocate(bytes), [bytes](void* p) { host::release(p, bytes); }};
}

std::shared_ptr<model> open_model(std::shared_ptr<dsv4::io::checkpoint> weights, const std::string& numerics,
                                  const std::string& executor, int threads, index_t tokens_per_pass) {
  static const std::map<std::pair<std::string, std::string>, open_engine*> engines{
      {{"official", "ref"}, official_ref},
      {{"official", "cpu"}, official_cpu},
      {{"official", "cpu_fast"}, official_cpu_fast},
      {{"float32", "ref"}, float32_ref},
      {{"float32", "cpu"}, float32_cpu},
      {{"float32", "cpu_fast"}, float32_cpu_fast}};
  const auto found = engines.find({numerics, executor});
  if (found == engines.end())
    throw dsv4::contract_violation("Model: found numerics '" + numerics + "' and executor '" + executor +
                                   "', expected official or float32, and ref, cpu or cpu_fast");
  if (threads < 0) throw dsv4::contract_violation("Model: threads must be 0 (all of the machine's) or more");
  const auto m = std::make_shared<model>();
  m->weights = std::move(weights);
  m->numerics = numerics, m->executor = executor, m->threads = threads, m->tokens_per_pass = tokens_per_pass;
  const nb::gil_scoped_release unlocked;
  m->run = found->second({m->configuration(), m->weights->weights(), threads, tokens_per_pass});
  return m;
}

std::function<bool(const std::string&)> filter_of(const std::string& pattern) {
  try {
    return [r = std::regex(pattern, std::regex::ECMAScript)](const std::string& name) {
      return std::regex_search(name, r);
    };
  } catch (const std::regex_error& e) {
    throw dsv4::contract_violation("taps: '" + pattern + "' is not a regular expression: " + e.what());
  }
}

// ---- a value while the model computes ----------------------------------------------------------------------------

/// What a callback sees.  The event is gone when the callback has returned.
struct tap {
  const dsv4::tap_event* event = nullptr;
  nb::object owner;  // keeps the model, its sequences and the logits: everything that a value can lie in

  const dsv4::tap_event& now() const {
    if (!event)
      throw dsv4::contract_violation("this tap is over: its value is there only while the callback runs");
    return *event;
  }
  std::span<const index_t> shape() const {
    return {now().shape.data(), static_cast<std::size_t>(now().rank)};
  }
};

/// A function of Python as an observer.
class python_tap {
 public:
  python_tap(nb::callable f, std::function<bool(const std::string&)> wanted, nb::object owner)
      : f_(std::move(f)), wanted_(std::move(wanted)), owner_(std::move(owner)) {}

  void operator()(const dsv4::tap_event& e) {
    if (wanted_ && !wanted_(e.name())) return signals_.poll();
    const nb::gil_scoped_acquire locked;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    const auto shown = std::make_shared<tap>(tap{&e, owner_});
    const Py_ssize_t before = Py_REFCNT(owner_.ptr());
    struct over {
      tap& t;
      ~over() { t.event = nullptr; }
    };
    {
      const over at_the_end{*shown};
      f_(nb::cast(shown));
    }
    // The tap itself may live on, and hold one reference; arrays hold the others.
    shown->owner.reset();
    if (Py_REFCNT(owner_.ptr()) >= before)
      throw dsv4::contract_violation(
          "an array of " + e.name() +
          " was kept beyond its callback; the model uses that memory again: keep a copy (tap.array.copy())");
  }

 private:
  nb::callable f_;
  std::function<bool(const std::string&)> wanted_;
  nb::object owner_;
  interrupts signals_;
};

// ---- values that are kept ----------------------------------------------------------------------------------------

struct recorded {
  dsv4::site where;
  dsv4::dtype type;
  std::vector<index_t> shape;
  std::shared_ptr<std::vector<std::byte>> bytes;
};

/// The values of one call, by name.
struct recording {
  nb::object logits;
  std::map<std::string, recorded> values;
  std::vector<std::string> order;  // of execution

  const recorded& at(const std::string& name) const {
    const auto found = values.find(name);
    if (found == values.end())
      throw nb::key_error((name + ": not recorded (Recording.names lists what was)").c_str());
    return found->second;
  }
  void add(const dsv4::tap_event& e, std::string name) {
    const auto* from = static_cast<const std::byte*>(e.data);
    const index_t bytes = e.size() * dsv4::bits_of(e.type) / 8;
    recorded r{e.where,
               e.type,
               {e.shape.begin(), e.shape.begin() + e.rank},
               std::make_shared<std::vector<std::byte>>(from, from + bytes)};
    order.push_back(name);
    values.insert_or_assign(std::move(name), std::move(r));
  }
};

// ---- the calls of the class Model -----------------------------------------------------------------------------------

struct logits_array {
  nb::object array, owner;
  logits_memory memory;
};

/// `out`, or an array that is made here.
logits_array logits_of(const std::shared_ptr<model>& m, index_t rows, bool last_only, const nb::object& out) {
  const index_t shape[] = {rows, m->configuration().vocab_size};
  const dsv4::dtype type = m->run->logits_type();
  if (out.is_none()) {
    const memory made = new_memory(m->logits_bytes(rows));
    const nb::object owner = owner_of(made);
    return {array_over(made.get(), type, shape, owner, true), owner, {made.get(), last_only}};
  }
  nb::ndarray<nb::c_contig, nb::device::cpu> given;
  if (!nb::try_cast(out, given, false))
    throw dsv4::contract_violation("forward: out must be a writable array, contiguous in C order");
  if (given.ndim() != 2 || static_cast<index_t>(given.shape(0)) != rows ||
      static_cast<index_t>(given.shape(1)) != shape[1] || given.dtype() != numpy_type(type))
    throw dsv4::contract_violation("forward: out must be " +
                                   std::string(type == dsv4::dtype::f64 ? "float64" : "float32") + " [" +
                                   std::to_string(rows) + ", " + std::to_string(shape[1]) + "]");
  return {out, out, {given.data(), last_only}};
}

nb::object forward_batch(const std::shared_ptr<model>& m,
                         const std::vector<std::shared_ptr<sequence>>& sequences,
                         const std::vector<token_ids>& ids, bool last_only, const nb::object& out,
                         const nb::object& on_tap, const std::optional<std::string>& taps) {
  if (sequences.size() != ids.size())
    throw dsv4::contract_violation("forward_batch: " + std::to_string(sequences.size()) +
                                   " sequences, but ids of " + std::to_string(ids.size()));
  index_t rows = 0;
  for (const token_ids& i : ids) rows += static_cast<index_t>(i.size());
  if (last_only) rows = static_cast<index_t>(sequences.size());
  const logits_array logits = logits_of(m, rows, last_only, out);
  std::vector<sequence*> each;
  for (const auto& s : sequences) each.push_back(s.get());
  tap_function seen;
  if (!on_tap.is_none()) {
    auto* all = new std::tuple(m, sequences, logits.owner);
    const nb::object owner = nb::capsule(all, [](void* p) noexcept {
      delete static_cast<
          std::tuple<std::shared_ptr<model>, std::vector<std::shared_ptr<sequence>>, nb::object>*>(p);
    });
    seen = python_tap(nb::cast<nb::callable>(on_tap), taps ? filter_of(*taps) : nullptr, owner);
  }
  {
    const turn mine(*m);
    forward(*m, each, ids, logits.memory, seen);
  }
  return logits.array;
}

recording record(const std::shared_ptr<model>& m, const std::shared_ptr<sequence>& s, const token_ids& ids,
                 const std::string& taps) {
  const auto n = static_cast<index_t>(ids.size());
  if (n > m->tokens_per_pass)
    throw dsv4::contract_violation(
        "record: " + std::to_string(n) + " tokens, but the model runs " + std::to_string(m->tokens_per_pass) +
        " at a time; record fewer, or make the Model with a larger tokens_per_pass");
  recording r;
  const auto wanted = filter_of(taps);
  const logits_array logits = logits_of(m, n, false, nb::none());
  r.logits = logits.array;
  interrupts signals;
  const turn mine(*m);
  sequence* one = s.get();
  forward(*m, std::span(&one, 1), std::span(&ids, 1), logits.memory, [&](const dsv4::tap_event& e) {
    signals.poll();
    if (std::string name = e.name(); wanted(name)) r.add(e, std::move(name));
  });
  return r;
}

nb::tuple load(const std::shared_ptr<model>& m, const path& file, index_t max_tokens, index_t max_rewind) {
  loaded_sequence found;
  {
    const turn mine(*m);
    found = m->run->load(file, max_tokens, max_rewind);
  }
  const auto s = std::make_shared<sequence>(sequence{m, std::move(found.sequence), std::move(found.ids)});
  return nb::make_tuple(nb::cast(s), nb::bytes(found.application.data(), found.application.size()));
}

/// A question about a sequence, when its model's turn has come.
template <class F>
auto ask(F f) {
  return [f](sequence& s) {
    const std::shared_ptr<model> m = s.of;
    const turn mine(*m);
    return f(s);
  };
}

}  // namespace

#define DSV4_ARRAY "numpy.typing.NDArray[typing.Any]"
#define DSV4_IDS "collections.abc.Sequence[int] | numpy.typing.NDArray[typing.Any]"

void bind_model(nb::module_& m) {
  nb::class_<sequence>(m, "Sequence", "What a model remembers of one text.  Made by Model.new_sequence.")
      .def_prop_ro("ids", ask([](sequence& s) { return s.ids; }), "The tokens that were read.")
      .def_prop_ro("length", ask([](sequence& s) { return s.state->length(); }))
      .def_prop_ro("max_tokens", ask([](sequence& s) { return s.state->max_tokens(); }))
      .def_prop_ro("max_rewind", ask([](sequence& s) { return s.state->max_rewind(); }))
      .def_prop_ro("rewind_limit", ask([](sequence& s) { return s.state->rewind_limit(); }),
                   "The earliest position, besides 0, that rewind can reach.")
      .def_prop_ro(
          "intact", ask([](sequence& s) { return s.state->intact(); }),
          "False after a call that was ended midway and has overwritten rows: rewind(0) makes it usable.")
      .def(
          "rewind",
          [](sequence& s, index_t position) {
            const std::shared_ptr<model> of = s.of;
            const turn mine(*of);
            s.state->rewind(position);
            s.ids.resize(std::min(s.ids.size(), dsv4::usize(position)));
          },
          "position"_a, "As it was after its first `position` tokens.")
      .def(
          "copy",
          [](sequence& s) {
            const std::shared_ptr<model> of = s.of;
            const turn mine(*of);
            return std::make_shared<sequence>(sequence{s.of, s.state->copy(), s.ids});
          },
          "Another sequence that goes on from here (beam search, shared prompts).")
      .def("__len__", ask([](sequence& s) { return s.state->length(); }));

  nb::class_<tap>(m, "Tap", "A value while the model computes it; valid during the callback.")
      .def_prop_ro(
          "name", [](const tap& t) { return t.now().name(); }, "For example layers.3.attn.q_rope.")
      .def_prop_ro(
          "site", [](const tap& t) { return std::string(dsv4::info(t.now().where).name); },
          "The name without the layer.")
      .def_prop_ro(
          "axes", [](const tap& t) { return std::string(dsv4::info(t.now().where).axes); },
          "A letter for each axis, docs/notation.md.")
      .def_prop_ro(
          "layer", [](const tap& t) { return t.now().scope.number; }, "Number of the layer or MTP block.")
      .def_prop_ro(
          "sequence", [](const tap& t) { return t.now().sequence; }, "Number in the batch.")
      .def_prop_ro(
          "start", [](const tap& t) { return t.now().start; }, "Position of the first token.")
      .def_prop_ro("tokens", [](const tap& t) { return t.now().tokens; })
      .def_prop_ro(
          "dtype", [](const tap& t) { return std::string(dsv4::name_of(t.now().type)); },
          "BF16, F32, F64 or I32.")
      .def_prop_ro(
          "array",
          [](const tap& t) { return array_over(t.now().data, t.now().type, t.shape(), t.owner, true); },
          nb::sig("def array(self) -> " DSV4_ARRAY),
          "The value itself, without a copy; writing to it changes what follows.  BF16 comes as uint16.\n\n"
          "It must not be kept beyond the callback: forward then raises ContractViolation.")
      .def(
          "float32", [](const tap& t) { return float_copy(t.now().data, t.now().type, t.shape()); },
          nb::sig("def float32(self) -> numpy.typing.NDArray[numpy.float32]"), "A copy, which may be kept.");

  nb::class_<recording>(m, "Recording", "The values of one call, by name, with its logits.")
      .def_ro("logits", &recording::logits, nb::sig("def logits(self) -> " DSV4_ARRAY))
      .def_ro("names", &recording::order, "In the order of execution.")
      .def(
          "__contains__", [](const recording& r, const std::string& name) { return r.values.contains(name); },
          "name"_a)
      .def("__len__", [](const recording& r) { return r.order.size(); })
      .def(
          "dtype",
          [](const recording& r, const std::string& name) {
            return std::string(dsv4::name_of(r.at(name).type));
          },
          "name"_a, "As it was computed: BF16, F32, F64 or I32.")
      .def(
          "axes",
          [](const recording& r, const std::string& name) {
            return std::string(dsv4::info(r.at(name).where).axes);
          },
          "name"_a, "A letter for each axis, docs/notation.md.")
      .def(
          "__getitem__",
          [](const recording& r, const std::string& name) {
            const recorded& v = r.at(name);
            return array_over(v.bytes->data(), v.type, v.shape, owner_of(v.bytes), true);
          },
          "name"_a, nb::sig("def __getitem__(self, name: str) -> " DSV4_ARRAY),
          "The recorded memory itself; BF16 comes as uint16.")
      .def(
          "float32",
          [](const recording& r, const std::string& name) {
            const recorded& v = r.at(name);
            return float_copy(v.bytes->data(), v.type, v.shape);
          },
          "name"_a, nb::sig("def float32(self, name: str) -> numpy.typing.NDArray[numpy.float32]"),
          "The values as float32, BF16 decoded: a copy.");

  nb::class_<model>(m, "Model",
                    "A model over the weights of a checkpoint, which it keeps open.\n\n"
                    "numerics: official (the released formats, bit for bit) or float32 (plain mathematics).\n"
                    "executor: cpu (the same stored bits as ref), cpu_fast (sums in float), ref (the "
                    "specification, slow).\n"
                    "threads: 0 is all of the machine's.  Calls from several Python threads take turns.")
      .def(nb::new_(&open_model), "checkpoint"_a, nb::kw_only(), "numerics"_a = "official",
           "executor"_a = "cpu", "threads"_a = 0, "tokens_per_pass"_a = 512)
      .def_ro("checkpoint", &model::weights)
      .def_ro("numerics", &model::numerics)
      .def_ro("executor", &model::executor)
      .def_ro("threads", &model::threads)
      .def_prop_ro("vocab_size", [](const model& x) { return x.configuration().vocab_size; })
      .def(
          "new_sequence",
          [](const std::shared_ptr<model>& x, index_t max_tokens, index_t max_rewind) {
            return std::make_shared<sequence>(sequence{x, x->run->new_sequence(max_tokens, max_rewind), {}});
          },
          "max_tokens"_a, "max_rewind"_a = 0,
          "An empty sequence for up to max_tokens tokens, of which max_rewind can be taken back at any time.")
      .def(
          "forward",
          [](const std::shared_ptr<model>& x, const std::shared_ptr<sequence>& s, const token_ids& ids,
             bool last_only, const nb::object& out, const nb::object& on_tap,
             const std::optional<std::string>& taps) {
            return forward_batch(x, {s}, {ids}, last_only, out, on_tap, taps);
          },
          "sequence"_a, "ids"_a, nb::kw_only(), "last_only"_a = false, "out"_a = nb::none(),
          "on_tap"_a = nb::none(), "taps"_a = nb::none(),
          nb::sig("def forward(self, sequence: Sequence, ids: " DSV4_IDS
                  ", *, last_only: bool = False, out: " DSV4_ARRAY
                  " | None = None, on_tap: collections.abc.Callable[[Tap], object] | None = None, taps: str "
                  "| None = None) -> " DSV4_ARRAY),
          "Read the next tokens of a sequence: a prompt, a chunk, or one token.  Returns logits [tokens, "
          "vocabulary], or "
          "[1, vocabulary] with last_only; float64, or float32 of cpu_fast.\n\n"
          "out: an array to write them to.  on_tap: called with every value as it is computed, or with those "
          "whose name "
          "the regular expression `taps` finds.")
      .def("forward_batch", &forward_batch, "sequences"_a, "ids"_a, nb::kw_only(), "last_only"_a = false,
           "out"_a = nb::none(), "on_tap"_a = nb::none(), "taps"_a = nb::none(),
           nb::sig("def forward_batch(self, sequences: collections.abc.Sequence[Sequence], ids: "
                   "collections.abc.Sequence[" DSV4_IDS "], *, last_only: bool = False, out: " DSV4_ARRAY
                   " | None = None, on_tap: collections.abc.Callable[[Tap], object] | None = None, taps: str "
                   "| None = None) -> " DSV4_ARRAY),
           "The same for several sequences at once, each as if it were alone; rows of logits in the order of "
           "the batch.")
      .def("record", &record, "sequence"_a, "ids"_a, "taps"_a = ".",
           nb::sig("def record(self, sequence: Sequence, ids: " DSV4_IDS ", taps: str = '.') -> Recording"),
           "forward(), and keep the values whose name the regular expression finds.")
      .def(
          "save",
          [](const std::shared_ptr<model>& x, sequence& s, const path& file, const nb::bytes& application) {
            std::string own(application.c_str(), application.size());
            if (s.of != x) throw dsv4::contract_violation("save: a sequence of another model");
            const turn mine(*x);
            x->run->save(file, *s.state, s.ids, std::move(own));
          },
          "sequence"_a, "path"_a, "application"_a = nb::bytes(""),
          nb::sig("def save(self, sequence: Sequence, path: str | os.PathLike[str], application: bytes = "
                  "b'') -> None"),
          "Write a sequence as a state file (docs/state-file.md), with the program's own bytes.")
      .def("load", &load, "path"_a, "max_tokens"_a, "max_rewind"_a = 0,
           nb::sig("def load(self, path: str | os.PathLike[str], max_tokens: int, max_rewind: int = 0) -> "
                   "tuple[Sequence, bytes]"),
           "A sequence that was saved, and the program's own bytes.  It goes on to the same bits.");
}

}  // namespace dsv4_python
