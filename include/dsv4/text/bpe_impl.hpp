// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of bpe.hpp.
#include "../core/config_macros.hpp"
#include "bpe.hpp"

namespace dsv4::text {

DSV4_INLINE bpe::bpe(const std::array<token_id, 256>& byte_ids, const std::vector<merge_rule>& rules)
    : byte_ids_(byte_ids) {
  slots_.resize(std::bit_ceil(2 * rules.size() + 1));
  products_.reserve(rules.size());
  for (const merge_rule& r : rules) {
    slot& s = place(r.left, r.right);
    s = {key(r.left, r.right), static_cast<std::uint32_t>(products_.size())};
    products_.push_back(r.product);
  }
}

DSV4_INLINE void bpe::encode(std::string_view word, workspace& w, std::vector<token_id>& out) const {
  using line = workspace::line;
  if (word.size() > line::most_bytes) return encode_uncached(word, w, out);
  line& l = w.cache_[std::hash<std::string_view>{}(word) % workspace::cache_lines];
  if (l.bytes != word.size() || std::memcmp(l.word.data(), word.data(), word.size()) != 0) {
    const std::size_t before = out.size();
    encode_uncached(word, w, out);
    const std::size_t n = out.size() - before;
    if (n > line::most_ids) return;
    std::copy_n(word.data(), word.size(), l.word.begin());
    std::copy_n(out.data() + before, n, l.ids.begin());
    l.bytes = static_cast<std::uint8_t>(word.size());
    l.tokens = static_cast<std::uint8_t>(n);
    return;
  }
  out.insert(out.end(), l.ids.begin(), l.ids.begin() + l.tokens);
}

DSV4_INLINE const bpe::slot& bpe::find(token_id left, token_id right) const {
  const std::uint64_t k = key(left, right);
  const std::uint64_t h = k * 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio: spreads the low bits upward
  for (std::size_t at = (h ^ h >> 32) & (slots_.size() - 1);; at = (at + 1) & (slots_.size() - 1))
    if (slots_[at].pair == k || slots_[at].pair == no_pair) return slots_[at];
}

DSV4_INLINE void bpe::encode_uncached(std::string_view word, workspace& w, std::vector<token_id>& out) const {
  if (!whole_words_.empty())
    if (const auto at = whole_words_.find(std::string(word)); at != whole_words_.end()) {
      out.push_back(at->second);
      return;
    }
  if (word.size() > std::size_t{std::numeric_limits<std::int32_t>::max()})
    throw contract_violation("tokenizer: a word of " + std::to_string(word.size()) +
                             " bytes without a boundary, expected less than 2 GiB");

  // One symbol per byte.
  auto& symbols = w.symbols_;
  auto& heap = w.heap_;
  const auto n = static_cast<std::int32_t>(word.size());
  symbols.resize(word.size());
  for (std::int32_t i = 0; i < n; ++i) {
    const auto byte = static_cast<unsigned char>(word[static_cast<std::size_t>(i)]);
    if (byte_ids_[byte] < 0)
      throw contract_violation("tokenizer: byte " + std::to_string(byte) + " of the text has no token");
    symbols[static_cast<std::size_t>(i)] = {byte_ids_[byte], i - 1, i + 1 < n ? i + 1 : -1};
  }

  // All pairs that can merge.
  heap.clear();
  const auto at = [&](std::int32_t i) -> workspace::symbol& { return symbols[static_cast<std::size_t>(i)]; };
  const auto candidate = [&](std::int32_t i) {
    const std::uint32_t rank = find(at(i).id, at(at(i).right).id).rank;
    if (rank == no_rank) return false;
    heap.push_back(std::uint64_t{rank} << 32 | static_cast<std::uint32_t>(i));
    return true;
  };
  for (std::int32_t i = 0; i + 1 < n; ++i) candidate(i);
  std::make_heap(heap.begin(), heap.end(), std::greater<>{});
  const auto push = [&](std::int32_t i) {
    if (candidate(i)) std::push_heap(heap.begin(), heap.end(), std::greater<>{});
  };

  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>{});
    const token_id product = products_[heap.back() >> 32];
    const auto i = static_cast<std::int32_t>(heap.back() & 0xFFFFFFFFu);
    heap.pop_back();

    // The pair may have changed since it was put on the heap.  What counts is that the symbols here still
    // make this product, by whichever rule: as PyPI `tokenizers` decides.
    workspace::symbol& left = at(i);
    if (left.id < 0 || left.right < 0) continue;
    workspace::symbol& right = at(left.right);
    const std::uint32_t now = find(left.id, right.id).rank;
    if (now == no_rank || products_[now] != product) continue;

    left.id = product;
    right.id = -1;
    left.right = right.right;
    if (left.right >= 0) at(left.right).left = i;
    if (left.left >= 0) push(left.left);
    if (left.right >= 0) push(i);
  }
  for (std::int32_t i = 0; i >= 0 && n > 0; i = at(i).right) out.push_back(at(i).id);
}

}  // namespace dsv4::text
