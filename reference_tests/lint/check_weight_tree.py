#!/usr/bin/env python3
"""A weight's name and shape are written once: in the walk beside its struct ({mhc,attn,moe,model}/weights.hpp).

Everywhere else in include/ a hub name may be looked up or compared, but no line may hold both the name of a weight
and a size of the configuration; and every name stands in exactly one of the walks, a compressor's in one function."""
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parents[2] / "include" / "dsv4"
walks = [root / room / "weights.hpp" for room in ("mhc", "attn", "moe", "model")]
size = (r"hidden_size|moe_intermediate_size|num_attention_heads|head_dim|q_lora_rank|o_groups|o_lora_rank|"
        r"n_routed_experts|hc_mult|hc_mixes|vocab_size|num_experts_per_tok")
errors = []

# The names: the first string of every weight that a walk describes.
described = r'(?:weight_info|plain_weight|projection_weight|norm_weight|table)\((?:stem \+ )?"([^"]+)"'
names = {}
for path in walks:
    for found in re.finditer(described, path.read_text()):
        names.setdefault(found.group(1).removesuffix(".weight"), []).append(path.relative_to(root))
expected = {"wq_a", "wo_a", "wo_b", "q_norm", "attn_sink", "ape", "wgate", "weights_proj", "_fn", "_base", "_scale",
            "embed", "head", "enorm", "hnorm", "e_proj", "h_proj", "attn_norm", "ffn_norm", "tid2eid", "bias",
            "w1", "w2", "w3"}
for name in sorted(expected - names.keys()):
    errors.append(f"no walk describes {name}: this lint no longer sees what it should")
# Names that occur at several places of the tree: queries of attention and indexer, keys of attention and compressor,
# the norms of compressor, model, MTP block and drafter.
several = {"wq_b": 2, "wkv": 2, "norm": 4}
for name, places in sorted(names.items()):
    if len(places) > several.get(name, 1):
        errors.append(f"{name} is described {len(places)} times: {', '.join(map(str, places))}")

# Elsewhere: a name in a string, or a field that is assigned, on a statement that also computes its size.
distinct = sorted(n for n in names if n not in ("norm", "head", "weight", "bias", "embed"))
quoted = re.compile(r'"[^"]*(?:' + "|".join(map(re.escape, distinct)) + r')[^"]*"')
for path in sorted(root.rglob("*.hpp")):
    if path in walks:
        continue
    text = re.sub(r"//[^\n]*", "", path.read_text())
    for statement in re.finditer(r"[^;{}]+", text):
        if quoted.search(statement.group()) and re.search(r"\b(?:" + size + r")\b", statement.group()):
            line = text.count("\n", 0, statement.start() + len(statement.group()) -
                              len(statement.group().lstrip())) + 1
            errors.append(f"{path.relative_to(root)}:{line}: a weight's name and a size in one statement")

print("\n".join(errors) or f"weight_tree: {sum(map(len, names.values()))} weights, each name and shape in one walk")
sys.exit(bool(errors))
