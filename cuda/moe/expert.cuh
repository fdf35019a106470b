// SPDX-License-Identifier: MIT
#pragma once
/// moe/expert.hpp and moe.hpp on a GPU.  A row for each choice of each token: row t k + j runs through expert
/// indices[t][j].  No gathering: rows of one expert need not lie side by side for exact sums, only for fast ones.
#include <dsv4/moe/moe.hpp>

#include "../arguments.hpp"
#include "../exec.hpp"
#include "../op/act_quant.cuh"
#include "../op/linear.cuh"
#include "../op/swiglu.cuh"

namespace dsv4 {

namespace gpu {
/// The matrices of one expert, in a list in device memory.
struct expert_in_kernel {
  weight_matrix w1, w3;  // [i, d]
  weight_matrix w2;      // [d, i]
};

// Both products into an expert: einsum p k, i k -> p i with the expert and the token of row p
template <class X, class A>
__global__ void into_experts(X x /*[t,k]*/, view<const std::int32_t, 1> expert_of /*[p]*/, index_t choices,
                             const expert_in_kernel* all, view<A, 2> a /*[p,i]*/, view<A, 2> u /*[p,i]*/) {
  if (item() >= a.size()) return;
  const index_t p = item() / a.extent(1), i = item() % a.extent(1), t = p / choices;
  const expert_in_kernel& w = all[expert_of[p]];
  double gate = 0, up = 0;
  for (index_t k = 0; k < w.w1.cols; ++k) gate += input_at(x, t, k) * w.w1.at(i, k);
  for (index_t k = 0; k < w.w3.cols; ++k) up += input_at(x, t, k) * w.w3.at(i, k);
  a(p, i) = store<A>(gate);
  u(p, i) = store<A>(up);
}

// The product out of it: einsum p i, d i -> p d
template <class X, class A>
__global__ void out_of_experts(X z /*[p,i]*/, view<const std::int32_t, 1> expert_of /*[p]*/,
                               const expert_in_kernel* all, view<A, 2> y /*[p,d]*/) {
  if (item() >= y.size()) return;
  const index_t p = item() / y.extent(1), d = item() % y.extent(1);
  const weight_matrix& w = all[expert_of[p]].w2;
  double sum = 0;
  for (index_t i = 0; i < w.cols; ++i) sum += input_at(z, p, i) * w.at(d, i);
  y(p, d) = store<A>(sum);
}

// Stored outputs of a token's experts, summed wide in increasing expert id; equal ids in the order of the choices.
template <class A>
__global__ void sum_of_experts(view<const A, 2> y /*[p,d]*/, view<const std::int32_t, 2> indices /*[t,k]*/,
                               view<double, 2> routed /*[t,d]*/) {
  if (item() >= routed.size()) return;
  const index_t t = item() / routed.extent(1), d = item() % routed.extent(1), k = indices.extent(1);
  double sum = 0;
  index_t last_id = -1, last = -1;  // of the choice that was added last
  for (index_t n = 0; n < k; ++n) {
    index_t next = -1;
    for (index_t j = 0; j < k; ++j) {
      const index_t id = indices(t, j);
      const bool left = id > last_id || (id == last_id && j > last);
      if (left && (next < 0 || id < indices(t, next))) next = j;
    }
    sum += widen<double>(y(t * k + next, d));
    last_id = indices(t, next);
    last = next;
  }
  routed(t, d) = sum;
}

template <class A>
__global__ void add_shared(view<const double, 2> routed, view<const A, 2> shared, view<A, 2> out) {
  if (item() < out.size())
    out.data()[item()] = store<A>(routed.data()[item()] + widen<double>(shared.data()[item()]));
}

}  // namespace gpu

namespace kernel {
template <>
struct experts<exec::cuda> {
  template <numerics_policy P>
  static void run(exec::cuda& e, basic_workspace<mem::device>& scratch, view<act_t<P>, 2, mem::device> x,
                  const routing<double, mem::device>& route,
                  const std::vector<expert_weights<storage::in_memory<mem::device>>>& all, double limit,
                  view<double, 2, mem::device> routed) {
    using A = act_t<P>;
    const basic_workspace<mem::device>::scope here(scratch);
    const index_t k = route.indices.extent(1), rows = x.extent(0) * k, inner = all.front().w1.rows;
    auto a = take<A>(scratch, rows, inner), u = take<A>(scratch, rows, inner);  // [p, i]
    auto y = take<A>(scratch, rows, x.extent(1));                               // [p, d]

    // Where each expert's matrices lie, for kernels that choose among them.
    std::vector<gpu::expert_in_kernel> list;
    list.reserve(all.size());
    bool quantised = P::quantised;
    for (const auto& w : all) {
      list.push_back({gpu::argument(w.w1), gpu::argument(w.w3), gpu::argument(w.w2)});
      const bool formats[] = {w.w1.quantised(), w.w3.quantised(), w.w2.quantised()};
      for (const bool q : formats)
        if (q != all.front().w1.quantised())
          throw unsupported(
              "experts: some matrices are FP8 or FP4 and some are not; exec::cuda takes one kind");
      quantised = quantised && w.w1.quantised();
    }
    auto in_device = take<gpu::expert_in_kernel>(scratch, static_cast<index_t>(list.size()));
    dsv4::copy(e, view<const gpu::expert_in_kernel, 1>(list.data(), in_device.extent(0)), in_device);
    const gpu::expert_in_kernel* const experts = in_device.data();

    const auto expert_of =
        gpu::argument(view<const std::int32_t, 2, mem::device>(route.indices).reshape(rows));
    const product_in<P> input(e, scratch, x, quantised);
    input.give([&](auto in) {
      gpu::launch(e.stream, gpu::one_thread_each(a.size()), gpu::into_experts<decltype(in), A>, in, expert_of,
                  k, experts, gpu::argument(a), gpu::argument(u));
    });
    swiglu<exec::cuda>::run(e, view<const A, 2, mem::device>(a), view<const A, 2, mem::device>(u),
                            view<const double, 2, mem::device>(route.weights).reshape(rows), limit, a);
    const product_in<P> middle(e, scratch, a, quantised);
    middle.give([&](auto in) {
      gpu::launch(e.stream, gpu::one_thread_each(y.size()), gpu::out_of_experts<decltype(in), A>, in,
                  expert_of, experts, gpu::argument(y));
    });
    gpu::launch(e.stream, gpu::one_thread_each(routed.size()), gpu::sum_of_experts<A>,
                view<const A, 2>(gpu::argument(y)), view<const std::int32_t, 2>(gpu::argument(route.indices)),
                gpu::argument(routed));
  }

 private:
  /// The input of a product with experts: codes and scales, or x itself.
  template <class P>
  class product_in {
   public:
    using A = act_t<P>;
    product_in(exec::cuda& e, basic_workspace<mem::device>& scratch, view<A, 2, mem::device> x,
               bool quantised)
        : x_(x), quantised_(quantised) {
      if (!quantised) return;
      code_ = take<e4m3>(scratch, x.extent(0), x.extent(1));
      scale_ = take<float>(scratch, x.extent(0), (x.extent(1) + fp8_tile - 1) / fp8_tile);
      act_quant<exec::cuda>::run(e, view<const A, 2, mem::device>(x), code_, scale_);
    }
    template <class F>
    void give(F f) const {
      if (quantised_)
        f(quantised_activations{gpu::argument(code_), gpu::argument(scale_)});
      else
        f(view<const A, 2>(gpu::argument(x_)));
    }

   private:
    view<A, 2, mem::device> x_;
    view<e4m3, 2, mem::device> code_;
    view<float, 2, mem::device> scale_;
    bool quantised_;
  };
};

template <>
struct add_shared<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<const double, 2, mem::device> routed,
                  view<const A, 2, mem::device> shared, view<A, 2, mem::device> out) {
    gpu::launch(e.stream, gpu::one_thread_each(out.size()), gpu::add_shared<A>, gpu::argument(routed),
                gpu::argument(shared), gpu::argument(out));
  }
};
}  // namespace kernel

}  // namespace dsv4
