#!/usr/bin/env python3
"""The shipped bundles, made again by both executors: the ordinary `dsv4 verify` passes under policy strict (stored values
bit for bit), the narrow tensors have the same hashes, and numpy makes the same weights."""
import argparse
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

from expectations import expect, finish

sys.dont_write_bytecode = True
arguments = argparse.ArgumentParser()
arguments.add_argument("--dsv4", required=True)
arguments = arguments.parse_args()
root = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(root / "reference_tests"), str(root / "docs")]
import make_bundles  # noqa: E402
import read_bundle  # noqa: E402

shipped = root / "reference_tests/data/bundles"


def dsv4(*args, code=0):
    done = subprocess.run([arguments.dsv4, *map(str, args)], capture_output=True, text=True)
    expect(done.returncode == code, f"dsv4 {' '.join(map(str, args))}: exit code {done.returncode}, expected {code}\n{done.stdout}{done.stderr}")
    return done.stdout


def manifest(bundle):
    return json.loads(read_bundle.read_file(next(bundle.glob("manifest.json*"))))


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    names = sorted(b.name for b in shipped.iterdir())
    expect(names == sorted(f"{n}.v4gold" for n in ("micro", *make_bundles.BUNDLES)), f"bundles: {names}")
    for executor in ("ref", "cpu"):
        made = folder / executor
        made.mkdir()
        make_bundles.make(arguments.dsv4, made, executor, noise=0)
        for name in names:
            dsv4("verify", shipped / name, made / name, "--policy", "strict", "--no-hints")
            old, new = manifest(shipped / name), manifest(made / name)
            # In the order of execution for each sequence; how the sequences of a batch alternate is the executor's affair.
            for tensors in (old["tensors"], new["tensors"]):
                tensors.sort(key=lambda t: t["sequence"])  # stable
            expect([(t["name"], t["step"], t["sequence"]) for t in old["tensors"]] == [(t["name"], t["step"], t["sequence"]) for t in new["tensors"]],
                   f"{name} {executor}: other tensors")
            expect(old["calls"] == new["calls"] and old["input"] == new["input"] and old["weights"] == new["weights"], f"{name} {executor}: another run")
            narrow = [(a, b) for a, b in zip(old["tensors"], new["tensors"]) if a["carrier"] in ("BF16", "I32", "U8")]
            expect(len(narrow) > 30, f"{name}: narrow tensors")
            expect(all(a["sha256"] == b["sha256"] for a, b in narrow), f"{name} {executor}: stored values differ")

    # A port of one kernel whose last element is wrong.
    wrong = folder / "wrong.v4gold"
    wrong.mkdir()
    (wrong / "inputs.safetensors").write_bytes((shipped / "micro.v4gold/inputs.safetensors").read_bytes())
    m, raw = manifest(shipped / "micro.v4gold"), bytearray(read_bundle.read_file(shipped / "micro.v4gold/taps-000.safetensors.zst"))
    end = 8 + int.from_bytes(raw[:8], "little")
    t = next(t for t in m["tensors"] if t["name"] == "op.swiglu.z")
    first, last = (end + at for at in json.loads(raw[8:end])[t["key"]]["data_offsets"])
    raw[last - 1] ^= 0x80  # the sign
    t["sha256"] = hashlib.sha256(raw[first:last]).hexdigest()
    for x in m["tensors"]:
        x["file"] = "taps-000.safetensors"
    file = next(f for f in m["files"] if f["name"].startswith("taps"))
    file |= {"name": "taps-000.safetensors", "bytes": len(raw), "raw_bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    (wrong / "taps-000.safetensors").write_bytes(raw)
    m["files"] = [file if f["name"].startswith("taps") else f for f in m["files"]]
    (wrong / "manifest.json").write_text(json.dumps(m))
    for policy in ("strict", "faithful"):
        text = dsv4("verify", shipped / "micro.v4gold", wrong, "--policy", policy, code=1)
        expect("op.swiglu.z" in text.splitlines()[0], f"a wrong kernel: {text}")

    # A compressed manifest that is cut short or corrupt.
    torn = folder / "torn.v4gold"
    shutil.copytree(shipped / "block-moe.v4gold", torn)
    whole = (torn / "manifest.json.zst").read_bytes()
    for broken in (whole[:-100], whole[:200] + b"?" + whole[201:], b"", b"{}"):
        (torn / "manifest.json.zst").write_bytes(broken)
        dsv4("golden", "check", torn, code=74)

    # The 40-line reader reads a compressed manifest, and numpy makes the weights.
    expect(sum(1 for _ in read_bundle.read_bundle(shipped / "tiny.v4gold")) == len(manifest(shipped / "tiny.v4gold")["tensors"]), "read_bundle.py")
    dsv4("golden", "weights", shipped / "tiny.v4gold", "--out", folder / "weights")
    try:
        import numpy  # noqa: F401
        done = subprocess.run([sys.executable, "-B", root / "docs/recipe.py", str(manifest(shipped / "tiny.v4gold")["weights"]["seed"]),
                               *sorted((folder / "weights").glob("*.safetensors"))], capture_output=True, text=True)
        expect(done.returncode == 0 and "tensors are those of splitmix-v1" in done.stdout, f"recipe.py: {done.stdout}{done.stderr}")
    except ImportError:
        print("note: no numpy, docs/recipe.py is not run (unit/golden/recipe.cpp has its values)")

    # The ladder, at small dimensions: what is made can be checked, and verified with the weights of its seed.
    config = make_bundles.MODEL | {"num_hidden_layers": 3, "compress_ratios": [0, 4, 16]}
    (folder / "config.json").write_text(json.dumps(config))
    for layer, extra in (("swa", ["--hash"]), ("csa", []), ("hca", []), ("mtp", [])):
        out = folder / f"ladder-{layer}"
        told = json.loads(dsv4("golden", "ladder", folder / "config.json", "--layer", layer, "--experts", 4, "--out", out, "--json", *extra))
        bundle = pathlib.Path(told["out"])
        dsv4("golden", "check", bundle)
        m = manifest(bundle)
        expect(m["weights"] == {"kind": "recipe", "recipe": "splitmix-v1", "seed": 1} and m["config"]["n_routed_experts"] == 4, f"ladder: {m['weights']}")
        sites = {kind: {t["site"] for t in m["tensors"] if t["call"] == kind} for kind in ("prefill", "decode")}
        expect("attn.out" in sites["prefill"] and "attn.q_rope" not in sites["prefill"] and "attn.q_rope" in sites["decode"], f"ladder {layer}: {sites}")
        dsv4("verify", bundle, bundle, "--mode", "forced")
    dsv4("golden", "ladder", folder / "config.json", "--layer", "csa", "--experts", 1, "--out", folder / "x", code=64)
    dsv4("golden", "weights", folder / "config.json", "--out", folder / "weights", code=64)  # is there already
    dsv4("golden", "weights", folder / "none", "--out", folder / "y", code=66)
    dsv4("golden", "weights", shipped / "micro.v4gold", "--out", folder / "y", code=64)

finish("bundles")
