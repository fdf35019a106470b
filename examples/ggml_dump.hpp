// SPDX-License-Identifier: MIT
#pragma once
/// A file to drop into a program of llama.cpp or ik_llama.cpp: every node of the graph as an .npy, under the names that
/// docs/maps/llamacpp.json and ik_llama.json know.  It needs ggml alone, nothing of this library.
///
///   #include "ggml_dump.hpp"
///   ggml_dump dump("dump");                        // a folder
///   params.cb_eval = ggml_dump::callback;          // llama_context_params, before the context is made
///   params.cb_eval_user_data = &dump;
///   dump.call("prefill");      llama_decode(…);    // the prompt
///   dump.call("decode00132");  llama_decode(…);    // one token at position 132
///   dsv4 verify golden.v4gold dump --map llamacpp --model DIR
///
/// Sizes are written as ggml has them, four, the slowest first; views and permuted nodes as their elements are seen.
/// NAME-LAYER, the n-th use of a name in a call NAME-LAYER#n (from 0, which is not written); a node without a name of
/// its own is ~OP~LAST: its operation, and the last node before it that has one.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "ggml.h"

class ggml_dump {
 public:
  explicit ggml_dump(std::filesystem::path folder) : folder_(std::move(folder)) {}

  /// The nodes that follow belong to this call: prefill, decode00132, chunk00005 (position of its first token).
  void call(const std::string& name) {
    call_ = name, uses_.clear(), last_.clear();
    std::filesystem::create_directories(folder_ / call_);
  }

  /// For cb_eval.  Asked first whether a node is wanted, then given it.
  static bool callback(ggml_tensor* t, bool ask, void* self) {
    if (!ask) static_cast<ggml_dump*>(self)->write(t);
    return true;
  }

 private:
  void write(const ggml_tensor* t) {
    std::string name = t->name;
    const bool unnamed = name.empty() || name[0] == ' ' || name.rfind("node_", 0) == 0;
    if (unnamed)
      name = "~" + std::string(ggml_op_name(t->op)) + "~" + last_ + (name[0] == ' ' ? name : "");
    else
      last_ = name;
    const int use = uses_[name]++;
    if (use > 0) name += "#" + std::to_string(use);
    for (char& c : name)
      if (c == '/') c = '_';

    const char* descr = t->type == GGML_TYPE_F32 || t->type == GGML_TYPE_BF16 ? "<f4"
                        : t->type == GGML_TYPE_F16                            ? "<f2"
                        : t->type == GGML_TYPE_I32                            ? "<i4"
                                                                              : nullptr;
    if (!descr) return;  // quantised copies
    const std::size_t each = ggml_type_size(t->type);
    std::vector<std::uint8_t> raw(ggml_nbytes(t));
    ggml_backend_tensor_get(const_cast<ggml_tensor*>(t), raw.data(), 0, raw.size());
    std::string out;
    for (std::int64_t i3 = 0; i3 < t->ne[3]; ++i3)
      for (std::int64_t i2 = 0; i2 < t->ne[2]; ++i2)
        for (std::int64_t i1 = 0; i1 < t->ne[1]; ++i1)
          for (std::int64_t i0 = 0; i0 < t->ne[0]; ++i0) {
            const std::uint8_t* p = raw.data() + std::size_t(i3) * t->nb[3] + std::size_t(i2) * t->nb[2] +
                                    std::size_t(i1) * t->nb[1] + std::size_t(i0) * t->nb[0];
            if (t->type == GGML_TYPE_BF16) out.append(2, '\0');  // the upper half of a float
            out.append(reinterpret_cast<const char*>(p), each);
          }
    std::string shape;
    for (int a = 3; a >= 0; --a) shape += std::to_string(t->ne[a]) + ", ";
    std::string text =
        std::string("{'descr': '") + descr + "', 'fortran_order': False, 'shape': (" + shape + "), }";
    constexpr std::size_t before = 10, step = 64;  // magic, version, length; the data are aligned
    text.append((step - (before + text.size() + 1) % step) % step, ' ');
    text += '\n';
    std::ofstream file(folder_ / call_ / (name + ".npy"), std::ios::binary);
    const auto length = static_cast<std::uint16_t>(text.size());
    file.write("\x93NUMPY\x01\x00", 8);
    file.write(reinterpret_cast<const char*>(&length), sizeof length);
    file << text << out;
    if (!file.flush()) std::fprintf(stderr, "ggml_dump: %s cannot be written\n", name.c_str());
  }

  std::filesystem::path folder_;
  std::string call_ = ".", last_;
  std::map<std::string, int> uses_;
};
