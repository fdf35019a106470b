// SPDX-License-Identifier: MIT
#pragma once
/// A transformer<Policy, Exec> that stays, with its sequences, behind virtual functions: every combination is compiled in
/// one of engine_*.cpp, and the files that know Python know none of them.
#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <dsv4/core/config.hpp>
#include <dsv4/core/tap.hpp>
#include <dsv4/model/weights.hpp>

namespace dsv4_python {

using dsv4::index_t;

/// model/sequence.hpp
class any_sequence {
 public:
  virtual ~any_sequence() = default;
  virtual std::unique_ptr<any_sequence> copy() const = 0;
  virtual index_t length() const = 0;
  virtual index_t max_tokens() const = 0;
  virtual index_t max_rewind() const = 0;
  virtual index_t rewind_limit() const = 0;
  virtual bool intact() const = 0;
  virtual void rewind(index_t position) = 0;
};

struct new_tokens {
  any_sequence* sequence;
  std::span<const std::int32_t> ids;
};

/// Where logits go: rows of the engine's logits_type(); nullptr: nowhere.
struct logits_memory {
  void* data = nullptr;
  bool last_only = false;  ///< one row for each sequence instead of one for each token
};

using tap_function = std::function<void(const dsv4::tap_event&)>;

struct loaded_sequence {
  std::unique_ptr<any_sequence> sequence;
  std::vector<std::int32_t> ids;
  std::string application;
};

class engine {
 public:
  virtual ~engine() = default;
  /// F64, or F32 of the executor cpu_fast.
  virtual dsv4::dtype logits_type() const = 0;
  virtual std::unique_ptr<any_sequence> new_sequence(index_t max_tokens, index_t max_rewind) const = 0;
  /// An empty `tap` is no observer at all.
  virtual void forward(std::span<const new_tokens> batch, const logits_memory& logits,
                       const tap_function& tap) = 0;
  /// gen/state_file.hpp
  virtual void save(const std::filesystem::path& path, const any_sequence& s,
                    std::span<const std::int32_t> ids, std::string application) = 0;
  virtual loaded_sequence load(const std::filesystem::path& path, index_t max_tokens, index_t max_rewind) = 0;
};

struct engine_job {
  const dsv4::config& config;
  const dsv4::model_weights<>& weights;
  int threads = 0;
  index_t tokens_per_pass = 0;
};

using open_engine = std::unique_ptr<engine>(const engine_job&);
open_engine official_ref, official_cpu, official_cpu_fast, float32_ref, float32_cpu, float32_cpu_fast;

}  // namespace dsv4_python
