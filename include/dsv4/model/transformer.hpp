// SPDX-License-Identifier: MIT
#pragma once
/// The complete model: embedding, blocks, head, MTP; prefill, decode and every mixture of the two.
/// @paper{DSV4, section 2 and Figure 2}
/// axes     t token · n stream · d channel · v vocabulary
/// oracle   model.py, Transformer.forward
/// deviates logits of every position on request; batches of sequences of different lengths
///
/// A batch is a list of (sequence, new tokens).  Tokens of all sequences run through the projections
/// together and attend each to its own sequence.  How tokens are split into calls, how sequences are
/// batched and how many threads work never changes a stored value: under `official` every bf16, FP8, FP4
/// and integer value has the same bits.  Wide values (logits, routing scores) too have the same bits in
/// exec::ref and exec::cpu_fast, and in exec::cpu for any number of threads; there one token alone is summed
/// in another order of doubles than several, which moves a wide value by 1e-15 or so.
#include "../core/config_macros.hpp"
#include "../op/rows.hpp"
#include "context.hpp"
#include "fingerprint.hpp"
#include "mtp.hpp"
#include "prepare.hpp"
#include "sequence.hpp"

namespace dsv4 {

/// Policy: num/policy.hpp.  Exec: core/exec.hpp.  The weights must outlive the transformer.
/// Threads: one at a time may call a transformer, whatever the sequences, because all calls share its scratch memory;
/// and one at a time may use a sequence, with whatever transformer.  A call that comes while another runs is refused
/// (contract_violation) and disturbs nothing.  Several transformers may share the weights of one checkpoint, which are
/// only read: a program that answers in several threads makes one for each.  A sequence may go on with any transformer
/// of the same weights.
template <numerics_policy P, execution E>
class transformer {
 public:
  using activation = act_t<P>;
  using wide = wide_t<E>;
  using memory = mem_of<E>;
  using sequence_type = dsv4::sequence<P, E>;

  /// New tokens of one sequence.
  struct input {
    sequence_type* sequence;
    std::span<const std::int32_t> ids;
  };
  /// New pairs of one sequence for MTP: the streams of positions i … and the tokens i+1 ….
  struct mtp_input_rows {
    sequence_type* sequence;
    std::span<const std::int32_t> next;
    view<activation, 3, memory> streams;  // [t, n, d]
  };
  /// Where results are written, in the executor's memory.  A view without rows is not filled.
  struct output {
    view<wide, 2, memory> logits;           // [t, v] every token of the batch in order, or …
    view<wide, 2, memory> last_logits;      // [sequences, v] only the last of each sequence
    view<activation, 3, memory> streams{};  // [t, n, d] of the last layer, for MTP
    view<activation, 3, memory> context{};  // [t, l, d] of DSpark's target layers, for its drafter
  };

  /// tokens_per_pass bounds the scratch memory: longer calls run in several passes, to the same bits.
  transformer(const config& c, const model_weights<>&& w, E e = {}, index_t tokens_per_pass = 512) = delete;
  transformer(const config& c, const model_weights<>& w, E e = {}, index_t tokens_per_pass = 512)
      : config_(c),
        source_(&w),
        exec_(e),
        weights_(prepare(exec_, w, c)),
        fingerprint_(fingerprint_of(w, c)),
        tokens_per_pass_(tokens_per_pass) {
    expects(tokens_per_pass > 0, "transformer: tokens_per_pass must be positive");
    expects_equal(static_cast<index_t>(w.layers.size()), c.num_hidden_layers,
                  "transformer: layers of the weights");
    expects(static_cast<index_t>(c.compress_ratios.size()) >=
                c.num_hidden_layers + static_cast<index_t>(w.mtp.size()),
            "transformer: compress_ratios needs one entry per layer and per MTP block");
    for (auto [ratio, table] : {std::pair{index_t{0}, &plain_}, std::pair{csa_ratio, &compressed_}}) {
      const tensor<float, 1> frequencies = rotary_frequencies(c, ratio);
      *table = tensor<float, 1, memory>(frequencies.extent(0));
      copy(exec_, frequencies.all(), table->all());
    }
  }

  const config& configuration() const& { return config_; }
  const config& configuration() const&& = delete;
  /// The weights that the constructor was called with, and where kernels read them.
  const model_weights<>& weights() const { return *source_; }
  const model_weights<storage_of<E>>& prepared() const { return weights_.tree(); }
  /// What says whose numbers a sequence holds (fingerprint.hpp).
  std::uint64_t fingerprint() const { return fingerprint_; }
  E& executor() { return exec_; }
  const E& executor() const { return exec_; }
  bool has_mtp() const { return !source_->mtp.empty(); }
  /// @throws unsupported "who: why there is no MTP module"
  void expect_mtp(const std::string& who) const {
    if (!has_mtp()) throw unsupported(who + no_mtp(*source_));
  }

  /// A fresh sequence.  @throws contract_violation beyond max_position_embeddings.
  sequence_type new_sequence(index_t max_tokens, index_t max_rewind = 0) const {
    return {config_, max_tokens, max_rewind};
  }

  /// Run the new tokens of every sequence of the batch (prefill, decode, or any chunk).
  /// @throws contract_violation for ids outside the vocabulary, tokens beyond a sequence's max_tokens, a sequence
  /// given twice or begun with other weights, outputs of the wrong shape, or a call while another runs.  Nothing has
  /// changed when it throws these.
  /// An exception from within (of an observer, or for want of memory) leaves every sequence with the tokens that it
  /// had: whole if at most max_rewind + 1 tokens of it were given; otherwise rows that it needs may be overwritten,
  /// and it refuses every further use until reset() (sequence::intact()).
  template <observer Tap = no_tap>
  void forward(std::span<const input> batch, const output& out, Tap&& tap = Tap{}) {
    const one_caller::scope alone(caller_, "transformer::forward");
    const auto ids = [](const input& i) { return i.ids; };
    const index_t rows = check(batch, "forward", ids, &sequence_type::length_);
    check_rows(out, rows, static_cast<index_t>(batch.size()));
    for (const input& i : batch)
      expects(!out.last_logits.data() || !i.ids.empty(),
              "forward: last_logits of a sequence without new tokens");
    auto seen = erased(tap);
    detail::lengths_unless_done undo(batch, &sequence_type::length_, &sequence_type::caller_, lengths_);
    kernel::scope<E>::run(exec_, [&] {
      for (index_t row = 0; row < rows; row += tokens_per_pass_) {
        collect(batch, row, ids, &sequence_type::length_);
        for (const segment& g : segments_)
          batch[std::size_t(g.sequence)].sequence->will_write(g.tokens(), fingerprint_);
        run_layers(out, row, seen);
        for (const segment& g : segments_) batch[std::size_t(g.sequence)].sequence->advance(g.tokens());
      }
    });
    undo.done = true;
  }

  /// One sequence, logits of every token.
  template <observer Tap = no_tap>
  void forward(sequence_type& s, std::span<const std::int32_t> ids, view<wide, 2, memory> logits,
               Tap&& tap = Tap{}) {
    const input one{&s, ids};
    forward(std::span(&one, 1), output{logits, {}}, tap);
  }

  /// Run MTP block 0 on pairs (streams of position i, token i+1).  Pairs must follow each other as the
  /// tokens did: a sequence's first pair has position mtp_length().  out.streams are the block's own: an
  /// estimate of the main model's at position i+1, the input of a second draft (gen/mtp_drafter.hpp);
  /// for a batch of one sequence they may be written over the input.
  /// @throws unsupported if the checkpoint has no MTP module; contract_violation as forward().
  template <observer Tap = no_tap>
  void forward_mtp(std::span<const mtp_input_rows> batch, const output& out, Tap&& tap = Tap{}) {
    const one_caller::scope alone(caller_, "transformer::forward_mtp");
    expect_mtp("forward_mtp");
    const auto next = [](const mtp_input_rows& i) { return i.next; };
    const index_t rows = check(batch, "forward_mtp", next, &sequence_type::mtp_length_);
    check_rows(out, rows, static_cast<index_t>(batch.size()));
    for (const mtp_input_rows& i : batch) {
      expects(!out.last_logits.data() || !i.next.empty(),
              "forward_mtp: last_logits of a sequence without new pairs");
      expects_equal(i.streams.extent(0), static_cast<index_t>(i.next.size()),
                    "forward_mtp: rows of streams against tokens");
      expects(i.streams.extent(1) == config_.hc_mult && i.streams.extent(2) == config_.hidden_size,
              "forward_mtp: streams must be [t, hc_mult, hidden_size]");
    }
    auto seen = erased(tap);
    detail::lengths_unless_done undo(batch, &sequence_type::mtp_length_, &sequence_type::caller_, lengths_);
    kernel::scope<E>::run(exec_, [&] {
      for (index_t row = 0; row < rows; row += tokens_per_pass_) {
        collect(batch, row, next, &sequence_type::mtp_length_);
        for (const segment& g : segments_)
          batch[std::size_t(g.sequence)].sequence->will_write_mtp(g.tokens(), fingerprint_);
        run_mtp(batch, out, row, seen);
        for (const segment& g : segments_) batch[std::size_t(g.sequence)].sequence->advance_mtp(g.tokens());
      }
    });
    undo.done = true;
  }

  /// The same, logits of every pair.
  template <observer Tap = no_tap>
  void forward_mtp(std::span<const mtp_input_rows> batch, view<wide, 2, memory> logits /*[t,v]*/,
                   Tap&& tap = Tap{}) {
    forward_mtp(batch, output{logits, {}}, tap);
  }

 private:
  // ---- the flat batch of a call: tokens of all its sequences, one after another, in passes

  /// Preconditions of a call; returns its number of rows.
  template <class Input, class Ids>
  index_t check(std::span<const Input> batch, const std::string& who, Ids ids_of,
                index_t sequence_type::*length) const {
    index_t rows = 0;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const sequence_type* s = batch[i].sequence;
      expects(s != nullptr, "forward: a null sequence");
      expects(s->fits(config_),
              "forward: a sequence of another model (make it with this model's new_sequence)");
      expects(s->can_go_on_with(fingerprint_),
              "forward: a sequence that other weights of the same sizes have begun: what it remembers means "
              "nothing to "
              "these (reset() it, or go on with the model that began it)");
      (length == &sequence_type::length_) ? s->expect_intact() : s->expect_mtp_intact();
      for (std::size_t j = 0; j < i; ++j)
        expects(batch[j].sequence != s, "forward: the same sequence twice in one batch");
      const auto ids = ids_of(batch[i]);
      const auto n = static_cast<index_t>(ids.size());
      if (s->*length + n > s->max_tokens_)
        throw contract_violation(who + ": " + std::to_string(n) + " tokens after position " +
                                 std::to_string(s->*length) + " exceed the sequence's max_tokens " +
                                 std::to_string(s->max_tokens_));
      for (const std::int32_t id : ids)
        if (id < 0 || id >= config_.vocab_size)
          throw contract_violation(who + ": token id " + std::to_string(id) +
                                   " is outside the vocabulary of " + std::to_string(config_.vocab_size));
      rows += n;
    }
    return rows;
  }
  void check_rows(const output& out, index_t rows, index_t sequences) const {
    const auto agree = [&](const view<wide, 2, memory>& v, index_t n, const char* shape) {
      if (v.data())
        expects_equal(v.extent(0), n, shape), expects_equal(v.extent(1), config_.vocab_size, shape);
    };
    agree(out.logits, rows, "forward: logits must be [tokens of the batch, vocabulary]");
    agree(out.last_logits, sequences, "forward: last_logits must be [sequences of the batch, vocabulary]");
    const auto whole = [&](const view<activation, 3, memory>& v, index_t n, const char* shape) {
      expects(!v.data() || v.extents() == std::array{rows, n, config_.hidden_size}, shape);
    };
    whole(out.streams, config_.hc_mult,
          "forward: streams must be [tokens of the batch, hc_mult, hidden_size]");
    whole(out.context, std::ssize(config_.dspark.target_layers),
          "forward: context must be [tokens of the batch, DSpark's target layers, hidden_size]");
  }
  /// Rows [row, row + tokens_per_pass) of the call, and which sequences they belong to.
  template <class Input, class Ids>
  void collect(std::span<const Input> batch, index_t row, Ids ids_of, index_t sequence_type::*length) {
    ids_.clear();
    segments_.clear();
    sequences_.clear();
    index_t first = 0;  // row of the call where a sequence's tokens begin
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const auto ids = ids_of(batch[i]);
      const index_t n = static_cast<index_t>(ids.size()), from = std::max(row - first, index_t{0}),
                    to = std::min(row + tokens_per_pass_ - first, n);
      if (from < to) {
        const auto begin = static_cast<index_t>(ids_.size());
        segments_.push_back(
            {begin, begin + to - from, batch[i].sequence->*length, static_cast<index_t>(i), from, to == n});
        sequences_.push_back(batch[i].sequence);
        ids_.insert(ids_.end(), ids.begin() + from, ids.begin() + to);
      }
      first += n;
    }
    states_.resize(sequences_.size());
  }
  std::span<attention_state<P, E>* const> states_of(index_t layer) {
    for (std::size_t i = 0; i < sequences_.size(); ++i) states_[i] = &sequences_[i]->state(layer);
    return states_;
  }
  rotary_context<memory> rotary_of(view<const float, 1, memory> inv_freq) {
    const auto t = static_cast<index_t>(ids_.size());
    const index_t pairs = config_.qk_rope_head_dim / 2;
    const rotary_context<memory> r{inv_freq,
                                   {take<float>(scratch_, t, pairs), take<float>(scratch_, t, pairs)}};
    const workspace::scope here(host_);
    const std::span<position_run> runs = take_list<position_run>(host_, segments_.size());
    for (std::size_t i = 0; i < runs.size(); ++i)
      runs[i] = {segments_[i].begin, segments_[i].end, segments_[i].start, 1};
    kernel::set_angles<E>::run(exec_, std::span<const position_run>(runs), inv_freq, r.angles);
    return r;
  }
  /// The pass's ids in the executor's memory.
  view<const std::int32_t, 1, memory> ids_of_pass() {
    const view<const std::int32_t, 1> ids(ids_.data(), static_cast<index_t>(ids_.size()));
    if constexpr (host_execution<E>) {
      return ids;
    } else {
      const auto there = take<std::int32_t>(scratch_, ids.extent(0));
      copy(exec_, ids, there);
      return there;
    }
  }
  template <class Tap>
  call_context<E, Tap> call_of(Tap& tap, tap_scope::part part, index_t number) {
    return {exec_, scratch_, host_, config_, {exec_, tap, segments_, {part, number}}};
  }

  // ---- the two programs, each for two observers: none, and any (defined below the class, so that a program
  //      that links dsv4::compiled finds them there instead of compiling the model again)

  void run_layers(const output& out, index_t row, no_tap& tap);
  void run_layers(const output& out, index_t row, any_tap& tap);
  void run_mtp(std::span<const mtp_input_rows> batch, const output& out, index_t row, no_tap& tap);
  void run_mtp(std::span<const mtp_input_rows> batch, const output& out, index_t row, any_tap& tap);

  template <class Tap>
  void layers_pass(const output& out, index_t row, Tap& tap) {
    const typename scratch_of<E>::scope here(scratch_);
    const config& c = config_;
    const auto t = static_cast<index_t>(ids_.size());
    const auto ids = ids_of_pass();
    const auto& w = weights_.tree();

    // Every stream starts as the token's embedding.
    auto h = take<activation>(scratch_, t, c.hc_mult, c.hidden_size);  // [t, n, d]
    {
      const typename scratch_of<E>::scope embedding(scratch_);
      auto token = take<activation>(scratch_, t, c.hidden_size);  // [t, d]
      embed(exec_, ids, w.embed, token);
      copy_to_streams(exec_, token, h);
    }

    // Layers; those that compress turn by their own rotary table.
    const auto plain = rotary_of(plain_), compressed = rotary_of(compressed_);
    for (index_t l = 0; l < c.num_hidden_layers; ++l) {
      const layer_batch<P, E> batch{segments_, ids, c.ratio(l), c.ratio(l) ? compressed : plain,
                                    states_of(l)};
      block(call_of(tap, tap_scope::part::layer, l), batch, w.layers[static_cast<std::size_t>(l)], h);
      if (out.context.data()) add_context(call_of(tap, tap_scope::part::layer, l), l, h, out.context, row);
    }
    read_out(out, row, h, tap_scope::part::head, {&w.hc_head, w.norm, &w.head}, tap);
  }

  template <class Tap>
  void mtp_pass(std::span<const mtp_input_rows> batch, const output& out, index_t row, Tap& tap) {
    const typename scratch_of<E>::scope here(scratch_);
    const config& c = config_;
    const auto t = static_cast<index_t>(ids_.size());
    const auto ids = ids_of_pass();
    const auto& model = weights_.tree();
    const auto& w = model.mtp[0];
    auto h = take<activation>(scratch_, t, c.hc_mult, c.hidden_size);  // [t, n, d]
    auto x = take<activation>(scratch_, t, c.hc_mult, c.hidden_size);  // [t, n, d]
    {
      using rows = view<const activation, 2, memory>;  // [t of one sequence, n d]
      const workspace::scope lists(host_);
      const std::span<rows> parts = take_list<rows>(host_, segments_.size());
      for (std::size_t i = 0; i < parts.size(); ++i) {
        const segment& g = segments_[i];
        parts[i] = batch[std::size_t(g.sequence)]
                       .streams.rows(g.offset, g.offset + g.tokens())
                       .reshape(g.tokens(), h.row_size());
      }
      kernel::join_rows<E>::run(exec_, std::span<const rows>(parts), h.reshape(t, h.row_size()));
    }

    const auto call = call_of(tap, tap_scope::part::mtp, 0);
    mtp_input<P>(call, ids, model.embed, w, h, x);
    const index_t ratio = c.mtp_ratio();
    const layer_batch<P, E> layer{segments_, ids, ratio, rotary_of(ratio ? compressed_ : plain_),
                                  states_of(c.num_hidden_layers)};
    block(call, layer, w.block, x);
    read_out(out, row, x, tap_scope::part::mtp_head, {&w.hc_head, w.norm, &model.head}, tap);
  }

  /// Streams h [t, n, d] of this pass, which begins at `row` of the call, to what the caller asked for.
  template <class Tap>
  void read_out(const output& out, index_t row, view<activation, 3, memory> h, tap_scope::part part,
                const head_weights<memory>& w, Tap& tap) {
    const index_t t = h.extent(0);
    if (out.streams.data()) copy(exec_, h, out.streams.rows(row, row + t));

    // Head: all rows, or the last one of each sequence.
    if (out.logits.data()) head(call_of(tap, part, 0), h, w, out.logits.rows(row, row + t));
    if (out.last_logits.data()) last_rows(out.last_logits, h, part, w);
  }
  /// Logits of the sequences whose last token is in this pass: neighbours in the caller's batch.
  void last_rows(view<wide, 2, memory> logits /*[sequences,v]*/, view<activation, 3, memory> h,
                 tap_scope::part part, const head_weights<memory>& w) {
    const typename scratch_of<E>::scope here(scratch_);
    const workspace::scope lists(host_);
    const std::span<index_t> which = take_list<index_t>(host_, segments_.size());
    index_t n = 0;
    for (const segment& g : segments_)
      if (g.last) which[static_cast<std::size_t>(n++)] = g.end - 1;
    if (n == 0) return;
    auto last = h;  // [n, streams, d]
    if (n < h.extent(0)) {
      last = take<activation>(scratch_, n, h.extent(1), h.extent(2));
      kernel::gather_rows<E>::run(
          exec_, view<const activation, 2, memory>(h.reshape(h.extent(0), h.row_size())),
          std::span<const index_t>(which.first(static_cast<std::size_t>(n))), last.reshape(n, h.row_size()));
    }
    no_tap quiet;
    const index_t first = segments_.front().sequence;
    head(call_of(quiet, part, 0), last, w, logits.rows(first, first + n));
  }

  config config_;
  const model_weights<>* source_;
  E exec_;
  prepared_weights<E> weights_;
  std::uint64_t fingerprint_;
  one_caller caller_;
  index_t tokens_per_pass_;
  tensor<float, 1, memory> plain_, compressed_;  // [rd/2] inverse frequencies of the two layer kinds
  scratch_of<E> scratch_;                        // of a pass
  workspace host_;                               // … and what the host decides about its launches
  std::vector<std::int32_t> ids_;
  std::vector<segment> segments_;
  std::vector<sequence_type*> sequences_;
  std::vector<attention_state<P, E>*> states_;
  std::vector<index_t> lengths_;  // of a call's sequences before it
};

template <numerics_policy P, execution E>
void transformer<P, E>::run_layers(const output& out, index_t row, no_tap& tap) {
  layers_pass(out, row, tap);
}
template <numerics_policy P, execution E>
void transformer<P, E>::run_layers(const output& out, index_t row, any_tap& tap) {
  layers_pass(out, row, tap);
}
template <numerics_policy P, execution E>
void transformer<P, E>::run_mtp(std::span<const mtp_input_rows> batch, const output& out, index_t row,
                                no_tap& tap) {
  mtp_pass(batch, out, row, tap);
}
template <numerics_policy P, execution E>
void transformer<P, E>::run_mtp(std::span<const mtp_input_rows> batch, const output& out, index_t row,
                                any_tap& tap) {
  mtp_pass(batch, out, row, tap);
}
DSV4_COMPILED_MODELS(class transformer)

}  // namespace dsv4
