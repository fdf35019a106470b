// SPDX-License-Identifier: MIT
#pragma once
/// The functions of engine.hpp for one policy and one executor; include the executor's kernels first.
#include <chrono>
#include <type_traits>

#include "engine.hpp"
#include "session_impl.hpp"

namespace cli {

template <class E>
E make_executor(int threads) {
  E e{};
  if constexpr (requires { e.threads; }) e.threads = threads;
  return e;
}

/// ref shows its doubles; the fast executors' extra digits are no part of their promise.
template <class E>
using written_t = std::conditional_t<std::is_same_v<E, dsv4::exec::ref>, double, float>;

template <class Written, class Wide>
void append_rows(logits_rows& to, dsv4::view<const Wide, 2> rows) {
  const std::size_t at = to.bytes.size(), count = static_cast<std::size_t>(rows.size());
  to.bytes.resize(at + count * sizeof(Written));
  auto* out = reinterpret_cast<Written*>(to.bytes.data() + at);
  for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<Written>(rows.data()[i]);
  to.type = dsv4::dtype_of<Written>;
  to.rows += rows.extent(0);
}

template <dsv4::numerics_policy P, dsv4::execution E>
forward_result run_forward(const forward_job& job) {
  using model_type = dsv4::transformer<P, E>;
  using written = written_t<E>;
  const dsv4::config& c = job.config;
  model_type model(c, job.weights, make_executor<E>(job.threads));
  if (job.mtp) model.expect_mtp("--mtp");
  const auto n = static_cast<index_t>(job.ids.size());
  auto s = model.new_sequence(n);

  index_t longest = 0;
  for (const index_t t : job.chunks) longest = std::max(longest, std::min(t, n));
  dsv4::tensor<dsv4::wide_t<E>, 2> logits(longest, c.vocab_size);
  dsv4::tensor<dsv4::act_t<P>, 3> streams(job.mtp ? longest : 0, c.hc_mult, c.hidden_size);
  forward_result r;
  r.mtp_logits.type = dsv4::dtype_of<written>;

  const auto begin = std::chrono::steady_clock::now();
  std::size_t call = 0;
  for (index_t at = 0; at < n;) {
    const index_t t = std::min(job.chunks[std::min(call++, job.chunks.size() - 1)], n - at);
    const auto part = [&](index_t from, index_t count) {
      return job.ids.subspan(std::size_t(from), std::size_t(count));
    };
    const typename model_type::input one{&s, part(at, t)};
    typename model_type::output out{logits.all().rows(0, t), {}};
    if (job.mtp) out.streams = streams.all().rows(0, t);
    model.forward(std::span(&one, 1), out, job.taps);
    if (job.keep_logits) append_rows<written>(r.logits, dsv4::view<const dsv4::wide_t<E>, 2>(out.logits));
    // Pairs (streams of position i, token i + 1): all but the run's last position.
    if (const index_t pairs = std::min(t, n - 1 - at); job.mtp && pairs > 0) {
      const typename model_type::mtp_input_rows next{&s, part(at + 1, pairs), streams.all().rows(0, pairs)};
      const auto rows = logits.all().rows(0, pairs);
      model.forward_mtp(std::span(&next, 1), rows, job.taps);
      if (job.keep_logits) append_rows<written>(r.mtp_logits, dsv4::view<const dsv4::wide_t<E>, 2>(rows));
    }
    at += t;
    job.on_call(at, n);
  }
  r.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return r;
}

template <dsv4::numerics_policy P, dsv4::execution E>
generate_result run_generate(const generate_job& job) {
  const dsv4::config& c = job.config;
  dsv4::transformer<P, E> model(c, job.weights, make_executor<E>(job.threads));
  const index_t longest = static_cast<index_t>(job.ids.size()) + job.options.max_new;
  auto s = model.new_sequence(longest, job.draft.depth);
  dsv4::sampler choose(job.sampling, c.vocab_size, longest);
  dsv4::log_probabilities scores(job.logprobs.value_or(0), c.vocab_size);
  generate_result r;
  const auto keep = [&](std::int32_t id, dsv4::view<const dsv4::wide_t<E>, 1> logits) {
    r.tokens.push_back(id);
    if (job.logprobs) {
      scores.read(logits);
      r.log_probabilities.push_back(scores[id]);
      r.top.emplace_back(scores.top().begin(), scores.top().end());
    }
    return job.on_token(id);
  };
  if (const index_t depth = job.draft.depth; depth > 0) {
    dsv4::model_drafter<P, E> drafter(model, job.draft, depth);
    r.generated = dsv4::generate_speculative(model, s, job.ids, job.options, choose, drafter, depth, keep);
  } else {
    r.generated = {dsv4::generate(model, s, job.ids, job.options, choose, keep), {}};
  }
  return r;
}

template <dsv4::numerics_policy P, dsv4::execution E>
std::unique_ptr<session> open_session(const session_job& job) {
  return std::make_unique<model_session<P, E>>(job, make_executor<E>(job.threads));
}

template <dsv4::numerics_policy P, dsv4::execution E>
evaluate_result run_evaluate(const evaluate_job& job) {
  dsv4::transformer<P, E> model(job.config, job.weights, make_executor<E>(job.threads));
  evaluate_result r;
  const auto begin = std::chrono::steady_clock::now();
  r.text = dsv4::trainer::score_text(model, job.ids, job.bytes, job.text);
  r.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (job.drafts.prompts > 0 && model.has_mtp())
    r.drafts = dsv4::trainer::score_drafts(model, job.ids, job.drafts);
  return r;
}

template <dsv4::numerics_policy P, dsv4::execution E>
inline constexpr engine engine_of{run_forward<P, E>, run_generate<P, E>, open_session<P, E>,
                                  run_evaluate<P, E>, std::is_same_v<written_t<E>, double>};

}  // namespace cli
