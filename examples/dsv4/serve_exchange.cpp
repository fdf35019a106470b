// SPDX-License-Identifier: MIT
#include "serve_exchange.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <utility>
#include <vector>

#include "serve_answer.hpp"

namespace cli::serving {
namespace {

class running_exchange final : public exchange, public std::enable_shared_from_this<running_exchange> {
 public:
  using clock = std::chrono::steady_clock;

  running_exchange(const served_model& m, answer_request r, std::unique_ptr<reply> words, worker& w,
                   exchange_options o)
      : model_(m), request_(std::move(r)), reply_(std::move(words)), worker_(w), o_(std::move(o)) {
    for (std::size_t i = 0; i < request_.choices(); ++i) readers_.emplace_back(m, request_);
    for (const auto& p : request_.prompts) usage_.prompt += static_cast<index_t>(p.size());
  }

  bool start(std::weak_ptr<outlet> to) override {
    to_ = std::move(to);
    std::vector<worker::item> items;
    for (std::size_t i = 0; i < readers_.size(); ++i) {
      const auto& prompt = request_.prompt_of(i);
      dsv4::sampling s = request_.sampling;
      const std::size_t again = i % static_cast<std::size_t>(request_.n);  // answer 0 has the seed itself
      if (again > 0) s.seed = dsv4::splitmix64(s.seed, again);
      if (request_.limit) {
        dsv4::grammar_constraint::options o{.prompt = static_cast<index_t>(prompt.size()),
                                            .end_ids = model_.stop_ids};
        if (request_.mode == text::thinking_mode::thinking) o.after = model_.think_end;
        s.constrain = dsv4::grammar_constraint(request_.limit, model_.spellings, std::move(o));
      }
      items.push_back({{prompt, request_.max_new, model_.stop_ids, std::move(s), request_.logprobs},
                       std::make_shared<relay>(shared_from_this(), i)});
    }
    keys_ = worker_.submit(std::move(items));
    return !keys_.empty();
  }
  void cancel() override {
    if (gone_.exchange(true)) return;
    for (const worker::key k : keys_) worker_.cancel(k);
  }

 private:
  bool over() const { return ended_ == readers_.size() || gone_; }

  /// In the model's thread.
  struct relay final : dsv4::batch_listener {
    relay(std::shared_ptr<running_exchange> e, std::size_t i) : to(std::move(e)), choice(i) {}
    void begin(index_t reused) override {
      to->o_.post([e = to, i = choice, reused] { e->on_begin(i, reused); });
    }
    bool token(const dsv4::batch_token& t) override {
      token_entry entry{t.id, t.log_probability, {t.top.begin(), t.top.end()}};
      to->o_.post([e = to, i = choice, entry = std::move(entry)]() mutable { e->on_token(i, entry); });
      return true;  // who has gone is told by cancel()
    }
    void end(dsv4::stop_reason why) override {
      to->o_.post([e = to, i = choice, why] { e->on_end(i, why); });
    }
    void failed(std::exception_ptr why) override {
      int status = 500;
      std::string what = "the model failed";
      try {
        std::rethrow_exception(why);
      } catch (const dsv4::contract_violation&
                   e) {  // of the library's preconditions, requests can break these only
        status = 400;
        what = e.what();
      } catch (const std::exception& e) {
        what = e.what();
      }
      to->o_.post([e = to, status, what] { e->on_failed(status, what); });
    }
    std::shared_ptr<running_exchange> to;
    std::size_t choice;
  };

  double seconds() const { return std::chrono::duration<double>(clock::now() - start_).count(); }

  void on_begin(std::size_t i, index_t reused) {
    if (over()) return;
    if (i % static_cast<std::size_t>(request_.n) == 0) usage_.reused += reused;
    if (begun_) return;
    begun_ = true;
    if (request_.stream)
      if (const auto to = to_.lock()) to->begin_stream();
    std::string out;
    reply_->begun(usage_, out);
    send(std::move(out));
  }
  void on_token(std::size_t i, token_entry& t) {
    answer_reader& r = readers_[i];
    if (over() || r.over()) return;
    if (o_.first_token) std::exchange(o_.first_token, {})(seconds());
    r.token(t.id);
    t.reasoning = r.in_reasoning();
    t.end = std::find(model_.stop_ids.begin(), model_.stop_ids.end(), t.id) != model_.stop_ids.end();
    std::string out;
    reply_->add(i, r.take(), &t, out);
    if (r.over()) {
      worker_.cancel(keys_[i]);
      close(i, out);
    }
    send(std::move(out));
    conclude();
  }
  void on_end(std::size_t i, dsv4::stop_reason why) {
    answer_reader& r = readers_[i];
    if (over() || r.over()) return;
    r.end(why);
    std::string out;
    reply_->add(i, r.take(), nullptr, out);
    close(i, out);
    send(std::move(out));
    conclude();
  }
  void on_failed(int status, const std::string& what) {
    if (over()) return;
    cancel();
    const auto to = to_.lock();
    if (!to) return;
    if (!request_.stream || !begun_) return to->fault(status, what);
    std::string out;
    reply_->broken(what, out);
    to->stream(std::move(out));
    to->end_stream();
  }

  void close(std::size_t i, std::string& out) {
    reply_->ended(i, readers_[i].how(), out);
    usage_.answer += readers_[i].tokens();
    usage_.reasoning += readers_[i].reasoning_tokens();
    ++ended_;
    if (ended_ == readers_.size()) reply_->finished(usage_, out);
  }
  void send(std::string out) {
    if (out.empty()) return;
    const auto to = to_.lock();
    if (!to) return;
    if (request_.stream)
      to->stream(std::move(out));
    else
      to->whole(std::move(out));
  }
  void conclude() {
    if (ended_ != readers_.size() || !request_.stream) return;
    if (const auto to = to_.lock()) to->end_stream();
  }

  const served_model& model_;
  answer_request request_;
  std::unique_ptr<reply> reply_;
  worker& worker_;
  exchange_options o_;
  std::weak_ptr<outlet> to_;
  std::vector<answer_reader> readers_;
  std::vector<worker::key> keys_;
  token_usage usage_;
  std::size_t ended_ = 0;
  bool begun_ = false;
  std::atomic<bool> gone_{false};
  clock::time_point start_ = clock::now();
};

}  // namespace

std::shared_ptr<exchange> make_exchange(const served_model& m, answer_request r, std::unique_ptr<reply> words,
                                        worker& w, exchange_options o) {
  return std::make_shared<running_exchange>(m, std::move(r), std::move(words), w, std::move(o));
}

}  // namespace cli::serving
