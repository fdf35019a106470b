#!/usr/bin/env python3
"""Reads a golden bundle (docs/bundle-format.md) with the standard library; with numpy, as arrays.
   python3 read_bundle.py BUNDLE [NAME...]      lists the tensors, or prints those of the names"""
import array, hashlib, json, pathlib, struct, subprocess, sys

FORMATS = {"U8": "B", "BOOL": "B", "I32": "i", "F32": "f", "F64": "d", "BF16": "H"}

def read_file(path):
    return subprocess.check_output(["zstd", "-dc", path]) if path.suffix == ".zst" else path.read_bytes()

def read_safetensors(path):
    """{key: (type, shape, bytes)} of a file."""
    raw = read_file(path)
    end = 8 + struct.unpack("<Q", raw[:8])[0]
    header = {k: t for k, t in json.loads(raw[8:end]).items() if k != "__metadata__"}
    return {k: (t["dtype"], t["shape"], raw[end + t["data_offsets"][0]:end + t["data_offsets"][1]]) for k, t in header.items()}

def values(carrier, shape, raw):
    """Numbers in row-major order; with numpy an array of that shape."""
    flat = array.array(FORMATS[carrier], raw)
    if carrier == "BF16":  # the upper half of a float32
        flat = array.array("f", array.array("I", [v << 16 for v in flat]).tobytes())
    try:
        import numpy
        return numpy.array(flat).reshape(shape)
    except ImportError:
        return flat

def read_bundle(path):
    """(entry, values) of every tensor in the order of execution; hashes are checked."""
    manifest, shard, name = json.loads(read_file(next(pathlib.Path(path).glob("manifest.json*")))), {}, None
    assert manifest["schema"] == "v4gold/1", manifest["schema"]
    for t in manifest["tensors"]:
        if t["file"] != name:  # one shard in memory
            name, shard = t["file"], read_safetensors(pathlib.Path(path) / t["file"])
        carrier, shape, raw = shard[t["key"]]
        assert (carrier, shape, hashlib.sha256(raw).hexdigest()) == (t["carrier"], t["shape"], t["sha256"]), t["name"]
        yield t, values(carrier, shape, raw)

if __name__ == "__main__":
    for entry, v in read_bundle(sys.argv[1]):
        if len(sys.argv) == 2 or entry["name"] in sys.argv[2:]:
            print(entry["seq"], entry["call"], entry["pos"], entry["name"], entry["shape"], *([v] if sys.argv[2:] else []))
