// SPDX-License-Identifier: MIT
#pragma once
/// From the last tokens to rows of a table: hashed n-grams, several heads each.
/// source   Engram; as released with DeepSeek-V4.1 (layers 1 and 14, orders 2 to 4, 8 heads)
/// axes     l layer with a table · k tokens back, 0 the newest · c column: order and head
/// oracle   golden/engram: hash_tilekernels, hash_sequences, equal; constants of V4.1 in reference_tests/conformance/engram.cpp
///
///   r_1 = x_0 m_0        r_n = r_{n-1} xor x_{n-1} m_{n-1}        row = r_n mod p + offset      n = 2 ... orders
///
/// x are compressed ids (vocabulary.hpp), m odd multipliers of the layer, p a prime of its own for every layer, order and
/// head, offset the sum of the primes of the columns before: all columns of a layer share one table.  Products stay
/// below 2^63, so that nothing overflows and no remainder is negative.
///
/// Multipliers come from numpy's default_rng(seed + 10007 layer): its SeedSequence and PCG64 are here, in 40 lines, since
/// the numbers are part of the format.
#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "../core/contract.hpp"
#include "../core/tensor.hpp"

namespace dsv4::engram {

/// numpy.random.default_rng(seed): the stream of 64-bit numbers, and integers below a bound.
class numpy_generator {
 public:
  explicit numpy_generator(std::uint64_t seed) {
    // SeedSequence: a pool of four words, mixed with each other.
    std::array<std::uint32_t, 4> pool{static_cast<std::uint32_t>(seed),
                                      static_cast<std::uint32_t>(seed >> 32), 0, 0};
    std::uint32_t hash = 0x43B0D7E5;
    const auto mixed_in = [&](std::uint32_t v) {
      v ^= hash;
      hash *= 0x931E8875;
      v *= hash;
      return v ^ v >> 16;
    };
    for (std::uint32_t& p : pool) p = mixed_in(p);
    for (std::size_t from = 0; from < pool.size(); ++from)
      for (std::size_t to = 0; to < pool.size(); ++to)
        if (from != to) {
          const std::uint32_t m = 0xCA01F9DD * pool[to] - 0x4973F715 * mixed_in(pool[from]);
          pool[to] = m ^ m >> 16;
        }
    std::array<std::uint64_t, 4> words{};
    hash = 0x8B51F9DD;
    for (std::size_t i = 0; i < 8; ++i) {
      std::uint32_t v = pool[i % 4] ^ hash;
      hash *= 0x58F38DED;
      v *= hash;
      words[i / 2] |= std::uint64_t{v ^ v >> 16} << (32 * (i % 2));
    }
    // PCG64 is seeded with two numbers of 128 bits, high word first.
    increment_ = (wide(words[2]) << 64 | words[3]) << 1 | 1;
    step();
    state_ += wide(words[0]) << 64 | words[1];
    step();
  }

  std::uint64_t next() {
    step();
    const auto x = static_cast<std::uint64_t>(state_ >> 64) ^ static_cast<std::uint64_t>(state_);
    const auto turn = static_cast<unsigned>(state_ >> 122);
    return x >> turn | x << (-turn & 63);
  }
  /// In [0, 1), as random() gives it.
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  /// In [0, bound), as integers(0, bound) gives it for bounds above 2^32 (Lemire's method).
  std::uint64_t below(std::uint64_t bound) {
    expects(bound > std::uint64_t{1} << 32, "numpy_generator: bounds of up to 2^32 are drawn in another way");
    wide m = wide(next()) * bound;
    for (const std::uint64_t threshold = (0 - bound) % bound; static_cast<std::uint64_t>(m) < threshold;)
      m = wide(next()) * bound;
    return static_cast<std::uint64_t>(m >> 64);
  }

 private:
  __extension__ typedef unsigned __int128 wide;  // no part of ISO C++; every compiler of 64 bits has it
  void step() {
    constexpr wide multiplier = wide(2549297995355413924u) << 64 | 4865540595714422341u;
    state_ = state_ * multiplier + increment_;
  }
  wide state_ = 0, increment_ = 0;
};

/// What decides the hash.
struct hash_settings {
  std::vector<index_t> layers;      ///< with a table, in the order in which primes are given out
  std::vector<index_t> base_sizes;  ///< where the search for primes begins: one per order, 2 first
  index_t heads = 8;
  index_t compressed_vocabulary = 0;
  std::uint64_t seed = 0;

  index_t orders() const { return static_cast<index_t>(base_sizes.size()) + 1; }  ///< longest n-gram
  index_t columns() const { return static_cast<index_t>(base_sizes.size()) * heads; }
};

inline bool is_prime(index_t n) {
  if (n < 2) return false;
  for (index_t d = 2; d * d <= n; ++d)
    if (n % d == 0) return false;
  return true;
}

/// The tables of the hash, one row a layer.
struct hash_tables {
  tensor<index_t, 2> multipliers;  // [l,k]
  tensor<index_t, 2> primes;       // [l,c]
  tensor<index_t, 2> offsets;      // [l,c]
  std::vector<index_t> rows;       // [l] of the table: the sum of the layer's primes
  index_t heads = 0;

  /// @throws contract_violation settings that no hash can be made of
  static hash_tables of(const hash_settings& s) {
    // contract
    const index_t layers = static_cast<index_t>(s.layers.size());
    expects(layers >= 1 && s.orders() >= 2 && s.heads >= 1,
            "engram: a hash needs a layer, an order and a head");
    expects(s.compressed_vocabulary >= 1 && s.compressed_vocabulary < index_t{1} << 29,
            "engram: the compressed vocabulary must have between 1 and 2^29 ids");
    for (const index_t base : s.base_sizes)
      expects(base >= 2 && base < index_t{1} << 40, "engram: a table's size must lie between 2 and 2^40");

    hash_tables t;
    t.multipliers = tensor<index_t, 2>(layers, s.orders());
    t.primes = tensor<index_t, 2>(layers, s.columns());
    t.heads = s.heads;
    std::set<index_t> used;
    for (index_t l = 0; l < layers; ++l) {
      // Products of an id with a multiplier stay below 2^63: an odd number 2 r + 1 with r below half of what fits.
      const auto bound = static_cast<std::uint64_t>(
          std::max<index_t>(1, std::numeric_limits<index_t>::max() / s.compressed_vocabulary / 2));
      numpy_generator random(s.seed + 10007 * static_cast<std::uint64_t>(s.layers[std::size_t(l)]));
      for (index_t k = 0; k < s.orders(); ++k)
        t.multipliers(l, k) = static_cast<index_t>(2 * random.below(bound) + 1);
      // No prime is given out twice, in whatever layer.
      for (index_t c = 0; c < s.columns(); ++c) {
        index_t p = c % s.heads ? t.primes(l, c - 1) + 1 : s.base_sizes[std::size_t(c / s.heads)];
        while (used.count(p) || !is_prime(p)) ++p;
        used.insert(p);
        t.primes(l, c) = p;
      }
    }
    t.lay_out();
    return t;
  }

  /// Offsets and sizes that follow from the primes.
  void lay_out() {
    offsets = tensor<index_t, 2>(primes.extent(0), primes.extent(1));
    rows.clear();
    for (index_t l = 0; l < primes.extent(0); ++l) {
      index_t sum = 0;
      for (index_t c = 0; c < primes.extent(1); ++c) {
        offsets(l, c) = sum;
        sum += primes(l, c);
      }
      rows.push_back(sum);
    }
  }

  index_t layers() const { return multipliers.extent(0); }
  index_t orders() const { return multipliers.extent(1); }
  index_t columns() const { return primes.extent(1); }

  /// Rows of layer l for a window of compressed ids, the newest first.
  void row_numbers(index_t l, view<const std::int32_t, 1> x /*[k]*/, view<index_t, 1> out /*[c]*/) const {
    expects_equal(x.extent(0), orders(), "engram: tokens of a window");
    expects_equal(out.extent(0), columns(), "engram: columns");
    index_t r = x[0] * multipliers(l, 0);
    for (index_t k = 1; k < orders(); ++k) {
      r ^= x[k] * multipliers(l, k);
      for (index_t head = 0; head < heads; ++head) {
        const index_t c = (k - 1) * heads + head;
        out[c] = r % primes(l, c) + offsets(l, c);
      }
    }
  }
};

/// The tokens of one sequence as the hash sees them: how far each can look back.
///
/// Looking back ends at the beginning of a sequence or segment, and at a token that is dead (padding, an image): that one
/// and everything older is the pad.  A dead token itself sees pads only.  Four bytes a token are kept, so that any
/// number of tokens can be taken back.
class ngram_history {
 public:
  /// pad: the compressed id of the padding token.
  ngram_history(index_t orders, std::int32_t pad) : orders_(orders), pad_(pad) {
    expects(orders >= 1 && pad >= 0, "ngram_history: orders and pad must not be negative");
  }

  void push(std::int32_t compressed, bool alive = true) {
    expects(compressed >= 0, "ngram_history: a compressed id is not negative");
    tokens_.push_back(alive ? compressed : dead);
  }
  /// What follows does not see what came before.
  void begin_segment() { begins_.push_back(size()); }
  /// Forgets all but the first n tokens.
  void rewind(index_t n) {
    expects_in(n, 0, size() + 1, "ngram_history: tokens to keep");
    tokens_.resize(static_cast<std::size_t>(n));
    while (!begins_.empty() && begins_.back() > n) begins_.pop_back();
  }
  index_t size() const { return static_cast<index_t>(tokens_.size()); }

  /// The window that ends with token t, the newest first.
  void window(index_t t, view<std::int32_t, 1> x /*[k]*/) const {
    expects_in(t, 0, size(), "ngram_history: token");
    expects_equal(x.extent(0), orders_, "ngram_history: tokens of a window");
    const auto after = std::upper_bound(begins_.begin(), begins_.end(), t);
    const index_t begin = after == begins_.begin() ? 0 : *(after - 1);
    std::fill(x.begin(), x.end(), pad_);
    for (index_t k = 0; k < orders_ && t - k >= begin; ++k) {
      const std::int32_t id = tokens_[static_cast<std::size_t>(t - k)];
      if (id == dead) break;
      x[k] = id;
    }
  }

 private:
  static constexpr std::int32_t dead = -1;
  index_t orders_;
  std::int32_t pad_;
  std::vector<std::int32_t> tokens_;
  std::vector<index_t> begins_;  // of segments, rising
};

}  // namespace dsv4::engram
