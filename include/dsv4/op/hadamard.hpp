// SPDX-License-Identifier: MIT
#pragma once
/// Hadamard rotation of the indexer's queries and keys: spreads outliers before FP4.
/// @paper{DSV4, section 5.2.1}
/// axes     t row · d channel (a power of two)
/// oracle   model.py, rotate_activation
/// deviates none
///
/// y = x H d^-1/2 with the Sylvester matrix H[i][j] = (-1)^popcount(i and j), one store.
/// @post (1) applied twice it is the identity up to stores   (2) scalar products are kept
#include <cmath>

#include "../core/contract.hpp"
#include "../core/exec.hpp"
#include "../core/tensor.hpp"
#include "../num/round.hpp"

namespace dsv4 {

namespace kernel {
/// run(e, x [t, d]), in place.
template <execution E>
struct hadamard {
  static_assert(has_kernel<E>, "hadamard: no kernel for this executor");
};

template <>
struct hadamard<exec::ref> {
  template <class A>
  static void run(exec::ref&, view<A, 2> x) {
    const index_t d = x.extent(1);
    tensor<double, 1> y(d);
    for (index_t t = 0; t < x.extent(0); ++t) {
      for (index_t i = 0; i < d; ++i) y[i] = widen<double>(x(t, i));
      // H of size 2s is [[H, H], [H, -H]]: sums and differences at distance s.
      for (index_t s = 1; s < d; s *= 2)
        for (index_t i = 0; i < d; ++i)
          if (!(i & s)) {
            const double a = y[i], b = y[i + s];
            y[i] = a + b;
            y[i + s] = a - b;
          }
      for (index_t i = 0; i < d; ++i) x(t, i) = store<A>(y[i] * (1 / std::sqrt(double(d))));
    }
  }
};
}  // namespace kernel

/// @throws contract_violation unless d is a power of two.
template <execution E, class A>
void hadamard(E& e, view<A, 2, mem_of<E>> x /*[t,d]*/) {
  expects((x.extent(1) & (x.extent(1) - 1)) == 0, "hadamard: the number of channels is not a power of two");
  kernel::hadamard<E>::run(e, x);
}

}  // namespace dsv4
