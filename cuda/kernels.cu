// SPDX-License-Identifier: MIT
// Every kernel of exec::cuda for both storage types of activations: what the test compile.cuda_kernels has nvcc compile
// for every architecture.
#include "dsv4/cuda.hpp"

namespace dsv4 {

using on = mem::device;

#define DSV4_KERNELS_OF(A)                                                                                   \
  template void kernel::rms_norm<exec::cuda>::run<A>(exec::cuda&, view<const A, 2, on>,                      \
                                                     view<const float, 1, on>, double, view<A, 2, on>);      \
  template void kernel::head_norm<exec::cuda>::run<A>(exec::cuda&, view<A, 3, on>, double);                  \
  template void kernel::act_quant<exec::cuda>::run<A>(exec::cuda&, view<const A, 2, on>, view<e4m3, 2, on>,  \
                                                      view<float, 2, on>);                                   \
  template void kernel::act_quant_in_place<exec::cuda>::run<A>(exec::cuda&, view<A, 2, on>, index_t,         \
                                                               index_t);                                     \
  template void kernel::fp4_act_quant<exec::cuda>::run<A>(exec::cuda&, view<A, 2, on>);                      \
  template void kernel::linear<exec::cuda>::run(exec::cuda&, const view<const A, 2, on>&,                    \
                                                const basic_weight_matrix<on>&, view<A, 2, on>);             \
  template void kernel::linear<exec::cuda>::run(exec::cuda&, const view<const A, 2, on>&,                    \
                                                const basic_weight_matrix<on>&, view<double, 2, on>);        \
  template void kernel::linear<exec::cuda>::run(exec::cuda&, const basic_quantised_activations<on>&,         \
                                                const basic_weight_matrix<on>&, view<A, 2, on>);             \
  template void kernel::grouped_linear<exec::cuda>::run(exec::cuda&, view<const A, 3, on>,                   \
                                                        const basic_weight_matrix<on>&, view<A, 3, on>);     \
  template void kernel::rope<exec::cuda>::run(exec::cuda&, view<A, 3, on>, const basic_rotary_angles<on>&,   \
                                              rotation);                                                     \
  template void kernel::hadamard<exec::cuda>::run<A>(exec::cuda&, view<A, 2, on>);                           \
  template void kernel::swiglu<exec::cuda>::run<A>(exec::cuda&, view<const A, 2, on>, view<const A, 2, on>,  \
                                                   view<const double, 1, on>, double, view<A, 2, on>);       \
  template void kernel::embed<exec::cuda>::run(exec::cuda&, view<const std::int32_t, 1, on>,                 \
                                               const basic_weight_matrix<on>&, view<A, 2, on>);              \
  template void kernel::copy_to_streams<exec::cuda>::run<A>(exec::cuda&, view<const A, 2, on>,               \
                                                            view<A, 3, on>);                                 \
  template void kernel::hc_mixes<exec::cuda>::run(                                                           \
      exec::cuda&, view<const A, 2, on>, const basic_weight_matrix<on>&, double, view<double, 2, on>);       \
  template void kernel::hc_collapse<exec::cuda>::run<A>(exec::cuda&, view<const double, 2, on>,              \
                                                        view<const A, 3, on>, view<A, 2, on>);               \
  template void kernel::hc_post<exec::cuda>::run<A>(exec::cuda&, view<const A, 2, on>,                       \
                                                    view<const double, 2, on>, view<const double, 3, on>,    \
                                                    view<A, 3, on>);                                         \
  template void kernel::compressor_pool<exec::cuda>::run<A>(exec::cuda&, const compressor_rows<double, on>&, \
                                                            index_t, index_t, view<A, 2, on>);               \
  template void kernel::index_scores<exec::cuda>::run<A>(                                                    \
      exec::cuda&, view<const A, 3, on>, view<const A, 2, on>, view<const A, 2, on>, view<A, 2, on>);        \
  template void kernel::index_select<exec::cuda>::run<A>(exec::cuda&, view<const A, 2, on>, index_t,         \
                                                         index_t, view<std::int32_t, 2, on>);                \
  template void kernel::scale_stored<exec::cuda>::run<A>(exec::cuda&, view<A, 2, on>, double);               \
  template void kernel::sparse_attention<exec::cuda>::run(exec::cuda&, view<const A, 3, on>,                 \
                                                          const attention_slots<A, on>&,                     \
                                                          view<const float, 1, on>, double, view<A, 3, on>); \
  template void kernel::add_shared<exec::cuda>::run<A>(exec::cuda&, view<const double, 2, on>,               \
                                                       view<const A, 2, on>, view<A, 2, on>);                \
  template void kernel::append_rows<exec::cuda>::run<A>(exec::cuda&, view<const A, 2, on>,                   \
                                                        std::span<const ring_append<A, on>>);                \
  template void kernel::add_to_streams<exec::cuda>::run<A>(exec::cuda&, view<const A, 2, on>, view<A, 3, on>);

DSV4_KERNELS_OF(bf16)
DSV4_KERNELS_OF(float)

#undef DSV4_KERNELS_OF

using some_experts = std::vector<expert_weights<storage::in_memory<on>>>;
template void kernel::experts<exec::cuda>::run<official>(exec::cuda&, basic_workspace<on>&, view<bf16, 2, on>,
                                                         const routing<double, on>&, const some_experts&,
                                                         double, view<double, 2, on>);
template void kernel::experts<exec::cuda>::run<float32<>>(exec::cuda&, basic_workspace<on>&,
                                                          view<float, 2, on>, const routing<double, on>&,
                                                          const some_experts&, double, view<double, 2, on>);

}  // namespace dsv4
