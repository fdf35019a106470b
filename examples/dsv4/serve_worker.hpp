// SPDX-License-Identifier: MIT
#pragma once
/// The thread of the model: it alone calls the batcher (gen/batcher.hpp); everybody else leaves messages.
#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include <dsv4/gen/batch_request.hpp>
#include <dsv4/model/weights.hpp>

#include "commands.hpp"

namespace cli::serving {

/// A batcher behind virtual functions, so that nothing else knows policies and executors.
class batch_engine {
 public:
  virtual ~batch_engine() = default;
  virtual std::uint64_t submit(dsv4::batch_request, std::shared_ptr<dsv4::batch_listener>) = 0;
  virtual void cancel(std::uint64_t ticket) = 0;
  virtual bool step() = 0;
  virtual bool idle() const = 0;
  virtual index_t running() const = 0;
  virtual index_t queued() const = 0;
  virtual dsv4::batch_counts counts() const = 0;
  virtual index_t prefixes() const = 0;
  virtual index_t prefix_bytes() const = 0;
  /// Prefixes of a folder, and to it.  What the files of another model hold is left alone.  @returns how many
  virtual std::size_t load_prefixes(const std::filesystem::path& folder) = 0;
  virtual std::size_t save_prefixes(const std::filesystem::path& folder) = 0;
};

struct batch_job {
  const dsv4::config& config;
  const dsv4::model_weights<>& weights;
  dsv4::batch_limits limits;
  int threads = 0;
};
/// @throws usage_error  a combination that does not exist
std::unique_ptr<batch_engine> open_batch_engine(const engine_options& o, const batch_job& job);

class worker {
 public:
  using key = std::uint64_t;
  struct status {
    index_t running = 0, waiting = 0, prefixes = 0, prefix_bytes = 0;
    dsv4::batch_counts counts;
  };
  struct item {
    dsv4::batch_request request;
    std::shared_ptr<dsv4::batch_listener> listener;
  };

  /// most: requests that are worked on or wait.
  worker(std::unique_ptr<batch_engine> engine, index_t most);
  ~worker();
  worker(const worker&) = delete;
  worker& operator=(const worker&) = delete;

  /// All of them or, if there is no room, none.
  std::vector<key> submit(std::vector<item> items);
  void cancel(key k);
  status now() const;
  /// Ends the thread once nothing is left to do; the engine is then the caller's.
  batch_engine& join();

 private:
  struct relay;
  struct message {
    key k;
    std::unique_ptr<item> what;  // null: cancel
  };
  void loop();
  void obey(message& m);
  void done(key k);

  std::unique_ptr<batch_engine> engine_;
  index_t most_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<message> inbox_;
  index_t outstanding_ = 0;
  key last_ = 0;
  bool stop_ = false;
  status status_;
  std::unordered_map<key, std::uint64_t> tickets_;  // the thread's own
  std::thread thread_;
};

}  // namespace cli::serving
