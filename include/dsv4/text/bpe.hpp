// SPDX-License-Identifier: MIT
#pragma once
/// Byte-level byte-pair encoding of one word.
/// A word starts as one symbol per byte.  While two neighbours form a pair that the merge list has, the
/// pair that stands first in the list is replaced by its product, the leftmost first among equals.
///
///   merge list: (l, o) (lo, w) (e, r)      l o w e r  ->  lo w e r  ->  low e r  ->  low er
///
/// A heap of candidate merges and a doubly linked list of symbols make this O(n log n) for n bytes, so a
/// megabyte without a boundary is no trouble.  Words repeat: a direct-mapped cache of 64-byte lines keeps
/// the tokens of short ones.
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "../core/error.hpp"

namespace dsv4::text {

using token_id = std::int32_t;

/// Byte-level text: tokenizer.json writes every byte as one printable character.  The printable bytes of
/// Latin-1 stand for themselves, the others, in order, for U+0100 and what follows.
class byte_alphabet {
 public:
  constexpr byte_alphabet() {
    byte_of_.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
      char_of_[static_cast<std::size_t>(b)] = printable ? static_cast<char32_t>(b) : next++;
      byte_of_[char_of_[static_cast<std::size_t>(b)]] = static_cast<std::int16_t>(b);
    }
  }
  constexpr char32_t character(unsigned char byte) const { return char_of_[byte]; }
  /// -1 if `c` stands for no byte.
  constexpr int byte(char32_t c) const { return c < byte_of_.size() ? byte_of_[c] : -1; }

 private:
  static constexpr std::size_t characters = 324;  // check: 256 + 68; 68 bytes are not printable
  std::array<char32_t, 256> char_of_{};
  std::array<std::int16_t, characters> byte_of_{};
};
inline constexpr byte_alphabet byte_level;

/// One line of the merge list.
struct merge_rule {
  token_id left, right, product;
};

class bpe {
 public:
  /// Storage of one thread.  Between calls it keeps nothing but the cache of short words.
  class workspace {
   public:
    workspace() : cache_(cache_lines) {}

   private:
    friend class bpe;
    /// The tokens of a word of at most 27 bytes that has at most 8 of them.
    struct alignas(64) line {
      static constexpr std::size_t most_bytes = 27, most_ids = 8;
      std::array<token_id, most_ids> ids;
      std::array<char, most_bytes> word;
      std::uint8_t bytes = 0, tokens = 0;
    };
    static_assert(sizeof(line) == 64);
    static constexpr std::size_t cache_lines = 32768;  // 2 MiB; check: 2**15

    struct symbol {
      token_id id;               ///< -1: merged into its left neighbour
      std::int32_t left, right;  ///< -1: none
    };
    std::vector<symbol> symbols_;
    std::vector<std::uint64_t> heap_;  ///< rank << 32 | position of the left symbol, the smallest on top
    std::vector<line> cache_;
  };

  bpe() = default;
  /// `byte_ids`: the token of each byte, -1 for a byte that UTF-8 never has.  `rules`: the earlier the
  /// stronger; a pair that comes twice counts where it comes last.
  bpe(const std::array<token_id, 256>& byte_ids, const std::vector<merge_rule>& rules);
  /// Words that are one token whatever the merge list says (`ignore_merges`): their bytes.
  void set_whole_words(std::unordered_map<std::string, token_id> words) { whole_words_ = std::move(words); }

  /// Appends the tokens of `word` to `out`.
  /// @throws contract_violation the word has 2 GiB or more, or a byte that has no token
  void encode(std::string_view word, workspace& w, std::vector<token_id>& out) const;

 private:
  static constexpr std::uint64_t no_pair = std::numeric_limits<std::uint64_t>::max();
  static constexpr std::uint32_t no_rank = std::numeric_limits<std::uint32_t>::max();
  struct slot {
    std::uint64_t pair = no_pair;
    std::uint32_t rank = no_rank;
  };

  static std::uint64_t key(token_id left, token_id right) {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
  }
  /// The slot of a pair, or the free slot where it would go; half of the table is always free.
  const slot& find(token_id left, token_id right) const;
  slot& place(token_id left, token_id right) { return const_cast<slot&>(find(left, right)); }

  void encode_uncached(std::string_view word, workspace& w, std::vector<token_id>& out) const;

  std::array<token_id, 256> byte_ids_{};
  std::vector<slot> slots_{1};
  std::vector<token_id> products_;  ///< [rank]
  std::unordered_map<std::string, token_id> whole_words_;
};

}  // namespace dsv4::text

#if !defined(DSV4_COMPILED)
#include "bpe_impl.hpp"
#endif
