// SPDX-License-Identifier: MIT
// Recipe weights: the values that docs/recipe.py (numpy) gives, in any pieces; a checkpoint of them opens, runs
// in the published layout, and is recognised until one byte is another.
#include "dsv4/golden/make/recipe_checkpoint.hpp"
#include "golden_test.hpp"

namespace dsv4_test {

namespace {
std::vector<unsigned> bytes_of(const golden::weight_recipe& r, const io::hub_tensor& t, index_t at,
                               index_t n) {
  std::vector<std::byte> out(static_cast<std::size_t>(n));
  r.fill(t, at, out);
  std::vector<unsigned> values;
  for (const std::byte b : out) values.push_back(std::to_integer<unsigned>(b));
  return values;
}
}  // namespace

TEST_CASE("recipe: the bytes that numpy makes") {
  const golden::weight_recipe r(7, 6);
  using bytes = std::vector<unsigned>;
  // python3 -c "from recipe import *; print(list(weights(NAME, TYPE, SHAPE, COLUMNS, 7, 6).tobytes()[:8]))"
  CHECK(bytes_of(r, {"embed.weight", dtype::bf16, {4, 32}, 32}, 0, 8) ==
        bytes{72, 190, 54, 191, 196, 62, 50, 191});
  CHECK(bytes_of(r, {"layers.0.hc_attn_fn", dtype::f32, {24, 128}, 128}, 0, 8) ==
        bytes{116, 158, 156, 61, 116, 133, 116, 189});
  CHECK(bytes_of(r, {"layers.0.attn.attn_sink", dtype::f32, {4}, 4}, 0, 8) ==
        bytes{184, 169, 86, 191, 16, 163, 28, 63});
  CHECK(bytes_of(r, {"norm.weight", dtype::bf16, {32}, 32}, 0, 8) == bytes{144, 63, 151, 63, 74, 63, 36, 63});
  CHECK(bytes_of(r, {"layers.0.attn.wq_a.weight", dtype::f8_e4m3, {16, 32}, 32}, 0, 8) ==
        bytes{182, 51, 55, 172, 46, 161, 55, 41});
  CHECK(bytes_of(r, {"layers.0.ffn.experts.3.w1.scale", dtype::f8_e8m0, {16, 1}, 32}, 0, 8) ==
        bytes{124, 125, 124, 124, 124, 125, 124, 124});
  CHECK(bytes_of(r, {"layers.0.ffn.gate.tid2eid", dtype::i64, {48, 2}, 2}, 0, 16) ==
        bytes{2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0});
}

TEST_CASE("recipe: pieces are the whole") {
  const golden::weight_recipe r(1, 6);
  for (const io::hub_tensor& t : io::hub_layout(tiny_config())) {
    const index_t each = t.type == dtype::i64 ? 8 * t.shape.back() : bits_of(t.type) / 8;
    const auto whole = bytes_of(r, t, 0, t.bytes());
    const index_t cut = t.bytes() / each / 3 * each;
    const auto first = bytes_of(r, t, 0, cut), second = bytes_of(r, t, cut, t.bytes() - cut);
    INFO(t.name);
    CHECK(std::equal(first.begin(), first.end(), whole.begin()));
    CHECK(std::equal(second.begin(), second.end(), whole.begin() + cut));
    // No NaN, and experts of a token differ.
    if (t.type == dtype::f8_e4m3)
      CHECK(std::none_of(whole.begin(), whole.end(), [](unsigned b) { return (b & 0x7F) == 0x7F; }));
    if (t.type == dtype::i64)
      for (index_t row = 0; row < t.shape[0]; ++row) {
        const std::size_t at = static_cast<std::size_t>(row * each);
        CHECK((whole[at] != whole[at + 8] && whole[at] < 6 && whole[at + 8] < 6));
      }
  }
  std::vector<std::byte> odd(6);
  CHECK_THROWS_AS(r.fill({"layers.0.ffn.gate.tid2eid", dtype::i64, {48, 2}, 2}, 0, odd), contract_violation);
  CHECK_THROWS_AS(r.fill({"x", dtype::f16, {3}, 3}, 0, odd), contract_violation);
}

TEST_CASE("a recipe's checkpoint opens and is recognised by its bytes") {
  scratch_folder dir;
  golden::recipe_options o;
  o.shard_bytes = 1 << 16;  // several files
  const config c = tiny_config();
  const auto size = golden::write_recipe_checkpoint(dir / "model", c, 5, o);
  CHECK(size.files > 2);
  {
    const auto model = io::checkpoint::open(dir / "model");
    CHECK(model.files().size() == size.files);
    CHECK(model.tensors().size() == size.tensors);
    CHECK(model.unused().empty());
    CHECK(model.weights().mtp.size() == 1);
    CHECK(golden::sha256_of(model.configuration()) == golden::sha256_of(c));
    const auto identity = golden::recipe_of(model);
    REQUIRE(identity);
    CHECK(identity->kind == "recipe");
    CHECK(identity->seed == 5);
  }
  CHECK_THROWS_AS(golden::write_recipe_checkpoint(dir / "model", c, 5), contract_violation);
  for (const auto& f : fs::directory_iterator(dir / "model"))
    if (f.path().extension() == ".safetensors") {
      std::string text = read_text(f.path());
      text.back() = static_cast<char>(text.back() ^ 1);
      fs::remove(f.path());
      write_text(f.path(), text);
      break;
    }
  CHECK_FALSE(golden::recipe_of(io::checkpoint::open(dir / "model")));
}

}  // namespace dsv4_test
