// SPDX-License-Identifier: MIT
// Parameters and KV bytes: the published models, and every shape of the mini checkpoint.
#include <dsv4/io/checkpoint.hpp>
#include <dsv4/model/accounting.hpp>

#include "catch.hpp"
#include "data.hpp"

namespace {
dsv4::config published(const char* name) { return dsv4::io::read_config(test_data("configs") / name); }
}  // namespace

TEST_CASE("parameters and KV bytes of Flash", "[accounting]") {
  const dsv4::config c = published("DeepSeek-V4-Flash.config.json");
  const dsv4::parameter_count p = dsv4::count_parameters(c);
  CHECK(p.total == 284'332'240'471);
  CHECK(p.active == 13'270'101'591);
  CHECK(p.active + p.embedding == 13'799'632'471);
  CHECK(p.mtp == 6'610'048'891);
  CHECK(dsv4::kv_row_bytes(c) == 584);
  CHECK(dsv4::index_key_bytes(c) == 68);
  const dsv4::kv_bytes kv = dsv4::count_kv_bytes(c);
  CHECK(kv.per_token == 3514.25);
  CHECK(kv.windows == 43 * 584 * 128);
  CHECK(kv.at(1 << 20) == 3514.25 * (1 << 20) + 43 * 584 * 128);
}

TEST_CASE("parameters and KV bytes of Pro", "[accounting]") {
  const dsv4::config c = published("DeepSeek-V4-Pro.config.json");
  const dsv4::parameter_count p = dsv4::count_parameters(c);
  CHECK(p.total == 1'572'997'201'763);
  CHECK(p.active == 48'852'402'019);
  CHECK(p.active + p.embedding == 49'779'081'059);
  CHECK(p.mtp == 25'840'145'979);
  CHECK(dsv4::count_kv_bytes(c).per_token == 5031.4375);  // 30 * 163 + 31 * 4.5625
}

TEST_CASE("both forms of a configuration cost the same", "[accounting]") {
  for (const char* name : {"DeepSeek-V4-Flash", "DeepSeek-V4-Pro"}) {
    const auto hub = dsv4::count_parameters(published((std::string(name) + ".config.json").c_str()));
    const auto inference = dsv4::count_parameters(published((std::string(name) + ".inference.json").c_str()));
    CHECK(hub.total == inference.total);
    CHECK(hub.active == inference.active);
    CHECK(hub.mtp == inference.mtp);
  }
}

TEST_CASE("parameters are those of the stored tensors", "[accounting]") {
  for (const char* name : {"flash-mini", "pro-mini", "base-mini", "real-ratio", "edge-mini"}) {
    const auto dir = golden(std::string("official/") + name);
    if (!dir) continue;
    const auto c = dsv4::io::checkpoint::open(*dir);
    dsv4::index_t stored = 0;
    for (const auto& t : c.tensors()) {
      const std::string_view n = t.name;
      if (!t.used || n.ends_with(".scale") || n.ends_with(".tid2eid")) continue;
      if (n == "mtp.0.emb.tok_emb.weight" || n == "mtp.0.head.weight") continue;  // copies in -Base
      stored += t.stored->elements * (t.stored->type == dsv4::dtype::i8 ? 2 : 1);
    }
    const auto p = dsv4::count_parameters(c.configuration());
    INFO(name);
    CHECK(p.total + p.mtp == stored);
  }
}
