#!/usr/bin/env python3
"""dsv4 verify on a bundle of gigabytes: seconds, MB/s and peak memory, beside the rate at which the same files can be read.

  bench/verify_large.py --dsv4 build/dsv4 [--gigabytes 2] [--folder /tmp]

The bundle has the sites and the widths of the published Flash (1024 tokens, as many layers as are asked for, logits in
float); its values are one random block over and over.  Judged are a test that is equal, and one in which one value
of 256 is off by one unit in the last place, so that every row is measured.  Bytes are those of both bundles
("compared") where a rate is given.  Cold: the system has forgotten the files.  Standard library only; all is removed."""
import argparse
import array
import hashlib
import json
import math
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time

root = pathlib.Path(__file__).resolve().parents[1]
model = root / "reference_tests/data/official/flash-mini"
tokens, d, heads, hd = 1024, 4096, 64, 512
block_values = 1 << 19

# site, axes behind the token, class, carrier
sites = [
    ("hc_attn.y", {"channel": d}, "stored", "BF16"), ("attn_norm", {"channel": d}, "stored", "BF16"), ("attn.qr", {"rank": 1024}, "gemm_fp8", "BF16"),
    ("attn.q_norm", {"head": heads, "channel": hd}, "gemm_fp8", "BF16"), ("attn.q_rope", {"head": heads, "channel": hd}, "stored", "BF16"),
    ("attn.kv", {"channel": hd}, "code", "BF16"), ("attn.o", {"head": heads, "channel": hd}, "attention", "BF16"),
    ("attn.o_derot", {"head": heads, "channel": hd}, "stored", "BF16"), ("attn.o_lora", {"group": 8, "rank": 1024}, "gemm_bf16", "BF16"),
    ("attn.out", {"channel": d}, "gemm_fp8", "BF16"), ("mid", {"stream": 4, "channel": d}, "hidden", "BF16"), ("ffn_norm", {"channel": d}, "stored", "BF16"),
    ("ffn.routed", {"channel": d}, "gemm_fp4", "F32"), ("ffn.shared", {"channel": d}, "gemm_fp8", "BF16"), ("ffn.out", {"channel": d}, "stored", "BF16"),
    ("out", {"stream": 4, "channel": d}, "hidden", "BF16")]
logits = ("logits", {"vocabulary": 129024}, "logits", "F32")  # 252 blocks


def blocks():
    """{carrier: (bytes, the same with one value of 256 off, stats)}."""
    r = random.Random(1)
    floats = array.array("f", (r.gauss(0, 1) for _ in range(block_values)))
    out = {}
    for carrier, low in [("F32", 0), ("BF16", 16)]:
        words = array.array("I", floats.tobytes())
        words = array.array("I", (w >> low for w in words))
        off = array.array("I", words)
        for i in range(0, block_values, 256):
            off[i] ^= 1
        code = "I" if low == 0 else "H"
        values = array.array("f", array.array("I", (w << low for w in words)).tobytes())
        stats = {"min": min(values), "max": max(values), "rms": math.sqrt(sum(v * v for v in values) / block_values), "nan": 0, "inf": 0}
        out[carrier] = array.array(code, words).tobytes(), array.array(code, off).tobytes(), stats
    return out


def write(folder, small, layers, which, source):
    shutil.copytree(small, folder)
    (folder / "taps-000.safetensors").unlink()
    m = json.loads((folder / "manifest.json").read_text())
    ids = array.array("i", (7 * i % 512 for i in range(tokens))).tobytes()
    positions = array.array("i", range(tokens)).tobytes()
    header = json.dumps({"input_ids.0": {"dtype": "I32", "shape": [tokens], "data_offsets": [0, len(ids)]},
                         "position_ids.0": {"dtype": "I32", "shape": [tokens], "data_offsets": [len(ids), 2 * len(ids)]}}).encode()
    raw = struct.pack("<Q", len(header)) + header + ids + positions
    (folder / "inputs.safetensors").write_bytes(raw)
    m["input"].update(ids_sha256=hashlib.sha256(ids).hexdigest(), tokens=[tokens], prefill=tokens, decode_steps=0)
    m["calls"] = [{"step": 0, "kind": "prefill", "parts": [{"sequence": 0, "pos": [0, tokens]}]}]
    m["equal_runs"], m["tensors"] = [], []
    m["files"] = [{"name": "inputs.safetensors", "bytes": len(raw), "raw_bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}]
    for scope, (site, axes, cls, carrier) in [(f"layers.{n}", s) for n in range(layers) for s in sites] + [("head", logits)]:
        seq, shape = len(m["tensors"]), [tokens, *axes.values()]
        count = math.prod(shape) // block_values
        assert count * block_values == math.prod(shape), site
        block, stats = source[carrier][which], source[carrier][2]
        header = json.dumps({"v": {"dtype": carrier, "shape": shape, "data_offsets": [0, count * len(block)]}}).encode()
        name, file_hash, hash_ = f"taps-{seq:03}.safetensors", hashlib.sha256(), hashlib.sha256()
        with open(folder / name, "wb") as f:
            for piece in [struct.pack("<Q", len(header)) + header] + [block] * count:
                f.write(piece)
                file_hash.update(piece)
                if piece is block:
                    hash_.update(piece)
        size = (folder / name).stat().st_size
        m["files"].append({"name": name, "bytes": size, "raw_bytes": size, "sha256": file_hash.hexdigest()})
        m["tensors"].append({
            "name": f"{scope}.{site}", "scope": scope, "site": site, "seq": seq, "step": 0, "call": "prefill", "sequence": 0, "pos": [0, tokens], "axes": ["token", *axes],
            "shape": shape, "carrier": carrier, "logical": carrier.lower(), "class": cls, "deps": [], "sha256": hash_.hexdigest(), "stats": stats, "file": name, "key": "v"}
            | ({"layer": int(scope[7:])} if scope != "head" else {}))
    (folder / "manifest.json").write_text(json.dumps(m))


def forget(*folders):
    """The system's copies of the files go; no privilege is needed."""
    os.sync()
    for folder in folders:
        for path in folder.iterdir():
            with open(path, "rb") as f:
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def size_of(*folders):
    return sum(p.stat().st_size for folder in folders for p in folder.iterdir()) / 1e6


def cat(*folders):
    begin = time.perf_counter()
    subprocess.run(["cat", *(str(p) for folder in folders for p in sorted(folder.iterdir()))], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def measured(*command):
    """Exit code, seconds, seconds of processor, MB resident at most.  By a process between: a child's peak begins with its parent's."""
    between = ("import os, sys, time; t = time.perf_counter(); p = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ); _, s, u = os.wait4(p, 0); "
               "print(os.waitstatus_to_exitcode(s), time.perf_counter() - t, u.ru_utime + u.ru_stime, u.ru_maxrss / 1024)")
    text = subprocess.run([sys.executable, "-c", between, *map(str, command)], capture_output=True, text=True, check=True).stdout
    code, *numbers = text.splitlines()[-1].split()
    return int(code), *map(float, numbers)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dsv4", required=True)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--folder", default=None, help="where the bundles are made (default: the system's)")
    parser.add_argument("--options", default="", help="more options of dsv4 verify")
    parser.add_argument("--most-memory", type=float, default=300, help="MB; more is a failure")
    arguments = parser.parse_args()
    per_layer = sum(tokens * math.prod(a.values()) * (2 if c == "BF16" else 4) for _, a, _, c in sites)
    layers = max(1, math.ceil((arguments.gigabytes * 1e9 - tokens * 129024 * 4) / per_layer))
    if layers > 6:
        parser.error("at most 6 layers, as the small model has")
    failed = False
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        folder = pathlib.Path(folder)
        small, golden, equal, off = (folder / f"{n}.v4gold" for n in ("small", "golden", "equal", "off"))
        subprocess.run([arguments.dsv4, "golden", "make", "--model", model, "--ids", "1,2,3", "--equal-chunks", "none", "--no-weight-hash", "--out", small], check=True,
                       stdout=subprocess.DEVNULL)
        source = blocks()
        for to, which in [(golden, 0), (equal, 0), (off, 1)]:
            write(to, small, layers, which, source)
        print(f"bundle: {layers} layers, {size_of(golden):.0f} MB")
        for name, test in [("equal", equal), ("one value of 256 an ulp off", off)]:
            both = size_of(golden, test)
            for state in ("cold", "warm"):
                if state == "cold":
                    forget(golden, test)
                reading = cat(golden, test)
                if state == "cold":
                    forget(golden, test)
                code, seconds, processor, memory = measured(arguments.dsv4, "verify", golden, test, "--mode", "free", *arguments.options.split())
                print(f"{name}, {state}: verify {seconds:.2f} s ({both / seconds:.0f} MB/s compared, {processor:.2f} s of processor), {memory:.0f} MB resident, exit code {code}; "
                      f"cat of the same files {reading:.2f} s ({both / reading:.0f} MB/s): {seconds / reading:.2f} times")
                failed |= code != 0 or memory > arguments.most_memory
    return failed


if __name__ == "__main__":
    sys.exit(main())
