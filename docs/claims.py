#!/usr/bin/env python3
"""Measures what docs/claims.md says was measured at small size; each part prints its rows.

  docs/claims.py curves                                    V3.2's operations and cache over ours by context length: docs/cost.svg
  docs/claims.py streams   [--dsv4 build/dsv4]             signal amplification over depth: plain hyper-connections against mHC
  docs/claims.py muon                                      singular values after the ten Newton-Schulz steps
  docs/claims.py recall    --data kjv.txt                  entries that BF16 index scores still choose
  docs/claims.py formats   --data kjv.txt                  what rounded activations cost in bits per byte

The model is examples/kjv-mini (--model), the text that of examples/fetch_bible.sh; standard library only."""
import argparse
import array
import json
import math
import operator
import pathlib
import random
import re
import statistics
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]


def dsv4(o, *args, stdin=None):
    done = subprocess.run([o.dsv4, *map(str, args)], capture_output=True, text=True, input=stdin)
    if done.returncode:
        sys.exit(f"dsv4 {' '.join(map(str, args))}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def read_tensors(path):
    """name -> (shape, array of float or int) of a safetensors file with BF16, F32 and I32."""
    blob = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", blob)
    out = {}
    for name, t in json.loads(blob[8:8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + x for x in t["data_offsets"])
        data = blob[begin:end]
        if t["dtype"] == "BF16":  # the high half of a float
            wide = bytearray(2 * len(data))
            wide[2::4], wide[3::4] = data[0::2], data[1::2]
            out[name] = t["shape"], array.array("f", bytes(wide))
        else:
            out[name] = t["shape"], array.array({"F32": "f", "F64": "d", "I32": "i"}[t["dtype"]], data)
    return out


def ids_of(o, scratch, tokens):
    """The first tokens of the held-out part (the last twentieth, from a line's beginning), in a file."""
    text = pathlib.Path(o.data).read_text()
    held_out = text[len(text) - len(text) // 20:].partition("\n")[2]
    part = pathlib.Path(scratch) / "part.txt"
    part.write_text(held_out[:6 * tokens])  # a token of this model has 2.5 bytes or so
    ids = json.loads(dsv4(o, "tokenize", "--model", o.model, "--file", part))["ids"][:tokens]
    file = pathlib.Path(scratch) / "ids.json"
    file.write_text(json.dumps([0] + ids[:tokens - 1]))
    return file, len(ids)


# ---- curves over context length

def curves(o):
    """Two plots in one picture; colours that can be read on white and on black."""
    contexts = [1 << p for p in range(12, 21)]
    found = {name: json.loads(dsv4(o, "cost", ROOT / f"reference_tests/data/configs/DeepSeek-V4-{name}.config.json", "--json", "--context",
                                   ",".join(map(str, contexts))))["contexts"] for name in ("Flash", "Pro")}
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 300" font-family="sans-serif" font-size="12" fill="#808890">']
    for place, (field, title) in enumerate((("v32_operations_over_ours", "operations a token, V3.2 over V4"), ("v32_kv_over_ours", "KV cache, V3.2 over V4"))):
        left, top, width, height, most = 40 + 380 * place, 36, 270, 210, 16
        x = lambda n: left + width * (math.log2(n) - 12) / 8
        y = lambda v: top + height * (1 - v / most)
        parts.append(f'<text x="{left}" y="20">{title}</text>')
        for v in range(0, most + 1, 4):
            parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y(v)}" y2="{y(v)}" stroke="#808890" stroke-opacity=".3"/><text x="{left - 6}" y="{y(v) + 4}" text-anchor="end">{v}</text>')
        for n, words in ((4096, "4 K"), (65536, "64 K"), (1 << 20, "1 M tokens")):
            parts.append(f'<text x="{x(n):.0f}" y="{top + height + 18}" text-anchor="{"end" if n == 1 << 20 else "middle"}">{words}</text>')
        for name, colour in (("Flash", "#3d8fc4"), ("Pro", "#cf7d2b")):
            values = [c[field] for c in found[name]]
            parts.append(f'<path fill="none" stroke="{colour}" stroke-width="2" d="M' + " L".join(f"{x(n):.1f} {y(v):.1f}" for n, v in zip(contexts, values))
                         + f'"/><text x="{left + width + 4}" y="{y(values[-1]) + 4:.0f}" fill="{colour}">{name} {values[-1]:.1f}</text>')
            print(f"{title}, {name}: " + ", ".join(f"{v:.2f}" for v in values))
    (ROOT / "docs/cost.svg").write_text("\n".join(parts) + "\n</svg>\n")


# ---- signal amplification

def product(a, b):
    return [[sum(x * y for x, y in zip(row, column)) for column in zip(*b)] for row in a]


def gain(m):
    """The largest absolute row sum and column sum: how much a signal, or a gradient, can have grown."""
    return max(max(sum(map(abs, row)) for row in m), max(sum(map(abs, column)) for column in zip(*m)))


def sinkhorn(logits, rounds, eps):
    """mhc/sinkhorn.hpp: rows through a softmax, then columns and rows by turns."""
    m = []
    for row in logits:
        powers = [math.exp(x - max(row)) for x in row]
        m.append([p / sum(powers) + eps for p in powers])
    for turn in range(rounds):
        if turn:
            m = [[x / (sum(row) + eps) for x in row] for row in m]
        sums = [sum(column) + eps for column in zip(*m)]
        m = [[x / s for x, s in zip(row, sums)] for row in m]
    return m


def streams(o):
    n, draws = 4, 200
    print(f"Random carry-over matrices, n = {n}, mean of the largest row or column sum of the product over {draws} draws")
    print(f"{'deviation':>10} {'sublayers':>10} {'plain I + noise':>16} {'mHC, 20 rounds':>15} {'mHC, 1 round':>13}")
    for deviation in (0.05, 0.1, 0.2):
        for depth in (8, 60, 122):
            plain, constrained, hasty = [], [], []
            for draw in range(draws):
                source = random.Random(1000 * draw + depth)
                a = b = c = [[float(i == j) for j in range(n)] for i in range(n)]
                for _ in range(depth):
                    noise = [[source.gauss(0, deviation) for _ in range(n)] for _ in range(n)]
                    a = product(a, [[float(i == j) + noise[i][j] for j in range(n)] for i in range(n)])
                    # The same noise on logits that favour staying: 2 on the diagonal, ten times the deviation.
                    logits = [[2.0 * (i == j) + 10 * noise[i][j] for j in range(n)] for i in range(n)]
                    b, c = product(b, sinkhorn(logits, 20, 1e-6)), product(c, sinkhorn(logits, 1, 1e-6))
                plain.append(gain(a)), constrained.append(gain(b)), hasty.append(gain(c))
            print(f"{deviation:10} {depth:10} {statistics.mean(plain):16.1f} {statistics.mean(constrained):15.4f} {statistics.mean(hasty):13.4f}")
    lines = [json.loads(x) for x in dsv4(o, "trace", "--model", o.model, "--what", "streams", "--prompt",
                                         "And it came to pass in those days, that there went out a decree from the king.").splitlines()[1:]]
    tokens, layers, worst_one, worst_all = max(x["token"] for x in lines) + 1, [], 0, 0
    by = {(x["part"], x["token"]): x for x in lines}
    layers = sorted({x["part"] for x in lines})
    for t in range(tokens):
        whole = [[float(i == j) for j in range(n)] for i in range(n)]
        for layer in layers:
            for place in ("hc_attn", "hc_ffn"):
                flat = by[layer, t][place]["comb"]
                m = [flat[n * i:n * i + n] for i in range(n)]
                worst_one = max(worst_one, gain(m))
                whole = product(whole, m)
        worst_all = max(worst_all, gain(whole))
    print(f"{o.model}, {tokens} tokens: the largest sum of one matrix {worst_one:.6f}, of the product over {2 * len(layers)} sublayers {worst_all:.6f}")


# ---- Muon

def muon(o):
    header = (ROOT / "include/dsv4/optim/newton_schulz.hpp").read_text()
    found = re.search(r"hybrid_newton_schulz\[\]\s*=\s*\{(.*?)\};", header, re.S)
    steps = [tuple(float(v) for v in group.split(",")) for group in re.findall(r"\{([^{}]+)\}", found[1])]
    print(f"{'singular value before':>22} {'after 8 fast steps':>19} {'after all 10':>13}")
    for power in range(-5, 1):
        for factor in (1, 3):
            before = s = factor * 10.0 ** power
            if before > 1:
                continue
            after = []
            for a, b, c, times in steps:
                for _ in range(int(times)):
                    s = a * s + b * s ** 3 + c * s ** 5
                after.append(s)
            print(f"{before:22.5f} {after[0]:19.6f} {after[-1]:13.9f}")
    least = 1e-3
    worst = 0
    for i in range(100001):
        s = least ** (i / 100000)
        for a, b, c, times in steps:
            for _ in range(int(times)):
                s = a * s + b * s ** 3 + c * s ** 5
        worst = max(worst, abs(s - 1))
    print(f"every singular value between {least} and 1 ends within {worst:.2e} of 1")


# ---- index recall

def bf16(x):
    (u,) = struct.unpack("<I", struct.pack("<f", x))
    return struct.unpack("<f", struct.pack("<I", (u + 0x7FFF + ((u >> 16) & 1)) & 0xFFFF0000))[0]


def recall(o):
    config = json.loads((pathlib.Path(o.model) / "config.json").read_text())
    k, heads, dims = config["index_topk"], config["index_n_heads"], config["index_head_dim"]
    with tempfile.TemporaryDirectory() as scratch:
        ids, n = ids_of(o, scratch, config["max_position_embeddings"])
        taps = pathlib.Path(scratch) / "taps.safetensors"
        dsv4(o, "forward", "--model", o.model, "--ids", ids, "--taps", r"indexer\.(q|weights|scores|compressor\.entry)$", "--out", taps)
        found = read_tensors(taps)
    print(f"{n} tokens, top {k}; queries with more than {2 * k} entries to choose from, every eighth")
    print(f"{'layer':>10} {'queries':>8} {'BF16 of the sum':>16} {'the released code':>18}")
    for layer, ratio in enumerate(config["compress_ratios"][:config["num_hidden_layers"]]):
        if ratio != 4:
            continue
        name = f"layers.{layer}.attn.indexer."
        q, w, scores, keys = (found[name + site][1] for site in ("q", "weights", "scores", "compressor.entry"))
        width = found[name + "scores"][0][1]
        entry = [keys[e * dims:(e + 1) * dims] for e in range(len(keys) // dims)]
        kept_sum = kept_released = queries = 0
        for t in range(8 * k + 3, n, 8):
            visible = (t + 1) // ratio
            exact = []
            for e in range(visible):
                total = 0.0
                for h in range(heads):
                    at = (t * heads + h) * dims
                    total += max(0.0, sum(map(operator.mul, q[at:at + dims], entry[e]))) * w[t * heads + h]
                exact.append(total)
            best = lambda s: set(sorted(range(visible), key=lambda e: (-s[e], e))[:k])
            wide = best(exact)
            kept_sum += len(wide & best([bf16(x) for x in exact]))
            kept_released += len(wide & best(scores[t * width:t * width + visible]))
            queries += 1
        print(f"{layer:10} {queries:8} {100 * kept_sum / queries / k:14.2f} % {100 * kept_released / queries / k:16.2f} %")


# ---- formats

def formats(o):
    print(f"{'numerics':>10} {'bits per byte':>14}")
    for numerics in ("float32", "official"):
        told = json.loads(dsv4(o, "evaluate", "--model", o.model, "--data", o.data, "--numerics", numerics, "--prompts", 0, "--json"))
        print(f"{numerics:>10} {told['bits_per_byte']:14.5f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {f.__name__: f for f in (curves, streams, muon, recall, formats)}
    parser.add_argument("part", choices=parts)
    parser.add_argument("--dsv4", default=str(ROOT / "build/dsv4"))
    parser.add_argument("--model", default=str(ROOT / "examples/kjv-mini"))
    parser.add_argument("--data", help="kjv.txt of examples/fetch_bible.sh")
    o = parser.parse_args()
    if not o.data and o.part in ("recall", "formats"):
        parser.error(f"{o.part} needs --data: examples/fetch_bible.sh kjv.txt")
    parts[o.part](o)


if __name__ == "__main__":
    main()
