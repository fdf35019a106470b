// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of grammar.hpp.
#include <algorithm>
#include <limits>
#include <unordered_map>

#include "grammar.hpp"

namespace dsv4 {

// ---- the program

DSV4_INLINE grammar::place grammar::range(unsigned char from, unsigned char to, place next) {
  byte_set set;
  for (int b = from; b <= to; ++b) set.set(static_cast<std::size_t>(b));
  return bytes(set, next);
}

DSV4_INLINE grammar::place grammar::text(std::string_view literal, place next) {
  for (auto byte = literal.rbegin(); byte != literal.rend(); ++byte)
    next = range(static_cast<unsigned char>(*byte), static_cast<unsigned char>(*byte), next);
  return next;
}

DSV4_INLINE grammar::place grammar::character(const byte_set& ascii, place next) {
  // The well-formed sequences (RFC 3629, section 4): shorter forms and surrogates are no characters.
  const place last = range(0x80, 0xBF, next), last_two = range(0x80, 0xBF, last);
  byte_set one_more, two_more, three_more, not_bc, not_9c;
  const auto set = [](byte_set& s, int from, int to) {
    for (int b = from; b <= to; ++b) s.set(static_cast<std::size_t>(b));
  };
  set(one_more, 0xC2, 0xDF);
  set(two_more, 0xE1, 0xEE);
  two_more.reset(0xED);
  set(three_more, 0xF1, 0xF3);
  // U+FF5C is EF BD 9C.
  set(not_bc, 0x80, 0xBF);
  not_bc.reset(0xBD);
  set(not_9c, 0x80, 0xBF);
  not_9c.reset(0x9C);
  byte_set plain = ascii;
  for (std::size_t b = 0x80; b < 256; ++b) plain.reset(b);

  place at = bytes(plain, next);
  const auto also = [&](place way) { at = either(way, at); };
  also(bytes(one_more, last));
  also(bytes(two_more, last_two));
  also(range(0xE0, 0xE0, range(0xA0, 0xBF, last)));
  also(range(0xED, 0xED, range(0x80, 0x9F, last)));
  also(range(0xEF, 0xEF, either(bytes(not_bc, last), range(0xBD, 0xBD, bytes(not_9c, next)))));
  also(range(0xF0, 0xF0, range(0x90, 0xBF, last_two)));
  also(bytes(three_more, range(0x80, 0xBF, last_two)));
  also(range(0xF4, 0xF4, range(0x80, 0x8F, last_two)));
  return at;
}

DSV4_INLINE void grammar::finish(place start) {
  start_ = start;
  constexpr place never = most_depth + 1;
  need_.assign(program_.size(), never);
  // The least solution of need(p), by repetition: it only falls, and there are few values.  Programs are built from
  // their end, so one pass in order settles all but loops and rules that call themselves.
  for (bool changed = true; changed;) {
    changed = false;
    for (std::size_t p = 0; p < program_.size(); ++p) {
      const instruction& i = program_[p];
      const auto of = [&](place q) { return q < 0 ? never : need_[usize(q)]; };
      place n = never;
      switch (i.what) {
        case kind::end:
        case kind::back: n = 0; break;
        case kind::bytes: n = i.set.none() ? never : of(i.next); break;
        case kind::either: n = std::min(of(i.next), of(i.other)); break;
        case kind::call: n = std::min<place>(never, std::max<place>(of(i.next) + 1, of(i.other))); break;
      }
      if (n < need_[p]) need_[p] = n, changed = true;
    }
  }
  if (need(start) > most_depth)
    throw unsupported("grammar: no text satisfies it, or only one nested more than " +
                      std::to_string(most_depth) + " levels deep");
}

// ---- the machine

DSV4_INLINE grammar_machine::grammar_machine(std::shared_ptr<const grammar> g) : grammar_(std::move(g)) {
  expects(grammar_ && grammar_->start() >= 0, "grammar_machine: a grammar that is not finished");
  std::vector<way> ways;
  follow({grammar_->start(), -1}, ways);
  start_ = intern(std::move(ways));
}

/// All places that a way reaches without reading, each from which the end can be reached.
DSV4_INLINE void grammar_machine::follow(way from, std::vector<way>& to) {
  std::vector<way> todo{from}, seen;
  while (!todo.empty()) {
    const way w = todo.back();
    todo.pop_back();
    if (std::find(seen.begin(), seen.end(), w) != seen.end()) continue;
    seen.push_back(w);
    const auto [at, stack] = w;
    if (depth_of(stack) + grammar_->need(at) > grammar::most_depth) continue;
    const grammar::instruction& i = (*grammar_)[at];
    switch (i.what) {
      case grammar::kind::bytes:
      case grammar::kind::end: to.push_back(w); break;
      case grammar::kind::either:
        todo.emplace_back(i.next, stack);
        if (i.other != i.next) todo.emplace_back(i.other, stack);
        break;
      case grammar::kind::call: {
        const auto [known, fresh] =
            known_frames_.try_emplace({i.other, stack}, static_cast<std::int32_t>(frames_.size()));
        if (fresh) frames_.push_back({i.other, stack, depth_of(stack) + 1});
        todo.emplace_back(i.next, known->second);
        break;
      }
      case grammar::kind::back: {
        if (stack < 0) throw internal_error("grammar: a rule comes back that nobody has called");
        const frame& f = frames_[usize(stack)];
        todo.emplace_back(f.back_to, f.outer);
        break;
      }
    }
  }
}

DSV4_INLINE grammar_machine::state grammar_machine::intern(std::vector<way> ways) {
  if (ways.empty()) return dead;
  std::sort(ways.begin(), ways.end());
  ways.erase(std::unique(ways.begin(), ways.end()), ways.end());
  const auto [known, fresh] = known_states_.try_emplace(ways, static_cast<state>(states_.size()));
  if (!fresh) return known->second;
  node n;
  n.next.fill(unknown);
  for (const auto& [at, stack] : ways) n.complete = n.complete || (*grammar_)[at].what == grammar::kind::end;
  n.ways = std::move(ways);
  states_.push_back(std::move(n));
  return known->second;
}

DSV4_INLINE grammar_machine::state grammar_machine::make_next(state s, unsigned char byte) {
  std::vector<way> ways;
  for (const auto& [at, stack] : states_[usize(s)].ways) {
    const grammar::instruction& i = (*grammar_)[at];
    if (i.what == grammar::kind::bytes && i.set.test(byte)) follow({i.next, stack}, ways);
  }
  const state to = intern(std::move(ways));
  states_[usize(s)].next[byte] = to;
  return to;
}

// ---- tokens

DSV4_INLINE void token_spellings::sort() {
  for (std::size_t i = 0; i < bytes_.size(); ++i)
    if (!bytes_[i].empty()) sorted_.push_back({static_cast<std::int32_t>(i), 0});
  std::sort(sorted_.begin(), sorted_.end(), [&](const entry& a, const entry& b) {
    const std::string_view x = (*this)[a.id], y = (*this)[b.id];
    return x != y ? x < y : a.id < b.id;
  });
  for (std::size_t i = 1; i < sorted_.size(); ++i) {
    const std::string_view x = (*this)[sorted_[i - 1].id], y = (*this)[sorted_[i].id];
    sorted_[i].shared =
        static_cast<std::size_t>(std::mismatch(x.begin(), x.end(), y.begin(), y.end()).first - x.begin());
  }
}

struct grammar_constraint::memory {
  grammar_machine machine;
  std::shared_ptr<const token_spellings> spellings;
  options o;
  std::vector<std::int32_t> read;              // of the answer, as last asked
  std::vector<grammar_machine::state> states;  // [read + 1]; waiting: the constraint has not begun
  std::unordered_map<grammar_machine::state, std::vector<bool>> may_follow;  // of each state met

  static constexpr grammar_machine::state waiting = -3;

  memory(std::shared_ptr<const grammar> g, std::shared_ptr<const token_spellings> s, options how)
      : machine(std::move(g)), spellings(std::move(s)), o(std::move(how)) {
    states.push_back(o.after ? waiting : machine.start());
  }

  grammar_machine::state state_after(std::span<const std::int32_t> answer) {
    const auto same =
        std::mismatch(read.begin(), read.end(), answer.begin(), answer.end()).first - read.begin();
    read.resize(static_cast<std::size_t>(same));
    states.resize(static_cast<std::size_t>(same) + 1);
    for (const std::int32_t id : answer.subspan(static_cast<std::size_t>(same))) {
      const grammar_machine::state s = states.back();
      states.push_back(s == waiting                 ? id == o.after ? machine.start() : waiting
                       : s == grammar_machine::dead ? s
                                                    : machine.next(s, (*spellings)[id]));
      read.push_back(id);
    }
    return states.back();
  }

  const std::vector<bool>& followers(grammar_machine::state s) {
    const auto [known, fresh] = may_follow.try_emplace(s);
    std::vector<bool>& may = known->second;
    if (!fresh) return may;
    may.resize(static_cast<std::size_t>(spellings->vocabulary()));
    // path[k]: the state after the first k bytes of the last entry; `shared` of them serve the next one too.
    std::vector<grammar_machine::state> path{s};
    for (const token_spellings::entry& e : spellings->sorted()) {
      const std::string_view bytes = (*spellings)[e.id];
      path.resize(std::min(path.size(), e.shared + 1));
      while (path.size() <= bytes.size() && path.back() != grammar_machine::dead)
        path.push_back(machine.next(path.back(), static_cast<unsigned char>(bytes[path.size() - 1])));
      may[static_cast<std::size_t>(e.id)] = path.back() != grammar_machine::dead;
    }
    return may;
  }
};

DSV4_INLINE grammar_constraint::grammar_constraint(std::shared_ptr<const grammar> g,
                                                   std::shared_ptr<const token_spellings> spellings,
                                                   options o)
    : memory_(std::make_shared<memory>(std::move(g), std::move(spellings), std::move(o))) {}

DSV4_INLINE void grammar_constraint::operator()(std::span<const std::int32_t> ids,
                                                std::span<double> logits) const {
  memory& m = *memory_;
  expects_equal(static_cast<index_t>(logits.size()), m.spellings->vocabulary(),
                "grammar_constraint: logits against the vocabulary");
  expects(static_cast<index_t>(ids.size()) >= m.o.prompt,
          "grammar_constraint: fewer ids than the prompt has");
  constexpr double never = -std::numeric_limits<double>::infinity();
  const grammar_machine::state s = m.state_after(ids.subspan(static_cast<std::size_t>(m.o.prompt)));
  if (s == memory::waiting) {
    for (const std::int32_t id : m.o.end_ids) logits[static_cast<std::size_t>(id)] = never;
    return;
  }
  const bool complete = s != grammar_machine::dead && m.machine.complete(s);
  const std::vector<bool>* may = s == grammar_machine::dead ? nullptr : &m.followers(s);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const auto id = static_cast<std::int32_t>(i);
    const bool end = std::find(m.o.end_ids.begin(), m.o.end_ids.end(), id) != m.o.end_ids.end();
    if (!(end ? complete : may && (*may)[i])) logits[i] = never;
  }
}

}  // namespace dsv4
