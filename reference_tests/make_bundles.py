#!/usr/bin/env python3
"""Makes the bundles of reference_tests/data/bundles: python3 reference_tests/make_bundles.py --dsv4 build/dsv4
Weights and ids come from seeds, so that the same program makes the same bytes; docs/bundle-format.md says what each
bundle is for.  --out DIR makes them elsewhere (they must not be there), --exec cpu by the other executor."""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent

# Published values wherever a size does not matter.
MODEL = {
    "model_type": "deepseek_v4", "scoring_func": "sqrtsoftplus", "routed_scaling_factor": 1.5, "swiglu_limit": 10.0,
    "rms_norm_eps": 1e-6, "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "rope_theta": 10000, "compress_rope_theta": 160000,
    "rope_scaling": {"type": "yarn", "factor": 16, "beta_fast": 32, "beta_slow": 1, "original_max_position_embeddings": 64},
    "max_position_embeddings": 1024, "n_shared_experts": 1, "num_nextn_predict_layers": 0, "num_hash_layers": 0,
    "vocab_size": 48, "hidden_size": 32, "moe_intermediate_size": 32, "num_attention_heads": 2, "head_dim": 32,
    "qk_rope_head_dim": 8, "q_lora_rank": 16, "o_groups": 2, "o_lora_rank": 16, "n_routed_experts": 6, "num_experts_per_tok": 2,
    "index_n_heads": 2, "index_head_dim": 16, "index_topk": 4, "sliding_window": 8,
}
WIDE = {"hidden_size": 160, "moe_intermediate_size": 160, "n_routed_experts": 16, "num_experts_per_tok": 4, "vocab_size": 32}

# name: (configuration, lengths of the sequences, single tokens at the end, other options)
BUNDLES = {
    # every kind of layer; a prompt in three calls, a batch of two, MTP, single tokens that close blocks of 4 and of 16
    "tiny": ({"compress_ratios": [0, 4, 16, 0], "num_hash_layers": 1, "num_nextn_predict_layers": 1}, [34, 21], 4,
             ["--chunks", "17,2,11", "--mtp", "--equal-rewind", "3,2"]),
    # the published window: it fills, slides, and has more than one block of the softmax
    "block-swa": ({"compress_ratios": [0], "sliding_window": 128, "num_attention_heads": 1, "o_groups": 1, "n_routed_experts": 4}, [132], 3, []),
    # heads wider than a block of the KV quantiser; more entries than the indexer chooses
    "block-csa": ({"compress_ratios": [4], "head_dim": 104}, [27], 3, []),
    "block-hca": ({"compress_ratios": [16], "head_dim": 104}, [35], 3, []),
    # products wider than a tile of 128, more experts
    "block-hash-moe": ({"compress_ratios": [0], "num_hash_layers": 1} | WIDE, [10], 1, []),
    # a limit of 2: what clamps the gate below as well shows at -2, and is a thousandth of that at the published 10
    "block-moe": ({"compress_ratios": [0], "swiglu_limit": 2.0} | WIDE, [10], 1, []),
    "block-mtp": ({"compress_ratios": [4, 0], "num_nextn_predict_layers": 1}, [18], 2, ["--mtp"]),
}


def ids(count, vocabulary, seed):
    """splitmix64 modulo the vocabulary, as golden::ladder_ids."""
    mask, state, out = 2**64 - 1, seed, []
    for _ in range(count):
        state = z = state + 0x9E3779B97F4A7C15 & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        out.append((z ^ z >> 31) % vocabulary)
    return ",".join(map(str, out))


def make(dsv4, out, executor="ref", only=None, noise=3):
    """Makes the bundles in `out`."""
    def run(*args):
        subprocess.run([dsv4, "golden", *map(str, args)], check=True, stdout=subprocess.DEVNULL)

    if only is None or "micro" in only:
        run("micro", "--out", out / "micro.v4gold")
    for seed, (name, (changes, lengths, decode, options)) in enumerate(BUNDLES.items(), 1):
        if only is not None and name not in only:
            continue
        config = MODEL | {"num_hidden_layers": len(changes["compress_ratios"]) - changes.get("num_nextn_predict_layers", 0)} | changes
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "config.json").write_text(json.dumps(config))
            run("weights", folder / "config.json", "--seed", seed, "--out", folder / "model")
            sequences = [x for s, n in enumerate(lengths) for x in ("--ids", ids(n, config["vocab_size"], 100 * seed + s))]
            run("make", "--model", folder / "model", "--out", out / f"{name}.v4gold", "--exec", executor, "--threads", 2, "--decode", decode,
                "--small", "--noise", noise, *sequences, *options)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--dsv4", default="build/dsv4")
    arguments.add_argument("--out", type=pathlib.Path)
    arguments.add_argument("--exec", default="ref", choices=("ref", "cpu"))
    arguments.add_argument("--only", nargs="*", choices=("micro", *BUNDLES))
    a = arguments.parse_args()
    target = a.out or ROOT / "data/bundles"
    target.mkdir(exist_ok=True)
    if a.out is None:  # replaced, each after the new one is whole
        with tempfile.TemporaryDirectory(dir=target) as fresh:
            make(a.dsv4, pathlib.Path(fresh), a.exec, a.only)
            for bundle in sorted(pathlib.Path(fresh).iterdir()):
                shutil.rmtree(target / bundle.name, ignore_errors=True)
                bundle.rename(target / bundle.name)
    else:
        make(a.dsv4, target, a.exec, a.only)
    for bundle in sorted(target.glob("*.v4gold")):
        print(f"{bundle.name:24} {sum(f.stat().st_size for f in bundle.iterdir()):9} bytes")
    sys.exit(0)
