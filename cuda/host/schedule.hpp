// SPDX-License-Identifier: MIT
#pragma once
/// Which thread runs next.  CUDA promises no order between barriers, so a correct kernel gives the same result under
/// every schedule, and an incorrect one must meet a schedule that shows it:
///
///   forward   thread 0 runs until it waits, then thread 1, …    late readers see early writes: hides much
///   reverse   the last thread first                             the opposite order of every pair
///   priority  warps in a random order, each as far ahead of the others as it can get: finds what round robin
///             hides, e.g. a fast warp that writes the next tile while a slow one still reads the last
///   random    at every switch any ready thread
///
/// Blocks of a grid run one after another, in a shuffled order for priority and random; those of a cooperative launch
/// run together, as one big set of threads.
#include <algorithm>
#include <bit>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace dsv4::host_machine {

enum class order { forward, reverse, priority, random };

/// How launches are run from now on, on this thread of the host.
struct schedule {
  order threads = order::forward;
  unsigned seed = 1;  // of priority and random
};

inline const char* name_of(order o) {
  switch (o) {
    case order::forward: return "forward";
    case order::reverse: return "reverse";
    case order::priority: return "priority";
    case order::random: return "random";
  }
  return "?";
}
inline std::string text(const schedule& s) {
  return std::string(name_of(s.threads)) + ", seed " + std::to_string(s.seed);
}

/// The schedules that tests run a kernel under.
inline std::vector<schedule> adversaries(unsigned seeds = 2) {
  std::vector<schedule> all{{order::forward, 1}, {order::reverse, 1}};
  for (unsigned s = 1; s <= seeds; ++s) {
    all.push_back({order::priority, s});
    all.push_back({order::random, s});
  }
  return all;
}

/// A set of the numbers 0 .. n-1: the threads that are ready, by rank.  Lowest and "first from here" are a few
/// instructions for 64 of them.
class ready_set {
 public:
  void reset(std::size_t n) { words_.assign((n + bits - 1) / bits, 0); }
  void insert(std::size_t i) { words_[i / bits] |= std::uint64_t{1} << i % bits; }

  static constexpr std::size_t none = ~std::size_t{0};
  /// Takes out the first member that is not below `from`, beginning again at 0; none if there is no member.
  std::size_t take(std::size_t from) {
    const std::size_t found = first(from);
    if (found == none) return none;
    words_[found / bits] &= ~(std::uint64_t{1} << found % bits);
    return found;
  }

 private:
  static constexpr std::size_t bits = 64;
  std::size_t first(std::size_t from) const {
    const std::size_t words = words_.size();
    if (words == 0) return none;
    std::size_t w = from / bits;
    std::uint64_t word = words_[w] & ~std::uint64_t{0} << from % bits;
    // Once round, and the first word twice: its bits below `from` come last.
    for (std::size_t n = 0; n <= words; ++n) {
      if (word) return w * bits + static_cast<std::size_t>(std::countr_zero(word));
      w = w + 1 < words ? w + 1 : 0;
      word = words_[w];
    }
    return none;
  }
  std::vector<std::uint64_t> words_;
};

/// Sorts the threads of the resident blocks by rank: of the ready ones, the lowest rank runs (under `random`: any).
/// warp_of(t) numbers the warp of a thread over all blocks.
template <class Thread, class Warp>
void rank(std::vector<Thread*>& threads, const schedule& how, std::mt19937& random, Warp&& warp_of) {
  switch (how.threads) {
    case order::forward:
    case order::random: break;
    case order::reverse: std::reverse(threads.begin(), threads.end()); break;
    case order::priority: {
      std::vector<std::uint32_t> key;  // of a warp
      for (Thread* t : threads)
        while (key.size() <= warp_of(*t)) key.push_back(static_cast<std::uint32_t>(random()));
      std::stable_sort(threads.begin(), threads.end(),
                       [&](Thread* a, Thread* b) { return key[warp_of(*a)] < key[warp_of(*b)]; });
      break;
    }
  }
}

}  // namespace dsv4::host_machine
