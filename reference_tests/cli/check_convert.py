#!/usr/bin/env python3
"""dsv4 golden convert on the command line: every map of docs/maps and every source (safetensors, .npy in a directory, .npz,
raw numbers).  A recorded bundle is written out under another engine's names and in its layouts, converted, and must come
back value for value.  Standard library only.

  check_convert.py --dsv4 build/dsv4 [-v] [-k PATTERN]"""
import argparse
import array
import fnmatch
import importlib.util
import io
import json
import math
import pathlib
import struct
import subprocess
import sys
import tempfile
import types
import unittest
import unittest.mock
import zipfile

sys.dont_write_bytecode = True
root = pathlib.Path(__file__).resolve().parents[2]
model = root / "reference_tests/data/official/flash-mini"
spec = importlib.util.spec_from_file_location("read_bundle", root / "docs/read_bundle.py")
reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reader)
dsv4 = "build/dsv4"
tokens = 38
ids = [37 * i % 512 for i in range(tokens)]


def run(*arguments, code=0):
    done = subprocess.run([dsv4, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != code:
        raise AssertionError(f"dsv4 {' '.join(map(str, arguments))}: exit code {done.returncode}, expected {code}\n{done.stdout}{done.stderr}")
    return done


class Array:
    """Numbers of one type in row-major order."""

    def __init__(self, carrier, shape, numbers):
        self.carrier, self.shape, self.numbers = carrier, list(shape), numbers
        assert len(numbers) == math.prod(shape)

    def reshape(self, *shape):
        return Array(self.carrier, shape, self.numbers)

    def permute(self, *axes):
        stride = [math.prod(self.shape[a + 1:]) for a in range(len(self.shape))]
        places = [0]
        for a in axes:
            places = [p + i * stride[a] for p in places for i in range(self.shape[a])]
        return Array(self.carrier, [self.shape[a] for a in axes], array.array(self.numbers.typecode, [self.numbers[p] for p in places]))

    def halves(self, rotary):
        """The last channels with their evens first, then their odds: rotate_half's layout."""
        d, out = self.shape[-1], array.array(self.numbers.typecode)
        for at in range(0, len(self.numbers), d):
            row = self.numbers[at:at + d]
            out += row[:d - rotary] + row[d - rotary::2] + row[d - rotary + 1::2]
        return Array(self.carrier, self.shape, out)

    def float32(self):
        return Array("I32" if self.carrier == "I32" else "F32", self.shape, self.numbers if self.carrier == "I32" else array.array("f", self.numbers))

    def bytes(self):
        if self.carrier == "BF16":  # kept as floats that are bf16 values
            return b"".join(struct.pack("<f", x)[2:] for x in self.numbers)
        return self.numbers.tobytes()


def flat(v):
    return list(v.flatten()) if hasattr(v, "flatten") else list(v)


def recorded(bundle):
    """{name: Array} of the prefill."""
    codes = {"I32": "i", "F64": "d", "F32": "f", "BF16": "f"}
    return {t["name"]: Array(t["carrier"], t["shape"], array.array(codes[t["carrier"]], [int(x) if t["carrier"] == "I32" else float(x) for x in flat(v)]))
            for t, v in reader.read_bundle(bundle) if t["step"] == 0}


# ---- writers of dumps
def write_safetensors(path, arrays):
    header, data = {}, b""
    for name, a in sorted(arrays.items()):
        raw = a.bytes()
        header[name] = {"dtype": a.carrier, "shape": a.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def npy(a):
    descr = {"I32": "<i4", "F64": "<f8", "F32": "<f4", "BF16": "<V2"}[a.carrier]
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({''.join(f'{n}, ' for n in a.shape)}), }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + a.bytes()


def write_npy(folder, arrays):
    folder.mkdir()
    for name, a in arrays.items():
        (folder / (name + ".npy")).write_bytes(npy(a))


def write_npz(path, arrays):
    with zipfile.ZipFile(path, "w") as z:
        for name, a in arrays.items():
            z.writestr(name + ".npy", npy(a))


def write_raw(folder, arrays):
    folder.mkdir()
    for name, a in arrays.items():
        (folder / f"run_{name}_pos0.{'i32' if a.carrier == 'I32' else 'bin'}").write_bytes(a.float32().bytes())


def setUpModule():
    global shared, official, float32, official_values, float32_values
    shared = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(shared.cleanup)
    text = ",".join(map(str, ids))
    make = lambda out, *more: run("golden", "make", "--model", model, "--out", out, "--ids", text, "--exec", "cpu", "--equal-chunks", "none", "--no-weight-hash",
                                  "--sites", r"^layers\.[0-3]\.|^head", *more)
    official, float32 = pathlib.Path(shared.name) / "official.v4gold", pathlib.Path(shared.name) / "float32.v4gold"
    make(official), make(float32, "--numerics", "float32")
    official_values, float32_values = recorded(official), recorded(float32)


class Convert(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.tmp = pathlib.Path(folder.name)

    def back(self, dump, name_map, sites, values, policy, *more):
        """Converts; every site of `sites` must hold what was recorded."""
        out = self.tmp / "out.v4gold"
        told = json.loads(run("golden", "convert", dump, out, "--map", name_map, "--config", model, "--json", *more).stdout)
        self.assertEqual((told["unmapped"], told["left_out"]), ([], []))
        run("golden", "check", out)
        found = recorded(out)
        self.assertEqual({n for n in found if not n.endswith(".margin")}, set(sites))
        for site in sites:
            expected = values[site]
            self.assertEqual(found[site].shape, expected.shape, site)
            narrow = expected.float32() if found[site].carrier == "F32" else expected
            self.assertEqual(list(found[site].numbers), list(narrow.numbers), site)
        # What was recorded, verified against itself by another engine's names.
        run("verify", official if policy == "official" else float32, out, "--allow-skip", ".")
        return found

    ids = ("--ids", ",".join(map(str, ids)))

    def test_transformers_npz(self):
        v = {n: a.float32() for n, a in float32_values.items()}
        site = lambda name: v["layers.2." + name]
        heads_first = lambda name: site(name).permute(1, 0, 2).reshape(1, 8, tokens, 128)
        batch = lambda a: a.reshape(1, *a.shape)
        layer = "model.layers.2"
        arrays = {
            f"{layer}.attn_hc.1": batch(site("hc_attn.comb")), f"{layer}.attn_hc.2": batch(site("hc_attn.y")), f"{layer}.input_layernorm": batch(site("attn_norm")),
            f"{layer}.self_attn.q_b_norm": heads_first("attn.q_norm"), f"{layer}.self_attn.eager.0": heads_first("attn.q_rope"),
            f"{layer}.self_attn.eager.1": site("attn.kv").reshape(1, 1, tokens, 128), f"{layer}.self_attn.o_a_proj.in.0": site("attn.o_derot").reshape(1, tokens, 4, 256),
            f"{layer}.self_attn.compressor.0": site("attn.compressor.entry").reshape(1, 1, tokens // 4, 128), f"{layer}.self_attn.0": batch(site("attn.out")),
            f"{layer}.mlp.gate.2": batch(site("ffn.gate.indices")), f"{layer}.mlp.experts": batch(site("ffn.routed")), f"{layer}": batch(site("out")),
            "model.norm": batch(v["head.norm"]), "lm_head": batch(v["head.logits"]), "model.embed_tokens": batch(site("attn_norm"))}
        arrays["input_ids"] = Array("I32", [1, tokens], array.array("i", ids))
        write_npz(self.tmp / "dump.npz", arrays)
        names = ["hc_attn.comb", "hc_attn.y", "attn_norm", "attn.q_norm", "attn.q_rope", "attn.kv", "attn.o_derot", "attn.compressor.entry", "attn.out", "ffn.gate.indices",
                 "ffn.routed", "out"]
        self.back(self.tmp / "dump.npz", "transformers", ["layers.2." + n for n in names] + ["head.norm", "head.logits"], float32_values, "float32")

    def test_official_safetensors(self):
        v = official_values
        batch = lambda a: a.reshape(1, *a.shape)
        arrays = {
            "layers.1.attn_norm.in.0": batch(v["layers.1.hc_attn.y"]), "layers.1.attn_norm": batch(v["layers.1.attn_norm"]), "layers.1.attn.q_norm": batch(v["layers.1.attn.qr"]),
            "layers.1.attn.kv_norm": batch(v["layers.1.attn.kv_norm"]), "layers.1.attn.wo_b.in.0": v["layers.1.attn.o_lora"].reshape(1, tokens, 256),
            "layers.1.attn": batch(v["layers.1.attn.out"]), "layers.1.ffn.gate.1": v["layers.1.ffn.gate.indices"], "layers.1.ffn.shared_experts": v["layers.1.ffn.shared"],
            "layers.1.ffn": batch(v["layers.1.ffn.out"]), "layers.1": batch(v["layers.1.out"]), "norm": batch(v["head.norm"]), "layers.1.attn.wq_a": batch(v["layers.1.attn.qr"])}
        write_safetensors(self.tmp / "dump.safetensors", arrays)
        names = ["hc_attn.y", "attn_norm", "attn.qr", "attn.kv_norm", "attn.o_lora", "attn.out", "ffn.gate.indices", "ffn.shared", "ffn.out", "out"]
        self.back(self.tmp / "dump.safetensors", "official", ["layers.1." + n for n in names] + ["head.norm"], v, "official", *self.ids)

    def test_llamacpp_npy_in_a_directory(self):
        v = {n: a.float32() for n, a in float32_values.items()}
        site = lambda name: v["layers.1." + name]
        arrays = {
            "hc_comb-1#0": site("hc_attn.comb"), "hc_comb-1#1": site("hc_ffn.comb"), "attn_norm-1": site("attn_norm"), "q-1": site("attn.q_rope"),
            "kv-1": site("attn.kv").reshape(tokens, 1, 128), "attn_raw-1": site("attn.o").reshape(tokens, 8 * 128), "attn_wo_a-1": site("attn.o_lora").permute(1, 0, 2),
            "ffn_moe_topk-1": site("ffn.gate.indices"), "ffn_moe_weights_scaled-1": site("ffn.gate.weights").reshape(tokens, 2, 1), "l_out-1": site("out"),
            "result_output": v["head.logits"], "q_pe-1": site("attn.q_rope")}
        write_npy(self.tmp / "dump", arrays)
        names = ["hc_attn.comb", "hc_ffn.comb", "attn_norm", "attn.q_rope", "attn.kv", "attn.o", "attn.o_lora", "ffn.gate.indices", "ffn.gate.weights", "out"]
        self.back(self.tmp / "dump", "llamacpp", ["layers.1." + n for n in names] + ["head.logits"], float32_values, "float32", *self.ids)

    def test_ik_llama_four_sizes(self):
        v = {n: a.float32() for n, a in float32_values.items()}
        site = lambda name: v["layers.2." + name]
        four = lambda a: a.reshape(*[1] * (4 - len(a.shape)), *a.shape)
        rows = lambda a: a.reshape(*a.shape[:1], 1, *a.shape[1:])
        # Entries as an engine chooses them: from the first, those that are not closed yet among them.
        topk = site("attn.topk_idxs")
        k, window = 4, 8
        picked = array.array("i")
        for t in range(tokens):
            chosen = [x - tokens for x in topk.numbers[t * topk.shape[1] + window:(t + 1) * topk.shape[1]] if x >= 0]
            picked += array.array("i", chosen + [8] * (k - len(chosen)))
        scores = site("attn.indexer.scores")
        wide = array.array("f")
        for t in range(tokens):
            wide += scores.numbers[t * scores.shape[1]:(t + 1) * scores.shape[1]] + array.array("f", [7] * (64 - scores.shape[1]))
        arrays = {
            "hc_pre_mixes-2": four(site("hc_attn.mixes")), "hc_pre_mixes-2#1": four(site("hc_ffn.mixes")), "~VIEW~attn_out-2 (view)#1": four(site("hc_attn.comb")),
            "q_norm-2": four(site("attn.q_norm").reshape(tokens * 8, 128)), "q_rope-2": four(site("attn.q_rope")), "kv_rope-2": four(rows(site("attn.kv"))),
            "csa_state_compress-2#2": four(rows(site("attn.compressor.entry"))), "attn_csa-2": four(site("attn.o").reshape(tokens, 8 * 128)),
            "attn_wo_a-2": four(site("attn.o_lora").permute(1, 0, 2)), "l_out-2": four(site("out")), "result_output": four(v["head.logits"]),
            "lid_score-2": four(Array("F32", [tokens, 64], wide)), "lid_top_k-2": four(Array("I32", [tokens, k], picked)),
            "node_7": four(site("attn_norm")), "q_rope-2 (view)": four(site("attn.q_rope"))}
        write_npy(self.tmp / "dump", {n.replace("/", "_"): a for n, a in arrays.items()})
        names = ["hc_attn.mixes", "hc_ffn.mixes", "hc_attn.comb", "attn.q_norm", "attn.q_rope", "attn.kv", "attn.compressor.entry", "attn.o", "attn.o_lora", "out",
                 "attn.indexer.scores", "attn.topk_idxs"]
        self.back(self.tmp / "dump", "ik_llama", ["layers.2." + n for n in names] + ["head.logits"], float32_values, "float32", *self.ids)

    def test_map_check_lists_every_misfit(self):
        x = Array("F32", [tokens, 256], array.array("f", bytes(4 * 256 * tokens)))
        write_safetensors(self.tmp / "x.safetensors", {"layers.0.attn_norm": x.reshape(256, tokens), "layers.1.ffn_norm": x, "layers.2.attn.q_rope": x})
        check = ("golden", "convert", self.tmp / "x.safetensors", "--map", "dsv4", "--config", model, "--map-check", *self.ids)
        told = json.loads(run(*check, "--json", code=2).stdout)
        self.assertEqual(len(told["misfits"]), 2)
        text = run(*check, code=2).stdout
        for part in ("MISFITS", "layers.0.attn_norm", "layers.2.attn.q_rope", "expected the axes [token, head, channel]"):
            self.assertIn(part, text)
        run("golden", "convert", self.tmp / "x.safetensors", self.tmp / "deep/out", "--map", "dsv4", "--config", model, *self.ids, code=2)
        self.assertFalse((self.tmp / "deep/out").exists())

    def test_ds4_raw(self):
        v = official_values
        site = lambda name: v["layers.2." + name]
        arrays = {
            "hc_attn_pre_comb-2": site("hc_attn.comb"), "attn_norm-2": site("attn_norm"), "Qcur-2": site("attn.q_rope"), "KVcur-2": site("attn.kv"),
            "KVcompress-2": site("attn.compressor.entry"), "kqv_out-2": site("attn.o"), "attn_low-2": site("attn.o_lora"), "ffn_moe_topk-2": site("ffn.gate.indices"),
            "ffn_out-2": site("ffn.out"), "hc_ffn_post-2": site("out"), "Qraw-2": site("attn.q_norm")}
        write_raw(self.tmp / "dump", arrays)
        names = ["hc_attn.comb", "attn_norm", "attn.q_rope", "attn.kv", "attn.compressor.entry", "attn.o", "attn.o_lora", "ffn.gate.indices", "ffn.out", "out"]
        self.back(self.tmp / "dump", "ds4", ["layers.2." + n for n in names], v, "official", *self.ids)

    def test_vllm_template(self):
        v = official_values
        arrays = {
            "model.layers.0.input_layernorm": v["layers.0.attn_norm"], "model.layers.0.self_attn.q_norm": v["layers.0.attn.qr"],
            "model.layers.0.self_attn.q_rope": v["layers.0.attn.q_rope"].halves(64), "model.layers.0.mlp.topk_ids": v["layers.0.ffn.gate.indices"],
            "model.layers.0.mlp": v["layers.0.ffn.out"], "lm_head": v["head.logits"], "model.embed_tokens": v["layers.0.attn_norm"]}
        write_safetensors(self.tmp / "dump.safetensors", arrays)
        names = ["layers.0." + n for n in ("attn_norm", "attn.qr", "attn.q_rope", "ffn.gate.indices", "ffn.out")]
        self.back(self.tmp / "dump.safetensors", "vllm-sglang-template", names + ["head.logits"], v, "official", *self.ids)

    def test_gguf_there_and_back(self):
        run("gguf", "export", "--model", model, "--out", self.tmp / "x.gguf")
        run("gguf", "import", self.tmp / "x.gguf", "--out", self.tmp / "back")
        values = []
        for m in (model, self.tmp / "x.gguf", self.tmp / "back"):
            run("forward", "--model", m, "--ids", "0,17,42,99,5", "--exec", "cpu", "--taps", r"layers\.[0-3]\.out", "--out", self.tmp / "run.safetensors")
            values.append((self.tmp / "run.safetensors").read_bytes())
            (self.tmp / "run.safetensors").unlink()
        self.assertEqual(values[0], values[1])
        self.assertEqual(values[0], values[2])
        raw = (self.tmp / "x.gguf").read_bytes()
        (self.tmp / "cut.gguf").write_bytes(raw[:len(raw) // 2])
        self.assertIn("beyond the file's end", run("inspect", self.tmp / "cut.gguf", code=3).stderr)
        run("gguf", "import", self.tmp / "cut.gguf", "--out", self.tmp / "no", code=3)
        self.assertFalse((self.tmp / "no").exists())

    def test_torch_dump_in_stubs_of_vllm_and_sglang(self):
        """examples/torch_dump.py: the hooks of both engines as they are called, on modules without torch."""
        code = importlib.util.spec_from_file_location("torch_dump", root / "examples/torch_dump.py")
        torch_dump = importlib.util.module_from_spec(code)
        code.loader.exec_module(torch_dump)
        v = official_values

        class Tensor:
            """What the dump asks of a torch.Tensor."""
            def __init__(self, a): self.a, self.shape = a, a.shape
            def is_floating_point(self): return self.a.carrier != "I32"
            def float(self): return Tensor(self.a.float32())
            detach = int = cpu = contiguous = numpy = lambda self: self
            def tobytes(self): return self.a.bytes()
            def flatten(self): return self.a.numbers

        class Module:
            def __init__(self, result=None, **children): self.result, self.children, self.before, self.after = result, children, [], []
            def named_modules(self, prefix=""):
                yield prefix, self
                for name, child in self.children.items():
                    yield from child.named_modules(f"{prefix}.{name}" if prefix else name)
            def register_forward_hook(self, hook): self.after.append(hook)
            def register_forward_pre_hook(self, hook, with_kwargs=False): self.before.append(hook)
            def __call__(self, *args, **kwargs):
                for hook in tuple(self.before):
                    hook(self, args, kwargs)
                for child in self.children.values():
                    child(*args[:1])
                out = Tensor(self.result) if self.result else args[0]
                for hook in tuple(self.after):
                    assert hook(self, args, out) is None
                return out

        def model():
            layer = Module(v["layers.0.ffn.out"], input_layernorm=Module(v["layers.0.attn_norm"]), mlp=Module(v["layers.0.ffn.out"]))
            return Module(model=Module(layers=Module(**{"0": layer})), lm_head=Module(v["head.logits"]))
        positions = lambda first, n: Tensor(Array("I32", [n], array.array("i", range(first, first + n))))
        tokens_in = Tensor(Array("I32", [tokens], array.array("i", ids)))
        names = ["layers.0.attn_norm", "layers.0.ffn.out", "head.logits"]
        own_map = json.loads((root / "docs/maps/vllm-sglang-template.json").read_text())
        own_map["ignore"].append(r"model\.layers\.\d+")
        own_map["rules"] = [r for r in own_map["rules"] if r["to"] != "layers.$1.out"]  # the stub's layer has no streams
        (self.tmp / "map.json").write_text(json.dumps(own_map))

        # vLLM: the plugin wraps the loader's load_model, in every process, perhaps twice.
        loader = types.ModuleType("vllm.model_executor.model_loader.base_loader")
        loader.BaseModelLoader = type("BaseModelLoader", (), {"load_model": lambda self, *a, **k: model()})
        package = types.ModuleType("vllm.model_executor.model_loader")
        package.base_loader = loader
        stubs = {"vllm": types.ModuleType("vllm"), "vllm.model_executor": types.ModuleType("vllm.model_executor"), package.__name__: package, loader.__name__: loader}
        with unittest.mock.patch.dict(sys.modules, stubs), unittest.mock.patch.dict("os.environ", {"DSV4_DUMP": str(self.tmp / "vllm")}):
            torch_dump.vllm_register(), torch_dump.vllm_register()
            served = loader.BaseModelLoader().load_model(vllm_config=None, model_config=None)
        served(tokens_in, positions(0, 7))                                    # a run to warm up
        served(tokens_in, positions=positions(0, tokens))
        self.back(self.tmp / "vllm", self.tmp / "map.json", names, v, "official", *self.ids)
        served(tokens_in, positions(tokens, 1))
        self.assertTrue((self.tmp / f"vllm/decode{tokens:05}/lm_head.npy").exists())

        # SGLang: register_forward_hooks finds the root by the pattern "" and gives it what the factory returns.
        served = model()
        spec = {"target_modules": [""], "hook_type": "forward_pre", "with_kwargs": True, "config": {"folder": str(self.tmp / "sglang")}}
        for name, module in served.named_modules():
            if any(fnmatch.fnmatch(name, p) for p in spec["target_modules"]):
                module.register_forward_pre_hook(torch_dump.sglang_hook(spec["config"]), with_kwargs=True)
        for f in (self.tmp / "out.v4gold").iterdir():
            f.unlink()
        served(tokens_in, positions(0, tokens), object())
        self.back(self.tmp / "sglang", self.tmp / "map.json", names, v, "official", *self.ids)

    def test_ggml_dump_against_a_stub(self):
        """examples/ggml_dump.hpp: names, sizes, strides and types, with ggml's interface as far as it is used."""
        (self.tmp / "ggml.h").write_text("""#pragma once
#include <cstddef>
#include <cstdint>
enum ggml_type { GGML_TYPE_F32 = 0, GGML_TYPE_F16 = 1, GGML_TYPE_Q8_0 = 8, GGML_TYPE_I32 = 26, GGML_TYPE_BF16 = 30 };
enum ggml_op { GGML_OP_MUL, GGML_OP_VIEW };
struct ggml_tensor { ggml_type type; int64_t ne[4]; size_t nb[4]; ggml_op op; char name[64]; void* data; };
inline const char* ggml_op_name(ggml_op op) { return op == GGML_OP_VIEW ? "VIEW" : "MUL"; }
inline size_t ggml_type_size(ggml_type t) { return t == GGML_TYPE_F16 || t == GGML_TYPE_BF16 ? 2 : 4; }
inline size_t ggml_nbytes(const ggml_tensor* t) {
  size_t n = ggml_type_size(t->type);
  for (int i = 0; i < 4; ++i) n += (t->ne[i] - 1) * t->nb[i];
  return n;
}
""")
        (self.tmp / "ggml-backend.h").write_text("""#pragma once
#include <cstring>
#include "ggml.h"
inline void ggml_backend_tensor_get(ggml_tensor* t, void* to, size_t offset, size_t size) { std::memcpy(to, (char*)t->data + offset, size); }
""")
        (self.tmp / "main.cpp").write_text("""#include "ggml_dump.hpp"
int main() {
  float x[6] = {0, 1, 2, 3, 4, 5};
  int ids[2] = {7, 8};
  unsigned short half[2] = {0x3F80, 0x4000};
  ggml_tensor a{GGML_TYPE_F32, {3, 2, 1, 1}, {4, 12, 24, 24}, GGML_OP_MUL, "q-0", x}, b = a, c = a;
  c.op = GGML_OP_VIEW, std::strcpy(c.name, " (view)"), c.ne[0] = 2, c.ne[1] = 3, c.nb[0] = 12, c.nb[1] = 4;   // transposed
  ggml_tensor d{GGML_TYPE_I32, {2, 1, 1, 1}, {4, 8, 8, 8}, GGML_OP_MUL, "ids-0", ids}, e{GGML_TYPE_BF16, {2, 1, 1, 1}, {2, 4, 4, 4}, GGML_OP_MUL, "node_5", half};
  ggml_dump dump("dump");
  dump.call("prefill");
  for (ggml_tensor* t : {&a, &b, &c, &d, &e})
    if (ggml_dump::callback(t, true, &dump)) ggml_dump::callback(t, false, &dump);
}
""")
        subprocess.run(["c++", "-std=c++17", f"-I{self.tmp}", f"-I{root / 'examples'}", "main.cpp", "-o", "dumper"], cwd=self.tmp, check=True)
        subprocess.run(["./dumper"], cwd=self.tmp, check=True)

        def read(name):
            raw = (self.tmp / "dump/prefill" / (name + ".npy")).read_bytes()
            size = struct.unpack("<H", raw[8:10])[0]
            text = raw[10:10 + size].decode()
            return text, raw[10 + size:]
        text, raw = read("q-0")
        self.assertIn("'shape': (1, 1, 2, 3, )", text)
        self.assertEqual(struct.unpack("<6f", raw), (0, 1, 2, 3, 4, 5))
        self.assertEqual(read("q-0#1")[1], raw)
        text, raw = read("~VIEW~q-0 (view)")
        self.assertIn("(1, 1, 3, 2, )", text)
        self.assertEqual(struct.unpack("<6f", raw), (0, 3, 1, 4, 2, 5))
        self.assertEqual(struct.unpack("<2i", read("ids-0")[1]), (7, 8))
        self.assertEqual(struct.unpack("<2f", read("~MUL~ids-0")[1]), (1, 2))

    def test_own_names_in_every_container(self):
        names = ["layers.3.attn.q_rope", "layers.3.ffn.gate.biased", "layers.3.ffn.gate.indices", "head.logits"]
        arrays = {n: official_values[n] for n in names}
        for write, dump in [(write_safetensors, "a.safetensors"), (write_npy, "npy"), (write_npz, "a.npz")]:
            write(self.tmp / dump, arrays)
            found = self.back(self.tmp / dump, "dsv4", names, official_values, "official", *self.ids)
            self.assertIn("layers.3.ffn.gate.indices.margin", found)  # from the scores that the dump has
            for f in (self.tmp / "out.v4gold").iterdir():
                f.unlink()
        # `dsv4 forward` writes such a file.
        run("forward", "--model", model, "--ids", self.ids[1], "--exec", "cpu", "--taps", ".", "--out", self.tmp / "run.safetensors")
        run("verify", official, self.tmp / "run.safetensors", "--map", "dsv4", "--policy", "strict")

    def test_every_map_is_tried_here(self):
        source = pathlib.Path(__file__).read_text()
        for path in (root / "docs/maps").glob("*.json"):
            self.assertIn(f'"{path.stem}"', source)

    def test_refused(self):
        x = Array("F32", [tokens, 256], array.array("f", bytes(4 * 256 * tokens)))
        write_safetensors(self.tmp / "x.safetensors", {"layers.0.attn_norm": x})
        convert = lambda code, *arguments: run("golden", "convert", *arguments, code=code)
        out, dump, mapped = self.tmp / "out", self.tmp / "x.safetensors", ("--map", "dsv4", "--config", model)
        convert(64, dump, out, "--map", "dsv4", "--ids", "1,2")                          # no configuration
        convert(64, dump, out, *mapped)                                                  # no ids
        convert(64, dump, *mapped, *self.ids)                                            # nowhere to write
        convert(2, dump, out, "--map", "no-such-map", "--config", model, *self.ids)
        convert(2, dump, out, *mapped, "--ids", "1,2,3")                                 # fewer ids than rows
        convert(66, self.tmp / "nothing", out, *mapped, *self.ids)
        (self.tmp / "empty").mkdir()
        convert(66, self.tmp / "empty", out, *mapped, *self.ids)
        convert(2, official, out, *mapped, *self.ids)                                    # a bundle already
        write_safetensors(self.tmp / "shape.safetensors", {"layers.0.attn_norm": x.reshape(256, tokens)})
        convert(2, self.tmp / "shape.safetensors", out, *mapped, *self.ids)
        (self.tmp / "short.npy").write_bytes(npy(x)[:-1])
        convert(2, self.tmp / "short.npy", out, *mapped, *self.ids)
        with zipfile.ZipFile(self.tmp / "packed.npz", "w", zipfile.ZIP_DEFLATED) as z:
            z.writestr("layers.0.attn_norm.npy", npy(x))
        self.assertIn("savez", convert(4, self.tmp / "packed.npz", out, *mapped, *self.ids).stderr)
        self.assertFalse(out.exists() and any(out.iterdir()))
        convert(64, dump, official, *mapped, *self.ids)                                  # is there already
        run("golden", "convert", dump, *mapped, "--map-check")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--dsv4", required=True)
    known, rest = parser.parse_known_args()
    dsv4 = known.dsv4
    unittest.main(argv=sys.argv[:1] + rest)
