// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of convert.hpp.
#include "convert.hpp"
#include "row_transform.hpp"

namespace dsv4::golden {

namespace detail {

/// Runs `f`; what does not fit goes to the list instead of stopping the others.
template <class F>
bool fits(std::vector<std::string>& misfits, F&& f) {
  try {
    f();
    return true;
  } catch (const format_error& e) {
    misfits.push_back(e.what());
  } catch (const unsupported& e) {
    misfits.push_back(e.what());
  }
  return false;
}

/// Enters an array into its call, unless the call has a better one for that site: an earlier rule's, or an
/// earlier use of the same name.
inline void enter(match_result& out, matched_call& call, matched_value v) {
  const config& c = out.model;
  const bool head = v.scope.where == tap_scope::part::head || v.scope.where == tap_scope::part::mtp_head;
  const bool mtp = v.scope.where == tap_scope::part::mtp || v.scope.where == tap_scope::part::mtp_head;
  const index_t layers = mtp ? c.num_nextn_predict_layers : c.num_hidden_layers;
  if ((!head && v.scope.number >= layers) || !exists(v.where, ratio_of(v.scope, c)))
    io::fail_format(v.from->file, "array " + io::in_quotes(v.from->full) + " is " + v.name +
                                      " by the map, which this model does not have (another config.json?)");
  const auto same = std::find_if(call.values.begin(), call.values.end(),
                                 [&](const matched_value& o) { return o.name == v.name; });
  if (same == call.values.end()) {
    call.values.push_back(std::move(v));
    return;
  }
  if (std::pair(v.rule, v.from->occurrence) < std::pair(same->rule, same->from->occurrence))
    std::swap(v, *same);
  out.twice.push_back(v.from->full);
}

/// Tokens of a call: what most of the arrays with a row for each say; 0 if none does, with what they say instead.
inline index_t tokens_of(const matched_call& call, match_result& out) {
  if (call.call.single) return 1;
  std::map<index_t, index_t> votes;
  std::vector<std::string> instead;
  for (const matched_value& v : call.values)
    if (!v.rule->optional && !is_entry_site(v.where) && (!v.from->raw || has_fixed_sizes(v.where, out.model)))
      fits(instead, [&] { ++votes[align(v, out.model, out.sequences, 0).shape[0]]; });
  votes.erase(0);
  const auto most = std::max_element(votes.begin(), votes.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most != votes.end()) return most->first;
  if (instead.empty())
    instead.push_back(out.source->path().string() + ": no array tells how many tokens the call at position " +
                      std::to_string(call.call.start) + " has");
  out.misfits.insert(out.misfits.end(), instead.begin(), instead.end());
  return 0;
}

/// Looks at every array of a call as `convert` will: rows, axes, types.
inline void look_over(match_result& out, matched_call& call) {
  std::erase_if(call.values, [&](const matched_value& v) {
    const index_t from = call.call.start, ratio = ratio_of(v.scope, out.model);
    const bool nothing =
        v.rule->optional && is_entry_site(v.where) && (from + call.tokens) / ratio == from / ratio;
    out.closing_nothing += nothing;
    return nothing;
  });
  for (const matched_value& v : call.values)
    fits(v.rule->optional ? out.left_out : out.misfits, [&] {
      rows_of(v, out.model, out.sequences, call.call.start, call.tokens);
      row_transform(*v.rule, v.scope, v.where, out.model).carrier(v.from->type, v.from->who());
    });
}

}  // namespace detail

DSV4_INLINE match_result match(dump source, name_map rules, const config& c, index_t sequences) {
  match_result out;
  out.source = std::make_shared<const dump>(std::move(source));
  out.map = std::make_shared<const name_map>(std::move(rules));
  out.model = c, out.sequences = sequences;
  std::map<std::pair<index_t, bool>, matched_call> calls;
  for (const dump_tensor& t : out.source->tensors()) {
    if (t.full == "input_ids") continue;
    std::vector<name_map::hit> hits;
    if (!detail::fits(out.misfits, [&] { hits = out.map->look_up(t.name, t.occurrence); })) continue;
    if (hits.empty()) {
      if (out.map->ignores(t.name)) {
        ++out.ignored;
      } else {
        out.unmapped.push_back(t.full);
      }
      continue;
    }
    matched_call& call = calls[t.call.order()];
    call.call = t.call;
    for (const auto& h : hits) {
      matched_value v{&t, h.rule, h.target.scope, h.target.id,
                      h.target.scope.prefix() + std::string(info(h.target.id).name)};
      if (t.call.mtp && v.scope.where == tap_scope::part::head)
        v.scope = {tap_scope::part::mtp_head, 0}, v.name = "mtp.0." + v.name;
      detail::fits(out.misfits, [&] { detail::enter(out, call, std::move(v)); });
    }
  }
  for (auto& [order, call] : calls) {
    if (call.values.empty()) continue;
    std::stable_sort(
        call.values.begin(), call.values.end(), [](const matched_value& a, const matched_value& b) {
          const auto key = [](const matched_value& v) {
            using part = tap_scope::part;
            const bool head = v.scope.where == part::head || v.scope.where == part::mtp_head;
            return std::tuple(
                v.scope.where == part::head ? std::numeric_limits<index_t>::max() : v.scope.number, head,
                v.where);
          };
          return key(a) < key(b);
        });
    call.tokens = detail::tokens_of(call, out);
    if (call.tokens > 0) detail::look_over(out, call);
    out.values += static_cast<index_t>(call.values.size());
    out.calls.push_back(std::move(call));
  }
  if (out.calls.empty()) return out;
  // Our sites that nothing maps to.
  std::vector<tap_scope> scopes;
  for (index_t l = 0; l < c.num_hidden_layers; ++l) scopes.push_back({tap_scope::part::layer, l});
  scopes.push_back({tap_scope::part::head, 0});
  for (const tap_scope& s : scopes)
    for (std::size_t i = 0; i < sites.size(); ++i) {
      const site id = static_cast<site>(i);
      if (is_head_site(id) != (s.where == tap_scope::part::head) || !exists(id, ratio_of(s, c))) continue;
      const std::string name = s.prefix() + std::string(info(id).name);
      const auto& all = out.calls[0].values;
      if (!out.map->lacks(s, id, c) &&
          std::none_of(all.begin(), all.end(), [&](const matched_value& v) { return v.name == name; }))
        out.sites_missing.push_back(name);
    }
  return out;
}

namespace detail {

/// Writes the calls of a match into a bundle.
class converter {
 public:
  std::vector<std::string> left_out;  ///< arrays of optional rules that do not fit, and why

  converter(const match_result& m, bundle_writer& to) : m_(m), c_(m.model), to_(to) {
    for (const matched_call& call : m.calls)
      for (const matched_value& v : call.values) known_.insert(v.name);
  }

  void run(index_t tokens_of_sequence) {
    for (const matched_call& call : m_.calls) {
      const index_t from = call.call.start, to = from + call.tokens,
                    most = tokens_of_sequence - call.call.mtp;
      if (to > most)
        io::fail_format(m_.source->path(), "the call at position " + std::to_string(from) + " has " +
                                               std::to_string(call.tokens) + " tokens, but only " +
                                               std::to_string(std::max<index_t>(0, most - from)) +
                                               " ids are left (--ids)");
      std::vector<call_part> parts;
      for (index_t s = 0; s < m_.sequences; ++s) parts.push_back({s, from, to});
      const call_kind kind = call.call.mtp      ? call_kind::mtp
                             : from == 0        ? call_kind::prefill
                             : call.tokens == 1 ? call_kind::decode
                                                : call_kind::chunk;
      to_.begin_call(kind, std::move(parts));
      input_info& input = to_.about().input;
      if (kind == call_kind::prefill) input.prefill = to;
      input.decode_steps += kind == call_kind::decode, input.mtp |= kind == call_kind::mtp;
      seen_.clear(), scores_.clear();
      for (const matched_value& v : call.values)
        for (index_t s = 0; s < m_.sequences; ++s) {
          try {
            value(call, v, s);
          } catch (const format_error& e) {
            if (!v.rule->optional) throw;
            left_out.push_back(e.what());
            break;
          }
        }
    }
  }

 private:
  void value(const matched_call& call, const matched_value& v, index_t sequence) {
    const index_t from = call.call.start, ratio = ratio_of(v.scope, c_);
    aligned a = rows_of(v, c_, m_.sequences, from, call.tokens);
    const index_t rows = a.shape[0];
    if (a.batch > 1) a.offset += sequence * a.batch_stride;
    if (rows == 0) return;  // no entry closed

    row_transform how(*v.rule, v.scope, v.where, c_);
    std::vector<index_t> shape{rows};
    const std::vector<index_t> sizes = site_sizes(v.where, c_);
    for (std::size_t i = 0; i < sizes.size(); ++i)
      shape.push_back(v.rule->regroup ? sizes[i] : a.shape[i + 1]);
    if (v.rule->apply == map_transform::picks) shape.back() += c_.sliding_window;
    const dtype carrier = how.carrier(v.from->type, v.from->who());
    const std::vector<std::byte> raw =
        how.run(*v.from, a.offset, a.shape, a.stride, shape, carrier, from, call.tokens);

    tap_event e{
        v.where, v.scope, sequence, from, call.tokens, carrier, nullptr, static_cast<int>(shape.size()), {}};
    std::copy(shape.begin(), shape.end(), e.shape.begin());
    tensor_entry t = entry_of(e, c_);
    // Dependencies that are not there are seen through.
    std::vector<std::string> deps;
    std::set<std::string> visited;
    for (const std::string& d : t.deps) resolve(d, sequence, deps, visited);
    t.deps = std::move(deps);
    std::erase_if(t.state, [&](const std::string& d) { return !known_.contains(d); });
    seen_.insert({sequence, v.name});
    margins(t, v, sequence, carrier, raw, rows, ratio, from);
    to_.add(std::move(t), raw);
  }

  void resolve(const std::string& name, index_t sequence, std::vector<std::string>& out,
               std::set<std::string>& visited) {
    if (!visited.insert(name).second) return;
    if (seen_.contains({sequence, name})) {
      out.push_back(name);
    } else if (const auto p = parse_name(name)) {
      for (const std::string& d : dependencies_of(p->scope, p->id, c_).deps)
        resolve(d, sequence, out, visited);
    }
  }

  /// A choice by scores that the dump has gets its margins, as a recording of our own would.
  void margins(tensor_entry& t, const matched_value& v, index_t sequence, dtype carrier,
               const std::vector<std::byte>& raw, index_t rows, index_t ratio, index_t from) {
    const bool scores = v.where == site::gate_biased || v.where == site::indexer_scores;
    const bool gate = v.where == site::gate_indices;
    const auto at = [&](site s) { return std::tuple(v.scope.prefix(), sequence, s); };
    if (scores) {
      std::vector<double>& s = scores_[at(v.where)];
      for (index_t i = 0; i < t.elements(); ++i) s.push_back(element(carrier, raw.data(), i));
    }
    const auto found = scores_.find(at(gate ? site::gate_biased : site::indexer_scores));
    if ((!gate && v.where != site::attn_topk_idxs) || found == scores_.end()) return;
    if (gate && v.scope.where == tap_scope::part::layer && c_.is_hash_layer(v.scope.number)) return;
    const index_t width = static_cast<index_t>(found->second.size()) / rows;
    const index_t k = gate ? t.shape[1] : std::min(c_.index_topk, width);
    std::vector<std::array<double, 3>> gaps;
    for (index_t i = 0; i < rows; ++i) {
      const auto row = found->second.begin() + i * width;
      const index_t visible = gate ? width : std::min(width, (from + i + 1) / ratio);
      gaps.push_back(choice_margins({row, row + visible}, std::min(k, visible)));
    }
    tensor_entry m = t;
    m.name += ".margin", m.site += ".margin";
    m.axes = {"token", "gap"}, m.shape = {rows, 3};
    m.carrier = dtype::f64, m.logical = "f64", m.cls = tolerance_class::margin;
    m.state.clear();
    t.margin = m.name;
    to_.add(std::move(m), std::as_bytes(std::span(gaps)));
  }

  const match_result& m_;
  const config& c_;
  bundle_writer& to_;
  std::set<std::string> known_;
  std::set<std::pair<index_t, std::string>> seen_;
  std::map<std::tuple<std::string, index_t, site>, std::vector<double>> scores_;
};

}  // namespace detail

DSV4_INLINE std::vector<std::vector<std::int32_t>> ids_of(const dump& d, const config& c) {
  const dump_tensor* t = d.find("input_ids");
  if (!t) return {};
  if (t->raw || t->shape.empty() || t->shape.size() > 2 || t->fortran_order || !is_integer(t->type) ||
      t->bytes == 0)
    io::fail_format(t->file, "array 'input_ids': expected integers of [t] or [b, t]");
  std::vector<std::vector<std::int32_t>> out(t->shape.size() == 2 ? usize(t->shape[0]) : 1);
  const index_t n = t->shape.back();
  for (index_t i = 0; i < t->elements(); ++i) {
    const std::int64_t id = integer_at(t->type, t->data, i);
    if (id < 0 || id >= c.vocab_size)
      io::fail_format(t->file, "array 'input_ids': found " + std::to_string(id) + ", expected 0 to " +
                                   std::to_string(c.vocab_size - 1));
    out[usize(i / n)].push_back(static_cast<std::int32_t>(id));
  }
  return out;
}

DSV4_INLINE std::vector<std::string> convert(const match_result& m,
                                             const std::vector<std::vector<std::int32_t>>& ids,
                                             const std::filesystem::path& out, manifest about,
                                             const writer_options& options) {
  expects(!ids.empty(), "convert: no token ids; the dump has no input_ids, give them (--ids)");
  expects_equal(static_cast<index_t>(ids.size()), m.sequences,
                "convert: sequences of ids against those of the dump");
  for (const auto& s : ids)
    expects_equal(static_cast<index_t>(s.size()), static_cast<index_t>(ids[0].size()),
                  "convert: sequences of equal length; tokens");
  if (!m.misfits.empty())
    throw format_error(m.misfits[0] + (m.misfits.size() == 1
                                           ? ""
                                           : " (and " + std::to_string(m.misfits.size() - 1) +
                                                 " more misfits: --map-check lists them)"));
  if (m.calls.empty())
    throw format_error(m.source->path().string() + ": no array of the dump has a rule in " +
                       m.map->file().string() + " (the right map? try --map-check)");
  about.model = m.model;
  if (about.oracle.empty())
    about.oracle = {
        {"kind", "dump"}, {"engine", m.map->engine()}, {"source", m.source->path().filename().string()}};
  if (about.numerics.empty())
    about.numerics = {{"policy", m.map->numerics().empty() ? "official" : m.map->numerics()}};
  bundle_writer to(out, std::move(about), options);
  to.ids(ids);
  detail::converter c(m, to);
  c.run(static_cast<index_t>(ids[0].size()));
  to.finish();
  return c.left_out;
}

}  // namespace dsv4::golden
