// SPDX-License-Identifier: MIT
// Numbers in files and reports: as printf writes them, but with a point in every locale.
#include <dsv4/core/format_text.hpp>

#include <clocale>
#include <cstdlib>
#include <limits>
#include <locale>

#include <dsv4/core/error.hpp>
#include <dsv4/trainer/loss_curve.hpp>

#include "catch.hpp"
#include "io_test.hpp"

namespace dsv4 {
namespace {

template <class... T>
std::string printed(const char* format, T... values) {
  char text[1024];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

TEST_CASE("format_text writes what printf writes", "[format_text]") {
  const double values[] = {0.0,
                           -0.0,
                           1.0,
                           -1.5,
                           0.1,
                           123456.789,
                           1e-5,
                           9.9999e-5,
                           1e21,
                           -2e9,
                           0.05,
                           2.0 / 3,
                           999999,
                           1e300,
                           5e-324,
                           std::numeric_limits<double>::max(),
                           std::numeric_limits<double>::infinity(),
                           -std::numeric_limits<double>::infinity()};
  for (const double v : values)
    for (const char* format : {"%f", "%.0f", "%.1f", "%.4f", "%g", "%.3g", "%.7g", "%e", "%.2e", "%8.2f",
                               "%-12.3g|", "%+.2f", "%+.3g", "%10f", "<x=\"%.1f\"/>"}) {
      INFO(format << " " << v);
      CHECK(format_text(format, v) == printed(format, v));
    }
  CHECK(format_text("%s %-8s|%5d %zu %lld %02x 100%%", "a", "b", 7, std::size_t{8}, 9LL, 10) ==
        "a b       |    7 8 9 0a 100%");
  CHECK(format_text("%.1f,%.1f ", 1.25f, 2.5) == "1.2,2.5 ");
  CHECK(format_text("nothing") == "nothing");
  CHECK_THROWS_AS(format_text("%d"), internal_error);
  CHECK_THROWS_AS(format_text("%d", 1, 2), internal_error);
  CHECK_THROWS_AS(format_text("%", 1), internal_error);
}

/// A locale that writes 1.5 as 1,5: the machine's, or made here if it can make one.
bool set_decimal_comma(const std::filesystem::path& scratch) {
  const auto works = [](const char* name) {
    return std::setlocale(LC_ALL, name) != nullptr && printed("%.1f", 1.5) == "1,5";
  };
  for (const char* name : {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "fr_FR.utf8", "es_ES.UTF-8"})
    if (works(name)) return true;
  const std::string make =
      "localedef -i de_DE -f UTF-8 " + (scratch / "de_DE.UTF-8").string() + " >/dev/null 2>&1";
  if (std::system(make.c_str()) != 0) return false;
  ::setenv("LOCPATH", scratch.c_str(), 1);
  return works("de_DE.UTF-8");
}

TEST_CASE("no locale changes the numbers of a picture", "[format_text]") {
  const trainer::loss_curve c{"run", {{1, 8.25}, {2, 7.5}, {1000, 6.125}}, {{500, 6.5}}};
  const std::string picture = trainer::draw({c}), number = format_text("%.3f", 1.5);
  // Of C++: streams.
  struct commas : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
  };
  const std::locale before = std::locale::global(std::locale(std::locale::classic(), new commas));
  CHECK(trainer::draw({c}) == picture);
  std::locale::global(before);
  // Of C: printf.
  const temporary_directory scratch;
  if (!set_decimal_comma(scratch)) {
    WARN("this machine has no locale with a decimal comma");
    return;
  }
  CHECK(trainer::draw({c}) == picture);
  CHECK(format_text("%.3f", 1.5) == number);
  std::setlocale(LC_ALL, "C");
  ::unsetenv("LOCPATH");
}

}  // namespace
}  // namespace dsv4
