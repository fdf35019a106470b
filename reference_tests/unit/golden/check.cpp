// SPDX-License-Identifier: MIT
// Malformed bundles of every kind are refused, each with its exit code and a message that names the place.
#include <functional>

#include "golden_test.hpp"

namespace dsv4_test::golden_check {

using Catch::Matchers::ContainsSubstring;
using nlohmann::json;

namespace {

/// A good bundle to spoil.
struct spoilt {
  scratch_folder dir;
  fs::path path = dir / "b";
  spoilt() {
    static const random_model m(tiny_config({0, 4}));
    golden::writer_options o;
    o.shard_bytes = std::size_t{1} << 17;
    record_random(m, path, {{random_ids(20, m.c.vocab_size, 1)}, 2, {}, false}, o);
  }
  fs::path manifest() const { return path / "manifest.json"; }
  json document() const { return json::parse(read_text(manifest())); }
  void edit(const std::function<void(json&)>& f) {
    json j = document();
    f(j);
    write_text(manifest(), j.dump());
  }
  golden::check_report check() const { return golden::check(path); }
};

void refused(const spoilt& s, int code, const std::string& message) {
  const auto r = s.check();
  REQUIRE(!r.problems.empty());
  CHECK_THAT(r.problems[0].what, ContainsSubstring(message));
  CHECK(r.exit_code() == code);
}

constexpr int structure = 2, no_input = 66, io_or_hash = 74;

/// Index of the first tensor of a name.
std::size_t find(const json& j, const std::string& name) {
  for (std::size_t i = 0; i < j["tensors"].size(); ++i)
    if (j["tensors"][i]["name"] == name) return i;
  throw std::runtime_error("no tensor " + name);
}

}  // namespace

TEST_CASE("a good bundle passes", "[golden]") {
  const spoilt s;
  const auto r = s.check();
  CHECK(r.ok());
  CHECK(r.exit_code() == 0);
  CHECK(r.bytes > 10000);
  // The manifest's text is a fixed point.
  const auto m = golden::read_manifest(s.manifest(), 1 << 28);
  CHECK(golden::manifest_text(m.about, m.tensors) == read_text(s.manifest()));
  CHECK(read_text(s.manifest()).find("NaN") == std::string::npos);
}

TEST_CASE("what is not there", "[golden]") {
  spoilt s;
  CHECK(golden::check(s.dir / "nothing").exit_code() == no_input);
  fs::remove(s.path / "taps-001.safetensors");
  refused(s, no_input, "taps-001.safetensors");
  fs::remove(s.path / "manifest.json");
  refused(s, no_input, "manifest.json");
}

TEST_CASE("links out of a bundle are not followed", "[golden]") {
  spoilt s;
  const auto linked = [&](const std::string& name) {
    fs::rename(s.path / name, s.dir / name);
    fs::create_symlink(s.dir / name, s.path / name);
  };
  SECTION("a shard") {
    linked("taps-000.safetensors");
    refused(s, structure, "taps-000.safetensors: is a symbolic link");
    const auto b = golden::bundle::open(s.path);
    CHECK_THROWS_AS(b.read(b.tensors().front()), format_error);
  }
  SECTION("the ids") {
    linked("inputs.safetensors");
    refused(s, structure, "inputs.safetensors: is a symbolic link");
  }
  SECTION("the manifest") {
    linked("manifest.json");
    refused(s, structure, "manifest.json: is a symbolic link");
  }
}

TEST_CASE("truncated and damaged files", "[golden]") {
  spoilt s;
  const fs::path shard = s.path / "taps-000.safetensors";
  std::string bytes = read_text(shard);
  SECTION("a shard that ends early") {
    fs::resize_file(shard, fs::file_size(shard) - 1);
    refused(s, io_or_hash, "taps-000.safetensors");
  }
  SECTION("one bit of a value") {
    bytes[bytes.size() - 3] = static_cast<char>(bytes[bytes.size() - 3] ^ 1);
    write_text(shard, bytes);
    const auto r = s.check();
    CHECK(r.exit_code() == io_or_hash);
    REQUIRE(r.problems.size() == 2);  // the file's hash, and the tensor's
    CHECK_THAT(r.problems[1].what, ContainsSubstring("SHA-256"));
  }
  SECTION("a wrong hash in the manifest") {
    s.edit([](json& j) { j["tensors"][7]["sha256"] = std::string(64, '0'); });
    const std::string name = s.document()["tensors"][7]["name"];
    refused(s, io_or_hash, name);
  }
  SECTION("half a manifest") {
    const std::string text = read_text(s.manifest());
    write_text(s.manifest(), text.substr(0, text.size() / 2));
    refused(s, io_or_hash, "truncated");
  }
  SECTION("other ids") {
    s.edit([](json& j) { j["input"]["ids_sha256"] = std::string(64, 'a'); });
    refused(s, io_or_hash, "ids");
  }
  SECTION("another configuration") {
    s.edit([](json& j) { j["config"]["rope_theta"] = 20000; });
    refused(s, io_or_hash, "config_sha256");
  }
}

TEST_CASE("hostile shards", "[golden]") {
  // The manifest agrees with the file's hash and size, so that the file's own header is what is judged.
  spoilt s;
  const fs::path shard = s.path / "taps-000.safetensors";
  std::string bytes = read_text(shard);
  const auto accept = [&](const std::string& text) {
    write_text(shard, text);
    s.edit([&](json& j) {
      for (auto& f : j["files"])
        if (f["name"] == "taps-000.safetensors") {
          f["bytes"] = f["raw_bytes"] = std::max<std::size_t>(text.size(), 1);
          f["sha256"] = golden::hex(golden::sha256_of(text));
        }
    });
  };
  SECTION("an absurd header length") {
    const std::uint64_t length = std::uint64_t{1} << 62;
    std::memcpy(bytes.data(), &length, 8);
    accept(bytes);
    CHECK(s.check().exit_code() == structure);
  }
  SECTION("a header of another tensor type") {
    const auto at = bytes.find("\"F64\"");
    bytes.replace(at, 5, "\"I64\"");
    accept(bytes);
    refused(s, structure, "I64");
  }
  SECTION("no tensors") {
    std::string empty(8, '\0');
    empty[0] = 2;
    accept(empty + "{}");
    CHECK(s.check().exit_code() == structure);
  }
  SECTION("only noise") {
    accept(std::string(100, 'x'));
    CHECK(s.check().exit_code() == structure);
  }
}

TEST_CASE("compressed shards", "[golden]") {
  static const random_model m(tiny_config({0}));
  const scratch_folder dir;
  golden::writer_options o;
  o.zstd = true;
  record_random(m, dir / "b", {{random_ids(9, m.c.vocab_size, 1)}, 1, {}, false}, o);
  const fs::path shard = dir / "b" / "taps-000.safetensors.zst";
  const std::string good = read_text(shard);
  const auto accept = [&](const std::string& text, std::optional<std::size_t> raw = {}) {
    write_text(shard, text);
    json j = json::parse(read_text(dir / "b" / "manifest.json"));
    for (auto& f : j["files"])
      if (f["name"] == "taps-000.safetensors.zst") {
        f["bytes"] = text.size();
        f["sha256"] = golden::hex(golden::sha256_of(text));
        if (raw) f["raw_bytes"] = *raw;
      }
    write_text(dir / "b" / "manifest.json", j.dump());
  };
  const auto code = [&] { return golden::check(dir / "b").exit_code(); };
  CHECK(code() == 0);
  accept(good.substr(0, good.size() - 20));
  CHECK(code() == io_or_hash);
  std::string bent = good;
  bent[good.size() / 2] = static_cast<char>(bent[good.size() / 2] ^ 0x55);
  accept(bent);
  CHECK(code() == io_or_hash);
  // A bomb: much more inside than the manifest says, and a manifest that says as much.
  io::write_zstd(shard, std::string(std::size_t{1} << 24, 'a').data(), std::size_t{1} << 24);
  const std::string bomb = read_text(shard);
  accept(bomb);
  CHECK(code() == io_or_hash);
  accept(bomb, std::size_t{1} << 40);
  CHECK(code() == structure);
  accept(bomb, std::size_t{1} << 24);
  CHECK(code() == structure);
}

TEST_CASE("hostile and impossible manifests", "[golden]") {
  spoilt s;
  struct fault {
    const char* message;
    std::function<void(json&)> f;
  };
  const auto tensor = [](auto f) { return [f](json& j) { f(j["tensors"][4]); }; };
  const fault faults[] = {
      {"schema", [](json& j) { j["schema"] = "v4gold/2"; }},
      {"schema", [](json& j) { j.erase("schema"); }},
      {"'surprise' is unknown", [](json& j) { j["surprise"] = 1; }},
      {"found 5", [](json& j) { j["name"] = 5; }},
      {"numerics.policy", [](json& j) { j["numerics"]["policy"] = "fast"; }},
      {"plain file name", [](json& j) { j["files"][0]["name"] = "../../etc/passwd"; }},
      {"plain file name", [](json& j) { j["files"][0]["name"] = "/etc/passwd"; }},
      {"plain file name", [](json& j) { j["files"][0]["name"] = "a\\..\\b.safetensors"; }},
      {"plain file name", [](json& j) { j["files"][0]["name"] = ".hidden.safetensors"; }},
      {"expected *.safetensors", [](json& j) { j["files"][0]["name"] = "taps.json"; }},
      {"appears twice", [](json& j) { j["files"].push_back(j["files"][0]); }},
      {"inputs.safetensors", [](json& j) {
         for (auto& f : j["files"])
           if (f["name"] == "inputs.safetensors") f["name"] = "other.safetensors";
       }},
      {"raw_bytes", [](json& j) { j["files"][0]["raw_bytes"] = 1; }},
      {"bytes", [](json& j) { j["files"][0]["bytes"] = -5; }},
      {"expected", [](json& j) { j["files"][0]["bytes"] = std::uint64_t{1} << 63; }},
      {"step", [](json& j) { j["calls"][1]["step"] = 7; }},
      {"kind", [](json& j) { j["calls"][1]["kind"] = "warp"; }},
      {"input.tokens", [](json& j) { j["calls"][0]["parts"][0]["pos"] = {0, 5000}; }},
      {"input.tokens", [](json& j) { j["calls"][0]["parts"][0]["sequence"] = 3; }},
      {"from <= to", [](json& j) { j["calls"][0]["parts"][0]["pos"] = {5, 2}; }},
      {"expected a list", [](json& j) { j["tensors"] = 3; }},
      {"list of objects", [](json& j) { j["tensors"][2] = 3; }},
      {"name", tensor([](json& t) { t["name"] = "../x"; })},
      {"scope and site", tensor([](json& t) { t["name"] = "layers.0.attn.out"; })},
      {"key", tensor([](json& t) { t["key"] = "../../k"; })},
      {"listed in 'files'", tensor([](json& t) { t["file"] = "/etc/passwd"; })},
      {"overflow", tensor([](json& t) { t["shape"] = {20, index_t{1} << 40, index_t{1} << 40}; t["axes"] = {"token", "a", "b"}; })},
      {"shape", tensor([](json& t) { t["shape"][0] = -1; })},
      {"tokens", tensor([](json& t) { t["shape"][0] = 7; })},
      {"axes", tensor([](json& t) { t["axes"].push_back("more"); })},
      {"in some order", tensor([](json& t) { t["axes"][1] = "fish"; })},
      {"carrier", tensor([](json& t) { t["carrier"] = "F8_E4M3"; })},
      {"class", tensor([](json& t) { t["class"] = "loose"; })},
      {"seq", tensor([](json& t) { t["seq"] = 0; })},
      {"seq", tensor([](json& t) { t["seq"] = -1; })},
      {"seq", tensor([](json& t) { t["seq"] = 1e300; })},
      {"step", tensor([](json& t) { t["step"] = 99; })},
      {"call", tensor([](json& t) { t["call"] = "decode"; })},
      {"sequence", tensor([](json& t) { t["sequence"] = 1; })},
      {"pos", tensor([](json& t) { t["pos"] = {0, 900}; })},
      {"layer", tensor([](json& t) { t["layer"] = 1; })},
      {"one of the model's", tensor([](json& t) { t["name"] = "layers.9.hc_attn.y"; t["scope"] = "layers.9"; })},
      {"sha256", tensor([](json& t) { t["sha256"] = "xyz"; })},
      {"stats", tensor([](json& t) { t["stats"]["nan"] = 1000000; })},
      {"stats", tensor([](json& t) { t["stats"]["min"] = 1e30; })},
      {"rms", tensor([](json& t) { t["stats"]["rms"] = -1; })},
      {"noise", tensor([](json& t) { t["noise"] = {{"relL2", -1}, {"max_abs", 0}, {"runs", 1}}; })},
      {"smaller seq", tensor([](json& t) { t["deps"] = {"layers.1.out"}; })},
      {"smaller seq", tensor([](json& t) { t["deps"] = {"layers.0.hc_attn.y"}; })},
      {"margin", tensor([](json& t) { t["margin"] = "layers.0.nothing"; })},
      {"unknown", tensor([](json& t) { t["sites"] = 1; })},
      {"once per step", [](json& j) {
         json t = j["tensors"][4];
         t["seq"] = j["tensors"].back()["seq"].get<int>() + 1;
         t["key"] = "other";
         j["tensors"].insert(j["tensors"].begin() + 5, t);
         for (std::size_t i = 5; i < j["tensors"].size(); ++i) j["tensors"][i]["seq"] = i;
       }},
      {"once per file", [](json& j) { j["tensors"][5]["key"] = j["tensors"][4]["key"]; }},
      {"entries", [](json& j) { j["tensors"][find(j, "layers.1.attn.compressor.entry")]["entries"] = {1, 5}; }},
      {"entries", [](json& j) { j["tensors"][find(j, "layers.1.attn.compressor.entry")].erase("entries"); }},
      {"a site of a layer", [](json& j) {
         auto& t = j["tensors"][find(j, "layers.1.attn.indexer.q")];
         t["name"] = "layers.0.attn.indexer.q", t["scope"] = "layers.0", t["layer"] = 0;
       }},
      {"I32 for a choice", [](json& j) { j["tensors"][find(j, "layers.1.ffn.gate.indices")]["carrier"] = "F32"; }},
      {"shape", [](json& j) {
         auto& t = j["tensors"][find(j, "layers.1.ffn.out")];
         t["shape"][1] = index_t{1} << 40;
       }},
  };
  const json good = s.document();
  for (const fault& f : faults) {
    json j = good;
    f.f(j);
    write_text(s.manifest(), j.dump());
    const auto r = s.check();
    REQUIRE(!r.problems.empty());
    INFO(r.problems[0].what);
    CHECK(r.problems[0].what.find(f.message) != std::string::npos);
    CHECK(r.exit_code() == structure);
  }
  // Wrong shapes that only the shard contradicts.
  json j = good;
  const auto at = find(j, "layers.1.ffn.out");
  std::swap(j["tensors"][at]["shape"][1], j["tensors"][find(j, "layers.1.out")]["shape"][1]);
  write_text(s.manifest(), j.dump());
  CHECK(s.check().exit_code() == structure);
}

TEST_CASE("texts that JSON readers disagree on", "[golden]") {
  spoilt s;
  std::string text = read_text(s.manifest());
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string t = text;
    const auto at = t.find(from);
    REQUIRE(at != std::string::npos);
    t.replace(at, from.size(), to);
    write_text(s.manifest(), t);
  };
  with("\"schema\":", "\"schema\": \"v4gold/1\", \"schema\":");
  refused(s, structure, "twice");
  with("\"seq\":0,", "\"seq\":0,\"seq\":0,");
  refused(s, structure, "twice");
  with("\"max\":", "\"max\":NaN,\"x_max\":");
  refused(s, io_or_hash, "not valid JSON");
  write_text(s.manifest(), text + '\0');
  refused(s, io_or_hash, "is NUL");
  with("\"max\":", "\"max\":1e999,\"x_max\":");
  refused(s, structure, "range of double");
  write_text(s.manifest(), std::string(100000, '['));
  refused(s, structure, "nested");
  write_text(s.manifest(), "");
  refused(s, io_or_hash, "not valid JSON");
  write_text(s.manifest(), "[]");
  refused(s, structure, "expected an object");
  golden::open_options small;
  small.max_manifest_bytes = 1000;
  write_text(s.manifest(), text);
  CHECK_THROWS_AS(golden::bundle::open(s.path, small), format_error);
  // Extensions are free.
  with("\"schema\":", "\"x_note\": [1, {\"a\": null}], \"schema\":");
  CHECK(s.check().ok());
}

TEST_CASE("whatever bytes change in a manifest, it is read or refused", "[golden]") {
  const spoilt s;
  const std::string good = read_text(s.manifest());
  integers r{11};
  index_t refused_ = 0;
  constexpr index_t trials = 400;
  for (index_t i = 0; i < trials; ++i) {
    std::string t = good;
    const index_t changes = 1 + r.below(3);
    for (index_t k = 0; k < changes; ++k) {
      const auto at = static_cast<std::size_t>(r.below(static_cast<index_t>(t.size())));
      switch (r.below(4)) {
        case 0: t[at] = static_cast<char>(r.below(256)); break;
        case 1: t.erase(at, static_cast<std::size_t>(1 + r.below(40))); break;
        case 2:
          t.insert(at, t.substr(static_cast<std::size_t>(r.below(static_cast<index_t>(t.size()))), 20));
          break;
        default: t.insert(at, "9999999999999"); break;
      }
    }
    try {
      golden::parse_manifest("m", t);
    } catch (const format_error&) {
      ++refused_;
    } catch (const unsupported&) {
      ++refused_;
    }  // nothing else may come out
  }
  CHECK(refused_ > trials / 2);
}

TEST_CASE("statistics do not depend on the pieces, and leave out what is not finite", "[golden]") {
  integers r{7};
  std::vector<float> v(1237);
  for (float& x : v) x = 100 * r.unit();
  const auto plain = golden::stats_of(dtype::f32, std::as_bytes(std::span(v)));
  CHECK(plain.min == *std::min_element(v.begin(), v.end()));
  CHECK(plain.max == *std::max_element(v.begin(), v.end()));
  double squares = 0;
  for (const float x : v) squares += double(x) * x;
  CHECK(plain.rms == Catch::Approx(std::sqrt(squares / 1237)).epsilon(1e-14));
  v[5] = v[900] = std::numeric_limits<float>::quiet_NaN(), v[1236] = -std::numeric_limits<float>::infinity();
  const auto raw = std::as_bytes(std::span(v));
  const auto whole = golden::stats_of(dtype::f32, raw);
  CHECK((whole.nan == 2 && whole.inf == 1));
  for (const std::size_t piece : {4u, 12u, 32u, 1000u}) {
    golden::stats_accumulator s;
    for (std::size_t at = 0; at < raw.size(); at += piece)
      s.add(dtype::f32, raw.subspan(at, std::min(piece, raw.size() - at)));
    CHECK(s.result() == whole);
  }
  const std::vector<float> none{std::numeric_limits<float>::infinity()};
  CHECK(golden::stats_of(dtype::f32, std::as_bytes(std::span(none))) == golden::tensor_stats{0, 0, 0, 0, 1});
  CHECK(golden::stats_of(dtype::f32, {}) == golden::tensor_stats{});
}

TEST_CASE("names", "[golden]") {
  for (const char* good : {"layers.3.attn.q_rope", "a", "x-1.y"}) CHECK(golden::is_plain_name(good));
  for (const char* bad : {"", ".", "..", "a..b", ".a", "a.", "a/b", "a\\b", "a b", "\xc3\xa9"})
    CHECK(!golden::is_plain_name(bad));
  CHECK(golden::parse_name("layers.3.attn.q_rope")->scope.number == 3);
  CHECK(golden::parse_name("mtp.0.head.logits")->id == site::logits);
  CHECK(golden::parse_name("mtp.0.head.norm")->scope.where == tap_scope::part::mtp_head);
  for (const char* bad : {"layers.attn.q_rope", "layers.03.attn.q_rope", "layers.3.logits", "head.out",
                          "layers.3.", "layers.99999999.out", "heads.norm", ""})
    CHECK(!golden::parse_name(bad));
}

TEST_CASE("the writer refuses what the reader would", "[golden]") {
  const scratch_folder dir;
  const config c = tiny_config();
  {
    golden::bundle_writer w(dir / "a", about_of(c));
    w.ids({{1, 2, 3}});
    w.begin_call(golden::call_kind::prefill, {{0, 0, 3}});
    golden::tensor_entry t;
    t.name = "layers.0.attn.out", t.scope = "layers.0", t.site = "attn.out", t.layer = 0, t.to = 3;
    t.axes = {"token", "channel"}, t.shape = {2, 2}, t.logical = "f32";  // two rows for three tokens
    const std::vector<std::byte> raw(16);
    w.add(t, raw);
    CHECK_THROWS_AS(w.finish(), format_error);
    CHECK(!fs::exists(dir / "a" / "manifest.json"));
  }
  write_text(dir / "file", "x");
  CHECK_THROWS_AS(golden::bundle_writer(dir.path, about_of(c)), contract_violation);
}

}  // namespace dsv4_test::golden_check
