// SPDX-License-Identifier: MIT
#pragma once
/// What every composition (attention, a mixture of experts, a block, the head) is called with beside its operands.
#include "config.hpp"
#include "tap.hpp"
#include "tensor.hpp"

namespace dsv4 {

/// The executor, its scratch, the model's numbers and the observer of one call.  `scratch` lies in the executor's
/// memory; `host` holds what the host decides about launches: descriptors of the batch's sequences.
template <execution E, observer Tap>
struct call_context {
  E& e;
  scratch_of<E>& scratch;
  workspace& host;
  const config& c;
  tapper<E, Tap> tap;

  /// Gives back, at its end, what was taken from both since its beginning.
  struct scope {
    explicit scope(const call_context& call) : scratch(call.scratch), host(call.host) {}
    typename scratch_of<E>::scope scratch;
    workspace::scope host;
  };
};

}  // namespace dsv4
