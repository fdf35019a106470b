// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of manifest_json.hpp.
#include <cmath>
#include <set>

#include "../../io/config_json.hpp"
#include "../../io/config_out.hpp"
#include "../../io/json_fields.hpp"
#include "../../io/json_text.hpp"
#include "../../io/zstd_stream.hpp"
#include "manifest_json.hpp"
#include "validate.hpp"

namespace dsv4::golden {

namespace detail {

inline constexpr index_t most_index = index_t{1} << 48;
inline constexpr std::size_t most_list = std::size_t{1} << 20;

/// Fields of one JSON object, each of which must be known.
class strict_fields : public io::detail::json_fields {
 public:
  strict_fields(const std::filesystem::path& file, const nlohmann::json& object, const std::string& where,
                std::initializer_list<std::string_view> known)
      : json_fields(file, checked(file, object, where), where.empty() ? "" : where + "."), path_(file) {
    for (const auto& [key, value] : object.items())
      if (!key.starts_with("x_") && std::find(known.begin(), known.end(), key) == known.end())
        io::fail_format(file, "field " + full(key) + " is unknown (extensions begin with x_)");
  }

  std::string text(std::string_view name, std::size_t longest = 4096) const {
    const nlohmann::json& v = need(name);
    if (!v.is_string() || v.get_ref<const std::string&>().size() > longest)
      refuse(name, v, "a text of at most " + std::to_string(longest) + " bytes");
    return v.get<std::string>();
  }
  std::string text_or(std::string_view name, std::string absent) const {
    return has(name) ? text(name) : absent;
  }
  bool flag(std::string_view name) const {
    const nlohmann::json& v = need(name);
    if (!v.is_boolean()) refuse(name, v, "true or false");
    return v.get<bool>();
  }
  const nlohmann::json& list(std::string_view name, std::size_t longest = most_list) const {
    const nlohmann::json& v = need(name);
    if (!v.is_array() || v.size() > longest) refuse(name, v, "a list of at most " + std::to_string(longest));
    return v;
  }
  const nlohmann::json& object(std::string_view name) const {
    const nlohmann::json& v = need(name);
    if (!v.is_object()) refuse(name, v, "an object");
    return v;
  }
  std::vector<std::string> texts(std::string_view name, std::size_t longest) const {
    std::vector<std::string> out;
    if (!has(name)) return out;
    for (const auto& v : list(name, longest)) {
      if (!v.is_string()) refuse(name, v, "texts");
      out.push_back(v.get<std::string>());
    }
    return out;
  }
  std::pair<index_t, index_t> range(std::string_view name) const {
    const auto r = integers(name, 0, most_index);
    if (r.size() != 2 || r[0] > r[1]) refuse(name, need(name), "[from, to) with from <= to");
    return {r[0], r[1]};
  }
  sha256_digest digest(std::string_view name) const {
    const auto d = digest_of_hex(text(name));
    if (!d) refuse(name, need(name), "64 lower-case hexadecimal digits");
    return *d;
  }
  [[noreturn]] void refuse(std::string_view name, const nlohmann::json& found,
                           const std::string& expected) const {
    io::fail_format(path_, "field " + full(name) + ": found " + shown(found) + ", expected " + expected);
  }

 private:
  static const nlohmann::json& checked(const std::filesystem::path& file, const nlohmann::json& object,
                                       const std::string& where) {
    if (!object.is_object())
      io::fail_format(file, (where.empty() ? "the manifest" : "field '" + where + "'") + ": found " +
                                shown(object) + ", expected an object");
    return object;
  }
  const std::filesystem::path& path_;
};

DSV4_INLINE std::optional<dtype> carrier_of(std::string_view name) {
  for (const dtype t : {dtype::u8, dtype::i32, dtype::f32, dtype::f64, dtype::boolean, dtype::bf16})
    if (name_of(t) == name) return t;
  return std::nullopt;
}
DSV4_INLINE std::optional<call_kind> call_kind_of(std::string_view name) {
  for (std::size_t i = 0; i < std::size(call_kind_names); ++i)
    if (call_kind_names[i] == name) return static_cast<call_kind>(i);
  return std::nullopt;
}

DSV4_INLINE tensor_entry read_entry(const std::filesystem::path& file, const nlohmann::json& j,
                                    std::size_t number) {
  constexpr std::size_t most_axes = 8, most_deps = 256;
  const double huge = std::numeric_limits<double>::max();
  const strict_fields f(file, j, "tensors[" + std::to_string(number) + "]",
                        {"name",  "seq",      "file",  "key",     "scope", "layer", "site",    "step",
                         "call",  "sequence", "pos",   "entries", "axes",  "shape", "carrier", "logical",
                         "class", "deps",     "state", "sha256",  "stats", "noise", "margin"});
  tensor_entry t;
  t.name = f.text("name");
  t.seq = f.integer("seq", 0, most_index);
  t.file = f.text("file");
  t.key = f.text("key");
  t.scope = f.text("scope");
  t.layer = f.integer_or("layer", 0, io::detail::most_layers, -1);
  t.site = f.text("site");
  t.step = f.integer("step", 0, most_index);
  const auto call = call_kind_of(f.text("call"));
  if (!call) f.refuse("call", j["call"], "prefill, chunk, decode or mtp");
  t.call = *call;
  t.sequence = f.integer("sequence", 0, most_index);
  std::tie(t.from, t.to) = f.range("pos");
  if (f.has("entries")) {
    const auto [first, end] = f.range("entries");
    t.first_entry = first, t.end_entry = end;
  }
  t.axes = f.texts("axes", most_axes);
  t.shape = f.integers("shape", 0, most_index);
  const auto carrier = carrier_of(f.text("carrier"));
  if (!carrier) f.refuse("carrier", j["carrier"], "U8, I32, F32, F64, BOOL or BF16");
  t.carrier = *carrier;
  t.logical = f.text("logical");
  const auto cls = tolerance_class_of(f.text("class"));
  if (!cls) f.refuse("class", j["class"], "a tolerance class of docs/bundle-format.md");
  t.cls = *cls;
  t.deps = f.texts("deps", most_deps);
  t.state = f.texts("state", most_deps);
  t.sha256 = f.digest("sha256");
  t.margin = f.text_or("margin", "");
  const strict_fields s(file, f.object("stats"), f.full("stats"), {"min", "max", "rms", "nan", "inf"});
  t.stats = {s.number("min", -huge, huge), s.number("max", -huge, huge), s.number("rms", 0, huge),
             s.integer("nan", 0, most_index), s.integer("inf", 0, most_index)};
  if (f.has("noise")) {
    const strict_fields n(file, f.object("noise"), f.full("noise"), {"relL2", "max_abs", "runs"});
    t.noise = measured_noise{n.number("relL2", 0, huge), n.number("max_abs", 0, huge),
                             n.integer("runs", 1, most_index)};
  }
  return t;
}

DSV4_INLINE weights_identity read_weights(const std::filesystem::path& file, const nlohmann::json& j) {
  const strict_fields f(file, j, "weights", {"kind", "files", "recipe", "seed"});
  weights_identity w;
  w.kind = f.text("kind");
  if (w.kind != "files" && w.kind != "recipe" && w.kind != "none")
    f.refuse("kind", j["kind"], "files, recipe or none");
  if (w.kind == "recipe") {
    w.recipe = f.text("recipe");
    w.seed = static_cast<std::uint64_t>(f.integer_or("seed", 0, std::numeric_limits<index_t>::max(), 0));
  }
  if (w.kind == "files")
    for (const auto& x : f.list("files")) {
      const strict_fields g(file, x, "weights.files", {"name", "bytes", "sha256"});
      weight_file& into =
          w.files.emplace_back(weight_file{g.text("name"), usize(g.integer("bytes", 0, most_index)), {}});
      if (g.has("sha256")) into.sha256 = g.digest("sha256");
    }
  return w;
}

DSV4_INLINE manifest read_about(const std::filesystem::path& file, const nlohmann::json& j) {
  const strict_fields f(file, j, "",
                        {"schema", "name", "created_by", "oracle", "numerics", "config", "config_sha256",
                         "weights", "input", "calls", "equal_runs", "files", "hash", "tensors"});
  if (const std::string schema = f.text("schema"); schema != schema_name)
    f.refuse("schema", j["schema"], "\"" + std::string(schema_name) + "\"");
  manifest m;
  m.name = f.text("name");
  m.created_by = f.object("created_by");
  m.oracle = f.object("oracle");
  m.numerics = f.object("numerics");
  const nlohmann::json& policy = f.object("numerics").value("policy", nlohmann::json());
  if (policy != "official" && policy != "float32")
    f.refuse("numerics.policy", policy, "\"official\" or \"float32\"");
  m.model = io::parse_config(file, f.object("config"));
  m.config_sha256 = f.digest("config_sha256");
  m.weights = read_weights(file, f.object("weights"));

  const strict_fields i(file, f.object("input"), "input",
                        {"ids_sha256", "tokens", "prefill", "decode_steps", "chunking", "mtp", "ladder"});
  m.input = {i.digest("ids_sha256"),
             i.integers("tokens", 0, most_index),
             i.integer("prefill", 0, most_index),
             i.integer("decode_steps", 0, most_index),
             i.integers("chunking", 1, most_index),
             i.flag("mtp"),
             i.text_or("ladder", "")};

  for (const auto& x : f.list("calls")) {
    const std::string where = "calls[" + std::to_string(m.calls.size()) + "]";
    const strict_fields c(file, x, where, {"step", "kind", "parts"});
    const auto kind = call_kind_of(c.text("kind"));
    if (!kind) c.refuse("kind", x["kind"], "prefill, chunk, decode or mtp");
    call_info call{c.integer("step", 0, most_index), *kind, {}};
    for (const auto& p : c.list("parts")) {
      const strict_fields g(file, p, where + ".parts", {"sequence", "pos"});
      const auto [from, to] = g.range("pos");
      call.parts.push_back({g.integer("sequence", 0, most_index), from, to});
    }
    m.calls.push_back(std::move(call));
  }
  if (f.has("equal_runs"))
    for (const auto& x : f.list("equal_runs")) {
      const strict_fields e(file, x, "equal_runs", {"what", "lengths", "equal"});
      m.equal_runs.push_back({e.text("what"), e.integers("lengths", 1, most_index), e.flag("equal")});
    }
  for (const auto& x : f.list("files")) {
    const strict_fields g(file, x, "files[" + std::to_string(m.files.size()) + "]",
                          {"name", "bytes", "raw_bytes", "sha256"});
    m.files.push_back({g.text("name"), usize(g.integer("bytes", 0, most_index)),
                       usize(g.integer("raw_bytes", 0, most_index)), g.digest("sha256")});
  }
  const strict_fields h(file, f.object("hash"), "hash", {"algo", "over"});
  if (h.text("algo") != "sha256") h.refuse("algo", h.need("algo"), "\"sha256\"");
  return m;
}

DSV4_INLINE nlohmann::json entry_json(const tensor_entry& t) {
  nlohmann::json j{{"name", t.name},
                   {"seq", t.seq},
                   {"file", t.file},
                   {"key", t.key},
                   {"scope", t.scope},
                   {"site", t.site},
                   {"step", t.step},
                   {"call", name_of(t.call)},
                   {"sequence", t.sequence},
                   {"pos", {t.from, t.to}},
                   {"axes", t.axes},
                   {"shape", t.shape},
                   {"carrier", name_of(t.carrier)},
                   {"logical", t.logical},
                   {"class", name_of(t.cls)},
                   {"deps", t.deps},
                   {"sha256", hex(t.sha256)},
                   {"stats",
                    {{"min", t.stats.min},
                     {"max", t.stats.max},
                     {"rms", t.stats.rms},
                     {"nan", t.stats.nan},
                     {"inf", t.stats.inf}}}};
  if (t.layer >= 0) j["layer"] = t.layer;
  if (t.first_entry) j["entries"] = {*t.first_entry, *t.end_entry};
  if (!t.state.empty()) j["state"] = t.state;
  if (!t.margin.empty()) j["margin"] = t.margin;
  if (t.noise)
    j["noise"] = {{"relL2", t.noise->relL2}, {"max_abs", t.noise->max_abs}, {"runs", t.noise->runs}};
  return j;
}

}  // namespace detail

DSV4_INLINE parsed_manifest parse_manifest(const std::filesystem::path& file, std::string_view text) {
  using event = nlohmann::json::parse_event_t;
  constexpr int most_depth = 16, root = 1, element = 2;
  parsed_manifest r;
  std::vector<std::set<std::string>> keys;
  bool in_tensors = false;
  const auto on = [&](int depth, event e, nlohmann::json& value) {
    if (e == event::object_start) keys.emplace_back();
    if (e == event::key) {
      const auto& name = value.get_ref<const std::string&>();
      if (!keys.back().insert(name).second)
        io::fail_format(file, "field " + io::in_quotes(name) + " appears twice in one object");
      if (depth == root) in_tensors = name == "tensors";
    }
    if (e == event::object_end) {
      keys.pop_back();
      if (in_tensors && depth == element) {
        r.tensors.push_back(detail::read_entry(file, value, r.tensors.size()));
        return false;  // converted; the document need not keep it
      }
    }
    return true;
  };
  nlohmann::json j;
  try {
    j = io::parse_json(file, text, {.most_depth = most_depth}, on);
    r.about = detail::read_about(file, j);
  } catch (const io::not_json& e) {
    throw damaged(std::string(e.what()) + " (truncated?)");
  } catch (const nlohmann::json::exception&) {
    io::fail_format(file, "holds a number beyond the range of double");
  }
  if (const auto at = j.find("tensors"); at == j.end() || !at->is_array() || !at->empty())
    io::fail_format(file, "field 'tensors': expected a list of objects");
  validate(file, r.about, r.tensors);
  if (sha256_of(r.about.model) != r.about.config_sha256)
    throw damaged(file.string() + ": field 'config_sha256' is not the hash of 'config'");
  return r;
}

DSV4_INLINE std::filesystem::path manifest_file(const std::filesystem::path& dir) {
  std::error_code none;
  const bool compressed = !std::filesystem::exists(dir / plain_manifest, none) &&
                          std::filesystem::exists(dir / compressed_manifest, none);
  return dir / (compressed ? compressed_manifest : plain_manifest);
}

DSV4_INLINE bool is_bundle(const std::filesystem::path& dir) {
  std::error_code none;
  return std::filesystem::exists(manifest_file(dir), none);
}

DSV4_INLINE parsed_manifest read_manifest(const std::filesystem::path& file, std::size_t max_bytes) {
  if (file.extension() == ".zst") {
    io::owned_bytes text;
    try {
      text = io::read_zstd(file, max_bytes);
    } catch (const format_error& e) {
      throw damaged(e.what());
    }
    return parse_manifest(file, {reinterpret_cast<const char*>(text.data()), text.size});
  }
  const io::mapped_file map(file);
  if (map.size() > max_bytes)
    io::fail_format(file, "found " + std::to_string(map.size()) + " bytes, expected a manifest of at most " +
                              std::to_string(max_bytes));
  return parse_manifest(file, map.text());
}

DSV4_INLINE std::string manifest_text(const manifest& m, const std::vector<tensor_entry>& tensors) {
  using nlohmann::json;
  json weights{{"kind", m.weights.kind}};
  if (m.weights.kind == "recipe") weights["recipe"] = m.weights.recipe, weights["seed"] = m.weights.seed;
  if (m.weights.kind == "files") {
    weights["files"] = json::array();
    for (const weight_file& f : m.weights.files) {
      json w{{"name", f.name}, {"bytes", f.bytes}};
      if (f.sha256) w["sha256"] = hex(*f.sha256);
      weights["files"].push_back(std::move(w));
    }
  }
  json calls = json::array(), files = json::array(), equal = json::array();
  for (const call_info& c : m.calls) {
    json parts = json::array();
    for (const call_part& p : c.parts) parts.push_back({{"sequence", p.sequence}, {"pos", {p.from, p.to}}});
    calls.push_back({{"step", c.step}, {"kind", name_of(c.kind)}, {"parts", parts}});
  }
  for (const file_info& f : m.files)
    files.push_back(
        {{"name", f.name}, {"bytes", f.bytes}, {"raw_bytes", f.raw_bytes}, {"sha256", hex(f.sha256)}});
  for (const equal_run& e : m.equal_runs)
    equal.push_back({{"what", e.what}, {"lengths", e.lengths}, {"equal", e.equal}});
  const json head{
      {"schema", schema_name},
      {"name", m.name},
      {"created_by", m.created_by},
      {"oracle", m.oracle},
      {"numerics", m.numerics},
      {"config", io::to_json(m.model)},
      {"config_sha256", hex(sha256_of(m.model))},
      {"weights", weights},
      {"input",
       {{"ids_sha256", hex(m.input.ids_sha256)},
        {"tokens", m.input.tokens},
        {"prefill", m.input.prefill},
        {"decode_steps", m.input.decode_steps},
        {"chunking", m.input.chunking},
        {"mtp", m.input.mtp},
        {"ladder", m.input.ladder}}},
      {"calls", calls},
      {"equal_runs", equal},
      {"files", files},
      {"hash", {{"algo", "sha256"}, {"over", "raw little-endian bytes, row-major"}}},
  };
  // One line per top-level field and per tensor, so that differences of two bundles read well.
  std::string out = "{\n";
  for (const auto& [key, value] : head.items()) out += " \"" + key + "\": " + value.dump() + ",\n";
  out += " \"tensors\": [";
  for (std::size_t i = 0; i < tensors.size(); ++i)
    out += (i ? ",\n  " : "\n  ") + detail::entry_json(tensors[i]).dump();
  return out + "\n ]\n}\n";
}

}  // namespace dsv4::golden
