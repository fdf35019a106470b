#!/usr/bin/env python3
"""dsv4 golden on the command line, end to end: make, check, every exit code, and docs/read_bundle.py on the result."""
import argparse
import array
import hashlib
import importlib.util
import json
import math
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

from expectations import expect, finish

sys.dont_write_bytecode = True
arguments = argparse.ArgumentParser()
arguments.add_argument("--dsv4", required=True)
arguments.add_argument("--sanitized", action="store_true", help="sanitizers take memory of their own")
arguments = arguments.parse_args()
root = pathlib.Path(__file__).resolve().parents[2]
model = root / "reference_tests/data/official/flash-mini"
spec = importlib.util.spec_from_file_location("read_bundle", root / "docs/read_bundle.py")
reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reader)


def dsv4(*args, code=0):
    done = subprocess.run([arguments.dsv4, *map(str, args)], capture_output=True, text=True)
    expect(done.returncode == code, f"dsv4 {' '.join(map(str, args))}: exit code {done.returncode}, expected {code}\n{done.stdout}{done.stderr}")
    expect(code == 0 or done.stderr or done.stdout, f"dsv4 {args}: no message")
    return done


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    a = folder / "a.v4gold"

    # Everything: automatic ids, MTP, noise, compressed.
    told = json.loads(dsv4("golden", "make", "--model", model, "--out", a, "--mtp", "--noise", 2, "--zstd", "--json").stdout)
    told_check = json.loads(dsv4("golden", "check", a, "--json").stdout)
    expect(told_check["ok"] and told_check["tensors"] == told["tensors"], f"check: {told_check}")
    manifest = json.loads((a / "manifest.json").read_text())
    expect(list(manifest) == sorted(manifest) or list(manifest)[-1] == "tensors", "keys are not sorted")
    expect(manifest["config"]["compress_ratios"] and manifest["weights"]["kind"] == "files", "config or weights are missing")
    expect(all("sha256" in f for f in manifest["weights"]["files"]), "weights without hash")
    expect([e["equal"] for e in manifest["equal_runs"]] == [True], "the run in chunks")
    expect("cross positions" in manifest["input"]["ladder"], "the ladder")
    measured = [t for t in manifest["tensors"] if "noise" in t]
    expect(measured and all(t["noise"]["runs"] == 2 for t in measured), "noise")
    expect(all(t["noise"]["relL2"] < 0.2 for t in measured), "noise: " + str(max((t["noise"]["relL2"], t["name"]) for t in measured)))
    expect(any(t["noise"]["relL2"] > 0 for t in measured), "noise is zero everywhere")

    # The 40-line reader: hashes (inside), statistics, shapes, order.
    if shutil.which("zstd"):
        count, seq = 0, -1
        for t, v in reader.read_bundle(a):
            flat = [float(x) for x in (v.flatten() if hasattr(v, "flatten") else v)]
            finite = [x for x in flat if math.isfinite(x)]
            expect(t["seq"] > seq and len(flat) == math.prod(t["shape"]), t["name"])
            expect(not finite or (min(finite), max(finite)) == (t["stats"]["min"], t["stats"]["max"]), t["name"] + ": stats")
            seq, count = t["seq"], count + 1
        expect(count == told["tensors"], f"read_bundle.py reads {count} tensors of {told['tensors']}")
    else:
        print("note: no zstd program, the compressed bundle is not read by read_bundle.py")

    # Both executors record the same narrow bits, and the official's own taps are among them.
    b, c = folder / "b.v4gold", folder / "c.v4gold"
    small = ("--ids", "1,2,3,4,5,6,7,8,9,10,11,12", "--decode", 2, "--equal-chunks", "none", "--no-weight-hash")
    dsv4("golden", "make", "--model", model, "--out", b, "--exec", "ref", *small)
    dsv4("golden", "make", "--model", model, "--out", c, "--exec", "cpu", *small)
    by_name = [{(t["step"], t["name"]): t for t in json.loads((x / "manifest.json").read_text())["tensors"]} for x in (b, c)]
    expect(by_name[0].keys() == by_name[1].keys(), "ref and cpu record other names")
    for key, t in by_name[0].items():
        if t["carrier"] in ("BF16", "I32"):
            expect(t["sha256"] == by_name[1][key]["sha256"], f"ref and cpu: {key}")
    lines = subprocess.run([sys.executable, "-B", root / "docs/read_bundle.py", b, "layers.0.ffn.gate.indices"], capture_output=True, text=True)
    expect(lines.returncode == 0 and lines.stdout.count("layers.0.ffn.gate.indices") == 3, f"read_bundle.py: {lines.stdout}{lines.stderr}")
    ids = reader.read_safetensors(b / "inputs.safetensors")["input_ids.0"]
    expect(ids[1] == [12] and list(array.array("i", ids[2])) == list(range(1, 13)), "input_ids.0")

    # A batch, float32, chunks, a selection of sites.
    d = folder / "d.v4gold"
    dsv4("golden", "make", "--model", model, "--out", d, "--numerics", "float32", "--ids", "1,2,3,4,5", "--ids", "7,8,9", "--chunks", "2,1",
         "--decode", 1, "--sites", r"attn\.out$|^head\.", "--no-weight-hash")
    dsv4("golden", "check", d)
    sites = {t["site"] for t in json.loads((d / "manifest.json").read_text())["tensors"]}
    expect(sites == {"attn.out", "hc_head.pre", "hc_head.y", "norm", "logits"}, str(sites))

    # Another program's bundle, 400 MB with one tensor of 150 MB, is checked in bounded memory.
    manifest = json.loads((c / "manifest.json").read_text())
    entry = next(t for t in manifest["tensors"] if t["name"] == "head.logits")
    entry = {k: v for k, v in entry.items() if k not in ("noise", "margin")} | {"deps": [], "axes": ["row"], "carrier": "U8", "logical": "u8"}
    for number, size in enumerate([150_000_000, 64_000_000, 64_000_000, 64_000_000, 64_000_000]):
        name, key = f"big-{number}.safetensors", f"k{number}"
        raw = bytes([number, 1, 2, 3]) * (size // 4)
        header = json.dumps({key: {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        with open(c / name, "wb") as f:
            f.write(struct.pack("<Q", len(header)) + header + raw)
        digest = hashlib.sha256((c / name).read_bytes()).hexdigest()
        manifest["files"].append({"name": name, "bytes": (c / name).stat().st_size, "raw_bytes": (c / name).stat().st_size, "sha256": digest})
        values = [number, 1, 2, 3]
        manifest["tensors"].append(entry | {
            "name": f"head.big{number}", "site": f"big{number}", "seq": 10**6 + number, "file": name, "key": key, "shape": [size],
            "step": len(manifest["calls"]) - 1, "call": manifest["calls"][-1]["kind"], "pos": manifest["calls"][-1]["parts"][0]["pos"],
            "sha256": hashlib.sha256(raw).hexdigest(),
            "stats": {"min": min(values), "max": max(values), "rms": math.sqrt(sum(v * v for v in values) / 4), "nan": 0, "inf": 0}})
    (c / "manifest.json").write_text(json.dumps(manifest))
    # A process between: the peak that is reported for a child begins with its parent's memory.
    measure = ("import os, sys; p = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ); _, s, u = os.wait4(p, 0); "
               "print(os.waitstatus_to_exitcode(s), u.ru_maxrss / 1024, u.ru_utime + u.ru_stime)")
    lines = subprocess.run([sys.executable, "-c", measure, arguments.dsv4, "golden", "check", c], capture_output=True, text=True).stdout
    code, megabytes, seconds = map(float, lines.split("\n")[-2].split())
    expect(code == 0, "a large bundle: " + lines)
    print(f"checking 400 MB takes {megabytes:.0f} MB of memory, {seconds:.2f} s of processor time")
    expect(megabytes < 120 or arguments.sanitized, "bounded memory")

    # Exit codes.
    dsv4("golden", "check", folder / "nothing", code=66)
    dsv4("golden", "check", code=64)
    dsv4("golden", "make", code=64)
    dsv4("golden", "make", "--model", folder / "nothing", "--out", folder / "x", code=66)
    dsv4("golden", "make", "--model", model, "--out", d, code=64)                                  # is there already
    dsv4("golden", "make", "--model", model, "--out", folder / "x", "--ids", "no-such-file.json", code=66)
    dsv4("golden", "make", "--model", model, "--out", folder / "x", "--ids", "1,2,9999999", code=64)
    dsv4("golden", "make", "--model", model, "--out", folder / "x", "--ids", "1,2", "--decode", 2, code=64)
    dsv4("golden", "make", "--model", model, "--out", folder / "x", "--sites", "(", code=64)
    dsv4("golden", "make", "--model", model, "--out", folder / "x", "--ids", "1,2", "--equal-chunks", "none", "--sites", "^nothing$", code=64)
    if os.geteuid() != 0:
        dsv4("golden", "make", "--model", model, "--out", "/proc/x", "--ids", "1,2", code=74)
    (folder / "config").mkdir()
    (folder / "config/config.json").write_text("{")
    dsv4("golden", "make", "--model", folder / "config", "--out", folder / "x", "--ids", "1", code=2)
    shard = b / "taps-000.safetensors"
    bytes_ = bytearray(shard.read_bytes())
    bytes_[-1] ^= 1
    shard.write_bytes(bytes_)
    dsv4("golden", "check", b, code=74)
    shard.write_bytes(bytes_[:100])
    dsv4("golden", "check", b, code=74)
    shard.unlink()
    dsv4("golden", "check", b, code=66)
    manifest = json.loads((c / "manifest.json").read_text())
    manifest["files"][0]["name"] = "../../../etc/passwd"
    (c / "manifest.json").write_text(json.dumps(manifest))
    text = dsv4("golden", "check", c, code=2).stdout
    expect("plain file name" in text, text)

finish("golden")
