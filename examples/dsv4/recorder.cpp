// SPDX-License-Identifier: MIT
#include "recorder.hpp"

#include <algorithm>
#include <limits>

#include <dsv4/io/safetensors_writer.hpp>
#include <dsv4/num/round.hpp>

namespace cli {

using dsv4::dtype;
using dsv4::site;
using dsv4::tap_event;
using dsv4::tap_scope;

namespace {
void append(std::vector<std::byte>& to, const void* data, index_t bytes) {
  const auto* p = static_cast<const std::byte*>(data);
  to.insert(to.end(), p, p + bytes);
}
}  // namespace

void recorder::operator()(const tap_event& e) {
  if (!filter_) return;
  const auto [at, is_new] = records_.try_emplace({e.scope.where, e.scope.number, e.where});
  record& r = at->second;
  if (is_new) r = open(e);
  if (!r.wanted) return;
  if (e.where == site::attn_topk_idxs) return append_slots(r, e);
  if (e.where == site::indexer_scores) return append_padded(r, e);
  r.rows += e.shape[0];
  if (e.type == r.type) {
    append(r.bytes, e.data, e.size() * dsv4::bits_of(e.type) / 8);
  } else {
    for (const double wide : e.values<double>()) {
      const auto narrow = static_cast<float>(wide);
      append(r.bytes, &narrow, sizeof narrow);
    }
  }
}

recorder::record recorder::open(const tap_event& e) const {
  record r;
  r.name = e.name();
  r.wanted = filter_(r.name);
  const bool narrowed = wide_as_float_ && e.type == dtype::f64;
  r.type = narrowed ? dtype::f32 : e.type;
  r.row_shape.assign(e.shape.begin() + 1, e.shape.begin() + e.rank);
  // The last axis of these grows from call to call: take what one call over everything has.
  const index_t entries = ratio(e) > 0 ? total(e) / ratio(e) : 0;
  if (e.where == site::indexer_scores) r.row_shape.back() = entries;
  if (e.where == site::attn_topk_idxs) {
    const bool chooses = dsv4::kind_of_ratio(ratio(e)) == dsv4::attention_kind::csa;
    r.row_shape.back() = c_.sliding_window + (chooses ? std::min(c_.index_topk, entries) : entries);
  }
  return r;
}

void recorder::append_slots(record& r, const tap_event& e) const {
  const index_t w = c_.sliding_window, n = total(e), width = e.shape[1];
  const auto found = e.values<std::int32_t>();
  std::vector<std::int32_t> row(static_cast<std::size_t>(r.row_shape.back()));
  for (index_t t = 0; t < e.tokens; ++t) {
    const index_t position = e.start + t;
    std::fill(row.begin(), row.end(), -1);
    for (index_t s = 0; s < width; ++s) {
      const index_t v = found[static_cast<std::size_t>(t * width + s)];
      if (v < 0) continue;
      index_t number;
      if (e.start == 0) {
        number = v < e.tokens ? v : n + v - e.tokens;  // positions of this call, then entries
      } else if (v < w) {
        number = position - ((position - v) % w + w) % w;  // ring row -> the last position that it held
      } else {
        number = n + v - w;
      }
      row[static_cast<std::size_t>(s)] = static_cast<std::int32_t>(number);
    }
    append(r.bytes, row.data(), static_cast<index_t>(row.size() * sizeof(std::int32_t)));
  }
  r.rows += e.tokens;
}

void recorder::append_padded(record& r, const tap_event& e) const {
  const index_t width = e.shape[1], bytes = dsv4::bits_of(e.type) / 8;
  const auto* from = static_cast<const std::byte*>(e.data);
  const auto bf16_low = dsv4::store<dsv4::bf16>(-std::numeric_limits<double>::infinity());
  const float f32_low = -std::numeric_limits<float>::infinity();
  const double f64_low = f32_low;
  for (index_t t = 0; t < e.tokens; ++t) {
    append(r.bytes, from + t * width * bytes, width * bytes);
    for (index_t s = width; s < r.row_shape.back(); ++s) {
      if (e.type == dtype::bf16)
        append(r.bytes, &bf16_low, bytes);
      else if (e.type == dtype::f32)
        append(r.bytes, &f32_low, bytes);
      else
        append(r.bytes, &f64_low, bytes);
    }
  }
  r.rows += e.tokens;
}

index_t recorder::total(const tap_event& e) const {
  const bool pairs = e.scope.where == tap_scope::part::mtp || e.scope.where == tap_scope::part::mtp_head;
  return pairs ? tokens_ - 1 : tokens_;
}

index_t recorder::ratio(const tap_event& e) const {
  switch (e.scope.where) {
    case tap_scope::part::layer: return c_.ratio(e.scope.number);
    case tap_scope::part::mtp: return c_.mtp_ratio(e.scope.number);
    default: return 0;
  }
}

index_t recorder::size() const {
  index_t n = 0;
  for (const auto& [key, r] : records_) n += r.wanted;
  return n;
}

void recorder::move_to(dsv4::io::safetensors_writer& file) {
  for (auto& [key, r] : records_) {
    if (!r.wanted) continue;
    std::vector<index_t> shape{r.rows};
    shape.insert(shape.end(), r.row_shape.begin(), r.row_shape.end());
    file.add(std::move(r.name), r.type, std::move(shape), std::move(r.bytes));
  }
  records_.clear();
}

}  // namespace cli
