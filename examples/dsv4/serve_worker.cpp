// SPDX-License-Identifier: MIT
#include "serve_worker.hpp"

#include <cstdio>
#include <cstdlib>
#include <utility>

namespace cli::serving {

/// Tells the worker when a request is over, and everything else to whom it belongs.
struct worker::relay final : dsv4::batch_listener {
  relay(worker& w, key n, std::shared_ptr<dsv4::batch_listener> t) : who(w), k(n), to(std::move(t)) {}
  void begin(index_t reused) override { to->begin(reused); }
  bool token(const dsv4::batch_token& t) override { return to->token(t); }
  void end(dsv4::stop_reason r) override {
    who.done(k);
    to->end(r);
  }
  void failed(std::exception_ptr e) override {
    who.done(k);
    to->failed(e);
  }
  worker& who;
  key k;
  std::shared_ptr<dsv4::batch_listener> to;
};

worker::worker(std::unique_ptr<batch_engine> engine, index_t most)
    : engine_(std::move(engine)), most_(most), thread_([this] { loop(); }) {}
worker::~worker() { join(); }

std::vector<worker::key> worker::submit(std::vector<item> items) {
  std::vector<key> keys;
  {
    const std::lock_guard lock(mutex_);
    const auto n = static_cast<index_t>(items.size());
    if (outstanding_ + n > most_) return keys;
    outstanding_ += n;
    for (item& i : items) {
      keys.push_back(++last_);
      inbox_.push_back({last_, std::make_unique<item>(std::move(i))});
    }
  }
  wake_.notify_one();
  return keys;
}
void worker::cancel(key k) {
  {
    const std::lock_guard lock(mutex_);
    inbox_.push_back({k, nullptr});
  }
  wake_.notify_one();
}
worker::status worker::now() const {
  const std::lock_guard lock(mutex_);
  status s = status_;
  s.waiting = outstanding_ - s.running;
  return s;
}
batch_engine& worker::join() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
  return *engine_;
}

void worker::done(key k) {
  if (tickets_.erase(k) == 0) return;
  const std::lock_guard lock(mutex_);
  --outstanding_;
}

void worker::obey(message& m) {
  if (!m.what) {
    const auto known = tickets_.find(m.k);
    if (known == tickets_.end()) return;  // over already
    engine_->cancel(known->second);
    return done(m.k);
  }
  tickets_[m.k] = 0;
  const auto listener = std::make_shared<relay>(*this, m.k, m.what->listener);
  try {
    const std::uint64_t ticket = engine_->submit(std::move(m.what->request), listener);
    tickets_[m.k] = ticket;
  } catch (...) {
    listener->failed(std::current_exception());
  }
}

void worker::loop() try {
  std::vector<message> mail;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      status_ = {engine_->running(), 0, engine_->prefixes(), engine_->prefix_bytes(), engine_->counts()};
      wake_.wait(lock, [&] { return stop_ || !inbox_.empty() || !engine_->idle(); });
      if (stop_ && inbox_.empty() && engine_->idle()) return;
      mail.swap(inbox_);
    }
    for (message& m : mail) obey(m);
    mail.clear();
    engine_->step();
  }
} catch (const std::exception& e) {
  // Nothing that a request does leads here (gen/batcher.hpp): the program cannot go on, and whoever watches it should
  // start it again.
  std::fprintf(stderr, "dsv4: the model's thread has failed: %s\n", e.what());
  std::fflush(stderr);
  std::_Exit(EXIT_FAILURE);
}

}  // namespace cli::serving
