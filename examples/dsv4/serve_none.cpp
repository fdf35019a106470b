// SPDX-License-Identifier: MIT
// In the place of serve_http.cpp where Boost.Beast was not found.
#include <dsv4/core/error.hpp>

#include "serve.hpp"

namespace cli::serving {

void expect_http() {
  throw dsv4::unsupported(
      "serve: this program was built without Boost.Beast; install it (Debian, Ubuntu: apt-get install "
      "libboost-dev) "
      "and build again");
}
void serve_http(const served_model&, worker&, const http_options&) { expect_http(); }

}  // namespace cli::serving
