// A user of dsv4::dsv4: everything.  Each dependency is included and, where it has a library, called.
#include <tbb/parallel_for.h>
#include <zstd.h>

#include <Eigen/Core>
#include <atomic>
#include <cstdio>
#include <dsv4/num/round.hpp>
#include <nlohmann/json.hpp>

#if !defined(DSV4_HAS_CPU) || !defined(EIGEN_DONT_PARALLELIZE)
#error "dsv4::dsv4 defines DSV4_HAS_CPU and EIGEN_DONT_PARALLELIZE"
#endif

int main() {
  std::atomic<int> sum = 0;
  tbb::parallel_for(0, 100, [&](int i) { sum += i; });
  const float norm = Eigen::Vector2f(3, 4).norm();
  const auto json = nlohmann::json::parse(R"({"pi": 3.14159})");
  std::printf("%d %g %g zstd %u\n", sum.load(), double(norm),
              dsv4::rounded<dsv4::bf16>(json["pi"].get<double>()), ZSTD_versionNumber());
  return sum == 4950 && norm == 5 ? 0 : 1;
}
