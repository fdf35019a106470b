// SPDX-License-Identifier: MIT
#pragma once
/// DSpark as it runs beside a model, with the weights of a checkpoint: the kernels, formats and roundings of the model.
/// source   DSpark; as released with DeepSeek-V4-Flash-DSpark
/// axes     k slot · n stream · d channel · l target layer · r Markov rank · s row that is seen · v vocabulary
/// oracle   golden/dspark/v4_draft; dspark/drafter.hpp, the same in one arithmetic type and plain loops
/// deviates V4's drafter alone: V4.1's belongs to another architecture (dspark/stage.hpp has it)
///
///   context of a position   rms_norm(main_proj [mean over the streams behind each target layer])   (context.hpp)
///   ring of a stage         that context as keys and values, of the last W positions
///   block behind n tokens   [token n, noise, noise, ...] at positions n, n + 1, ...; slot k says token n + 1 + k
///   attention of a slot     all rows of the ring and all slots of the block, both ways; the block's own rows enter no ring
///   slot k                  logits += W2 W1[token before];  trust = sigmoid(proj [state before the norm ; W1[token before]])
///
/// What a ring holds of a position is a function of the model's streams there, so a token that is taken back is
/// overwritten by the one that replaces it.
/// @post what is drafted changes no token of the answer (gen/draft.hpp)
#include <numeric>

#include "transformer.hpp"

namespace dsv4 {

/// Of one sequence.  The transformer must outlive it.  Threads: one at a time.
template <numerics_policy P, execution E>
class dspark_network {
 public:
  using activation = act_t<P>;
  using wide = wide_t<E>;
  using memory = mem_of<E>;

  /// max_rewind: so many tokens of the sequence may be taken back.
  /// @throws unsupported  the checkpoint has no DSpark drafter; the message says what it has
  dspark_network(transformer<P, E>& model, index_t max_rewind)
      : model_(&model), w_(drafter_of(model)), inv_freq_(model.configuration().qk_rope_head_dim / 2) {
    const config& c = model.configuration();
    const index_t k = slots(), rank = c.dspark.markov_rank;
    for (std::size_t s = 0; s < w_->stages.size(); ++s)
      rings_.emplace_back(checked_add(c.sliding_window, max_rewind, "dspark: rows of a ring"), c.head_dim);
    copy(model.executor(), rotary_frequencies(c, 0).all(), inv_freq_.all());
    ids_ = tensor<std::int32_t, 1, memory>(k);
    state_ = tensor<activation, 2, memory>(k, c.hidden_size);
    logits_ = tensor<wide, 2, memory>(k, c.vocab_size);
    before_ = tensor<activation, 2, memory>(1, rank);
    joined_ = tensor<activation, 2, memory>(1, c.hidden_size + rank);
    trust_ = tensor<wide, 2, memory>(1, 1);
    bias_ = tensor<wide, 2, memory>(1, c.vocab_size);
    row_ = tensor<wide, 2, mem::host>(1, c.vocab_size);
  }

  /// [K] how many tokens a block can say.
  index_t slots() const { return model_->configuration().dspark.block_size; }
  /// Positions whose context may be seen by a block behind `length` tokens: [first, length).
  index_t first_seen(index_t length) const {
    return std::min(length, std::max(oldest(), length - model_->configuration().sliding_window));
  }

  /// The model has read the tokens from position `start` on; their contexts enter the rings.
  void accept(index_t start, view<activation, 3, memory> context /*[t,l,d]*/) {
    const index_t t = context.extent(0);
    // What lies before was never seen, or is no longer there.
    if (start == 0 || start > end_ || start < oldest()) begin_ = high_ = start;
    E& e = model_->executor();
    kernel::scope<E>::run(e, [&] {
      const config& c = model_->configuration();
      const typename scratch_of<E>::scope here(scratch_);
      const workspace::scope lists(host_);
      auto x = take<activation>(scratch_, t, c.hidden_size);  // [t, d]
      quantised_linear<P>(e, scratch_, context.reshape(t, context.row_size()), w_->main_proj, x);
      rms_norm(e, x, w_->main_norm, c.rms_norm_eps, x);
      const auto angles = angles_of(start, t);
      const product_input<P, E> input(e, scratch_, x);
      no_tap quiet;
      for (std::size_t s = 0; s < rings_.size(); ++s) {
        const typename scratch_of<E>::scope stage(scratch_);
        const auto kv = attention_keys(call_of(quiet, s), input, t, angles, w_->stages[s].attn);  // [t, d]
        rings_[s].write(e, start, view<const activation, 2, memory>(kv));
      }
    });
    end_ = start + t;
    high_ = std::max(high_, end_);
  }

  /// Computes the block that begins with `token`, behind the first `length` tokens, all of which were accepted.
  void run(std::int32_t token, index_t length) {
    expects(length > 0 && length <= end_, "dspark: a block needs the contexts of the tokens before it");
    E& e = model_->executor();
    const config& c = model_->configuration();
    kernel::scope<E>::run(e, [&] {
      const typename scratch_of<E>::scope here(scratch_);
      const workspace::scope lists(host_);
      const index_t k = slots(), n = c.hc_mult, d = c.hidden_size;
      const std::span<std::int32_t> ids = take_list<std::int32_t>(host_, usize(k));
      for (std::int32_t& id : ids) id = static_cast<std::int32_t>(c.dspark.noise_token);
      ids[0] = token;
      copy(e, view<const std::int32_t, 1, mem::host>(ids.data(), k), ids_.all());

      auto x = take<activation>(scratch_, k, d);     // [k, d]
      auto h = take<activation>(scratch_, k, n, d);  // [k, n, d]
      embed(e, view<const std::int32_t, 1, memory>(ids_), model_->prepared().embed, x);
      copy_to_streams(e, x, h);
      const auto angles = angles_of(length, k);
      no_tap quiet;
      for (std::size_t s = 0; s < rings_.size(); ++s) stage(call_of(quiet, s), s, length, angles, h);
      read_out(h);
    });
  }

  /// Of the block that was run, how probable its slot k stands after `previous`, as its confidence head has it.
  double follow(index_t k, std::int32_t previous) {
    E& e = model_->executor();
    const index_t d = state_.extent(1), r = before_.extent(1);
    copy(e, view<const std::int32_t, 1, mem::host>(&previous, index_t{1}), ids_.all().rows(0, 1));
    embed(e, view<const std::int32_t, 1, memory>(ids_).rows(0, 1), w_->markov_w1, before_.all());
    copy(e, state_.all()[k], view<activation, 1, memory>(joined_.data(), d));
    copy(e, before_.all()[0], view<activation, 1, memory>(joined_.data() + d, r));
    linear(e, joined_.all(), w_->confidence, trust_.all());
    return sigmoid(double(on_host(e, view<const wide, 2, memory>(trust_), host_trust_)(0, 0)));
  }
  /// The logits [v] of slot k after the token of the last follow(k, ...).
  view<const wide, 1, mem::host> logits(index_t k) {
    E& e = model_->executor();
    kernel::scope<E>::run(e, [&] { linear(e, before_.all(), w_->markov_w2, bias_.all()); });
    const auto base = on_host(e, view<const wide, 2, memory>(logits_).rows(k, k + 1), host_logits_),
               bias = on_host(e, view<const wide, 2, memory>(bias_), host_bias_);
    for (index_t v = 0; v < row_.extent(1); ++v) row_(0, v) = base(0, v) + bias(0, v);
    return std::as_const(row_)[0];
  }

 private:
  static const dspark_weights<storage_of<E>>* drafter_of(const transformer<P, E>& model) {
    const auto& w = model.prepared();
    if (w.dspark) return &*w.dspark;
    throw unsupported("DSpark: " + (model.weights().foreign_drafter.empty()
                                        ? std::string("this checkpoint has no drafter")
                                        : model.weights().foreign_drafter));
  }
  call_context<E, no_tap> call_of(no_tap& quiet, std::size_t stage) {
    return {model_->executor(),
            scratch_,
            host_,
            model_->configuration(),
            {model_->executor(), quiet, {}, {tap_scope::part::mtp, static_cast<index_t>(stage)}}};
  }
  basic_rotary_angles<memory> angles_of(index_t start, index_t t) {
    const basic_rotary_angles<memory> angles{take<float>(scratch_, t, inv_freq_.extent(0)),
                                             take<float>(scratch_, t, inv_freq_.extent(0))};
    const position_run run{0, t, start, 1};
    kernel::set_angles<E>::run(model_->executor(), std::span<const position_run>(&run, 1),
                               view<const float, 1, memory>(inv_freq_), angles);
    return angles;
  }

  /// The first position whose rows are still there.
  index_t oldest() const { return std::max(begin_, high_ - rings_[0].capacity()); }

  /// h [k, n, d] after stage s.
  void stage(const call_context<E, no_tap>& call, std::size_t s, index_t length,
             const basic_rotary_angles<memory>& angles, view<activation, 3, memory> h /*[k,n,d]*/) {
    const auto& [e, scratch, host, c, tap] = call;
    const block_weights<storage_of<E>>& w = w_->stages[s];
    const typename call_context<E, no_tap>::scope here(call);
    auto x = take<activation>(scratch, h.extent(0), h.extent(2)),
         out = take<activation>(scratch, h.extent(0), h.extent(2));  // [k, d]
    {
      const typename call_context<E, no_tap>::scope half(call);
      const auto mix = hc_pre(call, hc_attn_sites, h, w.hc_attn, x);
      rms_norm(e, x, w.attn_norm, c.rms_norm_eps, x);
      attend(call, rings_[s], length, angles, x, w.attn, out);
      hc_post(e, out, mix, h);
    }
    {
      const typename call_context<E, no_tap>::scope half(call);
      const auto mix = hc_pre(call, hc_ffn_sites, h, w.hc_ffn, x);
      rms_norm(e, x, w.ffn_norm, c.rms_norm_eps, x);
      moe<P>(call, x, view<const std::int32_t, 1, memory>(ids_), w.ffn, out);
      hc_post(e, out, mix, h);
    }
  }

  /// Attention of the block: its rows stand behind those of the ring as entries that every slot chooses.
  void attend(const call_context<E, no_tap>& call, const history<activation, memory>& ring, index_t length,
              const basic_rotary_angles<memory>& angles, view<activation, 2, memory> x /*[k,d]*/,
              const attention_weights<storage_of<E>>& w, view<activation, 2, memory> out /*[k,d]*/) {
    const auto& [e, scratch, host, c, tap] = call;
    const index_t k = x.extent(0), from = first_seen(length), seen = length - from, rows = seen + k;
    const product_input<P, E> input(e, scratch, x);
    auto qr = take<activation>(scratch, k, c.q_lora_rank);  // [k, r]
    input.times(e, w.wq_a, qr);
    rms_norm(e, qr, w.q_norm, c.rms_norm_eps, qr);
    const product_input<P, E> latent(e, scratch, qr);
    const auto q = attention_queries(call, latent, k, angles, w);  // [k, h, d]
    const auto kv = attention_keys(call, input, k, angles, w);     // [k, d]

    auto all = take<activation>(scratch, rows, c.head_dim);  // [s, d]
    ring.read(e, from, length, all.rows(0, seen));
    copy(e, kv, all.rows(seen, rows));
    const std::span<std::int32_t> numbers = take_list<std::int32_t>(host, usize(k * rows));
    for (index_t i = 0; i < k; ++i)
      std::iota(numbers.begin() + i * rows, numbers.begin() + (i + 1) * rows, std::int32_t{0});
    auto chosen = take<std::int32_t>(scratch, k, rows);  // [k, s]
    copy(e, view<const std::int32_t, 2, mem::host>(numbers.data(), k, rows), chosen);

    const segment block{0, k};
    const attention_slots<activation, memory> slots{0, 0, {}, all, chosen};  // no window: all rows are chosen
    auto o = take<activation>(scratch, k, c.num_attention_heads, c.head_dim);  // [k, h, d]
    core_attention<E, activation>(e, q, std::span(&block, 1), std::span(&slots, 1), w.attn_sink, o);
    attention_output<P>(call, o, angles, w, out);
  }

  /// state_: the streams' gated sum; logits_: the model's head on its norm.
  void read_out(view<activation, 3, memory> h /*[k,n,d]*/) {
    E& e = model_->executor();
    const config& c = model_->configuration();
    const index_t k = h.extent(0), n = h.extent(1), d = h.extent(2);
    auto mixes = take<wide>(scratch_, k, n), pre = take<wide>(scratch_, k, n);  // [k, n]
    auto normed = take<activation>(scratch_, k, d);                             // [k, d]
    kernel::hc_mixes<E>::run(e, view<const activation, 2, memory>(h.reshape(k, n * d)), w_->hc_head.fn,
                             c.rms_norm_eps, mixes);
    kernel::head_weights_of_streams<E>::run(
        e, view<const wide, 2, memory>(mixes),
        hyper_split<memory>{w_->hc_head.scale, w_->hc_head.base, 0, c.hc_eps}, pre);
    kernel::hc_collapse<E>::run(e, view<const wide, 2, memory>(pre), view<const activation, 3, memory>(h),
                                state_.all());
    rms_norm(e, state_.all(), w_->norm, c.rms_norm_eps, normed);
    linear(e, normed, model_->prepared().head, logits_.all());
  }

  transformer<P, E>* model_;
  const dspark_weights<storage_of<E>>* w_;
  tensor<float, 1, memory> inv_freq_;               // [rd/2]
  std::vector<history<activation, memory>> rings_;  // of each stage [W + max_rewind, hd]
  // Rows [begin, end) were accepted without a gap; up to `high` rows were written, which may have overwritten others.
  index_t begin_ = 0, end_ = 0, high_ = 0;
  scratch_of<E> scratch_;
  workspace host_;
  tensor<std::int32_t, 1, memory> ids_;    // [k]
  tensor<activation, 2, memory> state_;    // [k, d] before the last norm
  tensor<wide, 2, memory> logits_, bias_;  // [k, v] before the Markov head, and its [1, v]
  tensor<activation, 2, memory> before_;   // [1, r] W1 of the token before a slot
  tensor<activation, 2, memory> joined_;   // [1, d + r]
  tensor<wide, 2, memory> trust_;          // [1, 1]
  tensor<wide, 2, mem::host> row_;         // [1, v] both together
  tensor<wide, 2, mem::host> host_logits_, host_bias_, host_trust_;  // … where the host can read them
};
DSV4_COMPILED_MODELS(class dspark_network)

}  // namespace dsv4
