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
#include <memory>

#include "mtp.hpp"

namespace dsv4 {

/// The memory of one sequence: what every layer's attention remembers, and how many tokens it has seen.
/// A value: copying it forks the sequence (beam search, shared prompts).
template <numerics_policy P, execution E>
class sequence {
 public:
  sequence() = default;
  /// max_tokens: the longest it can get; max_rewind: how many tokens it can take back at any time.
  /// @throws contract_violation if max_tokens exceeds the model's max_position_embeddings.
  sequence(const config& c, index_t max_tokens, index_t max_rewind)
      : max_tokens_(max_tokens), max_rewind_(max_rewind) {
    expects(max_tokens >= 0 && max_rewind >= 0, "sequence: negative size");
    if (max_tokens > c.max_position_embeddings)
      throw contract_violation("sequence: " + std::to_string(max_tokens) +
                               " tokens, but the model's context ends at " +
                               std::to_string(c.max_position_embeddings) + " (max_position_embeddings)");
    for (index_t l = 0; l < static_cast<index_t>(c.compress_ratios.size()); ++l)
      states_.push_back({c, c.ratio(l), max_tokens, max_rewind});
  }

  index_t length() const { return length_; }
  index_t mtp_length() const { return mtp_length_; }
  index_t max_tokens() const { return max_tokens_; }
  index_t max_rewind() const { return max_rewind_; }
  /// The earliest position that rewind() and rewind_mtp() can reach, besides 0.  A sequence that was loaded
  /// (gen/state_file.hpp) or begins with a reused prefix (gen/prefix_cache.hpp) has no rows before its floor.
  index_t rewind_limit() const { return std::max(floor_, high_water_ - max_rewind_); }
  index_t mtp_rewind_limit() const { return std::max(mtp_floor_, mtp_high_water_ - max_rewind_ - 1); }

  /// Forget everything; the next token has position 0.
  void reset() { length_ = mtp_length_ = high_water_ = mtp_high_water_ = floor_ = mtp_floor_ = 0; }

  /// Take tokens back: the sequence is as it was after its first `position` tokens.  MTP pairs that saw a
  /// token taken back go too: pair i holds token i+1, so at most position - 1 pairs stay.
  /// @throws contract_violation if position is below rewind_limit(): more than max_rewind tokens back.
  void rewind(index_t position) {
    expects_in(position, 0, length_ + 1, "sequence::rewind: position");
    if (position == length_) return;
    if (position == 0) return reset();
    expects(position >= rewind_limit(),
            "sequence::rewind: that many tokens cannot be taken back; make the sequence with a larger "
            "max_rewind");
    if (mtp_length_ >= position) rewind_mtp(position - 1);
    length_ = position;
  }
  /// The same for the MTP module alone; it can go one pair further (a ring has one row more than a window needs).
  void rewind_mtp(index_t position) {
    expects_in(position, 0, mtp_length_ + 1, "sequence::rewind_mtp: position");
    expects(position == 0 || position >= mtp_rewind_limit(),
            "sequence::rewind_mtp: that many tokens cannot be taken back; make the sequence with a larger "
            "max_rewind");
    mtp_length_ = position;
    if (position == 0) mtp_high_water_ = mtp_floor_ = 0;
  }

  /// What layer l remembers (MTP blocks come after the layers).
  const attention_state<P, E>& layer(index_t l) const { return states_[static_cast<std::size_t>(l)]; }

 private:
  template <numerics_policy, execution>
  friend class transformer;
  template <numerics_policy, execution>
  friend struct sequence_access;  // gen/state.hpp: writes a sequence down and makes it again

  /// Was this sequence made for such a model?
  bool fits(const config& c) const {
    bool same = states_.size() == c.compress_ratios.size();
    for (std::size_t l = 0; same && l < states_.size(); ++l)
      same = states_[l].fits(c, c.ratio(static_cast<index_t>(l)), max_tokens_, max_rewind_);
    return same;
  }
  attention_state<P, E>& state(index_t l) { return states_[static_cast<std::size_t>(l)]; }
  void advance(index_t n) {
    length_ += n;
    high_water_ = std::max(high_water_, length_);
  }
  void advance_mtp(index_t n) {
    mtp_length_ += n;
    mtp_high_water_ = std::max(mtp_high_water_, mtp_length_);
  }

  std::vector<attention_state<P, E>> states_;  // [layers + mtp blocks]
  index_t length_ = 0, mtp_length_ = 0, max_tokens_ = 0, max_rewind_ = 0;
  // Rings hold rows up to the longest length reached: what a rewind may still find.
  index_t high_water_ = 0, mtp_high_water_ = 0;
  index_t floor_ = 0, mtp_floor_ = 0;  // rows from before these were never there
};

/// Policy: num/policy.hpp.  Exec: core/exec.hpp.  The weights must outlive the transformer.
template <numerics_policy P, execution E>
class transformer {
 public:
  using activation = act_t<P>;
  using wide = wide_t<E>;
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
    view<activation, 3> streams;  // [t, n, d]
  };
  /// Where results go; a view without rows is not filled.
  struct output {
    view<wide, 2> logits;           // [t, v] every token of the batch in order, or …
    view<wide, 2> last_logits;      // [sequences, v] only the last of each sequence
    view<activation, 3> streams{};  // [t, n, d] of the last layer, for MTP
  };

  /// tokens_per_pass bounds the scratch memory: longer calls run in several passes, to the same bits.
  transformer(const config& c, const model_weights<>& w, E e = {}, index_t tokens_per_pass = 512)
      : config_(c), weights_(&w), exec_(e), tokens_per_pass_(tokens_per_pass) {
    expects(tokens_per_pass > 0, "transformer: tokens_per_pass must be positive");
    expects_equal(static_cast<index_t>(w.layers.size()), c.num_hidden_layers,
                  "transformer: layers of the weights");
    expects(static_cast<index_t>(c.compress_ratios.size()) >=
                c.num_hidden_layers + static_cast<index_t>(w.mtp.size()),
            "transformer: compress_ratios needs one entry per layer and per MTP block");
    plain_ = rotary_frequencies(c, 0);
    compressed_ = rotary_frequencies(c, csa_ratio);
  }

  const config& configuration() const { return config_; }
  const model_weights<>& weights() const { return *weights_; }
  E& executor() { return exec_; }
  bool has_mtp() const { return !weights_->mtp.empty(); }

  /// A fresh sequence.  @throws contract_violation beyond max_position_embeddings.
  sequence_type new_sequence(index_t max_tokens, index_t max_rewind = 0) const {
    return {config_, max_tokens, max_rewind};
  }

  /// Run the new tokens of every sequence of the batch (prefill, decode, or any chunk).
  /// @throws contract_violation for ids outside the vocabulary, tokens beyond a sequence's max_tokens,
  /// a sequence given twice, or outputs of the wrong shape.  Nothing has changed when it throws.
  template <observer Tap = no_tap>
  void forward(std::span<const input> batch, const output& out, Tap&& tap = Tap{}) {
    const index_t rows =
        check(batch, "forward", [](const input& i) { return i.ids; }, &sequence_type::length_);
    check_rows(out, rows, static_cast<index_t>(batch.size()));
    for (const input& i : batch)
      expects(!out.last_logits.data() || !i.ids.empty(),
              "forward: last_logits of a sequence without new tokens");
    kernel::scope<E>::run(exec_, [&] {
      for (index_t row = 0; row < rows; row += tokens_per_pass_) {
        collect(batch, row, [](const input& i) { return i.ids; }, &sequence_type::length_);
        run_layers(out, row, tap);
        for (const segment& g : segments_) batch[std::size_t(g.sequence)].sequence->advance(g.tokens());
      }
    });
  }

  /// One sequence, logits of every token.
  template <observer Tap = no_tap>
  void forward(sequence_type& s, std::span<const std::int32_t> ids, view<wide, 2> logits, Tap&& tap = Tap{}) {
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
    if (!has_mtp()) throw unsupported("forward_mtp: this checkpoint has no MTP module (mtp.0.*)");
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
    kernel::scope<E>::run(exec_, [&] {
      for (index_t row = 0; row < rows; row += tokens_per_pass_) {
        collect(batch, row, next, &sequence_type::mtp_length_);
        run_mtp(batch, out, row, tap);
        for (const segment& g : segments_) batch[std::size_t(g.sequence)].sequence->advance_mtp(g.tokens());
      }
    });
  }

  /// The same, logits of every pair.
  template <observer Tap = no_tap>
  void forward_mtp(std::span<const mtp_input_rows> batch, view<wide, 2> logits /*[t,v]*/, Tap&& tap = Tap{}) {
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
    const auto agree = [&](const view<wide, 2>& v, index_t n, const char* shape) {
      if (!v.data()) return;
      expects_equal(v.extent(0), n, shape);
      expects_equal(v.extent(1), config_.vocab_size, shape);
    };
    agree(out.logits, rows, "forward: logits must be [tokens of the batch, vocabulary]");
    agree(out.last_logits, sequences, "forward: last_logits must be [sequences of the batch, vocabulary]");
    if (!out.streams.data()) return;
    expects_equal(out.streams.extent(0), rows, "forward: rows of streams");
    expects(out.streams.extent(1) == config_.hc_mult && out.streams.extent(2) == config_.hidden_size,
            "forward: streams must be [t, hc_mult, hidden_size]");
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
  rotary_context rotary_of(view<const float, 1> inv_freq) {
    const auto t = static_cast<index_t>(ids_.size());
    const index_t pairs = config_.qk_rope_head_dim / 2;
    rotary_context r{inv_freq, {scratch_.take<float>(t, pairs), scratch_.take<float>(t, pairs)}};
    for (const segment& g : segments_)
      for (index_t i = g.begin; i < g.end; ++i) r.angles.set(i, g.start + i - g.begin, inv_freq);
    return r;
  }

  // ---- the two programs

  template <class Tap>
  void run_layers(const output& out, index_t row, Tap& tap) {
    workspace::scope here(scratch_);
    const config& c = config_;
    const auto t = static_cast<index_t>(ids_.size());

    // Every stream starts as the token's embedding.
    auto h = scratch_.take<activation>(t, c.hc_mult, c.hidden_size);  // [t, n, d]
    {
      workspace::scope embedding(scratch_);
      auto row = scratch_.take<activation>(t, c.hidden_size);
      embed(std::span<const std::int32_t>(ids_), weights_->embed, row);
      copy_to_streams(view<const activation, 2>(row), h);
    }

    // Layers; those that compress turn by their own rotary table.
    const rotary_context plain = rotary_of(plain_), compressed = rotary_of(compressed_);
    for (index_t l = 0; l < c.num_hidden_layers; ++l) {
      const tapper<Tap> at{tap, segments_, {tap_scope::part::layer, l}};
      block<P>(exec_, scratch_, at, c, c.ratio(l), ids_, c.ratio(l) ? compressed : plain,
               weights_->layers[static_cast<std::size_t>(l)], states_of(l), h);
    }
    read_out(out, row, h, tap_scope::part::head, {&weights_->hc_head, weights_->norm, &weights_->head}, tap);
  }

  template <class Tap>
  void run_mtp(std::span<const mtp_input_rows> batch, const output& out, index_t row, Tap& tap) {
    workspace::scope here(scratch_);
    const config& c = config_;
    const auto t = static_cast<index_t>(ids_.size());
    const mtp_weights<>& w = weights_->mtp[0];
    auto h = scratch_.take<activation>(t, c.hc_mult, c.hidden_size);  // [t, n, d]
    auto x = scratch_.take<activation>(t, c.hc_mult, c.hidden_size);  // [t, n, d]
    for (const segment& g : segments_)
      std::copy_n(batch[std::size_t(g.sequence)].streams[g.offset].data(), g.tokens() * h.row_size(),
                  h[g.begin].data());

    mtp_input<P>(exec_, scratch_, c, std::span<const std::int32_t>(ids_), weights_->embed, w, h, x);
    const index_t ratio = c.mtp_ratio();
    const rotary_context rotary = rotary_of(ratio ? compressed_ : plain_);
    const tapper<Tap> at{tap, segments_, {tap_scope::part::mtp, 0}};
    block<P>(exec_, scratch_, at, c, ratio, ids_, rotary, w.block, states_of(c.num_hidden_layers), x);
    read_out(out, row, x, tap_scope::part::mtp_head, {&w.hc_head, w.norm, &weights_->head}, tap);
  }

  /// Streams h [t, n, d] of this pass, which begins at `row` of the call, to what the caller asked for.
  template <class Tap>
  void read_out(const output& out, index_t row, view<activation, 3> h, tap_scope::part part,
                const head_weights& w, Tap& tap) {
    const index_t t = h.extent(0);
    if (out.streams.data()) std::copy(h.begin(), h.end(), out.streams.rows(row, row + t).begin());

    // Head: all rows, or the last one of each sequence.
    const tapper<Tap> at{tap, segments_, {part, 0}};
    if (out.logits.data()) head(exec_, scratch_, at, config_, h, w, out.logits.rows(row, row + t));
    if (out.last_logits.data())
      for (const segment& g : segments_)
        if (g.last) {
          no_tap none;
          const tapper<no_tap> quiet{none, {}, {part, 0}};
          head(exec_, scratch_, quiet, config_, h.rows(g.end - 1, g.end), w,
               out.last_logits.rows(g.sequence, g.sequence + 1));
        }
  }

  config config_;
  const model_weights<>* weights_;
  E exec_;
  index_t tokens_per_pass_;
  tensor<float, 1> plain_, compressed_;  // [rd/2] inverse frequencies of the two layer kinds
  workspace scratch_;
  std::vector<std::int32_t> ids_;
  std::vector<segment> segments_;
  std::vector<sequence_type*> sequences_;
  std::vector<attention_state<P, E>*> states_;
};

}  // namespace dsv4
