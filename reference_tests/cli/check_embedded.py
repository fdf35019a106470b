#!/usr/bin/env python3
"""The embedded model, examples/kjv-mini: what it is made of, how small it is, and that it has learned its text.

  check_embedded.py --dsv4 build/dsv4

One text is a piece of the held-out part (Hebrews), which the model was not trained on, the other every 80th chapter of
the part it was; the whole figures are in docs/training.md.  A trigram of bytes that knows the rest of the Bible needs 2.63 bits per byte there."""
import argparse
import json
import pathlib
import subprocess
import tempfile

from expectations import expect, finish

arguments = argparse.ArgumentParser()
arguments.add_argument("--dsv4", required=True)
arguments = arguments.parse_args()
root = pathlib.Path(__file__).resolve().parents[2]
model, data = root / "examples/kjv-mini", root / "reference_tests/data"


def header(file):
    raw = file.read_bytes()
    return json.loads(raw[8:8 + int.from_bytes(raw[:8], "little")])


def dsv4(*args):
    done = subprocess.run([arguments.dsv4, *map(str, args)], capture_output=True, text=True)
    expect(done.returncode == 0, f"{' '.join(map(str, args))}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


most_bytes, most_bits, least_acceptance, most_load = 12_000_000, 2.0, 0.5, 1.5
size = sum(f.stat().st_size for f in model.iterdir() if f.suffix in (".safetensors", ".json"))
expect(size < most_bytes, f"the checkpoint has {size} bytes, at most {most_bytes}")
config = json.loads((model / "config.json").read_text())
ratios = config["compress_ratios"]
expect(0 in ratios and 4 in ratios and any(r > 4 for r in ratios), f"window, CSA and HCA layers: {ratios}")
expect(config["num_hash_layers"] > 0 and config["num_nextn_predict_layers"] == 1 and config["hc_mult"] == 4, "hash routing, MTP, mHC")
types = {t["dtype"] for f in model.glob("*.safetensors") for name, t in header(f).items() if name != "__metadata__"}
expect({"I8", "F8_E4M3", "F8_E8M0", "BF16", "F32", "I64"} <= types, f"the types of a published checkpoint: {sorted(types)}")


def evaluate(packed, *more):
    with tempfile.TemporaryDirectory() as scratch:
        text = pathlib.Path(scratch) / "text"
        text.write_bytes(subprocess.run(["zstd", "-dcq", data / "text" / packed], check=True, capture_output=True).stdout)
        found = json.loads(dsv4("evaluate", "--model", model, "--data", text, "--held-out", "1", "--json", *more))
    print(packed, json.dumps(found))
    return found


unseen = evaluate("kjv-held-out.txt.zst", "--prompts", "4")
expect(unseen["bits_per_byte"] < most_bits, f"{unseen['bits_per_byte']} bits per byte, at most {most_bits}")
expect(unseen["drafts"]["accepted"] >= least_acceptance * unseen["drafts"]["proposed"], f"drafts of MTP: {unseen['drafts']}, at least half")
# Balance is a property of the text that the gates were balanced on.
trained = evaluate("kjv-trained.txt.zst", "--prompts", "0")
expect(len(trained["experts"]) == 5 and all(e["busiest_over_mean"] < most_load for e in trained["experts"]), f"balance: {trained['experts']}")
finish("embedded")
