// SPDX-License-Identifier: MIT
#pragma once
/// Where threads meet: the barrier of a block, and the collectives of a warp.
///
/// A collective gathers the operands of the lanes of its mask; the last lane to come computes the results of all of
/// them.  It checks what CUDA only demands: all lanes of the mask are there, in the same collective on the same line
/// with the same mask, none has left, and nobody reads a lane outside.
///
/// For ThreadSanitizer only __syncthreads and __syncwarp order memory.  Shuffles, votes and products exchange
/// registers; code that relies on them to order shared memory is wrong on real warps, and is reported.
#include <string>

#include "machine.hpp"

namespace dsv4::host_machine {

inline constexpr unsigned warp_size = 32;
inline unsigned lane_of(const thread& t) { return t.flat % warp_size; }

/// __syncthreads: every thread of the block comes to the same line.
inline void barrier(const where& at) {
  const tsan::own_memory own;
  machine& m = the_machine();
  thread& t = self();
  block& b = *t.in;
  if (b.left)
    m.fail("divergent barrier: " + m.name(t) + " waits at " + text(at) + ", but " + std::to_string(b.left) +
           " of its block have left");
  if (b.arrived == 0)
    b.barrier = at;
  else if (!(b.barrier == at))
    m.fail("divergent barrier: " + m.name(t) + " waits at " + text(at) + ", others at " + text(b.barrier));
  void* const order = &b.sync_object[b.barriers % 2];
  tsan::release(order);
  if (++b.arrived < b.threads.size()) {
    m.wait("__syncthreads", at);
  } else {
    b.arrived = 0;
    ++b.barriers;
    ++m.counts.barriers;
    m.progress();
    for (thread* other : b.threads)
      if (other != &t) m.make_ready(*other);
    // The last to come goes on at once: the others are only ready.
  }
  tsan::acquire(order);
}

/// The operands of a collective, by lane; null where the mask has no lane.
template <class Operand>
struct lanes {
  Operand* of[warp_size] = {};
};

/// The lanes of `mask` meet; the last of them calls exchange(lanes of all).
template <class Operand, class Exchange>
void collective(const char* what, const where& at, unsigned mask, Operand& mine, Exchange&& exchange) {
  const tsan::own_memory own;
  machine& m = the_machine();
  thread& t = self();
  block& b = *t.in;
  const auto here = [&] { return std::string(what) + " at " + text(at) + ": "; };
  const unsigned first = t.flat - lane_of(t);
  if (!(mask >> lane_of(t) & 1)) m.fail(here() + m.name(t) + " is not in its own mask");

  t.operand = &mine;
  t.mask = mask;
  t.what = what;
  t.at = at;
  t.is = thread::state::waiting;
  bool all = true;
  for (unsigned l = 0; l < warp_size; ++l) {
    if (!(mask >> l & 1)) continue;
    if (first + l >= b.threads.size())
      m.fail(here() + "the mask names lane " + std::to_string(l) + ", which the block does not have");
    const thread& other = *b.threads[first + l];
    if (other.is == thread::state::done) m.fail(here() + m.name(other) + " has left");
    if (other.is != thread::state::waiting) {
      all = false;  // still on its way; the last to come looks at all
      break;
    }
    if (std::strcmp(other.what, what) != 0 || other.mask != mask || !(other.at == at))
      m.fail("divergent " + here() + m.name(other) + " waits in " + other.what + " at " + text(other.at));
  }
  if (!all) {
    m.wait(what, at);
    return;
  }
  lanes<Operand> operands;
  for (unsigned l = 0; l < warp_size; ++l) {
    if (!(mask >> l & 1)) continue;
    thread& other = *b.threads[first + l];
    operands.of[l] = static_cast<Operand*>(other.operand);
    other.operand = nullptr;
    if (&other == &t)
      t.is = thread::state::ready;
    else
      m.make_ready(other);
  }
  ++m.counts.collectives;
  m.progress();
  exchange(operands);
}

/// __syncwarp: the only collective of a warp that orders memory.
inline void sync_warp(unsigned mask, const where& at) {
  thread& t = self();
  const auto lowest = static_cast<unsigned>(std::countr_zero(mask));
  const unsigned first = t.flat - lane_of(t);
  if (mask == 0 || first + lowest >= t.in->threads.size())
    the_machine().fail("__syncwarp at " + text(at) + ": the mask names no lane of the block");
  void* const order = &t.in->threads[first + lowest]->sync_object[t.warp_syncs++ % 2];
  tsan::release(order);
  int none = 0;
  collective("__syncwarp", at, mask, none, [](lanes<int>&) {});
  tsan::acquire(order);
}

/// Every lane gives `value` and gets the one of lane `from`.
template <class T>
T shuffle(const char* what, const where& at, unsigned mask, T value, unsigned from) {
  struct operand {
    T given;
    unsigned from;
    T got;
  } mine{value, from, value};
  collective(what, at, mask, mine, [&](lanes<operand>& all) {
    for (unsigned l = 0; l < warp_size; ++l) {
      if (!all.of[l]) continue;
      const operand* const source = all.of[l]->from < warp_size ? all.of[all.of[l]->from] : nullptr;
      if (!source)
        the_machine().fail(std::string(what) + " at " + text(at) + ": lane " + std::to_string(l) +
                           " reads lane " + std::to_string(all.of[l]->from) + ", which is not in the mask");
      all.of[l]->got = source->given;
    }
  });
  return mine.got;
}

/// Every lane gives a bit; all get the bits of all.
inline unsigned ballot(const char* what, const where& at, unsigned mask, bool bit) {
  struct operand {
    bool given;
    unsigned got;
  } mine{bit, 0};
  collective(what, at, mask, mine, [](lanes<operand>& all) {
    unsigned bits = 0;
    for (unsigned l = 0; l < warp_size; ++l)
      if (all.of[l] && all.of[l]->given) bits |= 1u << l;
    for (operand* o : all.of)
      if (o) o->got = bits;
  });
  return mine.got;
}

}  // namespace dsv4::host_machine
