// SPDX-License-Identifier: MIT
#pragma once
/// dsv4 serve: a checkpoint behind HTTP.
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "serve_worker.hpp"

namespace CLI {
class App;
}

namespace cli {

void add_serve(CLI::App& app, std::function<void()>& run);

namespace serving {

struct served_model;

struct http_options {
  std::string host = "127.0.0.1";
  int port = 8080;  ///< 0: any that is free
  std::vector<std::string> keys;
  index_t body_bytes = index_t{8} << 20;
  index_t connections = 2048;
  int grace_seconds = 30;     ///< for answers under way when the server is to stop
  int patience_seconds = 60;  ///< for a client that neither sends nor takes anything
};

/// Serves until SIGINT or SIGTERM, then lets answers under way come to their end.  In serve_http.cpp, or, in a program
/// that was built without Boost.Beast, in serve_none.cpp.
/// @throws dsv4::unsupported  without Boost.Beast   @throws dsv4::error  the port cannot be had
void serve_http(const served_model& m, worker& w, const http_options& o);
/// @throws dsv4::unsupported  without Boost.Beast
void expect_http();

}  // namespace serving
}  // namespace cli
