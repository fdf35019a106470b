// SPDX-License-Identifier: MIT
#pragma once
/// One request on its way: its answers run in the model's thread, its words are made in the thread of the connections.
#include <functional>
#include <memory>
#include <string>

#include "serve_protocol.hpp"
#include "serve_worker.hpp"

namespace cli::serving {

/// Where an answer goes.
struct outlet {
  virtual ~outlet() = default;
  virtual void begin_stream() = 0;
  virtual void stream(std::string bytes) = 0;
  virtual void end_stream() = 0;
  virtual void whole(std::string body) = 0;
  virtual void fault(int status, const std::string& what) = 0;  ///< before anything was sent
};

class exchange {
 public:
  virtual ~exchange() = default;
  /// False: the queue is full.
  virtual bool start(std::weak_ptr<outlet> to) = 0;
  /// Nobody wants it any more.
  virtual void cancel() = 0;
};

struct exchange_options {
  std::function<void(std::function<void()>)> post;  ///< runs it in the thread of the connections
  std::function<void(double)> first_token;          ///< told the seconds to the first token
};
std::shared_ptr<exchange> make_exchange(const served_model& m, answer_request r, std::unique_ptr<reply> words,
                                        worker& w, exchange_options o);

}  // namespace cli::serving
