// SPDX-License-Identifier: MIT
#pragma once
/// session.hpp for one policy and one executor.
#include <numeric>
#include <utility>

#include <dsv4/gen/conversation.hpp>

#include "session.hpp"

namespace cli {

template <dsv4::numerics_policy P, dsv4::execution E>
class model_session final : public session {
 public:
  model_session(const session_job& job, E executor)
      : model_(job.config, job.weights, executor),
        conversation_(model_, job.max_tokens, job.drafts),
        choose_(job.sampling, job.config.vocab_size, job.max_tokens) {}

  session_answer answer(std::span<const std::int32_t> ids, const dsv4::generate_options& options,
                        const std::function<bool(std::int32_t)>& on_token) override {
    const dsv4::speculative_generation r = conversation_.answer(ids, options, choose_, on_token);
    const auto sum = [](const std::vector<index_t>& v) {
      return std::accumulate(v.begin(), v.end(), index_t{0});
    };
    return {r, conversation_.reused(), sum(r.drafts.proposed), sum(r.drafts.accepted)};
  }
  void reset() override { conversation_.reset(); }
  index_t length() const override { return static_cast<index_t>(conversation_.ids().size()); }

  void save(const std::filesystem::path& path, std::string application) override {
    conversation_.save(path, identity(), choose_, std::move(application));
  }
  std::string load(const std::filesystem::path& path) override {
    return conversation_.load(path, identity(), choose_);
  }

 private:
  /// Reads a page of every matrix, so only when it is asked for.
  const dsv4::state_identity& identity() {
    if (identity_.config.empty()) identity_ = dsv4::identity_of(model_);
    return identity_;
  }

  dsv4::transformer<P, E> model_;
  dsv4::conversation<P, E> conversation_;
  dsv4::sampler choose_;
  dsv4::state_identity identity_;
};

}  // namespace cli
