// SPDX-License-Identifier: MIT
#pragma once
/// What a batcher (batcher.hpp) is asked for and whom it answers, without the model.
#include <cstdint>
#include <exception>
#include <optional>
#include <span>
#include <vector>

#include "log_probability.hpp"
#include "sampling.hpp"
#include "stop_reason.hpp"

namespace dsv4 {

struct batch_limits {
  index_t running = 16;           ///< requests that are worked on at the same time
  index_t queued = 64;            ///< requests that wait, at most
  index_t tokens_per_step = 256;  ///< of all sequences together; at least `running`
  index_t tokens_in_memory = 0;   ///< prompts and answers of all that run, at their longest; 0: no limit
  index_t prefix_bytes = 0;       ///< kept of prompts and answers, to be reused; 0: none
};

struct batch_request {
  std::vector<std::int32_t> ids;       ///< the prompt
  index_t max_new = 0;                 ///< at least 1
  std::vector<std::int32_t> stop_ids;  ///< any of these ends the answer, and is its last token
  dsv4::sampling sampling;
  std::optional<index_t> logprobs{};  ///< so many of the likeliest tokens at each place
};

struct batch_token {
  std::int32_t id;
  double log_probability;                  ///< if asked for
  std::span<const token_probability> top;  ///< the same
};

/// Who waits for an answer.  Called from within step(); must not call the batcher.
struct batch_listener {
  virtual ~batch_listener() = default;
  /// The prompt begins to be read; `reused` of its tokens need not be.
  virtual void begin(index_t reused) = 0;
  /// @returns whether another token is wanted
  virtual bool token(const batch_token&) = 0;
  virtual void end(stop_reason) = 0;
  virtual void failed(std::exception_ptr) = 0;
};

/// The queue is full: come back later.
struct batch_full : error {
  using error::error;
};

struct batch_counts {
  index_t steps = 0, tokens_read = 0, tokens_made = 0, tokens_reused = 0;
  index_t ended = 0, cancelled = 0, failed = 0;
};

}  // namespace dsv4
