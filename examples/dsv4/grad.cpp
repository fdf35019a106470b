// SPDX-License-Identifier: MIT
// dsv4 grad: the loss of one text and its gradient by every parameter.
#include <cstdio>
#include <memory>

#include <dsv4/io/safetensors_writer.hpp>

#include "arguments.hpp"
#include "input.hpp"
#include "outputs.hpp"
#include "train.hpp"

namespace cli {
namespace {

struct grad_options {
  std::filesystem::path model, out;
  std::string ids;
  int threads = 0;
  bool ref = false;
};

void grad(const grad_options& o) {
  check_output_file("--out", o.out, {o.model, o.ids});
  const auto model = open_model(o.model);
  std::vector<std::int32_t> ids = read_ids(o.ids, model.configuration());
  if (ids.size() < 2)
    throw usage_error("--ids: found one token, expected at least two: a token predicts the next");
  const gradient_result r = (o.ref ? gradients_ref : gradients_cpu)(model, std::move(ids), o.threads);

  // F32, as the goldens have it.
  dsv4::tensor<float, 1> narrow(r.layout.size), loss(1);
  for (index_t i = 0; i < r.layout.size; ++i) narrow(i) = static_cast<float>(r.gradients.at(i));
  loss(0) = static_cast<float>(r.loss);
  dsv4::io::safetensors_writer out;
  out.add("loss", loss.all());
  for (const auto& p : r.layout.all) out.add(p.name, dsv4::dtype::f32, p.shape, narrow.data() + p.offset);
  out.write(o.out);
  std::fprintf(stderr, "loss %.7f over %lld tokens, gradients of %lld tensors in %.3f s\n", r.loss,
               static_cast<long long>(r.tokens), static_cast<long long>(r.layout.all.size()), r.seconds);
}

}  // namespace

void add_grad(CLI::App& app, std::function<void()>& run) {
  CLI::App& verb =
      cli::add_verb(app, "grad", "the loss of given tokens, and its gradient by every parameter");
  auto o = std::make_shared<grad_options>();
  verb.add_option("--model", o->model,
                  "checkpoint directory, or one .safetensors file beside its config.json")
      ->required()
      ->type_name("DIR");
  verb.add_option("--ids", o->ids, "token ids: 1,5,9 or [1,5,9] or a file that holds such a list")
      ->required()
      ->type_name("FILE|LIST");
  verb.add_option("--out", o->out, "the safetensors file to write")->required()->type_name("FILE");
  verb.add_flag("--ref", o->ref, "the readable specification, in double, instead of float on all threads");
  add_threads(verb, o->threads);
  verb.footer(R"(
Examples
  dsv4 grad --model mini --ids 0,671,6102,294 --out grads.safetensors
  dsv4 grad --model mini --ids prompt.json --ref --out grads64.safetensors

The file holds `loss` [1], the mean cross-entropy of every token but the first given the ones before it, in nats,
and the gradient of each parameter under its hub name, all F32.  Plain mathematics (numerics float32): quantised
weights are read as the numbers they stand for, the top-k choices are constants, the MTP block is not trained.)");
  verb.callback([o, &run] { run = [o] { grad(*o); }; });
}

}  // namespace cli
