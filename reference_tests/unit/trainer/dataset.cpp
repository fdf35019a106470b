// SPDX-License-Identifier: MIT
// Text as packed rows: every token is a target once, rows are a function of the seed, samples begin anew.
#include <set>

#include <dsv4/trainer/dataset.hpp>

#include "../text/tokenizer_test.hpp"
#include "catch.hpp"

namespace dsv4::trainer {

namespace {

token_list documents(const std::string& text, const text_options& o = {.separator = "blank-line"}) {
  return tokenize_documents(dsv4::text::trained(), text, o);
}
const std::string three = "The first document.\n\nA second one, a little longer than the first.\n\nThird.";

/// Document d has the tokens 100 d, 100 d + 1, ...
token_list numbered(const std::vector<index_t>& lengths, begin_token begin = begin_token::none) {
  token_list t;
  t.begin = begin;
  t.begin_id = 7;
  for (std::size_t d = 0; d < lengths.size(); ++d) {
    t.begins.push_back(t.size());
    for (index_t i = 0; i < lengths[d]; ++i)
      t.ids.push_back(static_cast<std::int32_t>(100 * (d + 1) + static_cast<std::size_t>(i)));
  }
  t.begins.push_back(t.size());
  return t;
}

}  // namespace

TEST_CASE("documents are cut at the separator and keep it", "[trainer]") {
  const token_list t = documents(three);
  CHECK(t.documents() == 3);
  CHECK(dsv4::text::trained().decode(t.ids) == three);
  const token_list bare = documents(three, {.separator = "blank-line", .keep_separator = false});
  CHECK(dsv4::text::trained().decode(bare.ids) ==
        "The first document.A second one, a little longer than the first.Third.");
  CHECK(documents(three, {.separator = "none"}).documents() == 1);
  CHECK(documents("a\fb\fc", {.separator = "form-feed"}).documents() == 3);
  CHECK(documents("a---b", {.separator = "---"}).documents() == 2);
  const token_list ends = documents(three, {.separator = "blank-line", .end_token = true});
  CHECK(std::count(ends.ids.begin(), ends.ids.end(), *dsv4::text::trained().eos()) == 3);
}

TEST_CASE("a row holds samples, and the target of a token is the next one, also across a cut", "[trainer]") {
  const token_list t = numbered({3, 5});
  batch b;
  index_t at = append_row(t, 0, 6, b);
  CHECK(at == 6);
  at = append_row(t, at, 6, b);
  CHECK(at == 8);
  CHECK(b.ids == std::vector<std::int32_t>{100, 101, 102, 200, 201, 202, 203, 204});
  CHECK(b.targets == std::vector<std::int32_t>{101, 102, -1, 201, 202, 203, 204, -1});
  CHECK(b.begins == std::vector<index_t>{0, 3, 6, 8});
}

TEST_CASE("begin-of-text: of samples, of documents", "[trainer]") {
  batch b;
  const token_list of_samples = numbered({3, 5}, begin_token::sample);
  append_row(of_samples, append_row(of_samples, 0, 6, b), 6, b);
  CHECK(b.ids == std::vector<std::int32_t>{7, 100, 101, 102, 7, 200, 7, 201, 202, 203, 204});
  // Begin-of-text predicts the first token of a document, not one that an earlier row has predicted.
  CHECK(b.targets == std::vector<std::int32_t>{100, 101, 102, -1, 200, 201, -1, 202, 203, 204, -1});
  CHECK(b.begins == std::vector<index_t>{0, 4, 6, 11});
  b = {};
  const token_list of_documents = numbered({3, 5}, begin_token::document);
  append_row(of_documents, append_row(of_documents, 0, 6, b), 6, b);
  CHECK(b.ids == std::vector<std::int32_t>{7, 100, 101, 102, 7, 200, 201, 202, 203, 204});
}

TEST_CASE("the held-out rows predict every token exactly once, whatever the length of a row", "[trainer]") {
  const auto begin = GENERATE(begin_token::sample, begin_token::document);
  const index_t length = GENERATE(2, 3, 5, 8, 50);
  const token_list t = numbered({1, 4, 9, 2, 7}, begin);
  std::multiset<std::int32_t> seen;
  for (const batch& b : held_out_batches(t, length, 3))
    for (const std::int32_t id : b.targets)
      if (id >= 0) seen.insert(id);
  CHECK(seen == std::multiset<std::int32_t>(t.ids.begin(), t.ids.end()));
}

TEST_CASE("bytes of the held-out tokens are the bytes of the text", "[trainer]") {
  const auto bytes = token_bytes(dsv4::text::trained());
  index_t sum = 0;
  for (const batch& b : held_out_batches(documents(three), 7, 2))
    for (const std::int32_t id : b.targets)
      if (id >= 0) sum += bytes[std::size_t(id)];
  CHECK(sum == static_cast<index_t>(three.size()));
}

TEST_CASE("an epoch has every row once, another epoch another order, another shift", "[trainer]") {
  std::string text;
  for (int i = 0; i < 200; ++i) text += "Line " + std::to_string(i * i) + " of a text.\n";
  dataset d(documents(text, {.separator = "none"}), 16, 8),
      again(documents(text, {.separator = "none"}), 16, 8),
      other(documents(text, {.separator = "none"}), 16, 7);
  const index_t rows = d.rows_per_epoch();
  cursor a, b, c;
  const batch whole = d.next(a, rows), same = again.next(b, rows), differs = other.next(c, rows);
  CHECK(whole.ids == same.ids);
  CHECK(whole.ids != differs.ids);
  CHECK(a == cursor{0, rows});
  // Rows as sets: the first epoch has no shift, so two seeds have the same rows in another order.
  const auto rows_of = [&](const batch& x) {
    std::multiset<std::vector<std::int32_t>> out;
    for (index_t i = 0; i < x.samples(); ++i)
      out.emplace(x.ids.begin() + x.begin(i), x.ids.begin() + x.end(i));
    return out;
  };
  CHECK(rows_of(whole) == rows_of(differs));
  const batch second = d.next(a, 1);
  CHECK(a == cursor{1, 1});
  CHECK(rows_of(whole).count({second.ids.begin(), second.ids.end()}) == 0);
}

TEST_CASE("a cursor is all there is to remember", "[trainer]") {
  std::string text;
  for (int i = 0; i < 300; ++i) text += std::to_string(i * 7919) + " ";
  dataset d(documents(text), 32, 1);
  cursor at;
  for (int i = 0; i < 40; ++i) d.next(at, 3);
  const cursor kept = at;
  const batch next = d.next(at, 5);
  dataset fresh(documents(text), 32, 1);
  cursor resumed = kept;
  CHECK(fresh.next(resumed, 5).ids == next.ids);
  CHECK(resumed == at);
}

TEST_CASE("a text shorter than a row, and a missing token, are said", "[trainer]") {
  CHECK_THROWS_WITH(dataset(documents("short"), 100, 1),
                    Catch::Matchers::ContainsSubstring("at least one row of 100"));
  const auto bare = dsv4::text::tokenizer::parse(dsv4::text::bytes_only().dump());
  CHECK_THROWS_WITH(tokenize_documents(bare, "x", {}), Catch::Matchers::ContainsSubstring("begin-of-text"));
}

TEST_CASE("counter_random: uniform, normal, and any draw by itself", "[trainer]") {
  const counter_random r(1, "a"), s(1, "b");
  CHECK(r.bits(5) == counter_random(1, "a").bits(5));
  CHECK(r.bits(5) != s.bits(5));
  double mean = 0, square = 0;
  constexpr index_t n = 20000;
  for (index_t i = 0; i < n; ++i) {
    mean += r.normal(i) / n;
    square += r.normal(i) * r.normal(i) / n;
  }
  CHECK(std::abs(mean) < 0.03);
  CHECK(std::abs(square - 1) < 0.05);
  std::vector<index_t> order = shuffled(1000, r);
  CHECK(!std::is_sorted(order.begin(), order.end()));
  std::sort(order.begin(), order.end());
  for (index_t i = 0; i < 1000; ++i) REQUIRE(order[std::size_t(i)] == i);
}

}  // namespace dsv4::trainer
