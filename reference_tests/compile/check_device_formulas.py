#!/usr/bin/env python3
"""Every function marked DSV4_HOST_DEVICE can be called from a kernel: nvcc compiles one that calls them all.

  check_device_formulas.py [--nvcc PATH]

A function that is marked and not called here is an error, too.  Exit code 77, which ctest shows as skipped, where
there is no nvcc."""
import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

include = pathlib.Path(__file__).resolve().parents[2] / "include"

KERNEL = r"""
#include <dsv4/attn/sparse_attention.hpp>
#include <dsv4/core/dtype.hpp>
#include <dsv4/mhc/sinkhorn.hpp>
#include <dsv4/moe/weights.hpp>
#include <dsv4/num/block_scaled.hpp>
#include <dsv4/num/formulas.hpp>
#include <dsv4/op/act_quant.hpp>

using namespace dsv4;

template <class F>
__device__ double number_format(double x) {
  const F code = F::encode(x), same = F::from_bits(code.bits);
  return code == same && code.is_finite() && !code.is_nan() ? code.decode() + double(code) + float(code) : 0;
}

template <class W>
__device__ W formulas(W x, W y) {
  W r = smaller(x, y) + larger(x, y) + clamped(x, W(0), y);
  r += sigmoid(x) + sigmoid_of_exp(x) + sigmoid_slope(x) + through_sigmoid(x, y) + silu(x) + softplus(x);
  r += gate_affinity(x) + gate_affinity_slope(x, y) + gate_weight(x, y, W(2));
  r += swiglu_gate(x, y) + swiglu_up(x, y) + swiglu_value(x, y, W(10), W(1)) + inverse_rms(x, W(4), y);
  r += hyper_logit(x, y, y) + hyper_pre(x, y, y, y) + hyper_post(x, y, y);
  const auto pair = rotate_pair(x, y, x, y);
  r += pair.even + pair.odd;
  const auto mean = softmax_mean<W>([&](auto f) { f(x, y), f(y, x); });
  r += mean.mean + mean.weight(x);
  return r + W(rotary_angle(3, float(x)));
}

template <class A, class W>
__device__ W stores(W x) {
  const A a = store<A>(x);
  return widen<W>(a) + rounded<A>(x) + W(to_double(a));
}

__global__ void all(double* out, float* narrow) {
  const double x = out[0], y = out[1];
  out[2] = number_format<bf16>(x) + number_format<f16>(x) + number_format<e4m3>(x) + number_format<e2m1>(x);
  const e8m0 scale = e8m0::encode_up(x);
  out[3] = scale == e8m0::from_bits(3) || scale.is_nan() ? 0 : scale.decode() + double(scale) + float(scale);
  out[4] = formulas(x, y);
  narrow[0] = formulas(narrow[1], narrow[2]);
  out[5] = stores<bf16>(x) + stores<float>(x) + stores<double>(x) + to_float(round_bf16(x));
  narrow[3] = stores<bf16>(narrow[1]) + stores<float>(narrow[1]) + to_float(round_bf16(narrow[1]));
  out[6] = power_of_two(3) + exponent_at_least(x) + magnitude_of(x) + round_to_whole(x) + bits_as<std::int64_t>(x);
  out[7] = power_of_two_at_least(x) + block_scale(narrow, 8, e4m3_max, fp8_amax_floor) +
           scaled_code<e4m3>(x, y, e4m3_max).decode() + scaled_code<e2m1>(x, y, e2m1_max).decode();
}

__global__ void descriptors(weight_matrix w, quantised_activations x, expert_table table, attention_slots<bf16> seen,
                            view<double, 2> mixes, view<float, 1> base, view<double, 3> comb, double* out) {
  out[0] = w.at(1, 2) + w.scale_at(1, 2) + double(w.scale_cols() + w.row_bytes()) + (w.row(1) != nullptr);
  out[0] += double(integer_at(dtype::i32, w.data, 1));
  out[1] = x.at(1, 2) + double(table.at(1, 2) + seen.slots()) + (seen.row(1, 2) != nullptr);
  split_mixes<double>(mixes[0], base, base, 20, 1e-6, mixes[1], mixes[2], comb[0]);
  sinkhorn(comb[1], 20, 1e-6);
}
"""


def marked():
    """Names of all marked functions of the library."""
    names = set()
    pattern = r"DSV4_HOST_DEVICE\s+(?:static\s+|friend\s+|inline\s+|constexpr\s+|explicit\s+)*([^;{=]*?)\("
    for header in sorted((include / "dsv4").rglob("*.hpp")):
        if header.name == "config_macros.hpp":
            continue
        for found in re.finditer(pattern, header.read_text()):
            name = found.group(1).split()[-1].split("::")[-1].lstrip("*&")
            names.add(name)
    return names


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nvcc", default=shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
    args = parser.parse_args()
    names = marked()
    operators = {"double", "float", "operator=="}
    missing = sorted(n for n in names - operators if not re.search(r"\b" + re.escape(n) + r"\b", KERNEL))
    if missing or len(names) < 40:
        print(f"device_formulas: marked, but no kernel calls them: {', '.join(missing)}"
              if missing else f"device_formulas: only {len(names)} marked functions found")
        return 1
    if not pathlib.Path(args.nvcc).exists():
        print(f"device_formulas: skipped, there is no nvcc ({args.nvcc})")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "formulas.cu"
        source.write_text(KERNEL)
        # Warnings about calls of host functions are errors: such a call has no meaning on a device.
        done = subprocess.run([args.nvcc, "-std=c++20", "--expt-relaxed-constexpr", "-arch=sm_80", "-Werror=cross-execution-space-call",
                               f"-I{include}", "-c", str(source), "-o", str(source.with_suffix(".o"))],
                              capture_output=True, text=True)
    if done.returncode:
        print(done.stdout + done.stderr)
        return 1
    print(f"device_formulas: nvcc compiles a kernel that calls all {len(names)} marked functions")
    return 0


sys.exit(main())
