// SPDX-License-Identifier: MIT
#pragma once
/// Golden tensors of the host's numbers: any integer or floating type as double, or as bytes and ids.
/// Every size is read from the file, so that a file of the same names with other contents is as good.
#include <cmath>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "catch.hpp"
#include "data.hpp"
#include "dsv4/core/tensor.hpp"
#include "dsv4/io/safetensors.hpp"
#include "dsv4/num/minifloat.hpp"

namespace dsv4_test {

using dsv4::index_t;

class golden_file {
 public:
  explicit golden_file(const std::filesystem::path& path) : file_(dsv4::io::safetensors::open(path)) {}

  bool has(std::string_view name) const { return file_.find(name); }
  index_t extent(std::string_view name, std::size_t axis) const { return file_.at(name).shape.at(axis); }
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& t : file_.tensors()) all.push_back(t.name);
    return all;
  }

  /// Element i, exactly.
  template <class T = double>
  T at(std::string_view name, index_t i) const {
    const dsv4::io::tensor_info& t = file_.at(name);
    REQUIRE(i < t.elements);
    switch (t.type) {
      case dsv4::dtype::f64: return static_cast<T>(read<double>(t, i));
      case dsv4::dtype::f32: return static_cast<T>(read<float>(t, i));
      case dsv4::dtype::bf16:
        return static_cast<T>(dsv4::to_float(dsv4::bf16::from_bits(read<std::uint16_t>(t, i))));
      case dsv4::dtype::i64: return static_cast<T>(read<std::int64_t>(t, i));
      case dsv4::dtype::i32: return static_cast<T>(read<std::int32_t>(t, i));
      case dsv4::dtype::u8:
      case dsv4::dtype::boolean: return static_cast<T>(read<std::uint8_t>(t, i));
      default: FAIL("a golden tensor of type " << dsv4::name_of(t.type) << ": " << t.name);
    }
    return T{};
  }
  double scalar(std::string_view name) const { return at(name, 0); }

  /// The whole tensor; axes before the last R - 1 are joined to one.
  template <int R, class T = double>
  dsv4::tensor<T, R> tensor(std::string_view name) const {
    const dsv4::io::tensor_info& t = file_.at(name);
    std::array<index_t, R> n;
    n.fill(1);
    for (std::size_t a = 0; a < t.shape.size(); ++a) {
      const auto from_end = t.shape.size() - 1 - a;
      n[from_end < R ? R - 1 - from_end : 0] *= t.shape[a];
    }
    dsv4::tensor<T, R> x = std::apply([](auto... e) { return dsv4::tensor<T, R>(e...); }, n);
    for (index_t i = 0; i < x.size(); ++i) x.data()[i] = at<T>(name, i);
    return x;
  }
  template <class T = double>
  std::vector<T> list(std::string_view name) const {
    std::vector<T> x(static_cast<std::size_t>(file_.at(name).elements));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = at<T>(name, static_cast<index_t>(i));
    return x;
  }

 private:
  template <class S>
  static S read(const dsv4::io::tensor_info& t, index_t i) {
    S v;
    std::memcpy(&v, t.data + static_cast<std::size_t>(i) * sizeof v, sizeof v);
    return v;
  }
  dsv4::io::safetensors file_;
};

/// The largest distance of two lists of numbers; NaN if any is.
template <class A, class B>
double distance(const A& found, const B& expected) {
  REQUIRE(static_cast<index_t>(found.size()) == static_cast<index_t>(expected.size()));
  double worst = 0;
  for (index_t i = 0; i < static_cast<index_t>(found.size()); ++i) {
    const double d = std::fabs(double(found.data()[i]) - double(expected.data()[i]));
    worst = std::isnan(d) || std::isnan(worst) ? d + worst : std::max(worst, d);
  }
  return worst;
}
/// The largest magnitude.
template <class A>
double magnitude(const A& x) {
  double worst = 0;
  for (index_t i = 0; i < static_cast<index_t>(x.size()); ++i)
    worst = std::max(worst, std::fabs(double(x.data()[i])));
  return worst;
}

}  // namespace dsv4_test
