// SPDX-License-Identifier: MIT
#pragma once
/// engine.hpp for one policy and one executor; include the executor's kernels first.
#include <dsv4/gen/state_file.hpp>

#include "engine.hpp"

namespace dsv4_python {

template <dsv4::numerics_policy P, dsv4::execution E>
class sequence_of final : public any_sequence {
 public:
  explicit sequence_of(dsv4::sequence<P, E> s) : value(std::move(s)) {}
  std::unique_ptr<any_sequence> copy() const override { return std::make_unique<sequence_of>(value); }
  index_t length() const override { return value.length(); }
  index_t max_tokens() const override { return value.max_tokens(); }
  index_t max_rewind() const override { return value.max_rewind(); }
  index_t rewind_limit() const override { return value.rewind_limit(); }
  bool intact() const override { return value.intact(); }
  void rewind(index_t position) override { value.rewind(position); }

  dsv4::sequence<P, E> value;
};

template <dsv4::numerics_policy P, dsv4::execution E>
class engine_of final : public engine {
  using model_type = dsv4::transformer<P, E>;
  using wide = dsv4::wide_t<E>;

 public:
  explicit engine_of(const engine_job& job)
      : model_(job.config, job.weights, executor(job.threads), job.tokens_per_pass) {}

  dsv4::dtype logits_type() const override { return dsv4::dtype_of<wide>; }
  std::unique_ptr<any_sequence> new_sequence(index_t max_tokens, index_t max_rewind) const override {
    return std::make_unique<sequence_of<P, E>>(model_.new_sequence(max_tokens, max_rewind));
  }

  void forward(std::span<const new_tokens> batch, const logits_memory& logits,
               const tap_function& tap) override {
    index_t rows = 0;
    inputs_.clear();
    for (const new_tokens& n : batch) {
      inputs_.push_back({&own(*n.sequence).value, n.ids});
      rows += static_cast<index_t>(n.ids.size());
    }
    typename model_type::output out{};
    const index_t v = model_.configuration().vocab_size;
    if (logits.last_only)
      out.last_logits = {static_cast<wide*>(logits.data), static_cast<index_t>(batch.size()), v};
    else
      out.logits = {static_cast<wide*>(logits.data), rows, v};
    if (!tap) return model_.forward(inputs_, out);
    observer seen{tap};
    model_.forward(inputs_, out, seen);
  }

  void save(const std::filesystem::path& path, const any_sequence& s, std::span<const std::int32_t> ids,
            std::string application) override {
    dsv4::state_extras<P, E> extras;
    extras.ids.assign(ids.begin(), ids.end());
    extras.application = std::move(application);
    dsv4::save_state(path, identity(), model_, own(s).value, extras);
  }
  loaded_sequence load(const std::filesystem::path& path, index_t max_tokens, index_t max_rewind) override {
    auto found = dsv4::load_state(path, identity(), model_, {max_tokens, max_rewind});
    found.extras.ids.resize(static_cast<std::size_t>(found.sequence.length()));
    return {std::make_unique<sequence_of<P, E>>(std::move(found.sequence)), std::move(found.extras.ids),
            std::move(found.extras.application)};
  }

 private:
  struct observer {
    static constexpr bool on = true;
    const tap_function& f;
    void operator()(const dsv4::tap_event& e) const { f(e); }
  };
  static E executor(int threads) {
    E e{};
    if constexpr (requires { e.threads; }) e.threads = threads;
    return e;
  }
  /// Sequences are made by this model alone (model.hpp compares), so the type is known.
  static sequence_of<P, E>& own(any_sequence& s) { return static_cast<sequence_of<P, E>&>(s); }
  static const sequence_of<P, E>& own(const any_sequence& s) {
    return static_cast<const sequence_of<P, E>&>(s);
  }
  /// Reads a page of every matrix, so only when it is asked for.
  const dsv4::state_identity& identity() {
    if (identity_.config.empty()) identity_ = dsv4::identity_of(model_);
    return identity_;
  }

  model_type model_;
  std::vector<typename model_type::input> inputs_;
  dsv4::state_identity identity_;
};

template <dsv4::numerics_policy P, dsv4::execution E>
std::unique_ptr<engine> open(const engine_job& job) {
  return std::make_unique<engine_of<P, E>>(job);
}

}  // namespace dsv4_python
