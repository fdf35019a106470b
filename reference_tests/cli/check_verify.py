#!/usr/bin/env python3
"""dsv4 verify on the command line: every exit code of docs/verification.md by a fault of its own, the reports,
and malformed bundles, which `golden check` and `verify` refuse alike.  Standard library only.

  check_verify.py --dsv4 build/dsv4 [-v] [-k PATTERN]"""
import argparse
import html.parser
import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

sys.dont_write_bytecode = True
from bundle_file import Bundle

model = pathlib.Path(__file__).resolve().parents[1] / "data/official/flash-mini"
dsv4 = "build/dsv4"
ids = ",".join(str(37 * i % 512) for i in range(40))


def run(*arguments, code=0):
    """Runs dsv4, checks the exit code, returns what it wrote."""
    done = subprocess.run([dsv4, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != code:
        raise AssertionError(f"dsv4 {' '.join(map(str, arguments))}: exit code {done.returncode}, expected {code}\n{done.stdout}{done.stderr}")
    return done


def make(out, *more, ids=ids):
    run("golden", "make", "--model", model, "--out", out, "--ids", ids, "--decode", 2, "--equal-chunks", "none", "--no-weight-hash", *more)
    return out


def setUpModule():
    global shared, golden, float32
    shared = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(shared.cleanup)
    golden = make(pathlib.Path(shared.name) / "golden.v4gold")
    float32 = make(pathlib.Path(shared.name) / "float32.v4gold", "--numerics", "float32", "--exec", "cpu")


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.tmp = pathlib.Path(folder.name)

    def copy(self, source=None, name="test.v4gold"):
        return Bundle(source or golden, self.tmp / name)

    def verify(self, test, *more, code=0, reference=None):
        """The text, which is short whatever happens."""
        text = run("verify", reference or golden, test, *more, code=code).stdout
        self.assertLessEqual(len(text.splitlines()), 25, text)
        return text


class Issue(Case):
    def test_what_one_pastes_into_a_tracker(self):
        b = self.copy()
        e = b.entry("layers.2.attn.o_lora")
        raw = bytearray(b.raw(e))
        row = len(raw) // e["shape"][0]
        raw[7 * row + 7] ^= 0xC0
        b.write(e, raw)
        run("verify", golden, b.path, "--model", model, "--issue", self.tmp / "issue.md", code=1)
        text = (self.tmp / "issue.md").read_text()
        for part in ("### layers.2.attn.o_lora is wrong first", "| compared by | dsv4 ", "policy faithful |", "Worst at [token 7, ", "What it is computed from is right: `layers.2.attn.o_derot`",
                     "only at position 7", "The first 8 tokens and 3 of 6 layers (verified on these alone: the same tensor is wrong first)",
                     "\n" + ids[:ids.index(",", ids.index("259"))] + "\n"):
            self.assertIn(part, text)
        run("verify", golden, golden, "--model", model, "--issue", self.tmp / "none.md")
        self.assertTrue((self.tmp / "none.md").read_text().startswith("### PASS"))


class ExitCodes(Case):
    def test_0_pass(self):
        other = make(self.tmp / "cpu.v4gold", "--exec", "cpu", "--threads", 3)
        for more in [("--policy", "strict"), ("--policy", "strict", "--model", model), ("--model", model), ("--mode", "free"), ("--policy", "quant")]:
            self.assertRegex(self.verify(other, *more), "^PASS")

    def test_1_numeric(self):
        b = self.copy()
        e = b.entry("layers.2.attn.o_lora")
        raw = bytearray(b.raw(e))
        row = len(raw) // e["shape"][0]
        raw[7 * row + 7] ^= 0xC0  # exponent bits of a BF16 of position 7
        b.write(e, raw)
        for more in [("--model", model), ("--policy", "strict")]:
            text = self.verify(b.path, *more, code=1)
            self.assertIn("culprit: layers.2.attn.o_lora", text)
            self.assertIn("position 7", text)
        # Not asked for, not judged.
        self.verify(b.path, "--model", model, "--layers", "3:")
        self.verify(b.path, "--model", model, "--only", r"\.ffn\.")
        self.verify(b.path, "--policy", "strict", "--pos", ":7")

    def test_2_structure(self):
        b = self.copy()
        b.without("attn.q_rope")
        self.assertIn("missing in the test: layers.0.attn.q_rope", self.verify(b.path, "--model", model, code=2))
        self.verify(b.path, "--model", model, "--allow-skip", r"\.attn\.q_rope$")
        self.verify(b.path, "--model", model, "--only", "no such name", code=2)  # nothing compared is no pass
        # Another order of axes.
        b = self.copy(name="axes.v4gold")
        e = b.entry("layers.1.attn.q_norm")
        text = (b.path / e["file"]).read_bytes()
        tokens, heads, channels = e["shape"]
        old = f'"{e["key"]}":{{"data_offsets"'.encode()
        at = text.index(old) if old in text else text.index(f'"{e["key"]}"'.encode())
        shape, other = (f'[{x},{y},{z}]'.encode() for x, y, z in [(tokens, heads, channels), (tokens, channels, heads)])
        at = text.index(shape, at)
        self.assertEqual(len(shape), len(other))
        (b.path / e["file"]).write_bytes(text[:at] + other + text[at + len(shape):])
        e["shape"], e["axes"] = [tokens, channels, heads], ["token", "channel", "head"]
        b.accept(e["file"])
        self.assertIn("axes in another order?", self.verify(b.path, "--policy", "strict", code=2))

    def test_3_choice(self):
        b = self.copy()
        e = b.entry("layers.3.ffn.gate.indices")
        chosen = list(struct.unpack(f"<{math.prod(e['shape'])}i", b.raw(e)))
        chosen[10] = next(x for x in range(8) if x not in chosen[10:12])
        b.write(e, struct.pack(f"<{len(chosen)}i", *chosen))
        for more in [("--model", model), ("--policy", "strict")]:
            self.assertIn("culprit: layers.3.ffn.gate.indices", self.verify(b.path, *more, code=3))

    def test_4_not_comparable(self):
        other = make(self.tmp / "ids.v4gold", ids=ids[ids.index(",") + 1:] + ",3")
        self.assertIn("one token less there", self.verify(other, code=4))
        b = self.copy()
        b.manifest["config"]["rope_theta"] = 20000.0
        b.accept_config()
        self.assertIn("rope_theta is 20000.0 in the test", self.verify(b.path, code=4))
        self.verify(float32, code=4)
        b = self.copy(name="weights.v4gold")
        reference = self.copy(name="reference.v4gold")
        for bundle, digit in [(b, "1"), (reference, "2")]:
            for f in bundle.manifest["weights"]["files"]:
                f["sha256"] = digit * 64
            bundle.save()
        self.assertIn("the weights are not the same", self.verify(b.path, reference=reference.path, code=4))
        self.verify(b.path, "--policy", "quant", reference=reference.path)

    def test_5_nan(self):
        b = self.copy()
        e = b.entry("layers.1.ffn_norm")
        raw = bytearray(b.raw(e))
        raw[:2] = b"\xc0\x7f"
        b.write(e, raw)
        for more in [("--model", model), ("--policy", "strict")]:
            self.assertIn("culprit: layers.1.ffn_norm", self.verify(b.path, *more, code=5))

    def test_6_warnings(self):
        reference = self.copy(name="reference.v4gold")
        for t in reference.manifest["tensors"]:
            if t["class"] not in ("choice", "margin"):
                t["noise"] = {"relL2": 1e-9, "max_abs": 1e-9, "runs": 2}  # as if nothing ever differed
        reference.save()
        b = self.copy()
        e = b.entry("layers.2.attn.o_derot")
        raw = bytearray(b.raw(e))
        raw[0] ^= 1  # one ulp of one value: faithful, but more than that noise
        b.write(e, raw)
        arguments = (b.path, "--model", model)
        self.assertRegex(self.verify(*arguments, reference=reference.path), r"[12] warn")  # it, and what it enters
        self.verify(*arguments, "--werror", reference=reference.path, code=6)
        self.verify(golden, "--model", model, "--werror", reference=reference.path)  # no difference, no warning

    def test_64_usage(self):
        for arguments in [(), (golden,), (golden, golden, "--mode", "sideways"), (golden, golden, "--mode", "forced"), (golden, golden, "--layers", "x:y"),
                          (golden, golden, "--pos", "7:3"), (golden, golden, "--only", "("), (golden, golden, "--policy", "loose"), (golden, golden, "--nothing"),
                          (golden, model / "config.json")]:
            done = run("verify", *arguments, code=64)
            self.assertTrue(done.stderr, arguments)

    def test_66_no_input(self):
        run("verify", golden, self.tmp / "nothing", code=66)
        run("verify", self.tmp / "nothing", golden, code=66)
        run("verify", self.tmp, golden, code=66)  # a directory without a manifest

    def test_74_hash(self):
        b = self.copy()
        e = b.entry("layers.2.attn.o_lora")
        raw = bytearray(b.raw(e))
        raw[1] ^= 0x40
        b.write(e, raw, honest=False)
        for more in [("--model", model), ("--policy", "strict"), ("--mode", "free")]:
            for arguments in [(golden, b.path), (b.path, golden)]:  # either side
                if "--model" in more and arguments[0] == b.path:
                    continue  # forced: the golden's values play no part and are not read
                done = run("verify", *arguments, *more, code=74)
                self.assertIn("layers.2.attn.o_lora (step 0, sequence 0): SHA-256", done.stdout + done.stderr)
        self.verify(b.path, "--policy", "strict", "--no-hash", code=1)
        # What is not read is not hashed.
        self.verify(b.path, "--policy", "strict", "--layers", "4:")
        # The ids.
        b = self.copy(name="ids.v4gold")
        b.manifest["input"]["ids_sha256"] = "a" * 64
        self.assertIn("ids", run("verify", golden, b.save(), code=74).stderr)


class Reports(Case):
    def faulty(self):
        b = self.copy()
        e = b.entry("layers.2.attn.out")
        raw = bytearray(b.raw(e))
        for i in range(1, len(raw), 2):
            raw[i] ^= 0x80  # every sign
        b.write(e, raw)
        return b.path

    def test_json(self):
        out = self.tmp / "report.json"
        self.verify(self.faulty(), "--model", model, "--json", out, code=1)
        j = json.loads(out.read_text())
        self.assertEqual((j["schema"], j["exit_code"], j["mode"], j["culprit"]["name"]), ("dsv4-verify/1", 1, "forced", "layers.2.attn.out"))
        self.assertEqual(sum(j["counts"].values()), len(j["tensors"]))
        self.assertEqual(j["counts"]["fail"], sum(t["verdict"] == "fail" for t in j["tensors"]))
        self.assertEqual(len(j["culprit"]["error_by_position"]), 40)
        # On standard output it is alone there.
        j = json.loads(run("verify", golden, golden, "--json", "-").stdout)
        self.assertEqual((j["exit_code"], j["counts"]["fail"], j["culprit"]), (0, 0, None))

    def test_junit(self):
        out = self.tmp / "report.xml"
        self.verify(self.faulty(), "--model", model, "--junit", out, code=1)
        suite = xml.etree.ElementTree.parse(out).getroot()
        classes = {t["class"] for t in json.loads((golden / "manifest.json").read_text())["tensors"]} - {"margin"}
        cases = {c.get("name"): c for c in suite.iter("testcase")}
        self.assertEqual(set(cases), classes | {"structure"})
        failed = [name for name, c in cases.items() if c.find("failure") is not None]
        self.assertEqual(set(failed), {"gemm_fp8", "hidden"})  # attn.out, and mid: it is not what that would give
        self.assertIn("layers.2.attn.out", cases["gemm_fp8"].find("failure").text)
        self.assertEqual((int(suite.get("tests")), int(suite.get("failures"))), (len(cases), 2))

    def test_html(self):
        out = self.tmp / "report.html"
        self.verify(self.faulty(), "--model", model, "--html", out, code=1)
        page = Page()
        page.feed(out.read_text())
        page.close()
        self.assertEqual(page.open, [], "not every element is closed")
        self.assertEqual(page.references, [], "not self-contained")
        self.assertFalse({"script", "link", "iframe", "object", "embed", "img", "form", "base"} & page.tags)
        titles = " | ".join(page.titles)
        for title in ("layer by site", "error against position", "KL by position"):
            self.assertIn(title, titles)
        self.assertIn("layers.2.attn.out", titles)  # a cell of the map
        self.assertGreater(titles.count("error/allowed"), 100)
        self.assertNotIn("url(http", out.read_text())

    def test_cannot_be_written(self):
        for option in ("--json", "--junit", "--html"):
            run("verify", golden, golden, option, self.tmp / "no such folder" / "report", code=74)


class Page(html.parser.HTMLParser):
    """Tags, titles and whatever would be fetched."""
    void = {"meta", "br", "hr", "input"}

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.references, self.titles = [], set(), [], []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "data", "action") and not value.startswith("#"):
                self.references.append((tag, value))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}>"

    def handle_data(self, data):
        if self.open and self.open[-1] == "title":
            self.titles.append(data)


class Malformed(Case):
    """Refused with the same code by `golden check` and by `verify`, as golden and as test."""

    def refused(self, b, code, says):
        for arguments in [("golden", "check", b.path), ("verify", golden, b.path, "--policy", "strict"), ("verify", b.path, golden, "--policy", "strict")]:
            done = run(*arguments, code=code)
            self.assertIn(says, done.stdout + done.stderr)

    def test_truncated(self):
        b = self.copy()
        os.truncate(b.path / "taps-000.safetensors", b.file()["bytes"] - 100)
        self.refused(b, 74, "taps-000.safetensors: found")
        b = self.copy(name="manifest.v4gold")
        os.truncate(b.path / "manifest.json", 5000)
        self.refused(b, 74, "is not valid JSON")

    def test_wrong_hash(self):
        b = self.copy()
        b.entry("layers.0.attn_norm")["sha256"] = "0" * 64
        b.save()
        self.refused(b, 74, "layers.0.attn_norm (step 0, sequence 0): SHA-256")
        b = self.copy(name="config.v4gold")
        b.manifest["config"]["rope_theta"] = 20000.0
        b.save()
        self.refused(b, 74, "config_sha256")

    def test_wrong_shape(self):
        b = self.copy()
        b.entry("layers.0.attn_norm")["shape"][1] += 1
        b.save()
        self.refused(b, 2, "[38, 257]")
        b = self.copy(name="rows.v4gold")
        b.entry("layers.0.attn_norm")["shape"][0] = 7
        b.save()
        self.refused(b, 2, "tokens, as 'pos'")

    def test_absurd_lengths(self):
        b = self.copy()
        b.entry("layers.0.attn_norm")["shape"][1] = 2**47
        b.save()
        self.refused(b, 2, "field 'shape'")
        b = self.copy(name="overflow.v4gold")
        e = b.entry("layers.0.attn_norm")
        e["site"], e["name"], e["axes"], e["shape"] = "x", "layers.0.x", ["token", "a", "b"], [38, 2**40, 2**40]
        b.save()
        self.refused(b, 2, "overflow")
        b = self.copy(name="header.v4gold")
        with open(b.path / "taps-000.safetensors", "r+b") as f:
            f.write(struct.pack("<Q", 2**62))
        b.accept("taps-000.safetensors")
        self.refused(b, 2, "header length")
        b = self.copy(name="raw.v4gold")
        (b.path / "taps-000.safetensors").rename(b.path / "taps-000.safetensors.zst")
        for t in b.manifest["tensors"]:
            t["file"] = "taps-000.safetensors.zst"
        b.file().update(name="taps-000.safetensors.zst", raw_bytes=2**47)
        b.save()
        self.refused(b, 2, "raw_bytes")

    def test_hostile_names(self):
        for number, name in enumerate(["../../../etc/passwd", "/etc/passwd", "..", "a/../b.safetensors", "a\\..\\b.safetensors", ".hidden.safetensors", "a\0b.safetensors"]):
            b = self.copy(name=f"{number}.v4gold")
            b.file()["name"] = name
            b.save()
            self.refused(b, 2, "plain file name")
        for number, (field, value) in enumerate([("file", "/etc/passwd"), ("file", "../x.safetensors"), ("key", "../../k"), ("name", "layers.0.../x"), ("scope", "/")]):
            b = self.copy(name=f"t{number}.v4gold")
            b.entry("layers.0.attn_norm")[field] = value
            b.save()
            self.refused(b, 2, "tensor" if field != "file" else "listed in 'files'")

    def test_links(self):
        for name in ("taps-000.safetensors", "inputs.safetensors", "manifest.json"):
            b = self.copy(name=name + ".v4gold")
            (b.path / name).rename(self.tmp / name)
            (b.path / name).symlink_to(self.tmp / name)
            self.refused(b, 2, "is a symbolic link")

    def test_special_files(self):
        b = self.copy()
        (b.path / "taps-000.safetensors").unlink()
        os.mkfifo(b.path / "taps-000.safetensors")  # waits for nobody
        for arguments in [("golden", "check", b.path), ("verify", golden, b.path)]:
            done = subprocess.run([dsv4, *map(str, arguments)], capture_output=True, text=True, timeout=60)
            self.assertIn(done.returncode, (2, 66, 74), done.stderr)
        os.unlink(b.path / "manifest.json")
        os.mkdir(b.path / "manifest.json")
        self.refused(b, 2, "manifest.json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--dsv4", required=True)
    known, rest = parser.parse_known_args()
    dsv4 = known.dsv4
    unittest.main(argv=sys.argv[:1] + rest)
