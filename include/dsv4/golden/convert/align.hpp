// SPDX-License-Identifier: MIT
#pragma once
/// Brings an array of another engine's dump into the axes of one of our sites, by its map rule: permute,
/// split, slice, drop, regroup (name_map.hpp).  Shapes and strides only; no value is read.
/// @throws format_error the array, its shape, and the axes with their sizes that the site has
#include "dump.hpp"
#include "name_map.hpp"

namespace dsv4::golden {

/// One array and the site it is.
struct matched_value {
  const dump_tensor* from;
  const map_rule* rule;
  tap_scope scope;
  site where;
  std::string name;  ///< layers.3.attn.q_rope
};

namespace detail {

/// The sizes of a site's axes behind the first; 0 where it depends on the call.
inline std::vector<index_t> site_sizes(site s, const config& c) {
  const bool indexer = is_indexer_site(s);
  std::vector<index_t> out;
  for (std::size_t a = 2; a < info(s).axes.size(); a += 2) {
    switch (info(s).axes[a]) {
      case 'm': out.push_back((2 + c.hc_mult) * c.hc_mult); break;
      case 'n': out.push_back(c.hc_mult); break;
      case 'h': out.push_back(indexer ? c.index_n_heads : c.num_attention_heads); break;
      case 'q': out.push_back(c.q_lora_rank); break;
      case 'g': out.push_back(c.o_groups); break;
      case 'r': out.push_back(c.o_lora_rank); break;
      case 'e': out.push_back(c.n_routed_experts); break;
      case 'k': out.push_back(c.num_experts_per_tok); break;
      case 'v': out.push_back(c.vocab_size); break;
      case 'd': {
        const bool of_head = s >= site::attn_q_norm && s <= site::attn_o_derot;
        out.push_back(indexer ? c.index_head_dim : of_head ? c.head_dim : c.hidden_size);
        break;
      }
      default: out.push_back(0);  // c, s
    }
  }
  return out;
}

inline bool has_fixed_sizes(site s, const config& c) {
  const auto sizes = site_sizes(s, c);
  return std::find(sizes.begin(), sizes.end(), 0) == sizes.end();
}

/// Takes joint axes apart: "token*head" of size N is [token, head] of sizes N / h and h.  A factor that the
/// site does not have, or whose size does not divide N, leaves the axis as it is, so that its name fits nothing.
inline void split_joint_axes(std::vector<std::string>& axes, std::vector<index_t>& shape,
                             std::vector<index_t>& stride, const std::vector<std::string>& own,
                             const std::vector<index_t>& sizes) {
  for (std::size_t a = 0; a < axes.size(); ++a) {
    const std::size_t star = axes[a].rfind('*');
    if (star == std::string::npos) continue;
    const std::string last = axes[a].substr(star + 1);
    const auto at = std::find(own.begin(), own.end(), last);
    if (at == own.end() || at == own.begin()) continue;
    const index_t size = sizes[usize(at - own.begin() - 1)];
    if (size == 0 || shape[a] % size != 0) continue;
    const auto next = [&](auto& v, auto x) { v.insert(v.begin() + static_cast<std::ptrdiff_t>(a) + 1, x); };
    next(axes, last), next(shape, size), next(stride, stride[a]);
    axes[a].resize(star), shape[a] /= size, stride[a] *= size;
    --a;  // what is left may be joint as well
  }
}

/// An array seen along a site's axes: rows (tokens or entries), then the site's others.
struct aligned {
  std::vector<index_t> shape, stride;  ///< elements; one entry per axis of the site, or fewer when regrouped
  index_t offset = 0, batch = 1, batch_stride = 0;
};

/// Brings the array's axes into the site's order, by the rule.  `rows`: of the call, if known.
inline aligned align(const matched_value& v, const config& c, index_t sequences, index_t rows) {
  const dump_tensor& t = *v.from;
  const map_rule& r = *v.rule;
  const std::vector<std::string> own = axis_names(v.where);
  const std::vector<index_t> sizes = site_sizes(v.where, c);
  const auto refuse = [&](const std::string& expected) {
    io::fail_format(t.file,
                    "array " + io::in_quotes(t.full) + " of shape " +
                        (t.raw ? std::to_string(t.elements()) + " numbers" : io::shape_text(t.shape)) +
                        " cannot be " + v.name + ": expected " + expected);
  };
  std::string own_text;
  for (std::size_t a = 0; a < own.size(); ++a)
    own_text += (a ? ", " : "") + own[a] + (a && sizes[a - 1] ? " " + std::to_string(sizes[a - 1]) : "");
  own_text = "[" + own_text + "]";

  // A file of numbers has the site's axes; one unknown size follows from the others.
  std::vector<index_t> shape = t.shape;
  if (t.raw) {
    shape = {0};
    shape.insert(shape.end(), sizes.begin(), sizes.end());
    index_t known = 1, unknown = 0;
    for (std::size_t a = 1; a < shape.size(); ++a) shape[a] ? known *= shape[a] : ++unknown;
    if (unknown > 0) {
      if (rows <= 0 || t.elements() % (known * rows) != 0) refuse(own_text + " with the call's tokens");
      shape[0] = rows;
      for (std::size_t a = 1; a < shape.size(); ++a)
        if (shape[a] == 0) shape[a] = t.elements() / (known * rows);
    } else {
      if (t.elements() % known != 0)
        refuse("a multiple of " + std::to_string(known) + " numbers, " + own_text);
      shape[0] = t.elements() / known;
    }
  }

  // ggml has no rank, four sizes always: sizes of 1 in front go, down to the rank that the rule speaks of.
  const std::size_t spoken_of = !r.permute.empty() ? r.permute.size()
                                : !r.axes.empty()  ? r.axes.size()
                                                   : own.size();
  if (!t.raw)
    while (shape.size() > spoken_of && shape.front() == 1) shape.erase(shape.begin());

  // Strides, and the other engine's own order.
  std::size_t rank = shape.size();
  std::vector<index_t> stride(rank);
  index_t step = 1;
  for (std::size_t i = 0; i < rank; ++i) {
    const std::size_t a = t.fortran_order ? i : rank - 1 - i;
    stride[a] = step, step = t.bytes ? step * shape[a] : 0;  // of an empty array the product may overflow
  }
  if (!r.permute.empty()) {
    if (r.permute.size() != rank) refuse(std::to_string(r.permute.size()) + " axes (the rule permutes them)");
    std::vector<index_t> s, d;
    for (const index_t a : r.permute) s.push_back(shape[usize(a)]), d.push_back(stride[usize(a)]);
    shape = s, stride = d;
  }

  // Names of the axes.
  std::vector<std::string> axes = t.raw ? own : r.axes;
  if (axes.empty()) {
    axes = own;
    if (rank == own.size() + 1) axes.insert(axes.begin(), "batch");
  }
  if (axes.size() != rank) {
    std::string text;
    for (const auto& a : axes) text += (text.empty() ? "" : ", ") + a;
    refuse("the axes [" + text + "]");
  }
  split_joint_axes(axes, shape, stride, own, sizes);
  rank = axes.size();
  aligned out;
  const auto take = [&](std::size_t a) { out.shape.push_back(shape[a]), out.stride.push_back(stride[a]); };
  const auto bound = [&](const slice_bound& b, index_t end) {
    return b.field.empty() ? b.number : b.field == "end" ? end : *config_field(c, b.field);
  };
  std::vector<bool> used(rank, false);
  for (std::size_t a = 0; a < rank; ++a) {
    if (axes[a] == r.slice_axis) {
      const index_t from = bound(r.slice_from, shape[a]), to = bound(r.slice_to, shape[a]);
      if (from > to || to > shape[a])
        refuse("at least " + std::to_string(std::max(from, to)) + " along " + axes[a] +
               " (the rule slices it)");
      out.offset += from * stride[a], shape[a] = to - from;
    }
    if (axes[a] == "one" && shape[a] != 1) refuse("1 along the axis " + std::to_string(a));
    if (axes[a] == "batch") out.batch = shape[a], out.batch_stride = stride[a];
    used[a] = axes[a] == "one" || axes[a] == "batch";
  }
  if (out.batch != 1 && out.batch != sequences) refuse(std::to_string(sequences) + " sequences along batch");
  for (std::size_t i = 0; i < own.size(); ++i)
    for (std::size_t a = 0; a < rank; ++a)
      if (!used[a] && axes[a] == own[i] && (i == 0 || !r.regroup)) {
        take(a), used[a] = true;
        break;
      }
  if (out.shape.empty()) refuse("an axis " + own[0]);
  if (r.regroup)
    for (std::size_t a = 0; a < rank; ++a)
      if (!used[a]) take(a), used[a] = true;
  // Sizes.
  index_t wanted = 1;
  const auto found = io::detail::checked_elements({out.shape.begin() + 1, out.shape.end()}, dtype::u8);
  bool fits = std::find(used.begin(), used.end(), false) == used.end();
  if (r.regroup) {
    for (const index_t s : sizes) wanted *= s;
    fits = fits && found && *found == wanted;
  } else {
    fits = fits && out.shape.size() == own.size();
    for (std::size_t a = 0; fits && a < sizes.size(); ++a)
      fits = sizes[a] == 0 || sizes[a] == out.shape[a + 1];
  }
  if (!fits) refuse(own_text + (out.batch_stride ? " for each sequence" : ""));
  // Sequences one after another in the rows: [b·t, …].
  if (sequences > 1 && out.batch_stride == 0) {
    if (out.shape[0] % sequences != 0) refuse("rows of " + std::to_string(sequences) + " sequences");
    out.batch = sequences, out.shape[0] /= sequences, out.batch_stride = out.shape[0] * out.stride[0];
  }
  return out;
}

/// An array as the rows that its site has in one call: tokens, or the entries that close.
inline aligned rows_of(const matched_value& v, const config& c, index_t sequences, index_t from,
                       index_t tokens) {
  const index_t to = from + tokens, ratio = ratio_of(v.scope, c);
  const bool by_entry = is_entry_site(v.where);
  const index_t rows = by_entry ? to / ratio - from / ratio : tokens;
  aligned a = align(v, c, sequences, tokens);
  if (a.shape[0] > rows && v.rule->take_last)
    a.offset += (a.shape[0] - rows) * a.stride[0], a.shape[0] = rows;
  if (a.shape[0] != rows)
    io::fail_format(v.from->file, "array " + io::in_quotes(v.from->full) + " has " +
                                      std::to_string(a.shape[0]) + " rows, expected " + std::to_string(rows) +
                                      (by_entry ? " (entries that close" : " (tokens") +
                                      " in the call at position " + std::to_string(from) + ")");
  // Scores as wide as the whole cache: what lies behind the last closed entry was never computed from one.
  if (v.where == site::indexer_scores && a.shape.size() == 2) a.shape[1] = std::min(a.shape[1], to / ratio);
  return a;
}

}  // namespace detail

}  // namespace dsv4::golden
