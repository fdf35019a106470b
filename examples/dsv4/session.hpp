// SPDX-License-Identifier: MIT
#pragma once
/// A conversation with a model behind virtual functions, so that dsv4 chat knows no policy and no executor.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include <dsv4/gen/draft_settings.hpp>
#include <dsv4/gen/generate.hpp>
#include <dsv4/gen/sampling.hpp>

namespace cli {

using dsv4::index_t;

struct session_job {
  const dsv4::config& config;
  const dsv4::model_weights<>& weights;
  dsv4::sampling sampling;
  index_t max_tokens = 0;
  dsv4::draft_settings drafts;  ///< per call
  int threads = 0;
};

struct session_answer {
  dsv4::generation generated;
  index_t reused = 0;  ///< tokens of the prompt that were not read again
  index_t drafted = 0, accepted = 0;
};

class session {
 public:
  virtual ~session() = default;

  /// gen/conversation.hpp, answer()
  virtual session_answer answer(std::span<const std::int32_t> ids, const dsv4::generate_options& options,
                                const std::function<bool(std::int32_t)>& on_token) = 0;
  virtual void reset() = 0;
  virtual index_t length() const = 0;  ///< tokens read

  /// gen/state_file.hpp; `application` are the program's own bytes.
  virtual void save(const std::filesystem::path& path, std::string application) = 0;
  virtual std::string load(const std::filesystem::path& path) = 0;
};

}  // namespace cli
