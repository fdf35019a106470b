// SPDX-License-Identifier: MIT
// The list of a checkpoint's tensors is that of the published checkpoints, name by name.
#include <set>
#include <sstream>

#include "catch.hpp"
#include "data.hpp"
#include "dsv4/io/config_json.hpp"
#include "dsv4/io/hub_layout.hpp"
#include "dsv4/io/message.hpp"
#include "io_test.hpp"

using namespace dsv4;
using namespace dsv4::io;

TEST_CASE("hub_layout lists the tensors of Flash and Pro", "[io]") {
  for (const std::string model : {"DeepSeek-V4-Flash", "DeepSeek-V4-Pro"}) {
    std::multiset<std::string> published, listed;
    std::istringstream file(read_file(test_data("checkpoint_layout/" + model + ".tsv")));
    for (std::string line; std::getline(file, line);) published.insert(line);
    std::size_t all = 0;
    for (const hub_tensor& t : hub_layout(read_config(test_data("configs/" + model + ".config.json")))) {
      ++all;
      // Of routed experts the published list names number 0 alone.
      const auto at = t.name.find(".ffn.experts.");
      if (at == std::string::npos || t.name[at + 13] == '0')
        listed.insert(t.name + "\t" + std::string(name_of(t.type)) + "\t" + shape_text(t.shape));
    }
    INFO(model);
    CHECK(all == (model == "DeepSeek-V4-Flash" ? 69187 : 145116));
    CHECK(published.size() > 1000);
    CHECK(listed == published);
  }
}

TEST_CASE("hub_layout refuses a configuration of millions of tensors", "[io]") {
  config c = read_config(test_data("configs/DeepSeek-V4-Flash.config.json"));
  c.n_routed_experts = 1 << 16;
  CHECK_THROWS_AS(hub_layout(c), unsupported);
}
