// SPDX-License-Identifier: MIT
#pragma once
/// A set of texts that an answer must belong to, and what it leaves of a model's distribution.
///
/// The set is a program over bytes: read a byte of a class, go on in either of two ways, call a rule and come back.
/// gen/grammar_json.hpp writes such programs for JSON schemas, gen/grammar_calls.hpp for calls of tools.
///
/// What is left, exactly.  A text is viable if some member of the set begins with it.  After the text x, a token t may
/// follow if the bytes of x t are viable; an end token may if x itself is a member.  Each step keeps the model's
/// probabilities among the tokens that may follow and scales them to a sum of 1:
///   P(t_1 … t_n) = prod_i p(t_i | t_1 … t_i-1) / sum of p(t | t_1 … t_i-1) over the t that may follow
/// so that every answer that ends is a member, and every way to cut a member into tokens has the probability that the
/// model gives it, step by step.  This is not p(answer | answer is a member): that would weigh each step by how
/// likely the model is to finish what the step began, which nobody can sum.  Temperature, penalties and cuts
/// (gen/sampling.hpp) act on what is left.
/// @post (1) a text can be extended byte by byte to a member exactly if it is viable: no dead end, whatever is drawn,
///           if every byte that the set uses is a token of its own
///       (2) tokens without a spelling, special tokens for example, never follow
///       (3) the states of a grammar_machine are made when they are first met, one for each set of ways to go on
#include <array>
#include <bitset>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../core/config_macros.hpp"
#include "../core/contract.hpp"

namespace dsv4 {

/// The program.  Built from the end: each function returns where to begin so as to go on at `next` afterwards.
class grammar {
 public:
  using place = std::int32_t;
  using byte_set = std::bitset<256>;

  /// How deep rules may call each other: what a text nests.
  static constexpr place most_depth = 64;
  /// Instructions of a program.  A schema that needs more (a list of a thousand objects, say) is refused.
  static constexpr std::size_t most_instructions = std::size_t{1} << 20;

  enum class kind : std::uint8_t { bytes, either, call, back, end };
  struct instruction {
    kind what;
    place next = -1;   // bytes, either: goes on there; call: the rule
    place other = -1;  // either: or there; call: goes on there when the rule is done
    byte_set set = {};
  };

  place end() { return add({kind::end}); }
  place back() { return add({kind::back}); }
  place bytes(const byte_set& set, place next) { return add({kind::bytes, next, -1, set}); }
  place range(unsigned char from, unsigned char to, place next);
  place text(std::string_view literal, place next);
  place either(place a, place b) { return add({kind::either, a, b}); }
  place call(place rule, place next) { return add({kind::call, rule, next}); }
  /// A place that is known only later: for loops, and rules that call themselves.
  place later() { return add({kind::either}); }
  void set_later(place p, place target) { program_[usize(p)] = {kind::either, target, target}; }

  /// One character of UTF-8, but for U+FF5C (it begins and ends the special tokens of chats) and, of ASCII,
  /// what `ascii` leaves out.
  place character(const byte_set& ascii, place next);
  /// `one(next)` from `least` to `most` times; no `most`: any number.
  template <class One>
  place repeat(std::size_t least, std::optional<std::size_t> most, place next, One&& one) {
    place at = next;
    if (most) {
      for (std::size_t i = *most; i > least; --i) at = either(one(at), next);
    } else {
      const place loop = later();
      set_later(loop, either(one(loop), next));
      at = loop;
    }
    for (std::size_t i = 0; i < least; ++i) at = one(at);
    return at;
  }

  /// The program is complete and begins at `start`.  @throws unsupported  no text belongs to it
  void finish(place start);

  place start() const { return start_; }
  const instruction& operator[](place p) const { return program_[usize(p)]; }
  /// How many calls deeper a way to the end of the rule must go at least; above most_depth: there is none.
  place need(place p) const { return need_[usize(p)]; }

 private:
  static std::size_t usize(place p) { return static_cast<std::size_t>(p); }
  place add(const instruction& i) {
    if (program_.size() >= most_instructions)
      throw unsupported("grammar: the schema needs more than " + std::to_string(most_instructions) +
                        " instructions; smaller maxItems, minItems, maxLength or minLength make it shorter");
    program_.push_back(i);
    return static_cast<place>(program_.size() - 1);
  }

  std::vector<instruction> program_;
  std::vector<place> need_;
  place start_ = -1;
};

/// Reads texts by a grammar.  States are numbers; texts that can go on in the same ways have the same one.
class grammar_machine {
 public:
  using state = std::int32_t;
  static constexpr state dead = -1;  ///< no member begins so

  /// @pre finish() was called
  explicit grammar_machine(std::shared_ptr<const grammar> g);

  state start() const { return start_; }
  /// Whether the text read so far is a member.
  bool complete(state s) const { return states_[usize(s)].complete; }
  state next(state s, unsigned char byte) {
    const state known = states_[usize(s)].next[byte];
    return known == unknown ? make_next(s, byte) : known;
  }
  state next(state s, std::string_view bytes) {
    for (std::size_t i = 0; i < bytes.size() && s != dead; ++i)
      s = next(s, static_cast<unsigned char>(bytes[i]));
    return s;
  }
  std::size_t states() const { return states_.size(); }

 private:
  static constexpr state unknown = -2;
  using place = grammar::place;
  /// Where one of the ways stands: at a bytes instruction, or at the end; and whose calls it is inside of.
  using way = std::pair<place, std::int32_t>;
  struct node {
    std::vector<way> ways;
    bool complete = false;
    std::array<state, 256> next;
  };
  struct frame {
    place back_to;
    std::int32_t outer;  // -1: none
    place depth;         // this one included
  };

  static std::size_t usize(std::int32_t i) { return static_cast<std::size_t>(i); }
  place depth_of(std::int32_t stack) const { return stack < 0 ? 0 : frames_[usize(stack)].depth; }
  void follow(way from, std::vector<way>& to);
  state intern(std::vector<way> ways);
  state make_next(state s, unsigned char byte);

  std::shared_ptr<const grammar> grammar_;
  std::vector<frame> frames_;
  std::map<std::pair<place, std::int32_t>, std::int32_t> known_frames_;
  std::vector<node> states_;
  std::map<std::vector<way>, state> known_states_;
  state start_ = dead;
};

/// What each token of a vocabulary spells, in an order in which tokens that begin alike are neighbours.
class token_spellings {
 public:
  /// spelling(id) -> its bytes; empty: the token never follows.
  template <class Spelling>
  token_spellings(index_t vocabulary, Spelling&& spelling) : bytes_(static_cast<std::size_t>(vocabulary)) {
    for (std::size_t i = 0; i < bytes_.size(); ++i)
      bytes_[i] = std::string(spelling(static_cast<std::int32_t>(i)));
    sort();
  }
  index_t vocabulary() const { return static_cast<index_t>(bytes_.size()); }
  std::string_view operator[](std::int32_t id) const { return bytes_[static_cast<std::size_t>(id)]; }

  struct entry {
    std::int32_t id;
    std::size_t shared;  ///< bytes that it has in common with the entry before
  };
  std::span<const entry> sorted() const { return sorted_; }

 private:
  void sort();
  std::vector<std::string> bytes_;
  std::vector<entry> sorted_;
};

/// sampling::constrain by a grammar: the answer is what comes after `prompt` ids, or, given `after`, behind the first
/// such token of the answer (</think>): before it everything but an end token is left as it is.
/// One conversation at a time; copies share what they have worked out.
class grammar_constraint {
 public:
  struct options {
    index_t prompt = 0;                   ///< ids before the answer
    std::vector<std::int32_t> end_ids;    ///< allowed where the text is complete, and only there
    std::optional<std::int32_t> after{};  ///< the constraint begins behind this token
  };
  grammar_constraint(std::shared_ptr<const grammar> g, std::shared_ptr<const token_spellings> spellings,
                     options o);
  void operator()(std::span<const std::int32_t> ids, std::span<double> logits) const;

 private:
  struct memory;
  std::shared_ptr<memory> memory_;
};

}  // namespace dsv4

#if !defined(DSV4_COMPILED)
#include "grammar_impl.hpp"
#endif
