#!/usr/bin/env python3
"""Weights from a seed, recipe splitmix-v1 (docs/bundle-format.md), in numpy.
   python3 recipe.py SEED FILE.safetensors...      are these files' tensors the recipe's?"""
import json, struct, sys
import numpy as np

RULES = [("tid2eid", "experts", 0), ("norm", "one", 0), ("_scale", "one", 0), ("_base", "vector", 0), ("attn_sink", "vector", 1),
         (".ape", "vector", 0), ("gate.bias", "vector", -1), ("embed.", "matrix", 2), (".w1.", "matrix", 2), (".w3.", "matrix", 2), ("", "matrix", 0)]

def mix(z):
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)

def weights(name, dtype, shape, columns, seed, experts=0):
    """The tensor's elements as stored (BF16 as bits).  columns: of the matrix that it is or scales (I8 holds two)."""
    kind, gain = next((k, g) for part, k, g in RULES if part in name)
    h, n = 0xCBF29CE484222325, int(np.prod(shape))
    for c in name.encode():
        h = (h ^ c) * 0x100000001B3 % 2**64
    width, count = {"I64": (8, shape[0]), "F32": (4, n), "F8_E4M3": (2, n)}.get(dtype, (1, n))
    i = np.arange(1, count * width // 8 + 2, dtype=np.uint64)
    u = mix(mix(np.array([h ^ seed], np.uint64)) + i * np.uint64(0x9E3779B97F4A7C15)).view(f"<u{width}")[:count]
    e = gain - next(x for x in range(64) if 4**x >= columns) * (kind == "matrix")  # 2^e ~ 2^gain / sqrt(columns)
    if dtype == "I64":
        stride = 1 + (u >> np.uint64(32)) % (experts // shape[1])
        v = ((u & np.uint64(2**32 - 1))[:, None] + np.arange(shape[1], dtype=np.uint64) * stride[:, None]) % experts
    elif dtype == "F8_E4M3":
        v = np.where(u >> 8 < 4, u & 0x8F, u & 0x9F | 0x20).astype(np.uint8)
    elif dtype == "F8_E8M0":
        v = (127 + e - 2 * (".experts." in name) + (u & 1)).astype(np.uint8)
    elif dtype == "I8":
        v = u
    else:
        bits, step = (8, 1) if dtype == "BF16" else (24, 17)
        k = (u if dtype == "BF16" else u >> 8).astype(np.int32) - 2**(bits - 1)
        v = 1 + (k >> step) / 128 if kind == "one" else k * 2.0**(e + (kind == "matrix") - bits + 1)
        v = v.astype("<f4") if dtype == "F32" else (v.astype("<f4").view("<u4") >> 16).astype("<u2")
    return v.astype("<i8") if dtype == "I64" else v

if __name__ == "__main__":
    seed, raw = int(sys.argv[1]), [open(f, "rb").read() for f in sys.argv[2:]]
    files = [(r, 8 + struct.unpack("<Q", r[:8])[0]) for r in raw]
    tensors = {k: (t, r, end) for r, end in files for k, t in json.loads(r[8:end]).items() if k != "__metadata__"}
    for name, (t, data, end) in tensors.items():
        of = tensors.get(name[:-6] + ".weight" if name.endswith(".scale") else name)[0]
        gate = tensors.get(name.replace("tid2eid", "weight"))[0]
        v = weights(name, t["dtype"], t["shape"], of["shape"][-1] * (2 if of["dtype"] == "I8" else 1), seed, gate["shape"][0])
        assert v.tobytes() == data[end + t["data_offsets"][0]:end + t["data_offsets"][1]], name
    print(f"{len(tensors)} tensors are those of splitmix-v1, seed {seed}")
