// SPDX-License-Identifier: MIT
// A map of names (docs/maps/*.json): parsed, and asked for names.  The input is the map, then, from the first
// zero byte on, a name; without one a few usual names are asked for.
#include <dsv4/golden/convert/name_map.hpp>

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = dsv4_fuzz::text_of(data, size);
  const std::size_t end = text.find('\0');
  dsv4_fuzz::read_or_refuse([&] {
    const auto map = dsv4::golden::name_map::parse(dsv4_fuzz::file, text.substr(0, end));
    std::vector<std::string> names{"layers.3.attn.q_rope", "model.layers.12.self_attn.o_b_proj", "hc_comb-7",
                                   std::string(200, 'a')};
    if (end != text.npos) names = {std::string(text.substr(end + 1))};
    for (const std::string& name : names)
      dsv4_fuzz::read_or_refuse([&] {
        for (dsv4::index_t occurrence = 0; occurrence < 2; ++occurrence)
          for (const auto& hit : map.look_up(name, occurrence))
            dsv4_fuzz::require(hit.rule != nullptr, "a hit without its rule");
        map.ignores(name);
      });
  });
  return 0;
}
