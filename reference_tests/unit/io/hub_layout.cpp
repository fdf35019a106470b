// SPDX-License-Identifier: MIT
// The list of a checkpoint's tensors is that of the published checkpoints, name by name.
#include <set>
#include <sstream>

#include <nlohmann/json.hpp>

#include "catch.hpp"
#include "data.hpp"
#include "dsv4/io/config_json.hpp"
#include "dsv4/io/hub_layout.hpp"
#include "dsv4/io/message.hpp"
#include "io_test.hpp"

using namespace dsv4;
using namespace dsv4::io;

namespace {
std::multiset<std::string> published_of(const std::string& model) {
  std::multiset<std::string> published;
  std::istringstream file(read_file(test_data("checkpoint_layout/" + model + ".tsv")));
  for (std::string line; std::getline(file, line);) published.insert(line);
  return published;
}
}  // namespace

TEST_CASE("hub_layout lists the tensors of Flash and Pro", "[io]") {
  for (const std::string model : {"DeepSeek-V4-Flash", "DeepSeek-V4-Pro"}) {
    const std::multiset<std::string> published = published_of(model);
    std::multiset<std::string> listed;
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

TEST_CASE("hub_layout lists the drafter of V4-Flash-DSpark", "[io][dspark]") {
  nlohmann::json fields =
      nlohmann::json::parse(read_file(test_data("configs/DeepSeek-V4-Flash.config.json")));
  for (int s = 1; s < 3; ++s)
    fields["compress_ratios"].push_back(0);  // 46 entries for 43 layers and 3 stages
  fields["dspark_block_size"] = 5;
  fields["dspark_noise_token_id"] = 128799;
  fields["dspark_markov_rank"] = 256;
  fields["dspark_target_layer_ids"] = {40, 41, 42};
  const config c = parse_config("config.json", fields);
  REQUIRE((c.dspark.stages == 3 && c.num_nextn_predict_layers == 0 && c.compress_ratios.size() == 43));
  std::multiset<std::string> listed;
  std::size_t all = 0, drafter = 0;
  for (const hub_tensor& t : hub_layout(c)) {
    ++all;
    if (!t.name.starts_with("mtp.")) continue;
    ++drafter;
    const auto at = t.name.find(".ffn.experts.");
    if (at == std::string::npos || t.name.substr(at + 13, 2) == "0.")
      listed.insert(t.name + "\t" + std::string(name_of(t.type)) + "\t" + shape_text(t.shape));
  }
  CHECK(all == 72317);
  CHECK(drafter == 1568 + 1565 + 1572);
  CHECK(listed == published_of("DeepSeek-V4-Flash-DSpark"));
}

TEST_CASE("hub_layout refuses a configuration of millions of tensors", "[io]") {
  config c = read_config(test_data("configs/DeepSeek-V4-Flash.config.json"));
  c.n_routed_experts = 1 << 16;
  CHECK_THROWS_AS(hub_layout(c), unsupported);
}
