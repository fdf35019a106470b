// SPDX-License-Identifier: MIT
// What is not this model's whole, unchanged state is refused, with the file's name and the reason.
#include "catch.hpp"
#include "state_run.hpp"

#include <nlohmann/json.hpp>

namespace dsv4_test {
namespace {

using Catch::Matchers::ContainsSubstring;
using run_type = state_run<official, exec::ref>;
constexpr state_limits limits{40, 2};

/// A state of 18 tokens.
struct saved {
  random_model weights{tiny_config()};
  run_type run{weights};
  run_type::sequence_type s = run.model.new_sequence(limits.max_tokens, limits.max_rewind);
  run_type::extras_type x;
  saved() {
    run.feed(s, x, random_ids(18, weights.c.vocab_size, 3));
    x.application = R"({"messages": []})";
  }
  loaded_state<official, exec::ref> load(const std::filesystem::path& path) {
    return load_state(path, run.identity, run.model, limits);
  }
};

/// A safetensors file in parts, so that one can be exchanged.
struct container {
  nlohmann::json header;
  std::string data;
  explicit container(const std::string& bytes) {
    std::uint64_t n;
    std::memcpy(&n, bytes.data(), 8);
    header = nlohmann::json::parse(bytes.substr(8, n));
    data = bytes.substr(8 + n);
  }
  std::string bytes() const {
    const std::string text = header.dump();
    const std::uint64_t n = text.size();
    return std::string(reinterpret_cast<const char*>(&n), 8) + text + data;
  }
};

}  // namespace

TEST_CASE("every truncation and every flipped bit of a state file is refused", "[state][refuse]") {
  saved f;
  const scratch_folder folder;
  const auto path = folder.path / "chat.state", damaged = folder.path / "damaged.state";
  save_state(path, f.run.identity, f.run.model, f.s, f.x);
  const std::string good = read_bytes(path);
  CHECK(good.size() < 64 * 1024);
  CHECK(f.load(path).sequence.length() == 18);

  const auto refused = [&](std::string_view bytes) {
    try {
      const auto content = detail::read_state_container(damaged, bytes_of(bytes), std::size_t{1} << 24);
      decode_state<official, exec::ref>(damaged, {content.data(), content.size}, f.run.identity, f.run.c(),
                                        limits);
    } catch (const format_error& e) {
      return std::string_view(e.what()).find("damaged.state") != std::string_view::npos;
    }
    return false;
  };
  CHECK_FALSE(refused(good));
  index_t accepted = 0;
  for (std::size_t n = 0; n < good.size(); ++n) accepted += !refused(std::string_view(good).substr(0, n));
  CHECK(accepted == 0);
  std::string flipped = good;
  for (std::size_t i = 0; i < good.size(); ++i) {
    flipped[i] = static_cast<char>(good[i] ^ (1 << i % 8));
    accepted += !refused(flipped);
    flipped[i] = good[i];
  }
  CHECK(accepted == 0);
  CHECK(refused(good + '\0'));
  CHECK(refused(good + good));

  // The same through files, which are mapped.
  for (const std::size_t n :
       {std::size_t{0}, std::size_t{1}, std::size_t{47}, std::size_t{48}, good.size() / 2, good.size() - 1}) {
    write_bytes(damaged, good.substr(0, n));
    CHECK_THROWS_AS(f.load(damaged), format_error);
  }
  CHECK_THROWS_AS(f.load(folder.path / "none"), format_error);
  CHECK_THROWS_AS(f.load(folder.path), format_error);
}

TEST_CASE("below the hash, every cut and every change of a byte is refused or read as another state",
          "[state][refuse]") {
  saved f;
  const std::string good = f.run.encoded(f.s, f.x);
  const auto decode = [&](std::string_view bytes) { return f.run.decoded(bytes, limits); };
  CHECK(f.run.encoded(decode(good).sequence, decode(good).extras) == good);
  for (std::size_t n = 0; n < good.size(); n += 7)
    CHECK_THROWS_AS(decode(std::string_view(good).substr(0, n)), format_error);
  // What is accepted is a state: it can be written again, and the model can go on with it.
  std::string changed = good;
  for (std::size_t i = 0; i < good.size(); i += 11) {
    changed[i] = static_cast<char>(good[i] ^ 0x41);
    try {
      auto l = decode(changed);
      CHECK_NOTHROW(f.run.encoded(l.sequence, l.extras));
      const std::int32_t next[] = {1};
      CHECK_NOTHROW(f.run.feed(l.sequence, l.extras, next, false));
    } catch (const format_error&) {
    }
    changed[i] = good[i];
  }
}

TEST_CASE("the hash of weights stays what files of format dsv4-state/1 hold", "[state][refuse]") {
  // Computed when the format was new: whatever becomes of the order of the weights, old files stay readable.
  const auto hash = [](const random_model& m) { return detail::weights_hash().of(m.weights, m.c); };
  CHECK(hash(random_model(tiny_config())) ==
        "1f11d2e48d7e6a3994b98fd606ffe457e82d97818deba0d8b92a368fd9c20ae0");
  CHECK(hash(random_model(tiny_config({0, 4, 16, 4}), all_f32, 3)) ==
        "3b250ddb78cb63637c3376fec84fa78e630a6ab94576b9453bdf48a1d0ce61d6");
}

TEST_CASE("states of something else are refused by name", "[state][refuse]") {
  saved f;
  const scratch_folder folder;
  const auto path = folder.path / "chat.state";
  save_state(path, f.run.identity, f.run.model, f.s, f.x);
  const auto load_into = [&](auto& run) { load_state(path, run.identity, run.model, limits); };

  // Another configuration, other weights, one bit of a norm, another policy, another executor.
  config c = f.weights.c;
  c.swiglu_limit = 3;
  state_run<official, exec::ref> other_config(c, f.weights.weights);
  CHECK_THROWS_WITH(load_into(other_config),
                    ContainsSubstring("chat.state") && ContainsSubstring("config_sha256"));
  const random_model other(tiny_config(), published, 2);
  state_run<official, exec::ref> other_weights(other);
  CHECK_THROWS_WITH(load_into(other_weights), ContainsSubstring("weights_sha256"));
  model_weights<> w = f.weights.weights;
  w.layers[2].ffn_norm[3] += 0x1p-7f;
  state_run<official, exec::ref> other_norm(f.weights.c, w);
  CHECK_THROWS_WITH(load_into(other_norm), ContainsSubstring("weights_sha256"));
  state_run<float32<float>, exec::ref> other_policy(f.weights);
  CHECK_THROWS_WITH(load_into(other_policy), ContainsSubstring("policy") &&
                                                 ContainsSubstring("official/BF16") &&
                                                 ContainsSubstring("float32/F32"));
  state_run<official, exec::cpu> other_executor(f.weights);
  CHECK_THROWS_WITH(load_into(other_executor), ContainsSubstring("executor") && ContainsSubstring("'ref'") &&
                                                   ContainsSubstring("'cpu'"));
  state_run<official, exec::cpu_fast> fast(f.weights);
  CHECK_THROWS_AS(load_into(fast), format_error);

  // A sequence that is too short for it, or longer than the model allows.
  CHECK_THROWS_WITH(load_state(path, f.run.identity, f.run.model, {17, 0}),
                    ContainsSubstring("length") && ContainsSubstring("17"));
  CHECK(load_state(path, f.run.identity, f.run.model, {18, 0}).sequence.length() == 18);
  CHECK_THROWS_AS(load_state(path, f.run.identity, f.run.model, {5000, 0}), contract_violation);
  CHECK_THROWS_WITH(load_state(path, f.run.identity, f.run.model, {40, 0, 15}),
                    ContainsSubstring("application") && ContainsSubstring("15"));
  // What contradicts itself is not saved.
  f.x.ids.pop_back();
  CHECK_THROWS_AS(save_state(path, f.run.identity, f.run.model, f.s, f.x), contract_violation);
  CHECK(f.load(path).sequence.length() == 18);
}

TEST_CASE("each field and array that lies is refused", "[state][refuse]") {
  saved f;
  const std::string good = f.run.encoded(f.s, f.x);
  const auto refuse = [&](const container& c, const std::string& why) {
    INFO(why);
    CHECK_THROWS_WITH(f.run.decoded(c.bytes(), limits),
                      ContainsSubstring("state: ") && ContainsSubstring(why));
    CHECK_THROWS_AS(f.run.decoded(c.bytes(), limits), format_error);
  };
  CHECK(f.run.decoded(container(good).bytes(), limits).sequence.length() == 18);
  for (const char* key : {"format", "config_sha256", "weights_sha256", "policy", "executor", "length",
                          "floor", "mtp_length", "mtp_floor", "seed", "draws"}) {
    container c(good);
    c.header["__metadata__"].erase(key);
    refuse(c, key);
    c.header["__metadata__"][key] = "x";
    refuse(c, key);
  }
  for (const char* value : {"19", "17", "41", "-1", "18446744073709551615", "18446744073709551616", "", " 18",
                            "18 ", "0x12", "1e1"}) {
    container c(good);
    c.header["__metadata__"]["length"] = value;
    refuse(c, "");
  }
  const container whole(good);
  for (const auto& [name, entry] : whole.header.items()) {
    if (name == "__metadata__") continue;
    container c(good);
    c.header[name]["dtype"] = entry["dtype"] == "I32"    ? "F32"
                              : entry["dtype"] == "U8"   ? "I8"
                              : entry["dtype"] == "BF16" ? "F16"
                                                         : "I64";
    refuse(c, name);
    c = container(good);
    c.header[name]["shape"].push_back(1);
    refuse(c, name);
    c = container(good);
    c.header["z" + name] = entry;
    c.header.erase(name);
    refuse(c, name);
  }
  // Values: an id outside the vocabulary, NaN, infinity; an array too many.
  const auto put = [&](const char* name, auto value) {
    container c(good);
    std::memcpy(c.data.data() + c.header[name]["data_offsets"][0].get<std::size_t>(), &value, sizeof value);
    return c;
  };
  refuse(put("ids", std::int32_t{48}), "ids: 48 is outside");
  refuse(put("ids", std::int32_t{-1}), "ids: -1 is outside");
  refuse(put("layers.1.compressor.kv", std::numeric_limits<double>::quiet_NaN()), "layers.1.compressor.kv");
  refuse(put("layers.1.compressor.score", std::numeric_limits<double>::infinity()),
         "layers.1.compressor.score");
  refuse(put("layers.0.window", std::uint16_t{0x7F80}), "layers.0.window");  // infinity in BF16
  refuse(put("mtp.0.window", std::uint16_t{0xFFC0}), "mtp.0.window");        // NaN in BF16
  container more(good);
  more.header["more"] = {{"dtype", "U8"}, {"shape", {0}}, {"data_offsets", {0, 0}}};
  refuse(more, "arrays");
}

TEST_CASE("a file that would decompress to terabytes costs no memory", "[state][refuse]") {
  saved f;
  const scratch_folder folder;
  const auto path = folder.path / "bomb.state";
  // 1 GiB of zeros in 50 KB, with a true hash.
  std::string file;
  const io::byte_sink out = [&](const void* data, std::size_t n) {
    file.append(static_cast<const char*>(data), n);
  };
  io::zstd_encoder encoder(3, out);
  const std::string zeros(std::size_t{1} << 20, '\0');
  for (int i = 0; i < 1024; ++i) encoder.write(zeros.data(), zeros.size());
  encoder.finish();
  file += detail::state_trailer_head;
  const auto digest = io::sha256_of(file);
  file.append(reinterpret_cast<const char*>(digest.data()), digest.size());
  CHECK(file.size() < 200'000);
  write_bytes(path, file);
  CHECK_THROWS_WITH(load_state(path, f.run.identity, f.run.model, {40, 2, 1000}),
                    ContainsSubstring("bomb.state") && ContainsSubstring("limit"));
}

TEST_CASE("a state file is safetensors in zstd, for any reader", "[state]") {
  saved f;
  const scratch_folder folder;
  const auto path = folder.path / "chat.safetensors.zst";
  save_state(path, f.run.identity, f.run.model, f.s, f.x);
  const auto file = io::safetensors::open(path);
  CHECK(file.at("ids").shape == std::vector<index_t>{18});
  CHECK(file.at("layers.0.window").shape == std::vector<index_t>{9, 32});  // [18 - 2 - 8 + 1, 18)
  CHECK(file.at("layers.1.compressor.kv").shape ==
        std::vector<index_t>{6, 64});  // from 12: the block before that of 16
  CHECK(file.at("layers.1.indexer.entries").shape == std::vector<index_t>{4, 16});
  CHECK(file.at("layers.2.compressor.entries").shape == std::vector<index_t>{1, 32});
  CHECK(file.metadata().at("executor") == "ref");
}

}  // namespace dsv4_test
