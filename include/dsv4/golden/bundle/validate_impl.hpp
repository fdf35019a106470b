// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of validate.hpp.
#include "../../core/config_macros.hpp"
#include "validate.hpp"

namespace dsv4::golden {

DSV4_INLINE bool is_plain_file_name(std::string_view name) {
  constexpr std::size_t longest = 128;
  if (name.empty() || name.size() > longest || name[0] == '.') return false;
  return name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
         name.npos;
}

DSV4_INLINE bool is_plain_name(std::string_view name) {
  constexpr std::size_t longest = 200;
  if (name.empty() || name.size() > longest || name.front() == '.' || name.back() == '.') return false;
  return name.find("..") == name.npos && is_plain_file_name(name.substr(0, 1)) &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
             name.npos;
}

}  // namespace dsv4::golden

namespace dsv4::golden::detail {

DSV4_INLINE void manifest_validator::run(const std::vector<tensor_entry>& tensors) {
  files();
  calls();
  index_t seq = -1, step = -1;
  for (const tensor_entry& t : tensors) {
    entry_ = &t;
    require(t.seq > seq, "seq", std::to_string(t.seq),
            "more than " + std::to_string(seq) + ", the one before");
    require(t.step >= step, "step", std::to_string(t.step),
            "no less than " + std::to_string(step) + ", the one before");
    if (t.step != step) seen_.clear();  // a dependency must be of the same call
    seq = t.seq, step = t.step;
    one(t);
    require(seen_.emplace(t.sequence, t.name).second, "name", t.name, "a name once per step and sequence");
  }
}

DSV4_INLINE void manifest_validator::files() {
  std::unordered_set<std::string> names;
  for (const file_info& f : m_.files) {
    if (!is_plain_file_name(f.name))
      io::fail_format(file_, "field 'files': found the name " + io::in_quotes(f.name) +
                                 ", expected a plain file name (letters, digits, . _ -; no directory)");
    if (!names.insert(f.name).second)
      io::fail_format(file_, "field 'files': " + io::in_quotes(f.name) + " appears twice");
    const std::filesystem::path p = f.name;
    const bool zst = p.extension() == ".zst";
    if ((zst ? p.stem() : p).extension() != ".safetensors")
      io::fail_format(file_, "field 'files': found " + io::in_quotes(f.name) +
                                 ", expected *.safetensors or *.safetensors.zst");
    if (!zst && f.bytes != f.raw_bytes)
      io::fail_format(file_,
                      "field 'files': " + f.name + ": raw_bytes differ from bytes, but it is not compressed");
    files_[f.name] = &f;
  }
  if (!files_.contains("inputs.safetensors"))
    io::fail_format(file_, "field 'files': 'inputs.safetensors' is missing");
}

DSV4_INLINE void manifest_validator::calls() {
  const auto sequences = static_cast<index_t>(m_.input.tokens.size());
  for (std::size_t i = 0; i < m_.calls.size(); ++i) {
    const call_info& c = m_.calls[i];
    const std::string where = "field 'calls[" + std::to_string(i) + "]': ";
    if (c.step != static_cast<index_t>(i))
      io::fail_format(file_,
                      where + "found step " + std::to_string(c.step) + ", expected " + std::to_string(i));
    for (const call_part& p : c.parts)
      if (p.sequence >= sequences || p.to > m_.input.tokens[usize(p.sequence)])
        io::fail_format(file_, where + "positions [" + std::to_string(p.from) + ", " + std::to_string(p.to) +
                                   ") of sequence " + std::to_string(p.sequence) +
                                   ", which input.tokens does not have");
  }
}

DSV4_INLINE void manifest_validator::one(const tensor_entry& t) {
  require(is_plain_name(t.name), "name", t.name, "words of letters, digits, _ and - between dots");
  require(is_plain_name(t.key), "key", t.key, "words of letters, digits, _ and - between dots");
  require(t.name == t.scope + "." + t.site, "name", t.name, "scope and site, " + t.scope + "." + t.site);
  // The call.
  require(t.step < static_cast<index_t>(m_.calls.size()), "step", std::to_string(t.step),
          "one of the " + std::to_string(m_.calls.size()) + " calls");
  const call_info& c = m_.calls[usize(t.step)];
  require(c.kind == t.call, "call", std::string(golden::name_of(t.call)),
          std::string(golden::name_of(c.kind)) + ", as the call");
  const call_part* part = nullptr;
  for (const call_part& p : c.parts)
    if (p.sequence == t.sequence) part = &p;
  require(part != nullptr, "sequence", std::to_string(t.sequence), "a sequence of the call");
  require(t.from >= part->from && t.to <= part->to, "pos", range(t.from, t.to),
          "within the call's " + range(part->from, part->to));
  // The shape.
  require(t.axes.size() == t.shape.size(), "axes", std::to_string(t.axes.size()) + " names",
          std::to_string(t.shape.size()) + ", one per size of 'shape'");
  const auto elements = io::detail::checked_elements(t.shape, t.carrier);
  require(elements.has_value(), "shape", io::shape_text(t.shape), "a product that does not overflow");
  const bool by_entry = t.first_entry.has_value();
  for (std::size_t a = 0; a < t.axes.size(); ++a) {
    if (t.axes[a] == "token")
      require(t.shape[a] == t.to - t.from, "shape", io::shape_text(t.shape),
              std::to_string(t.to - t.from) + " tokens, as 'pos'");
    if (by_entry && t.axes[a] == "entry")
      require(t.shape[a] == *t.end_entry - *t.first_entry, "shape", io::shape_text(t.shape),
              std::to_string(*t.end_entry - *t.first_entry) + " entries, as 'entries'");
  }
  // What the model says of this site.
  if (const auto known = t.parsed()) model_site(t, *known);
  require(t.cls != tolerance_class::choice || t.carrier == dtype::i32, "carrier",
          std::string(dsv4::name_of(t.carrier)), "I32 for a choice");
  // Statistics.
  require(t.stats.nan + t.stats.inf <= *elements, "stats",
          std::to_string(t.stats.nan + t.stats.inf) + " NaN and infinities",
          "at most " + std::to_string(*elements));
  require(t.stats.min <= t.stats.max, "stats", "min above max", "min <= max");
  // Other tensors: earlier ones of the same call.
  for (const std::string& d : t.deps)
    require(seen_.contains({t.sequence, d}), "deps", d,
            "a tensor of the same step and sequence with a smaller seq");
  for (const std::string& d : t.state) require(is_plain_name(d), "state", d, "a name");
  if (!t.margin.empty())
    require(seen_.contains({t.sequence, t.margin}), "margin", t.margin,
            "a tensor of the same step and sequence with a smaller seq");
  // The place.
  const auto at = files_.find(t.file);
  require(at != files_.end(), "file", t.file, "a file listed in 'files'");
  require(t.bytes() <= at->second->raw_bytes, "shape", io::shape_text(t.shape),
          "at most the " + std::to_string(at->second->raw_bytes) + " bytes of " + t.file);
  require(places_.emplace(t.file, t.key).second, "key", t.key, "a key once per file");
}

DSV4_INLINE void manifest_validator::model_site(const tensor_entry& t, const parsed_name& known) {
  const config& c = m_.model;
  const index_t layers =
      known.scope.where == tap_scope::part::layer ? c.num_hidden_layers : c.num_nextn_predict_layers;
  if (known.scope.where != tap_scope::part::head)
    require(known.scope.number < layers, "name", t.name, "one of the model's " + std::to_string(layers));
  const bool numbered = known.scope.where != tap_scope::part::head;
  require(t.layer == (numbered ? known.scope.number : -1), "layer", std::to_string(t.layer),
          "the number in the name");
  const index_t ratio = ratio_of(known.scope, c);
  require(exists(known.id, ratio), "name", t.name, "a site of a layer of ratio " + std::to_string(ratio));
  // Axes may come in another order (other engines); they are the same ones.
  std::vector<std::string> expected = axis_names(known.id), found = t.axes;
  std::string text;
  for (const auto& a : expected) text += (text.empty() ? "" : ", ") + a;
  std::sort(expected.begin(), expected.end());
  std::sort(found.begin(), found.end());
  require(found == expected, "axes", "others", text + " in some order");
  const bool mtp =
      known.scope.where == tap_scope::part::mtp || known.scope.where == tap_scope::part::mtp_head;
  require(mtp == (t.call == call_kind::mtp), "call", std::string(golden::name_of(t.call)),
          mtp ? "mtp" : "a call of the model's layers");
  require(is_entry_site(known.id) == t.first_entry.has_value(), "entries", t.first_entry ? "a range" : "none",
          is_entry_site(known.id) ? "a range (rows are entries)" : "none (rows are tokens)");
  if (!t.first_entry) return;
  require(*t.first_entry == t.from / ratio && *t.end_entry == t.to / ratio, "entries",
          range(*t.first_entry, *t.end_entry),
          range(t.from / ratio, t.to / ratio) + ", those that close at positions " + range(t.from, t.to));
}

DSV4_INLINE void manifest_validator::require(bool ok, std::string_view field, const std::string& found,
                                             const std::string& expected) const {
  if (!ok) [[unlikely]]
    io::fail_format(file_, "tensor " + io::in_quotes(entry_->name) + " (seq " + std::to_string(entry_->seq) +
                               "): field '" + std::string(field) + "': found " + io::in_quotes(found) +
                               ", expected " + expected);
}

}  // namespace dsv4::golden::detail

namespace dsv4::golden {

DSV4_INLINE void validate(const std::filesystem::path& file, const manifest& m,
                          const std::vector<tensor_entry>& tensors) {
  detail::manifest_validator(file, m).run(tensors);
}

}  // namespace dsv4::golden
