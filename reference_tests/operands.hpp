// SPDX-License-Identifier: MIT
#pragma once
/// Operands of operator tests: random activations of a policy's type, weights in any format, comparisons.
#include <cmath>
#include <vector>

#include "dsv4/core/call.hpp"
#include "dsv4/num/round.hpp"
#include "random_model.hpp"

namespace dsv4_test {

/// Uniform in [-size, size), exact in A.
template <class A, class... N>
tensor<A, static_cast<int>(sizeof...(N))> random_tensor(integers& r, double size, N... n) {
  tensor<A, static_cast<int>(sizeof...(N))> x(n...);
  for (index_t i = 0; i < x.size(); ++i) x.data()[i] = store<A>(size * double(r.below(256) - 128) / 128);
  return x;
}
template <class A>
double value(A x) {
  return widen<double>(x);
}
/// |a - b| within `relative` of the larger, or of `size`, the size of the terms that were summed.
inline bool close(double a, double b, double relative, double size = 0) {
  return std::fabs(a - b) <= relative * std::max({std::fabs(a), std::fabs(b), size});
}
/// One store of x as A may have been reached from a value within `relative` of x.
template <class A>
bool stored_as_near(A y, double x, double relative, double size = 0) {
  const double slack = relative * std::max(std::fabs(x), size);
  return value(store<A>(x - slack)) <= value(y) && value(y) <= value(store<A>(x + slack));
}

/// What compositions are called with, without an observer: *call.
template <execution E>
class quiet_call {
 public:
  quiet_call(E& e, const config& c) : e_(e), c_(c) {}
  call_context<E, no_tap> operator*() {
    return {e_, scratch_, host_, c_, {e_, none_, std::span(&one_, 1), {}}};
  }

 private:
  E& e_;
  const config& c_;
  no_tap none_;
  segment one_{};
  scratch_of<E> scratch_;
  workspace host_;
};

}  // namespace dsv4_test
