// SPDX-License-Identifier: MIT
// dsv4 serve: connections, limits, signals.  One thread, which never waits for the model (serve_worker.hpp has that).
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "serve.hpp"
#include "serve_anthropic.hpp"
#include "serve_exchange.hpp"
#include "serve_openai.hpp"

namespace cli::serving {

void expect_http() {}

namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using tcp = asio::ip::tcp;
using boost::system::error_code;

constexpr std::uint32_t most_header_bytes = 16384;
// A client that takes nothing while an answer comes: so much may wait for it.
constexpr std::size_t most_unsent_bytes = std::size_t{4} << 20;

const char* phrase(int status) {
  switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 503: return "Service Unavailable";
    default: return "Internal Server Error";
  }
}

/// Times in buckets, as Prometheus has them.
class histogram {
 public:
  void add(double seconds) {
    sum_ += seconds;
    ++count_;
    for (std::size_t i = 0; i < bounds.size(); ++i)
      if (seconds <= bounds[i]) ++below_[i];
  }
  void print(std::string& out, const std::string& name) const {
    for (std::size_t i = 0; i < bounds.size(); ++i)
      out +=
          name + "_bucket{le=\"" + text::python::repr(bounds[i]) + "\"} " + std::to_string(below_[i]) + "\n";
    out += name + "_bucket{le=\"+Inf\"} " + std::to_string(count_) + "\n" + name + "_sum " +
           text::python::repr(sum_) + "\n" + name + "_count " + std::to_string(count_) + "\n";
  }

 private:
  static constexpr std::array<double, 12> bounds{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60};
  std::array<std::uint64_t, bounds.size()> below_{};
  std::uint64_t count_ = 0;
  double sum_ = 0;
};

struct route {
  const char *path, *method;
  enum kind { chat, completions, messages, count, models, health, metrics } what;
};
constexpr route routes[] = {{"/v1/chat/completions", "POST", route::chat},
                            {"/v1/completions", "POST", route::completions},
                            {"/v1/messages", "POST", route::messages},
                            {"/v1/messages/count_tokens", "POST", route::count},
                            {"/v1/models", "GET", route::models},
                            {"/health", "GET", route::health},
                            {"/metrics", "GET", route::metrics}};
constexpr std::string_view one_model = "/v1/models/";

class connection;

class server {
 public:
  server(const served_model& m, worker& w, const http_options& o)
      : model(m), work(w), options(o), acceptor_(io), signals_(io, SIGINT, SIGTERM), grace_(io) {}

  void run();
  void accept();
  void stop();
  void leave(connection* c);
  /// An exchange or a response has ended.
  void may_end();
  void count(const char* path, int status) { ++requests_[{path, status}]; }
  std::string metrics() const;
  bool knows(std::string_view key) const;

  const served_model& model;
  worker& work;
  const http_options& options;

 private:
  std::set<connection*>
      connections_;  // before `io`, whose last handlers hold connections, which leave when they go

 public:
  asio::io_context io{1};
  bool stopping = false;
  const std::int64_t since = unix_time();
  histogram first_token, whole_request;

 private:
  tcp::acceptor acceptor_;
  asio::signal_set signals_;
  asio::steady_timer grace_;
  std::map<std::pair<std::string, int>, std::uint64_t> requests_;
};

class connection final : public outlet, public std::enable_shared_from_this<connection> {
 public:
  connection(server& s, tcp::socket socket) : server_(s), stream_(std::move(socket)) {}
  ~connection() override { server_.leave(this); }

  bool busy() const { return busy_; }
  /// No more is read; what is being written, is.
  void hang_up() {
    error_code none;
    stream_.socket().shutdown(tcp::socket::shutdown_both, none);
    stream_.close();
  }
  void drop() {
    if (exchange_) exchange_->cancel();
    hang_up();
  }

  // ---- a request comes in

  void read() {
    if (server_.stopping) return hang_up();
    busy_ = false;
    parser_.emplace();
    parser_->header_limit(most_header_bytes);
    parser_->body_limit(static_cast<std::uint64_t>(server_.options.body_bytes));
    wait();
    http::async_read_header(stream_, buffer_, *parser_,
                            [self = shared_from_this()](error_code e, std::size_t) { self->on_header(e); });
  }

 private:
  using clock = std::chrono::steady_clock;

  void wait() { stream_.expires_after(std::chrono::seconds(server_.options.patience_seconds)); }

  /// What is wrong with how the request is written; nothing of it can be believed, so the connection ends.
  void refuse_bytes(error_code e) {
    if (e == http::error::end_of_stream || e == asio::error::eof || e == beast::error::timeout ||
        e == asio::error::operation_aborted || e == asio::error::connection_reset)
      return hang_up();
    keep_ = false;
    path_ = "other";
    if (e == http::error::header_limit) return respond_error(431, "the header is longer than 16384 bytes");
    if (e == http::error::body_limit) return refuse_body();
    respond_error(400, "this is no HTTP request: " + e.message());
  }
  void refuse_body() {
    keep_ = false;
    respond_error(413, "the body is longer than " + std::to_string(server_.options.body_bytes) + " bytes");
  }

  void on_header(error_code e) {
    busy_ = true;
    begin_ = clock::now();
    const auto& r = parser_->get();
    head_ = r.method() == http::verb::head;
    old_ = r.version() < 11;
    keep_ = r.keep_alive() && !old_;
    if (e && !parser_->is_header_done()) return refuse_bytes(e);
    find_route(std::string(r.target()));
    if (e) return refuse_bytes(e);
    if (!before_body(r)) return;
    if (beast::iequals(r[http::field::expect], "100-continue")) {
      static constexpr std::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";
      wait();
      return asio::async_write(stream_, asio::buffer(go_on),
                               [self = shared_from_this()](error_code failed, std::size_t) {
                                 failed ? self->hang_up() : self->read_body();
                               });
    }
    read_body();
  }
  void find_route(std::string target) {
    target = target.substr(0, target.find('?'));
    anthropic_ = target.starts_with("/v1/messages");
    route_ = nullptr;
    path_ = "other";
    for (const route& one : routes)
      if (target == one.path) route_ = &one, path_ = one.path;
    if (!route_ && target.starts_with(one_model)) {
      name_ = decoded(target.substr(one_model.size()));
      route_ = &routes[4];
      path_ = "/v1/models/{model}";
    } else {
      name_.clear();
    }
  }
  static std::string decoded(const std::string& text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const auto digit = [&](std::size_t at) {
        const char c = at < text.size() ? text[at] : 'x';
        return c >= '0' && c <= '9'   ? c - '0'
               : c >= 'a' && c <= 'f' ? c - 'a' + 10
               : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                      : -1;
      };
      if (text[i] == '%' && digit(i + 1) >= 0 && digit(i + 2) >= 0) {
        out += static_cast<char>(digit(i + 1) * 16 + digit(i + 2));
        i += 2;
      } else {
        out += text[i];
      }
    }
    return out;
  }
  /// What can be refused before the body comes.
  template <class Request>
  bool before_body(const Request& r) {
    const auto refuse = [&](int status, const std::string& what) {
      // A body that was not read stands where the next request should.
      if (parser_->content_length_remaining().value_or(0) > 0 || parser_->chunked()) keep_ = false;
      respond_error(status, what);
      return false;
    };
    if (!route_) return refuse(404, "there is nothing at this path");
    if (r.method_string() != route_->method) {
      allow_ = route_->method;
      return refuse(405, std::string("this path takes ") + route_->method);
    }
    if (route_->what != route::health && !server_.options.keys.empty()) {
      std::string_view key(r["x-api-key"].data(), r["x-api-key"].size());
      const auto bearer = r[http::field::authorization];
      constexpr std::string_view scheme = "bearer ";
      if (bearer.size() > scheme.size() && beast::iequals(bearer.substr(0, scheme.size()), scheme.data()))
        key = {bearer.data() + scheme.size(), bearer.size() - scheme.size()};
      if (!server_.knows(key)) return refuse(401, "this server needs an API key, and not this one");
    }
    if (server_.stopping && route_->what != route::health) return refuse(503, "the server is stopping");
    if (r.method() != http::verb::post) return true;
    // Only a program sends JSON to another origin without being asked by the browser first.
    const auto type = r[http::field::content_type];
    constexpr std::string_view json_type = "application/json";
    if (type.size() < json_type.size() ||
        !beast::iequals(type.substr(0, json_type.size()), json_type.data()) ||
        (type.size() > json_type.size() && type[json_type.size()] != ';' && type[json_type.size()] != ' '))
      return refuse(415, "the body must be of type application/json");
    return true;
  }
  void read_body() {
    wait();
    http::async_read(stream_, buffer_, *parser_, [self = shared_from_this()](error_code e, std::size_t) {
      if (e == http::error::body_limit) return self->refuse_body();
      if (e) return self->refuse_bytes(e);
      self->answer();
    });
  }

  // ---- what is answered

  void answer() {
    const std::string& body = parser_->get().body();
    try {
      switch (route_->what) {
        case route::chat: return begin(openai::chat(server_.model, body));
        case route::completions: return begin(openai::completions(server_.model, body));
        case route::messages: return begin(anthropic::messages(server_.model, body));
        case route::count: return respond(200, anthropic::count_tokens(server_.model, body));
        case route::models:
          return respond(200, name_.empty() ? openai::models(server_.model, server_.since)
                                            : openai::model(server_.model, server_.since, name_));
        case route::health:
          return respond(server_.stopping ? 503 : 200,
                         server_.stopping ? R"({"status": "stopping"})" : R"({"status": "ok"})");
        case route::metrics:
          return respond(200, server_.metrics(), "text/plain; version=0.0.4; charset=utf-8");
      }
    } catch (const refusal& e) {
      respond_error(e.status, e.what(), e.param, e.code);
    } catch (const dsv4::error& e) {  // a precondition of the library that a request can break
      respond_error(400, e.what());
    } catch (const std::exception& e) {
      respond_error(500, e.what());
    }
  }
  void begin(openai::exchange_of what) {
    auto& io = server_.io;
    exchange_ =
        make_exchange(server_.model, std::move(what.request), std::move(what.answer), server_.work,
                      {.post = [&io](std::function<void()> f) { asio::post(io, std::move(f)); },
                       .first_token = [&s = server_](double seconds) { s.first_token.add(seconds); }});
    if (!exchange_->start(weak_from_this())) {
      exchange_.reset();
      return respond_error(429, "too many requests wait already; come back later");
    }
    watch();
  }
  /// While an answer is made nothing is read; a client that goes can be seen from its socket.
  void watch() {
    stream_.expires_never();
    if (watched_) return;
    watched_ = true;
    stream_.socket().async_wait(tcp::socket::wait_read,
                                [self = shared_from_this(), request = requests_](error_code e) {
                                  self->watched_ = false;
                                  if (e || !self->exchange_) return;
                                  if (request != self->requests_)
                                    return self->watch();  // that was the next request
                                  error_code failed;
                                  if (self->stream_.socket().available(failed) == 0 || failed) self->gone();
                                });
  }
  void gone() {
    if (exchange_) exchange_->cancel();
    exchange_.reset();
    hang_up();
    server_.count(path_, 499);  // as nginx counts a client that did not wait
    server_.may_end();
  }

  // ---- outlet

  void whole(std::string body) override {
    exchange_.reset();
    respond(200, std::move(body));
  }
  void fault(int status, const std::string& what) override {
    exchange_.reset();
    respond_error(status, what);
  }
  void begin_stream() override {
    streaming_ = true;
    chunked_ = !old_;
    unsent_ =
        std::string(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
            "X-Accel-Buffering: no\r\n") +
        (chunked_ ? "Transfer-Encoding: chunked\r\n" : "") + (keep_ ? "" : "Connection: close\r\n") + "\r\n";
    flush();
  }
  void stream(std::string bytes) override {
    if (chunked_) {
      char size[20];
      std::snprintf(size, sizeof size, "%zx\r\n", bytes.size());
      unsent_ += size;
    }
    unsent_ += bytes;
    if (chunked_) unsent_ += "\r\n";
    if (unsent_.size() > most_unsent_bytes) return gone();
    flush();
  }
  void end_stream() override {
    if (chunked_) unsent_ += "0\r\n\r\n";
    exchange_.reset();
    last_ = true;
    status_ = 200;
    flush();
  }

  // ---- what goes out

  void respond_error(int status, const std::string& what, const std::string& param = {},
                     const std::string& code = {}) {
    respond(status,
            anthropic_ ? anthropic::error_body(status, what) : openai::error_body(status, what, param, code));
  }
  void respond(int status, std::string body, const char* type = "application/json") {
    status_ = status;
    unsent_ = "HTTP/1.1 " + std::to_string(status) + " " + phrase(status) + "\r\nContent-Type: " + type +
              "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n";
    if (!allow_.empty()) unsent_ += "Allow: " + allow_ + "\r\n";
    if (status == 401) unsent_ += "WWW-Authenticate: Bearer\r\n";
    if (status == 429) unsent_ += "Retry-After: 1\r\n";
    if (!keep_) unsent_ += "Connection: close\r\n";
    unsent_ += "\r\n";
    if (!head_) unsent_ += body;
    last_ = true;
    flush();
  }
  void flush() {
    if (writing_.size() > 0 || unsent_.empty()) return;
    writing_.swap(unsent_);
    wait();
    asio::async_write(stream_, asio::buffer(writing_),
                      [self = shared_from_this()](error_code e, std::size_t) { self->on_written(e); });
  }
  void on_written(error_code e) {
    writing_.clear();
    if (e) {
      if (exchange_ || !last_) return gone();
      return hang_up();
    }
    if (!unsent_.empty()) return flush();
    if (!last_) return watch();
    server_.count(path_, status_);
    server_.whole_request.add(std::chrono::duration<double>(clock::now() - begin_).count());
    last_ = streaming_ = false;
    ++requests_;
    allow_.clear();
    busy_ = false;
    server_.may_end();
    if (keep_) return read();
    // What the client still sends would make the kernel throw our answer away: it is read, for a while.
    error_code none;
    stream_.socket().shutdown(tcp::socket::shutdown_send, none);
    drain(0);
  }
  void drain(std::size_t so_far) {
    constexpr std::size_t enough = std::size_t{1} << 20;
    constexpr std::size_t piece = 65536;
    if (so_far > enough) return hang_up();
    stream_.expires_after(std::chrono::seconds(2));
    buffer_.consume(buffer_.size());
    stream_.async_read_some(buffer_.prepare(piece),
                            [self = shared_from_this(), so_far](error_code e, std::size_t n) {
                              e ? self->hang_up() : self->drain(so_far + n);
                            });
  }

  server& server_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  const route* route_ = nullptr;
  const char* path_ = "other";
  std::string name_, allow_;
  std::shared_ptr<exchange> exchange_;
  std::string unsent_, writing_;
  bool busy_ = false, head_ = false, old_ = false, keep_ = true, anthropic_ = false;
  bool streaming_ = false, chunked_ = false;
  bool last_ = false;  // nothing comes after what is unsent
  int status_ = 200;
  bool watched_ = false;        // somebody waits for the socket to become readable
  std::uint64_t requests_ = 0;  // that have been answered
  clock::time_point begin_;
};

bool server::knows(std::string_view key) const {
  // All keys and all bytes are looked at, so that the time says nothing of where they differ.
  bool known = false;
  for (const std::string& k : options.keys) {
    unsigned char different = k.size() != key.size();
    for (std::size_t i = 0; i < k.size(); ++i)
      different |= static_cast<unsigned char>(k[i] ^ (i < key.size() ? key[i] : '\0'));
    known |= different == 0;
  }
  return known;
}

std::string server::metrics() const {
  const worker::status s = work.now();
  std::string out;
  const auto one = [&](const char* name, const char* kind, const char* help, index_t value) {
    out += std::string("# HELP ") + name + " " + help + "\n# TYPE " + name + " " + kind + "\n" + name + " " +
           std::to_string(value) + "\n";
  };
  out +=
      "# HELP dsv4_requests_total Requests that were answered, by path and status.\n# TYPE "
      "dsv4_requests_total counter\n";
  for (const auto& [what, n] : requests_)
    out += "dsv4_requests_total{path=\"" + what.first + "\",status=\"" + std::to_string(what.second) +
           "\"} " + std::to_string(n) + "\n";
  one("dsv4_answers_running", "gauge", "Answers that are worked on.", s.running);
  one("dsv4_answers_waiting", "gauge", "Answers that wait for a place.", s.waiting);
  one("dsv4_connections", "gauge", "Open connections.", static_cast<index_t>(connections_.size()));
  one("dsv4_steps_total", "counter", "Calls of the model.", s.counts.steps);
  one("dsv4_tokens_read_total", "counter", "Tokens that the model has read.", s.counts.tokens_read);
  one("dsv4_tokens_made_total", "counter", "Tokens that the model has made.", s.counts.tokens_made);
  one("dsv4_tokens_reused_total", "counter", "Tokens of prompts that the prefix cache has saved.",
      s.counts.tokens_reused);
  one("dsv4_answers_ended_total", "counter", "Answers that have come to their end.", s.counts.ended);
  one("dsv4_answers_cancelled_total", "counter",
      "Answers that nobody wanted any more, or that a stop text ended.", s.counts.cancelled);
  one("dsv4_answers_failed_total", "counter", "Answers that have failed.", s.counts.failed);
  one("dsv4_prefixes", "gauge", "Beginnings of prompts that are kept.", s.prefixes);
  one("dsv4_prefix_bytes", "gauge", "Their bytes.", s.prefix_bytes);
  out +=
      "# HELP dsv4_first_token_seconds From the request to its first token.\n# TYPE dsv4_first_token_seconds "
      "histogram\n";
  first_token.print(out, "dsv4_first_token_seconds");
  out +=
      "# HELP dsv4_request_seconds From the header of a request to the end of its response.\n# TYPE "
      "dsv4_request_seconds histogram\n";
  whole_request.print(out, "dsv4_request_seconds");
  return out;
}

void server::leave(connection* c) { connections_.erase(c); }

void server::accept() {
  acceptor_.async_accept([this](error_code e, tcp::socket socket) {
    if (!acceptor_.is_open()) return;
    if (e) {  // out of file descriptors, say: others will be given back
      grace_.expires_after(std::chrono::milliseconds(50));
      return grace_.async_wait([this](error_code stopped) {
        if (!stopped) accept();
      });
    }
    if (static_cast<index_t>(connections_.size()) < options.connections) {
      error_code none;
      socket.set_option(tcp::no_delay(true), none);
      const auto c = std::make_shared<connection>(*this, std::move(socket));
      connections_.insert(c.get());
      c->read();
    }
    accept();
  });
}

void server::stop() {
  const bool again = stopping;
  stopping = true;
  error_code none;
  acceptor_.close(none);
  std::vector<std::shared_ptr<connection>> all;
  for (connection* c : connections_)
    if (const auto alive = c->weak_from_this().lock()) all.push_back(alive);
  for (const auto& c : all)
    if (again)
      c->drop();
    else if (!c->busy())
      c->hang_up();
  if (again) return io.stop();
  std::fprintf(stderr, "dsv4 serve: stopping\n");
  grace_.expires_after(std::chrono::seconds(options.grace_seconds));
  grace_.async_wait([this](error_code stopped) {
    if (!stopped) stop();
  });
  signals_.async_wait([this](error_code e, int) {
    if (!e) stop();
  });
  may_end();
}

void server::may_end() {
  if (!stopping) return;
  const bool busy =
      std::any_of(connections_.begin(), connections_.end(), [](const connection* c) { return c->busy(); });
  if (!busy) io.stop();
}

void server::run() {
  error_code e;
  const auto fail = [&](const std::string& what) {
    throw dsv4::error("--host " + options.host + " --port " + std::to_string(options.port) + ": " + what +
                      ": " + e.message());
  };
  const auto address = asio::ip::make_address(options.host, e);
  if (e) fail("not an address (a number like 127.0.0.1, no name)");
  const tcp::endpoint where(address, static_cast<unsigned short>(options.port));
  acceptor_.open(where.protocol(), e);
  if (e) fail("no socket");
  acceptor_.set_option(tcp::acceptor::reuse_address(true), e);
  acceptor_.bind(where, e);
  if (e) fail("cannot be had");
  acceptor_.listen(asio::socket_base::max_listen_connections, e);
  if (e) fail("cannot listen");
  const tcp::endpoint at = acceptor_.local_endpoint();
  if (!address.is_loopback() && options.keys.empty())
    std::fprintf(stderr, "Note: everybody who reaches %s can use this server; --api-key-file limits that\n",
                 options.host.c_str());
  std::printf("dsv4 serve: model %s at http://%s%s%s:%d\n", model.name.c_str(), address.is_v6() ? "[" : "",
              options.host.c_str(), address.is_v6() ? "]" : "", at.port());
  std::fflush(stdout);
  signals_.async_wait([this](error_code failed, int) {
    if (!failed) stop();
  });
  accept();
  io.run();
  // Whoever is still connected goes; what they had asked for is cancelled.
  std::vector<std::shared_ptr<connection>> all;
  for (connection* c : connections_)
    if (const auto alive = c->weak_from_this().lock()) all.push_back(alive);
  for (const auto& c : all) c->drop();
}

}  // namespace

void serve_http(const served_model& m, worker& w, const http_options& o) {
  server s(m, w, o);
  s.run();
  w.join();  // nothing is posted after this …
  s.io.restart();
  s.io.poll();  // … and what was, has nowhere to go
}

}  // namespace cli::serving
