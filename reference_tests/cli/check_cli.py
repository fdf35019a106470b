#!/usr/bin/env python3
"""The command line: exit codes, messages, and files equal to the golden taps.  Standard library only.

  check_cli.py --dsv4 build/dsv4 [-v] [-k PATTERN]      golden data: DSV4_GOLDEN, else ../shared/golden,
                                                        else reference_tests/data"""
import argparse
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import safetensors_file as st

repo = pathlib.Path(__file__).resolve().parents[2]
roots = [pathlib.Path(os.environ.get("DSV4_GOLDEN") or repo / "../shared/golden"), repo / "reference_tests/data"]
dsv4 = "build/dsv4"


def golden(relative):
    for root in roots:
        if (root / relative).exists():
            return root / relative
    return None


def contents(path):
    """The bytes of a file, decompressed."""
    if path.suffix != ".zst":
        return path.read_bytes()
    return subprocess.run(["zstd", "-dc", path], capture_output=True, check=True).stdout


def run(*arguments, code=0):
    """Runs dsv4, checks the exit code, returns what it wrote."""
    done = subprocess.run([dsv4, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != code:
        raise AssertionError(f"dsv4 {' '.join(map(str, arguments))}: exit code {done.returncode}, expected {code}\n"
                             f"{done.stdout}{done.stderr}")
    return done


class Case(unittest.TestCase):
    bundle = "flash-mini"

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.tmp = pathlib.Path(self.folder.name)

    def model(self, name=None):
        path = golden(f"official/{name or self.bundle}")
        if path is None:
            self.skipTest("golden/official is not here (set DSV4_GOLDEN)")
        return path

    def taps(self, name):
        """The golden taps of a bundle, and its token ids."""
        path = self.model(name) / "taps.safetensors.zst"
        if not path.exists() or not shutil.which("zstd"):
            self.skipTest("needs taps.safetensors.zst and the program zstd")
        t = st.parse(subprocess.run(["zstd", "-dc", path], capture_output=True, check=True).stdout)
        return t, list(st.numbers(t["input_ids"]))

    def copy_of_model(self):
        """A copy whose files can be spoilt (hub files are linked, small and compressed ones copied)."""
        to = self.tmp / "model"
        to.mkdir()
        for f in self.model().iterdir():
            if f.suffix == ".json":
                shutil.copyfile(f, to / f.name)
            elif f.name.startswith("model-") and f.suffix == ".zst":
                (to / f.stem).write_bytes(contents(f))
            else:
                (to / f.name).symlink_to(f.resolve())
        return to

    def forward(self, out, *arguments, model=None, ids="1,5,9,100,3,77,500,12,8,4,2,1,300"):
        out = self.tmp / out
        run("forward", "--model", model or self.model(), "--ids", ids, "--out", out, *arguments)
        return st.parse(out.read_bytes())


class Usage(Case):
    def test_help_and_version(self):
        version = re.search(r"project\(dsv4 VERSION ([\d.]+)", (repo / "CMakeLists.txt").read_text())[1]
        self.assertEqual(run("--version").stdout.strip(), f"dsv4 {version}")
        self.assertIn("inspect", run("--help").stdout)
        for verb in ("inspect", "forward", "generate"):
            self.assertIn(f"\n  dsv4 {verb} ", run(verb, "--help").stdout)

    def test_usage_is_2(self):
        m, out = self.model(), self.tmp / "o.safetensors"
        forward = ["forward", "--model", m, "--out", out, "--ids"]
        generate = ["generate", "--model", m, "--ids", "1,2", "--max-new"]
        for arguments, said in [
                ([], "subcommand"), (["frobnicate"], ""), (["inspect"], "DIR"), (["inspect", m, "--context", "-1"], ""),
                (["forward", "--model", m, "--ids", "1"], "--out"),
                ([*forward, "1", "--numerics", "int8"], "official"), ([*forward, "1", "--exec", "gpu"], "ref"),
                ([*forward, "1", "--exec", "ref", "--fast"], "--fast"), ([*forward, "1", "--taps", "("], "regular expression"),
                ([*forward, "1", "--chunks", "0"], "1 or more"), ([*forward, "1", "--chunks", "3,x"], "'x'"),
                ([*forward, "1", "--chunks", ""], "no lengths"), ([*forward, ""], "no token ids"),
                ([*forward, "[]"], "no token ids"), ([*forward, "1,2,"], "after the comma"), ([*forward, "1,two"], "'two'"),
                ([*forward, "[1,2"], "the end"), ([*forward, "5,512"], "token id 512 at position 1, expected 0 to 511"),
                (["forward", "--model", m, "--out", out, "--ids=-1"], "token id -1"),
                ([*forward, ",".join(["1"] * 4097)], "at most 4096"), ([*forward, "99999999999999999999"], "'9999"),
                (["forward", "--model", m, "--ids", "1", "--out", self.tmp / "none/o"], "no directory"),
                ([*generate, "-1"], ""), ([*generate, "4095"], "context of 4096"), ([*generate, "1", "--temperature", "-1"], ""),
                ([*generate, "1", "--temperature", "nan"], "temperature"), ([*generate, "1", "--top-p", "0"], "top_p"),
                ([*generate, "1", "--top-p", "1.5"], ""), ([*generate, "1", "--top-k", "-1"], ""), ([*generate, "1", "--min-p", "2"], ""),
                ([*generate, "1", "--repetition-penalty", "0"], "repetition_penalty"), ([*generate, "1", "--draft", "17"], ""),
                ([*generate, "1", "--presence-penalty", "inf"], "presence_penalty"), ([*generate, "1", "--logprobs", "-1"], ""),
                ([*generate, "1", "--logit-bias", "5"], "ID=VALUE"), ([*generate, "1", "--logit-bias", "5=1,6=x"], "'6=x'"),
                ([*generate, "1", "--logit-bias", "512=1"], "found 512"), ([*generate, "1", "--logit-bias", "5=inf"], "bias")]:
            with self.subTest(arguments=[str(a)[:60] for a in arguments]):
                done = run(*arguments, code=2)
                self.assertIn(said, done.stderr + done.stdout)
                self.assertFalse(out.exists())


class BadFiles(Case):
    def refused(self, model, *said, code=3, verb=("inspect",)):
        done = run(*verb, model, code=code)
        for part in said:
            self.assertIn(part, done.stderr)

    def test_model(self):
        self.refused(self.tmp / "nowhere", "nowhere", "does not exist")
        self.refused(self.tmp, "config.json")
        m = self.copy_of_model()
        config = json.loads((m / "config.json").read_text())

        def with_config(**fields):
            (m / "config.json").write_text(json.dumps(config | fields))

        with_config(hidden_size="big")
        self.refused(m, "config.json", "hidden_size", "found", "expected")
        with_config(q_lora_rank=256)
        self.refused(m, ".safetensors", "layers.0.attn", "[128, 256]", "expected")
        with_config(model_type="deepseek_v41")
        self.refused(m, "DeepSeek-V4.1", code=4)
        with_config(model_type="llama")
        self.refused(m, "llama", code=4)
        (m / "config.json").write_text("{")
        self.refused(m, "config.json", "JSON")
        # A checkpoint without MTP.
        with_config(num_nextn_predict_layers=0, compress_ratios=config["compress_ratios"][:-1])
        run("forward", "--model", m, "--ids", "1,2", "--out", self.tmp / "o", "--mtp", code=4)
        # All that is wrong at once.
        with_config(hidden_size="big", hc_eps="x", head_dim=None)
        self.refused(m, "3 problems", "hidden_size", "hc_eps", "'head_dim' is missing")
        # Weights in a format of others, by name.
        with_config(quantization_config={"quant_method": "modelopt", "quant_algo": "NVFP4"})
        self.refused(m, "config.json", "'modelopt', 'NVFP4'", code=4)
        with_config()
        (m / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
        self.refused(m, "hf_quant_config.json", "NVFP4", code=4)
        (m / "hf_quant_config.json").unlink()
        # Bytes behind a NUL would not be read.
        (m / "config.json").write_text(json.dumps(config) + "\0{}")
        self.refused(m, "config.json", "is NUL")
        index = (m / "model.safetensors.index.json").read_text()
        with_config()
        (m / "model.safetensors.index.json").write_text(index + "\0")
        self.refused(m, "index.json", "is NUL")
        (m / "model.safetensors.index.json").write_text(index)
        (m / "generation_config.json").write_text('{"eos_token_id": 1}\0')
        run("generate", "--model", m, "--ids", "1", "--max-new", "1", code=3)
        (m / "generation_config.json").unlink()
        run("inspect", m)
        shard = sorted(m.glob("*.safetensors"))[0]
        whole = shard.read_bytes()
        shard.unlink()
        self.refused(m, shard.name)
        for spoilt, said in [(whole[:-7], "truncated"), (b"\xff" * 8 + whole[8:], "header length"), (b"", "truncated"),
                             (whole + b"x", "belong to no tensor")]:
            shard.write_bytes(spoilt)
            self.refused(m, shard.name, said)

    def test_ids(self):
        f = self.tmp / "ids.json"
        arguments = ("forward", "--model", self.model(), "--out", self.tmp / "o", "--ids")
        for text, said in [("[1, 2, x]", "byte 7: expected a token id (an integer), found 'x'"), ("[1 2]", "byte 3"), ("[1,2", "the end"),
                           ("[1,2]]", "nothing after"), ("1.5", "byte 0"), ('{"ids": [1]}', "byte 0")]:
            f.write_text(text)
            self.assertIn(f"ids.json: ", run(*arguments, f, code=3).stderr)
            self.assertIn(said, run(*arguments, f, code=3).stderr)
        run(*arguments, self.tmp / "missing.json", code=3)
        f.write_text("[1, 600]")
        self.assertIn("position 1", run(*arguments, f, code=2).stderr)
        for text in ("[1,5,9]", " 1, 5,\n9\n", "1 5 9", "[ 1 ,5,9 ]\n"):
            f.write_text(text)
            run(*arguments, f)
        run(*arguments, "[1, 5, 9]")

    def test_drafter(self):
        # Another network under mtp.*: the main model runs, what needs multi-token prediction is refused by name.
        m = self.copy_of_model()
        raw = b"\0\0"
        header = json.dumps({"mtp.0.markov_head.weight": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
        (m / "drafter.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + raw)
        index = json.loads((m / "model.safetensors.index.json").read_text())
        index["weight_map"]["mtp.0.markov_head.weight"] = "drafter.safetensors"
        (m / "model.safetensors.index.json").write_text(json.dumps(index))
        told = json.loads(run("inspect", m, "--json").stdout)
        self.assertIn("DSpark", told["drafter"])
        self.assertIn("mtp.0.markov_head.weight", told["tensors"]["unused"])
        self.assertTrue(all(name.startswith("mtp.") for name in told["tensors"]["unused"]))
        self.assertRegex(run("inspect", m).stdout, r"drafter +not implemented, not read: .*DSpark")
        out = self.tmp / "o"
        run("forward", "--model", m, "--ids", "1,2", "--out", out)
        plain = self.tmp / "plain"
        run("forward", "--model", self.model(), "--ids", "1,2", "--out", plain)
        self.assertEqual(out.read_bytes(), plain.read_bytes())
        self.assertIn("DSpark", run("forward", "--model", m, "--ids", "1,2", "--out", out, "--mtp", code=4).stderr)
        self.assertIn("DSpark", run("generate", "--model", m, "--ids", "1,2", "--max-new", "2", "--draft", "1", code=4).stderr)

    def test_dspark(self):
        # A checkpoint with a DSpark drafter: told by name, the main model runs, and drafts change no byte of the answer.
        c = json.loads((self.model() / "config.json").read_text())
        c["compress_ratios"] = c["compress_ratios"][:c["num_hidden_layers"]] + [0, 0]
        c.update(dspark_block_size=4, dspark_noise_token_id=5, dspark_markov_rank=32, dspark_target_layer_ids=[0, 1])
        (self.tmp / "config.json").write_text(json.dumps(c))
        m = self.tmp / "drafted"
        run("golden", "weights", self.tmp / "config.json", "--out", m)
        told = json.loads(run("inspect", m, "--json").stdout)
        self.assertEqual(told["drafter"]["kind"], "DSpark")
        self.assertEqual(told["tensors"]["unused"], [])
        self.assertGreater(told["parameters"]["drafter"], 0)
        self.assertEqual(told["parameters"]["mtp"], 0)
        self.assertRegex(run("inspect", m).stdout, r"drafter +DSpark: 2 stages on layers 0-1, blocks of 4, .* tensors")
        arguments = ("generate", "--model", m, "--ids", "1,2,3,4,5", "--max-new", "12", "--ignore-eos")
        plain = json.loads(run(*arguments).stdout)["tokens"]
        for more in (("--draft", "4"), ("--draft", "9", "--draft-trust", "0.5"), ("--draft", "2", "--exec", "ref")):
            drafted = json.loads(run(*arguments, *more).stdout)
            self.assertEqual(drafted["tokens"], plain)
        self.assertIn("DSpark", run("forward", "--model", m, "--ids", "1,2", "--out", self.tmp / "o", "--mtp", code=4).stderr)

    def test_two_sets_of_files(self):
        m = self.copy_of_model()
        (m / "model.safetensors").write_bytes(b"not read")
        self.assertIn("the shards of model.safetensors.index.json are used", run("inspect", m).stderr)

    def test_end_of_text(self):
        m = self.copy_of_model()
        (m / "generation_config.json").write_text('{"eos_token_id": "one"}')
        done = run("generate", "--model", m, "--ids", "1", "--max-new", "1", code=3)
        self.assertIn("eos_token_id", done.stderr)


class Inspect(Case):
    def test_published_configurations(self):
        for name, total, active, mtp, per_token in [("Flash", 284332240471, 13270101591, 6610048891, 3514.25),
                                                    ("Pro", 1572997201763, 48852402019, 25840145979, 5031.4375)]:
            for form in ("config", "inference"):
                path = repo / f"reference_tests/data/configs/DeepSeek-V4-{name}.{form}.json"
                told = json.loads(run("inspect", path, "--json", "--context", 1 << 20).stdout)
                self.assertEqual(told["parameters"]["total"], total)
                self.assertEqual(told["parameters"]["active"], active)
                self.assertEqual(told["parameters"]["mtp"], mtp)
                self.assertEqual(told["kv"]["bytes_per_token"], per_token)
                self.assertEqual(told["kv"]["bytes_at_context"], per_token * 2**20 + told["kv"]["window_bytes"])
        text = run("inspect", repo / "reference_tests/data/configs/DeepSeek-V4-Flash.config.json").stdout
        for part in ("284.332 B total", "13.270 B active", "3514.25 bytes per token", "2,4,...,42", "3,5,...,41"):
            self.assertIn(part, text)

    def test_checkpoint(self):
        told = json.loads(run("inspect", self.model(), "--json", "--scan").stdout)
        count, size = 0, 0
        for shard in self.model().glob("model-*.safetensors*"):
            t = st.parse(contents(shard))
            count += len(t)
            size += sum(len(x.data) for x in t.values())
        tensors, parameters = told["tensors"], told["parameters"]
        self.assertEqual((tensors["count"], tensors["bytes"]), (count, size))
        self.assertEqual(sum(x["count"] for x in tensors["by_dtype"].values()), count)
        self.assertEqual(sum(x["bytes"] for x in tensors["by_dtype"].values()), size)
        self.assertEqual(parameters["stored"], parameters["total"] + parameters["mtp"])
        self.assertIn("I8", run("inspect", self.model()).stdout)


class Forward(Case):
    def check_prefill(self, name, execution):
        """One call over the prefill: every golden tap; with one id more: MTP and the decode steps."""
        expected, ids = self.taps(name)
        found = self.forward("p", "--exec", execution, "--taps", ".", model=self.model(name),
                             ids=",".join(map(str, ids[:self.prefill(expected)])))
        self.assertEqual(found["logits"].dtype, "F64" if execution == "ref" else "F32")
        compared = 0
        for full, e in expected.items():
            call, _, site = full.partition("/")
            if call != "prefill" or site.startswith("cache."):
                continue
            st.same(self, full, found[site], e, leading=e.shape[0] == 1)
            compared += 1
        self.assertGreater(compared, 40)

        found = self.forward("d", "--exec", execution, "--taps", ".", "--mtp", model=self.model(name),
                             ids=",".join(map(str, ids)))
        n = self.prefill(expected)
        for full, e in expected.items():
            call, _, site = full.partition("/")
            row = 0 if call == "prefill_mtp" else int(call[6:]) if call.startswith("decode") else None
            if row is None or site.endswith(("scores", "topk_idxs")) or ".compressor." in site:
                continue
            site = site if call != "prefill_mtp" or site.startswith("mtp.") else "mtp.0." + site
            st.same(self, full, found[site].rows(row, row + (n if row == 0 else 1)), e, leading=e.shape[0] == 1)

    @staticmethod
    def prefill(taps):
        return taps["prefill/logits"].shape[1]

    def test_ref_equals_golden(self):
        self.check_prefill("flash-mini", "ref")

    def test_cpu_equals_golden(self):
        for name in ("flash-mini", "pro-mini", "base-mini", "real-ratio", "edge-mini"):
            with self.subTest(name):
                self.check_prefill(name, "cpu")

    def test_chunks_and_threads_leave_no_trace(self):
        ids = ",".join(str(i * 37 % 512) for i in range(61))
        for numerics in ("official", "float32"):
            common = ("--numerics", numerics, "--taps", ".", "--mtp")
            whole = self.forward("whole", *common, ids=ids)
            for arguments in (("--chunks", "1,2,3"), ("--chunks", "5,1,9"), ("--chunks", "1"), ("--chunks", "60"),
                              ("--threads", "1"), ("--threads", "2", "--chunks", "[17]")):
                part = self.forward("part", *common, *arguments, ids=ids)
                self.assertEqual(list(part), list(whole))
                for name, a in whole.items():
                    b = part[name]
                    self.assertEqual((a.dtype, a.shape), (b.dtype, b.shape), name)
                    if name.endswith("indexer.scores"):
                        values = [(x, y) for x, y in zip(st.numbers(a), st.numbers(b)) if y != float("-inf")]
                        self.assertGreater(len(values), 300)
                        self.assertTrue(all(x == y for x, y in values), name)
                    else:
                        self.assertEqual(a.data, b.data, f"{name} {arguments}")
        # Long prompts are cut silently when nobody looks.
        ids = ",".join(str(i * 31 % 512) for i in range(1100))
        cut = self.forward("cut", ids=ids)["logits"]
        self.assertEqual(cut.data, self.forward("uncut", "--taps", "^head.logits$", ids=ids)["logits"].data)

    def test_slots(self):
        """Below n a position, from n on an entry, -1 empty."""
        n, ids = 40, ",".join(["7"] * 40)
        t = self.forward("slots", "--taps", "topk_idxs$", "--chunks", "3", ids=ids)
        window = t["layers.0.attn.topk_idxs"]
        self.assertEqual(window.shape, [n, 8])
        row = lambda x, i: list(st.numbers(x.rows(i, i + 1)))
        self.assertEqual(row(window, 39), list(range(32, 40)))
        self.assertEqual(row(window, 2), [0, 1, 2, -1, -1, -1, -1, -1])
        hca = t["layers.3.attn.topk_idxs"]
        self.assertEqual(hca.shape, [n, 8 + 40 // 16])
        self.assertEqual(row(hca, 31)[8:], [n, n + 1])
        self.assertEqual(row(hca, 30)[8:], [n, -1])
        csa = t["layers.2.attn.topk_idxs"]
        self.assertEqual(csa.shape, [n, 8 + 4])
        self.assertEqual(sorted(row(csa, 15)[8:]), [n, n + 1, n + 2, n + 3])
        self.assertEqual(row(csa, 3)[8:], [n, -1, -1, -1])

    def test_types_and_names(self):
        t = self.forward("t", "--taps", r"^layers\.3\.(out|ffn\.gate)", "--exec", "ref", "--numerics", "float32")
        self.assertEqual(sorted(t), ["layers.3.ffn.gate." + s for s in ("biased", "indices", "scores", "weights")] +
                         ["layers.3.out", "logits"])
        self.assertEqual([t["layers.3." + s].dtype for s in ("out", "ffn.gate.indices", "ffn.gate.weights")], ["F32", "I32", "F64"])
        t = self.forward("t", "--mtp", "--taps", "^mtp.*norm$|kv$", "--fast")
        self.assertEqual(t["mtp.0.logits"].shape, [12, 512])
        self.assertEqual((t["mtp.0.head.norm"].shape, t["layers.5.attn.kv"].dtype), ([12, 256], "BF16"))
        self.assertEqual(self.forward("t", "--mtp", ids="5")["mtp.0.logits"].shape, [0, 512])
        out = self.tmp / "w"
        done = run("forward", "--model", self.model(), "--ids", "1", "--taps", "layer3", "--out", out, "--json")
        self.assertIn("no site", done.stderr)
        self.assertEqual(json.loads(done.stdout)["tokens"], 1)
        self.assertNotIn("\r", done.stderr)


class Generate(Case):
    prompt = ("--ids", "1,5,9,100,3,77,500,12")

    def tokens(self, *arguments, model=None):
        done = run("generate", "--model", model or self.model(), *self.prompt, *arguments)
        self.assertEqual(done.stdout.count("\n"), 1)
        self.assertRegex(done.stderr, r"^prefill 8 tokens in .* tokens/s\), decode \d+ tokens in ")
        told = json.loads(done.stdout)
        self.assertEqual(told["prompt_tokens"], 8)
        return told["tokens"], told["stop"]

    def test_generate(self):
        greedy, stop = self.tokens("--max-new", 12)
        self.assertEqual((len(greedy), stop), (12, "length"))
        self.assertEqual(self.tokens("--max-new", 12, "--exec", "ref")[0], greedy)
        self.assertEqual(self.tokens("--max-new", 12, "--threads", 1)[0], greedy)
        self.assertEqual(self.tokens("--max-new", 5)[0], greedy[:5])
        self.assertEqual(self.tokens("--max-new", 0), ([], "length"))

        seeded = ("--max-new", 12, "--temperature", "1", "--top-p", "0.95", "--seed")
        self.assertEqual(self.tokens(*seeded, 7), self.tokens(*seeded, 7))
        self.assertNotEqual(self.tokens(*seeded, 7), self.tokens(*seeded, 8))
        self.assertEqual(self.tokens("--max-new", 12, "--temperature", "5", "--top-p", "1e-9")[0], greedy)

        # Greedy means: the largest of the logits that forward gives.
        logits = self.forward("g", "--exec", "ref", ids=self.prompt[1])["logits"]
        last = list(st.numbers(logits.rows(7, 8)))
        self.assertEqual(last.index(max(last)), greedy[0])

    def told(self, *arguments):
        done = run("generate", "--model", self.model(), *self.prompt, *arguments)
        return json.loads(done.stdout), done.stderr

    def test_drafts(self):
        for settings in ((), ("--repetition-penalty", "1.3", "--frequency-penalty", "0.1", "--logit-bias", "7=-inf,9=1.5", "--penalty-window", 12)):
            plain, _ = self.told("--max-new", 20, *settings)
            for depth in (1, 2, 4):
                told, said = self.told("--max-new", 20, "--draft", depth, *settings)
                self.assertEqual(told["tokens"], plain["tokens"])
                drafts = told["drafts"]
                self.assertEqual((len(drafts["proposed"]), len(drafts["accepted"])), (depth, depth))
                self.assertEqual(1 + drafts["calls"] + sum(drafts["accepted"]), 20)
                self.assertAlmostEqual(drafts["tokens_per_call"], 19 / drafts["calls"])
                self.assertRegex(said, rf"\ndrafts: \d\.\d\d tokens per call; accepted \d+ of {drafts['proposed'][0]}[,\n]")
        self.assertNotIn("drafts", plain)
        seeded = ("--max-new", 12, "--temperature", 1, "--draft", 3, "--seed")
        self.assertEqual(self.told(*seeded, 7)[0], self.told(*seeded, 7)[0])
        self.assertNotEqual(self.told(*seeded, 7)[0]["tokens"], self.told(*seeded, 8)[0]["tokens"])

    def test_sampling_settings(self):
        greedy, _ = self.tokens("--max-new", 6)
        for narrow in (("--top-k", 1), ("--min-p", 1), ("--top-p", "1e-9")):
            self.assertEqual(self.tokens("--max-new", 6, "--temperature", 3, *narrow)[0], greedy)
        self.assertEqual(self.tokens("--max-new", 4, "--logit-bias", "123=1e6")[0], [123] * 4)
        self.assertNotEqual(self.tokens("--max-new", 1, "--logit-bias", f"{greedy[0]}=-inf")[0], greedy[:1])
        once = self.tokens("--max-new", 40, "--presence-penalty", "1e6", "--ignore-eos")[0]
        self.assertEqual(len(set(once) | {1, 5, 9, 100, 3, 77, 500, 12}), 48)  # nothing twice, nothing of the prompt

    def test_logprobs(self):
        for draft in ((), ("--draft", 2)):
            told, _ = self.told("--max-new", 3, "--logprobs", 4, "--exec", "ref", "--logit-bias", "123=1e6", *draft)
            rows = told["logprobs"]
            self.assertEqual([row["id"] for row in rows], told["tokens"])
            logits = self.forward("p", "--exec", "ref", ids=self.prompt[1] + ",123,123")["logits"]
            for row, at in zip(rows, range(7, 10)):
                x = list(st.numbers(logits.rows(at, at + 1)))
                log_sum = math.log(math.fsum(math.exp(v - max(x)) for v in x)) + max(x)
                self.assertAlmostEqual(row["logprob"], x[123] - log_sum, places=12)  # of the model, without the bias
                best = sorted(range(512), key=lambda i: (-x[i], i))[:4]
                self.assertEqual([t["id"] for t in row["top"]], best)
                for t in row["top"]:
                    self.assertAlmostEqual(t["logprob"], x[t["id"]] - log_sum, places=12)
        self.assertEqual(self.told("--max-new", 1, "--logprobs", 0)[0]["logprobs"][0]["top"], [])
        self.assertNotIn("logprobs", self.told("--max-new", 1)[0])

    def test_end_of_text(self):
        greedy, _ = self.tokens("--max-new", 6)
        m = self.copy_of_model()
        for eos in (greedy[2], [511, greedy[2]]):
            (m / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
            cut = greedy[:greedy.index(greedy[2]) + 1]
            self.assertEqual(self.tokens("--max-new", 6, model=m), (cut, "eos"))
            self.assertEqual(self.tokens("--max-new", 6, "--ignore-eos", model=m), (greedy, "length"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--dsv4", required=True)
    options, rest = parser.parse_known_args()
    dsv4 = str(pathlib.Path(options.dsv4).resolve())
    unittest.main(argv=[sys.argv[0], *rest])
