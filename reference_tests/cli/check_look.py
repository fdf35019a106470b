#!/usr/bin/env python3
"""dsv4 trace and dsv4 look: what they say of a run is what the run's own values say, computed again from `dsv4 forward --taps`.

  check_look.py --dsv4 build/dsv4"""
import argparse
import json
import math
import pathlib
import subprocess
import tempfile

import safetensors_file
from expectations import expect, finish

arguments = argparse.ArgumentParser()
arguments.add_argument("--dsv4", required=True)
arguments = arguments.parse_args()
data = pathlib.Path(__file__).resolve().parents[1] / "data"


def dsv4(*args, code=0, said="", stdin=None):
    done = subprocess.run([arguments.dsv4, *map(str, args)], capture_output=True, text=True, input=stdin)
    expect(done.returncode == code, f"{' '.join(map(str, args))}: exit code {done.returncode}, expected {code}\n{done.stderr}")
    expect(said in done.stderr, f"{' '.join(map(str, args))}: expected {said!r} in\n{done.stderr}")
    return done.stdout


def near(a, b, within, what):
    expect(abs(a - b) <= within, f"{what}: {a}, expected {b}")


class Rows:
    """A recorded site: row(i) is one token's (or entry's) numbers."""

    def __init__(self, tensor):
        self.values, self.width = safetensors_file.numbers(tensor), math.prod(tensor.shape[1:])

    def row(self, i):
        return self.values[i * self.width:(i + 1) * self.width]


def masses(taps, name, sink, config, n, t):
    """The shares of one token's softmax, means over the heads: [window, entries, sink], and {entry: share}."""
    dims, heads = config["head_dim"], config["num_attention_heads"]
    q, kv, slots = taps[f"{name}.attn.q_rope"].row(t), taps[f"{name}.attn.kv"], taps[f"{name}.attn.topk_idxs"].row(t)
    entries, total, share = taps.get(f"{name}.attn.compressor.entry"), [0, 0, 0], {}
    for h in range(heads):
        query = q[h * dims:(h + 1) * dims]
        scores = [(s, sum(a * b for a, b in zip(query, kv.row(s) if s < n else entries.row(s - n))) / math.sqrt(dims)) for s in slots if s >= 0]
        top = max([x for _, x in scores] + [sink[h]])
        powers = [(s, math.exp(x - top)) for s, x in scores]
        whole = sum(p for _, p in powers) + math.exp(sink[h] - top)
        total[2] += math.exp(sink[h] - top) / whole / heads
        for s, p in powers:
            total[0 if s < n else 1] += p / whole / heads
            if s >= n:
                share[s - n] = share.get(s - n, 0) + p / whole / heads
    return total, share


with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    model = scratch / "model"
    dsv4("golden", "weights", data / "bundles/tiny.v4gold", "--tokenizer", data / "text/tokenizer.json", "--out", model)
    config = json.loads((model / "config.json").read_text())
    weights = {}
    for file in model.glob("*.safetensors"):
        weights |= safetensors_file.parse(file.read_bytes())
    # More tokens than a pass of the trace (512) has, so that later passes attend to rows of earlier ones.
    n = 530
    ids = [(37 * i * i + 11 * i + 5) % config["vocab_size"] for i in range(n)]
    (scratch / "ids.json").write_text(json.dumps(ids))
    common = ["--model", model, "--ids", scratch / "ids.json"]
    sites = r"(attn\.(q_rope|kv|topk_idxs|compressor\.entry)|gate\.(biased|indices|weights)|hc_(attn|ffn)\.comb|^layers\.\d+\.out)$"
    dsv4("forward", *common, "--taps", sites, "--mtp", "--out", scratch / "taps.safetensors")
    tensors = safetensors_file.parse((scratch / "taps.safetensors").read_bytes())
    taps = {name: Rows(t) for name, t in tensors.items()}

    lines = [json.loads(line) for line in dsv4("trace", *common, "--mtp").splitlines()]
    first, lines = lines[0], lines[1:]
    expect(first["tokens"] == n and first["ratios"] == config["compress_ratios"], first)
    by = {(line["part"], line["token"]): line for line in lines}
    layers = config["num_hidden_layers"]
    expect(len(by) == len(lines) == n * (layers + 1) + 2 * (n - 1), f"{len(lines)} lines")
    kinds = set()
    for layer in range(layers + 1):
        name, tokens = (f"layers.{layer}", n) if layer < layers else ("mtp.0", n - 1)
        ratio, k = config["compress_ratios"][layer], config["num_experts_per_tok"]
        kinds.add(0 if ratio == 0 else 1 if ratio == 4 else 2)
        sink = safetensors_file.numbers(weights[f"{name}.attn.attn_sink"])
        for t in (0, 1, 6, 130, 511, 512, tokens - 1):
            line, what = by[name, t], f"{name}, token {t}"
            expect(line["id"] == ids[t], what)
            expect(line["experts"] == list(taps[f"{name}.ffn.gate.indices"].row(t)), f"{what}: experts {line['experts']}")
            for a, b in zip(line["weights"], taps[f"{name}.ffn.gate.weights"].row(t)):
                near(a, b, 1e-5 * max(1, abs(b)), f"{what}: weight")
            if layer < config["num_hash_layers"]:
                expect(line["margin"] is None, f"{what}: the table has no margin")
            else:
                biased = sorted(taps[f"{name}.ffn.gate.biased"].row(t), reverse=True)
                near(line["margin"], biased[k - 1] - biased[k], 1e-5, f"{what}: margin")
            expected, share = masses(taps, name, sink, config, tokens, t)
            for part, x in zip(("window", "compressed", "sink"), expected):
                near(line[part], x, 1e-5, f"{what}: {part}")
            found = dict(zip(line.get("entries", []), line.get("entry_mass", [])))
            expect(set(found) == set(share), f"{what}: entries {sorted(found)}, expected {sorted(share)}")
            for entry in set(found) & set(share):
                near(found[entry], share[entry], 1e-5, f"{what}: entry {entry}")
            for place in ("attn", "ffn"):
                for a, b in zip(line[f"hc_{place}"]["comb"], taps[f"{name}.hc_{place}.comb"].row(t)):
                    near(a, b, 1e-5, f"{what}: comb")
            if layer < layers:
                out, streams = taps[f"{name}.out"].row(t), config["hc_mult"]
                width = len(out) // streams
                for s in range(streams):
                    rms = math.sqrt(sum(x * x for x in out[s * width:(s + 1) * width]) / width)
                    near(line["stream_rms"][s], rms, 1e-5 * rms, f"{what}: stream {s}")
    expect(kinds == {0, 1, 2}, f"window, CSA and HCA layers: {kinds}")

    logits = {part: Rows(tensors[tensor]) for part, tensor in (("head", "logits"), ("mtp.0.head", "mtp.0.logits"))}
    for part, ahead in (("head", 1), ("mtp.0.head", 2)):
        for t in (0, 511, 512, n - ahead - 1, n - ahead):
            line, row = by[part, t], logits[part].row(t)
            whole = math.log(sum(math.exp(x - max(row)) for x in row)) + max(row)
            best = max(range(len(row)), key=lambda v: row[v])
            expect(line["top"][0][0] == best, f"{part}, token {t}: top {line['top']}")
            near(line["top"][0][1], row[best] - whole, 1e-4, f"{part}, token {t}")
            near(line["entropy"], -sum((x - whole) * math.exp(x - whole) for x in row), 1e-4, f"{part}, token {t}: entropy")
            if t + ahead < n:
                near(line["logprob"], row[ids[t + ahead]] - whole, 1e-4, f"{part}, token {t}: of the token that came")
            else:
                expect("logprob" not in line, f"{part}, token {t}")
    only = [json.loads(line) for line in dsv4("trace", *common, "--what", "experts").splitlines()[1:]]
    expect({frozenset(line) for line in only} == {frozenset({"token", "id", "part", "experts", "weights", "margin"})}, "--what experts")
    dsv4("trace", *common, "--what", "experts", "--out", scratch / "routing.jsonl")
    expect([json.loads(line) for line in (scratch / "routing.jsonl").read_text().splitlines()[1:]] == only, "--out")

    # ---- the page
    def page_of(*args):
        told = json.loads(dsv4("look", *args, "--out", scratch / "run.html", "--json"))
        page = (scratch / "run.html").read_text()
        expect(told["bytes"] == len(page.encode()) < 5_000_000, told)
        expect("http" not in page.replace("http-equiv", ""), "the page asks the network for something")
        body = page.split('<script type="application/json" id="run">')[1].split("</script>")[0]
        return page, json.loads(body)

    page, run = page_of(*common)
    expect(run["ids"] == ids and len(run["blocks"]) == layers + 1, "blocks")
    expect(len(run["detailed"]) == 160 and run["detailed"][-1] == n - 1, "details of a long text")
    for b in run["blocks"]:
        tokens = n - b["name"].startswith("mtp")
        expect(sum(b["load"]) == tokens * config["num_experts_per_tok"], f"{b['name']}: load")
        for column in zip(*b["mass"]):
            if None not in column:
                near(sum(column), 1, 0.01, f"{b['name']}: mass")
        line, shown = by[b["name"], n - 2], b["tokens"][str(n - 2)]
        expect([e for e, _ in shown["experts"]] == line["experts"], f"{b['name']}: experts")
        for a, part in zip(shown["mass"], ("window", "compressed", "sink")):
            near(a, line[part], 1e-3, f"{b['name']}: {part}")
    expect([c["top"] for c in run["lens"]["layers"][-1]] == [run["answers"][str(t)][:3] for t in range(run["lens"]["from"], n)],
           "the lens after the last layer is the answer")
    expect(run["rounding"]["tokens"] == 256 and run["rounding"]["kl"] >= 0, run["rounding"]["kl"])
    csa = {f"layers.{i}" for i in range(layers) if config["compress_ratios"][i] == 4}
    expect({s[0] for s in run["rounding"]["sites"] if s[1] == "attn.topk_idxs"} == csa, "only CSA chooses entries")
    expect(all(0 < s[2] < 0.5 for s in run["rounding"]["sites"] if s[1] == "attn.kv"), "errors of attn.kv")
    expect(run["mtp"]["pairs"] == n - 1, "pairs")

    page, run = page_of("--model", model, "--prompt", "And the king said </script><script>alert(1)</script>", "--no-rounding")
    expect(page.count("</script") == 2, "a text ends a script of the page")
    expect("rounding" not in run and len(run["detailed"]) == len(run["ids"]), "a short text is shown whole")
    expect("king" in "".join(run["pieces"][str(i)] for i in run["ids"]), "pieces")
    page, one = page_of("--model", model, "--ids", "5")
    expect("mtp" not in one and one["logprob"] == [None], "one token")
    page, plain = page_of("--model", model, "--ids", "5,6,7", "--numerics", "float32")
    expect("rounding" not in plain, "float32 is what official is compared with")

    dsv4("look", *common, code=2, said="--out is required")
    dsv4("look", *common, "--out", scratch / "none" / "run.html", code=2, said="none")
    dsv4("look", "--model", model, "--ids", str(config["vocab_size"]), "--out", scratch / "run.html", code=2, said="vocabulary")
    dsv4("trace", *common, "--what", "everything", code=2, said="everything")
    dsv4("trace", "--model", model, code=2, said="prompt")
    dsv4("trace", "--model", scratch / "none", "--ids", "1", code=3, said="none")

finish("look")
