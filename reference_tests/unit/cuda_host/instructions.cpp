// SPDX-License-Identifier: MIT
// What the instructions mean on the host machine, against their definitions.
#include "catch.hpp"
#include "cuda/device.hpp"
#include "dsv4/num/minifloat.hpp"

namespace gpu = dsv4::gpu;
namespace host = dsv4::host_machine;

namespace {

__global__ void shuffles(int* xor4, int* down3, int* up3, int* third_of_8, unsigned* odd, int* any,
                         int* all) {
  const int lane = static_cast<int>(threadIdx.x);
  xor4[lane] = __shfl_xor_sync(~0u, lane, 4);
  down3[lane] = __shfl_down_sync(~0u, lane, 3);
  up3[lane] = __shfl_up_sync(~0u, lane, 3, 8);
  third_of_8[lane] = __shfl_sync(~0u, lane, 3, 8);
  odd[lane] = __ballot_sync(~0u, lane % 2);
  any[lane] = __any_sync(~0u, lane == 9);
  all[lane] = __all_sync(~0u, lane != 9);
}

__global__ void half_warps(int* sum) {
  const int lane = static_cast<int>(threadIdx.x);
  // Two halves with masks of their own need not meet.
  const unsigned mask = lane < 16 ? 0xFFFFu : 0xFFFF0000u;
  int s = lane;
  for (int o = 8; o; o /= 2) s += __shfl_xor_sync(mask, s, o);
  if (lane >= 16) __syncwarp(mask);
  sum[lane] = s;
}

struct matrix_shared {
  alignas(16) unsigned short a[16][16];
};
__global__ void load_matrices(unsigned (*four)[4], unsigned (*two)[2]) {
  auto& s = *gpu::shared_memory<matrix_shared>();
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += 32) s.a[i / 16][i % 16] = static_cast<unsigned short>(i);
  __syncwarp();
  unsigned r[4], h[2];
  gpu::load_matrix_x4(r, &s.a[lane % 16][lane / 16 * 8]);
  gpu::load_matrix_x2(h, lane < 16 ? &s.a[lane % 8][lane / 8 * 8] : nullptr);
  for (int i = 0; i < 4; ++i) four[lane][i] = r[i];
  for (int i = 0; i < 2; ++i) two[lane][i] = h[i];
}

// D = A B with A [16, K], B [K, 8] as codes of `bits` bits, fragments gathered element by element.
template <int K, class Code>
__global__ void multiply(const Code* a, const Code* b, float* d) {
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, i = lane % 4;
  constexpr int codes = K / 8, bits = 32 / codes;
  unsigned fa[4] = {}, fb[2] = {};
  for (int r = 0; r < 4; ++r)
    for (int j = 0; j < codes; ++j)
      fa[r] |= static_cast<unsigned>(a[(g + 8 * (r % 2)) * K + codes * i + K / 2 * (r / 2) + j].bits)
               << bits * j;
  for (int r = 0; r < 2; ++r)
    for (int j = 0; j < codes; ++j)
      fb[r] |= static_cast<unsigned>(b[(codes * i + K / 2 * r + j) * 8 + g].bits) << bits * j;
  float sum[4] = {1, 1, 1, 1};
  if constexpr (K == 16)
    gpu::multiply_bf16(sum, fa, fb);
  else
    gpu::multiply_e4m3(sum, fa, fb);
  for (int r = 0; r < 4; ++r) d[(g + 8 * (r / 2)) * 8 + 2 * i + r % 2] = sum[r];
}

template <int K, class Code>
void check_multiply() {
  Code a[16 * K], b[K * 8];
  for (int i = 0; i < 16 * K; ++i) a[i] = Code::encode((i * 5 + i / K) % 9 - 4);
  for (int i = 0; i < K * 8; ++i) b[i] = Code::encode((i * 7 + i / 8) % 9 - 4);
  float d[16 * 8];
  gpu::launch({}, {1, 32}, multiply<K, Code>, static_cast<const Code*>(a), static_cast<const Code*>(b), d);
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 8; ++n) {
      double sum = 1;
      for (int k = 0; k < K; ++k) sum += a[m * K + k].decode() * b[k * 8 + n].decode();
      CHECK(d[m * 8 + n] == static_cast<float>(sum));
    }
}

__global__ void counts(unsigned* sum, int* largest, unsigned* first) {
  atomicAdd(sum, threadIdx.x);
  atomicMax(largest, static_cast<int>(threadIdx.x * 37 % 64));
  atomicCAS(first, 0u, threadIdx.x + 1);
}

__global__ void where_am_i(dim3* thread, dim3* block) {
  const unsigned n = blockDim.x * blockDim.y * blockDim.z;
  const unsigned b = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  thread[b * n + t] = threadIdx;
  block[b * n + t] = blockIdx;
}

__global__ void nothing() {}

}  // namespace

TEST_CASE("Shuffles and votes", "[cuda_host]") {
  for (const host::schedule& s : host::adversaries()) {
    host::the_machine().how = s;
    int x[32], down[32], up[32], third[32], any[32], all[32], sum[32];
    unsigned odd[32];
    gpu::launch({}, {1, 32}, shuffles, x, down, up, third, odd, any, all);
    gpu::launch({}, {1, 32}, half_warps, sum);
    for (int l = 0; l < 32; ++l) {
      CHECK(x[l] == (l ^ 4));
      CHECK(down[l] == (l + 3 < 32 ? l + 3 : l));
      CHECK(up[l] == (l % 8 >= 3 ? l - 3 : l));
      CHECK(third[l] == l / 8 * 8 + 3);
      CHECK(odd[l] == 0xAAAAAAAAu);
      CHECK(any[l] == 1);
      CHECK(all[l] == 0);
      CHECK(sum[l] == (l < 16 ? 120 : 376));  // 0 + … + 15, 16 + … + 31
    }
  }
}

TEST_CASE("ldmatrix gives every lane its two elements of every matrix", "[cuda_host]") {
  unsigned four[32][4], two[32][2];
  gpu::launch({}, {1, 32, sizeof(matrix_shared)}, load_matrices, four, two);
  const auto element = [](unsigned row, unsigned col) { return row * 16 + col; };
  const auto pair = [&](unsigned row, unsigned col) {
    return element(row, col) | element(row, col + 1) << 16;
  };
  for (unsigned l = 0; l < 32; ++l) {
    const unsigned g = l / 4, i = l % 4;
    // The order of the operand A of multiply_bf16: rows 0 to 7, rows 8 to 15, then the right half.
    CHECK(four[l][0] == pair(g, 2 * i));
    CHECK(four[l][1] == pair(g + 8, 2 * i));
    CHECK(four[l][2] == pair(g, 2 * i + 8));
    CHECK(four[l][3] == pair(g + 8, 2 * i + 8));
    CHECK(two[l][0] == pair(g, 2 * i));
    CHECK(two[l][1] == pair(g, 2 * i + 8));
  }
}

TEST_CASE("Products of the tensor cores", "[cuda_host]") {
  check_multiply<16, dsv4::bf16>();
  check_multiply<32, dsv4::e4m3>();
}

TEST_CASE("Atomics, indices, bytes", "[cuda_host]") {
  unsigned sum = 0, first = 0;
  int largest = -1;
  host::the_machine().how = {host::order::reverse, 1};
  gpu::launch({}, {1, 64}, counts, &sum, &largest, &first);
  CHECK(sum == 63 * 64 / 2);
  CHECK(largest == 63);
  CHECK(first == 64);  // the last thread goes first

  dim3 thread[2 * 3 * 2 * 8], block[2 * 3 * 2 * 8];
  gpu::launch({}, {dim3(2, 3, 2), dim3(2, 2, 2)}, where_am_i, thread, block);
  for (unsigned i = 0; i < 2 * 3 * 2 * 8; ++i) {
    CHECK(thread[i].x + 2 * (thread[i].y + 2 * thread[i].z) == i % 8);
    CHECK(block[i].x + 2 * (block[i].y + 3 * block[i].z) == i / 8);
  }
  CHECK(__byte_perm(0x03020100, 0x07060504, 0x7430) == 0x07040300);
  CHECK(__byte_perm(0x00000080, 0, 0x0008) == 0x808080FF);
}

TEST_CASE("Launches that no device takes are refused, empty ones do nothing", "[cuda_host]") {
  CHECK_THROWS_AS(gpu::launch({}, {1, 1025}, nothing), host::fault);
  CHECK_THROWS_AS(gpu::launch({}, {1, 0}, nothing), host::fault);
  CHECK_THROWS_AS(gpu::launch({}, {dim3(1, 1 << 16), 1}, nothing), host::fault);
  CHECK_THROWS_AS(gpu::launch({}, {1, 1, 228 << 10}, nothing), host::fault);
  CHECK_THROWS_AS(gpu::launch({}, {133, 1, 0, true}, nothing), host::fault);
  const auto before = host::the_machine().counts.launches;
  gpu::launch({}, {0, 32}, nothing);
  CHECK(host::the_machine().counts.launches == before);
  gpu::launch({}, {132, 1, 0, true}, nothing);
  CHECK(host::the_machine().counts.launches == before + 1);
}
