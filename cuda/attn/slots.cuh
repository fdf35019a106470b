// SPDX-License-Identifier: MIT
#pragma once
/// The numbering of slots for observers (attn/attention.hpp), made where the observers are: on the host, which has copied
/// more by then.  Without an observer nothing of this runs.
#include <dsv4/attn/attention.hpp>

#include "../arguments.hpp"
#include "../exec.hpp"

namespace dsv4 {

namespace gpu {
/// A copy of x in host memory.
template <class T, int R>
tensor<std::remove_const_t<T>, R> on_host(exec::cuda& e, const view<T, R, mem::device>& x) {
  auto here = std::apply([](auto... n) { return tensor<std::remove_const_t<T>, R>(n...); }, x.extents());
  dsv4::copy(e, x, here.all());
  return here;
}
/// Slots whose choices are `chosen`, and whose entries are only counted.
template <class A>
attention_slots<A> numbered(const attention_slots<A, mem::device>& slots,
                            const tensor<std::int32_t, 2>& chosen) {
  const view<const A, 2> entries(nullptr, slots.entries.extent(0), slots.entries.extent(1));
  return {slots.start, slots.window, {}, entries, chosen.all()};
}
}  // namespace gpu

namespace kernel {
template <>
struct number_slots<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, const attention_slots<A, mem::device>& slots,
                  view<std::int32_t, 2, mem::device> numbers) {
    const auto chosen = gpu::on_host(e, slots.chosen);
    tensor<std::int32_t, 2> here(numbers.extent(0), numbers.extent(1));
    exec::ref host;
    number_slots<exec::ref>::run(host, gpu::numbered(slots, chosen), here.all());
    dsv4::copy(e, std::as_const(here).all(), numbers);
  }
};
template <>
struct adopt_slots<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, const attention_slots<A, mem::device>& slots,
                  view<const std::int32_t, 2, mem::device> numbers,
                  view<std::int32_t, 2, mem::device> chosen) {
    const auto numbers_here = gpu::on_host(e, numbers);
    const auto before = gpu::on_host(e, slots.chosen);
    auto after = before;
    exec::ref host;
    adopt_slots<exec::ref>::run(host, gpu::numbered(slots, before), numbers_here.all(), after.all());
    if (chosen.data()) dsv4::copy(e, std::as_const(after).all(), chosen);
  }
};
}  // namespace kernel

}  // namespace dsv4
