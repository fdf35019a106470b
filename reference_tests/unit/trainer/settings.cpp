// SPDX-License-Identifier: MIT
// Settings: every name once, read and written; unknown names with the nearest known one.
#include <dsv4/io/config_out.hpp>
#include <dsv4/trainer/settings.hpp>

#include "../io/io_test.hpp"
#include "catch.hpp"
#include "random_model.hpp"

namespace dsv4::trainer::trainer_settings {

using nlohmann::json;

namespace {

json smallest() { return {{"model", dsv4::io::to_json(dsv4_test::tiny_config())}}; }
std::string refusal(const json& j) {
  return message<dsv4::format_error>([&] { parse_settings("/run/of/mine/train.json", j); });
}

}  // namespace

TEST_CASE("what is not given has its default; what is written reads back", "[trainer]") {
  json j = smallest();
  const settings s = parse_settings("/run/of/mine/train.json", j);
  CHECK(s.steps == settings().steps);
  CHECK(s.tokenizer == "/run/of/mine/tokenizer.json");
  // What is written may be read from another folder.
  CHECK(parse_settings("there/../train.json", j).tokenizer ==
        (std::filesystem::current_path() / "tokenizer.json").string());
  j["learning_rate"] = {{"peak", 0.01}, {"warm_up", 17}, {"decay", nullptr}};
  j["data"] = {{"begin", "document"}, {"separator", "form-feed"}};
  j["quantise"] = {{"from", 0.9}};
  const settings t = parse_settings("/run/of/mine/train.json", j);
  CHECK(t.rate.warm_up.of(1000) == 17);
  CHECK(t.quantise.from.of(1000) == 900);
  CHECK(t.schedule().at(1000) == 0.01);
  CHECK(t.data.text.begin == begin_token::document);
  json written = to_json(t);
  written["tokenizer"] = "tokenizer.json";
  CHECK(difference(to_json(parse_settings("/run/of/mine/train.json", written)), json(to_json(t))).empty());
}

TEST_CASE("train.json does not end at a NUL byte", "[trainer]") {
  const temporary_directory dir;
  const auto file = write_file(dir / "train.json", smallest().dump() + std::string(1, '\0') + "x");
  CHECK_THAT(message<dsv4::format_error>([&] { read_settings(file); }),
             Catch::Matchers::ContainsSubstring("is NUL"));
}

TEST_CASE("unknown names are refused with the nearest known one", "[trainer]") {
  json j = smallest();
  j["stepz"] = 5;
  CHECK(refusal(j) == "/run/of/mine/train.json: field 'stepz' is not known; the nearest name is 'steps'");
  j = smallest();
  j["learning_rate"] = {{"warmup", 5}};
  CHECK(refusal(j) ==
        "/run/of/mine/train.json: field 'learning_rate.warmup' is not known; the nearest name is "
        "'learning_rate.warm_up'");
}

TEST_CASE("what is out of range, of another type or impossible is refused", "[trainer]") {
  const auto with = [](const char* name, const json& value) {
    json j = smallest();
    j[json::json_pointer(name)] = value;
    return refusal(j);
  };
  using Catch::Matchers::ContainsSubstring;
  CHECK_THAT(with("/steps", 0), ContainsSubstring("'steps': found 0, expected an integer from 1"));
  CHECK_THAT(with("/data/length", 2000), ContainsSubstring("max_position_embeddings, 1024"));
  CHECK_THAT(with("/data/begin", "always"), ContainsSubstring("expected one of sample, document, none"));
  CHECK_THAT(with("/learning_rate/decay", 1.5), ContainsSubstring("a part of the run"));
  CHECK_THAT(with("/learning_rate/decay", -3), ContainsSubstring("a part of the run"));
  CHECK_THAT(with("/bias", 3), ContainsSubstring("expected an object"));
  CHECK_THAT(with("/muon/nesterov", 1), ContainsSubstring("expected true or false"));
  CHECK_THAT(with("/anticipatory/duration", 5), ContainsSubstring("at least snapshot_every"));
  CHECK_THAT(with("/learning_rate/warm_up", nullptr),
             ContainsSubstring("'learning_rate.warm_up': found null"));
  CHECK_THAT(with("/model/hidden_size", 33),
             ContainsSubstring("'model.hidden_size': found 33, expected an even number"));
  CHECK_THAT(with("/model/moe_intermediate_size", 17),
             ContainsSubstring("'model.moe_intermediate_size': found 17, expected an even number"));
  CHECK_THAT(refusal(json::object()), ContainsSubstring("field 'model' is missing"));
}

TEST_CASE("difference names the knobs that change a run, and no others", "[trainer]") {
  const json a = to_json(parse_settings("/run/of/mine/train.json", smallest()));
  json b = a;
  b["eval_every"] = 7;
  b["tokenizer"] = "elsewhere";
  CHECK(difference(a, b).empty());
  b["clip"] = 2;
  b["muon"]["momentum"] = 0.9;
  CHECK(difference(a, b) == "clip, muon.momentum");
  // What only one of them has.
  b = a;
  b["model"]["new"] = 1;
  CHECK(difference(a, b) == "model.new");
  CHECK(difference(b, a) == "model.new");
}

TEST_CASE("moments", "[trainer]") {
  CHECK(moment::step(200).of(1000) == 200);
  CHECK(moment::share(0.8).of(1000) == 800);
  CHECK(moment::none().of(1000) > 1000000);
  settings s;
  s.steps = 100;
  s.batch = {.rows = 16, .first_rows = 4, .full = moment::share(0.5)};
  CHECK(s.rows_of(0) == 4);
  CHECK(s.rows_of(25) == 10);
  CHECK(s.rows_of(50) == 16);
}

TEST_CASE("edit_distance", "[trainer]") {
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("warmup", "warm_up") == 1);
  CHECK(edit_distance("decay", "decay") == 0);
}

}  // namespace dsv4::trainer::trainer_settings
