#!/usr/bin/env python3
"""dsv4 evaluate: the figures of a random model, their form, and every way to be wrong.

  check_evaluate.py --dsv4 build/dsv4"""
import argparse
import json
import math
import pathlib
import subprocess
import tempfile

from expectations import expect, finish

arguments = argparse.ArgumentParser()
arguments.add_argument("--dsv4", required=True)
arguments = arguments.parse_args()
data = pathlib.Path(__file__).resolve().parents[1] / "data"


def dsv4(*args, code=0, said=""):
    done = subprocess.run([arguments.dsv4, *args], capture_output=True, text=True)
    expect(done.returncode == code, f"{' '.join(args)}: exit code {done.returncode}, expected {code}\n{done.stderr}")
    expect(said in done.stderr, f"{' '.join(args)}: expected {said!r} in\n{done.stderr}")
    return done.stdout


with tempfile.TemporaryDirectory() as scratch:
    model, text = str(pathlib.Path(scratch) / "model"), pathlib.Path(scratch) / "text"
    dsv4("golden", "weights", str(data / "bundles/tiny.v4gold"), "--tokenizer", str(data / "text/tokenizer.json"), "--out", model)
    lines = [f"And the {a} said unto the {b}, Behold, this is line {n}.\n"
             for n, (a, b) in enumerate((a, b) for a in ("king", "priest", "servant", "prophet") for b in ("people", "woman", "men of the city", "LORD"))]
    text.write_text("".join(lines))
    common = ["evaluate", "--model", model, "--data", str(text), "--held-out", "0.4", "--length", "32", "--prompt-tokens", "8", "--max-new", "12"]
    told = json.loads(dsv4(*common, "--json", "--prompts", "2"))
    size = text.stat().st_size
    held_out = "".join(lines)[size - int(0.4 * size):].partition("\n")[2]
    expect(told["held_out_bytes"] == told["scored_bytes"] == len(held_out), told)
    expect(told["scored_tokens"] == told["held_out_tokens"], told)
    # Random weights: about the uniform distribution over the vocabulary.  The trigram model knows this text.
    uniform = math.log(json.loads((pathlib.Path(model) / "config.json").read_text())["vocab_size"])
    expect(0.8 < told["nats_per_token"] / uniform < 2, told)
    expect(abs(told["bits_per_byte"] - told["nats_per_token"] * told["scored_tokens"] / math.log(2) / told["scored_bytes"]) < 1e-9, told)
    expect(0 < told["trigram_bits_per_byte"] < 3, told)
    expect(told["experts"] and all(e["busiest_over_mean"] >= 1 for e in told["experts"]), told)
    if "drafts" in told:
        expect(0 <= told["drafts"]["accepted"] <= told["drafts"]["proposed"] <= 2 * 10, told)
    # Threads change nothing; an overlap gives every token some text before it.
    again = json.loads(dsv4(*common, "--json", "--prompts", "2", "--threads", "1"))
    expect({**told, "seconds": 0} == {**again, "seconds": 0}, again)
    overlapping = json.loads(dsv4(*common, "--json", "--prompts", "0", "--stride", "8"))
    expect(overlapping["scored_tokens"] == told["scored_tokens"] and "drafts" not in overlapping, overlapping)
    expect(overlapping["trigram_bits_per_byte"] == told["trigram_bits_per_byte"], overlapping)
    bare = json.loads(dsv4(*common, "--json", "--prompts", "0", "--no-begin", "--numerics", "float32"))
    expect(bare["scored_tokens"] < told["scored_tokens"], bare)
    shown = dsv4(*common)
    for part in ("bits per byte", "trigram", "busiest over mean"):
        expect(part in shown, shown)

    one_line = pathlib.Path(scratch) / "line"
    one_line.write_text("And the king said unto the people, Behold. " * 20)
    dsv4("evaluate", "--model", model, "--data", str(one_line), code=2, said="no line break to begin after")
    dsv4("evaluate", "--model", model, "--data", str(text), "--held-out", "0", code=2, said="is held out")
    dsv4("evaluate", "--model", model, "--data", str(text), "--held-out", "0.4", "--length", "4", "--stride", "5", code=2, said="--stride: found 5")
    dsv4("evaluate", "--model", model, "--data", str(text) + "none", code=3, said="cannot be opened")
    dsv4("evaluate", "--model", model, "--data", str(text), "--held-out", "0.4", "--length", "1000000000", code=2, said="context of")
    text.write_bytes(b"one\n\xff\xfe\n" * 20)
    dsv4("evaluate", "--model", model, "--data", str(text), "--held-out", "0.4", code=3, said="not UTF-8")

finish("evaluate")
