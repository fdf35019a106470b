// SPDX-License-Identifier: MIT
// Generation as an iterator: gen/generate.hpp turned inside out, because here the caller asks for tokens and is not
// called with them.  Settings, sampler, order of calls and stop reasons are those of gen/.
#include <dsv4/gen/generate.hpp>
#include <dsv4/gen/log_probability.hpp>
#include <dsv4/gen/sampler.hpp>

#include "model.hpp"

namespace dsv4_python {
namespace {

struct token {
  std::int32_t id = 0;
  std::optional<double> logprob;
  std::vector<dsv4::token_probability> top;
};

class generation {
 public:
  generation(std::shared_ptr<model> m, std::shared_ptr<sequence> s, token_ids prompt, index_t max_new,
             token_ids stop_ids, const dsv4::sampling& settings, std::optional<index_t> logprobs)
      : model_(std::move(m)),
        sequence_(std::move(s)),
        prompt_(std::move(prompt)),
        stop_ids_(std::move(stop_ids)),
        max_new_(max_new),
        type_(model_->run->logits_type()),
        logits_(model_->logits_bytes(1)),
        choose_(settings, model_->configuration().vocab_size) {
    if (logprobs) scores_.emplace(*logprobs, model_->configuration().vocab_size);
    if (sequence_->of != model_)
      throw dsv4::contract_violation("a sequence of another model (make it with this model's new_sequence)");
    dsv4::generate_options o;
    o.max_new = max_new;
    const turn mine(*model_);
    dsv4::detail::check_generate(*sequence_->state, prompt_, o);
    choose_.begin(0, sequence_->ids);
    choose_.begin(sequence_->state->length(), prompt_);
  }

  token next() {
    if (!stop_.empty() || made_ >= max_new_) {
      if (stop_.empty()) stop_ = "length";
      throw nb::stop_iteration();
    }
    token t;
    try {
      const turn mine(*model_);
      const auto begin = std::chrono::steady_clock::now();
      if (made_ == 0)
        prefill();
      else
        read(std::span(&last_, 1), true);
      (made_ == 0 ? prefill_seconds_ : decode_seconds_) +=
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      signals_.poll();
      t = type_ == dsv4::dtype::f64 ? pick<double>() : pick<float>();
    } catch (...) {
      stop_ = "error";
      throw;
    }
    last_ = t.id;
    ++made_;
    if (std::find(stop_ids_.begin(), stop_ids_.end(), t.id) != stop_ids_.end())
      stop_ = "stop_id";
    else if (made_ == max_new_)
      stop_ = "length";
    return t;
  }

  const std::string& stop() const { return stop_; }
  index_t made() const { return made_; }
  double prefill_seconds() const { return prefill_seconds_; }
  double decode_seconds() const { return decode_seconds_; }

 private:
  void prefill() {
    dsv4::generate_options o;
    dsv4::detail::prefill(prompt_, o, [&](std::span<const std::int32_t> ids, bool last) {
      read(ids, last);
      signals_.poll();
    });
  }
  void read(std::span<const std::int32_t> ids, bool wanted) {
    sequence* const one = sequence_.get();
    const token_ids all(ids.begin(), ids.end());
    // Rows without memory are not computed.
    forward(*model_, std::span(&one, 1), std::span(&all, 1), {wanted ? logits_.data() : nullptr, true}, {});
  }
  template <class T>
  token pick() {
    const dsv4::view<const T, 1> row(reinterpret_cast<const T*>(logits_.data()),
                                     model_->configuration().vocab_size);
    token t;
    if (scores_) scores_->read(row);
    t.id = choose_(row);
    if (scores_) {
      t.logprob = (*scores_)[t.id];
      t.top.assign(scores_->top().begin(), scores_->top().end());
    }
    return t;
  }

  std::shared_ptr<model> model_;
  std::shared_ptr<sequence> sequence_;
  token_ids prompt_, stop_ids_;
  index_t max_new_, made_ = 0;
  dsv4::dtype type_;
  std::vector<std::byte> logits_;  // of operator new, aligned for every type of number
  dsv4::sampler choose_;
  std::optional<dsv4::log_probabilities> scores_;
  interrupts signals_;
  std::int32_t last_ = 0;
  std::string stop_;
  double prefill_seconds_ = 0, decode_seconds_ = 0;
};

std::shared_ptr<generation> generate(const std::shared_ptr<model>& m, const std::shared_ptr<sequence>& s,
                                     const token_ids& ids, index_t max_new, const token_ids& stop_ids,
                                     double temperature, double top_p, index_t top_k, double min_p,
                                     std::uint64_t seed, double repetition_penalty, double frequency_penalty,
                                     double presence_penalty, index_t penalty_window,
                                     const nb::object& logit_bias, std::optional<index_t> logprobs) {
  dsv4::sampling o;
  o.temperature = temperature, o.top_p = top_p, o.top_k = top_k, o.min_p = min_p, o.seed = seed;
  o.repetition_penalty = repetition_penalty, o.frequency_penalty = frequency_penalty;
  o.presence_penalty = presence_penalty, o.penalty_window = penalty_window;
  if (!logit_bias.is_none())
    for (const auto& [id, added] : nb::cast<nb::dict>(logit_bias))
      o.bias.push_back({nb::cast<std::int32_t>(id), nb::cast<double>(added)});
  return std::make_shared<generation>(m, s, ids, max_new, stop_ids, o, logprobs);
}

}  // namespace

void bind_generate(nb::module_& m) {
  nb::class_<token>(m, "Token", "A generated token.  Where an int is wanted, it is its id.")
      .def_ro("id", &token::id)
      .def_ro("logprob", &token::logprob,
              "Natural logarithm of the probability that the model gave it, before temperature, penalties "
              "and cuts; None "
              "unless generate was asked for logprobs.")
      .def_prop_ro(
          "top",
          [](const token& t) {
            nb::list out;
            for (const auto& p : t.top) out.append(nb::make_tuple(p.id, p.log_probability));
            return out;
          },
          nb::sig("def top(self) -> list[tuple[int, float]]"),
          "The likeliest tokens of this place: (id, logprob).")
      .def("__index__", [](const token& t) { return t.id; })
      .def("__int__", [](const token& t) { return t.id; })
      .def("__repr__", [](const token& t) {
        return "Token(" + std::to_string(t.id) +
               (t.logprob ? ", logprob=" + std::to_string(*t.logprob) : "") + ")";
      });

  nb::class_<generation>(
      m, "Generation",
      "An iterator of tokens, each computed when it is asked for.\n\n"
      "The sequence then holds the prompt and all tokens but the last, which no call has read yet: "
      "whoever goes on begins with it.")
      .def(
          "__iter__", [](nb::handle self) { return nb::borrow(self); },
          nb::sig("def __iter__(self) -> Generation"))
      .def("__next__", &generation::next)
      .def_prop_ro("stop", &generation::stop,
                   "Why it ended: length (max_new tokens), stop_id, error (an exception); empty before.")
      .def_prop_ro("made", &generation::made, "Tokens so far.")
      .def_prop_ro("prefill_seconds", &generation::prefill_seconds)
      .def_prop_ro("decode_seconds", &generation::decode_seconds);

  nb::borrow<nb::class_<model>>(m.attr("Model"))
      .def("generate", &generate, nb::arg("sequence"), nb::arg("ids"), nb::kw_only(),
           nb::arg("max_new") = 256, nb::arg("stop_ids") = nb::make_tuple(), nb::arg("temperature") = 0.0,
           nb::arg("top_p") = 1.0, nb::arg("top_k") = 0, nb::arg("min_p") = 0.0, nb::arg("seed") = 0,
           nb::arg("repetition_penalty") = 1.0, nb::arg("frequency_penalty") = 0.0,
           nb::arg("presence_penalty") = 0.0, nb::arg("penalty_window") = 0,
           nb::arg("logit_bias") = nb::none(), nb::arg("logprobs") = nb::none(),
           nb::sig("def generate(self, sequence: Sequence, ids: collections.abc.Sequence[int] | "
                   "numpy.typing.NDArray[typing.Any], *, "
                   "max_new: int = 256, stop_ids: collections.abc.Sequence[int] = (), temperature: float = "
                   "0.0, top_p: float = 1.0, "
                   "top_k: int = 0, min_p: float = 0.0, seed: int = 0, repetition_penalty: float = 1.0, "
                   "frequency_penalty: float = 0.0, presence_penalty: float = 0.0, penalty_window: int = 0, "
                   "logit_bias: collections.abc.Mapping[int, float] | None = None, logprobs: int | None = "
                   "None) -> Generation"),
           "Read the prompt `ids`, then make up to max_new tokens, one whenever the iterator is asked.\n\n"
           "temperature 0 is greedy.  The same seed gives the same tokens.  logprobs: also the "
           "log-probability of each token, "
           "and of so many of the likeliest ones of its place.");
}

}  // namespace dsv4_python
