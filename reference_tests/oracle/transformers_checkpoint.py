# SPDX-License-Identifier: MIT
"""A float checkpoint of this project in transformers, and transformers' tensors under the hub's names.

The helper of train_transformers.py."""
import json
import pathlib
import re

import safetensors.torch
import torch
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM


class BadFile(Exception):
    """A file that cannot be used: exit code 3."""


class Usage(Exception):
    """A wrong argument: exit code 2."""


# transformers' name to the hub's, tried in this order; experts are apart, see `hub_views`.
renames = [(r"^model\.", ""), ("^embed_tokens", "embed"), ("^lm_head", "head"), (r"^hc_head\.hc_", "hc_head_"),
           (r"\.self_attn\.", ".attn."), (r"\.mlp\.", ".ffn."), ("post_attention_layernorm", "ffn_norm"),
           ("input_layernorm", "attn_norm"), (r"\.(attn|ffn)_hc\.", r".hc_\1_"), (r"\.sinks$", ".attn_sink"),
           ("q_a_norm", "q_norm"), ("q_a_proj", "wq_a"), ("q_b_proj", "wq_b"), ("o_a_proj", "wo_a"), ("o_b_proj", "wo_b"),
           (r"compressor\.indexer\.(?:scorer\.)?(weights_proj|wq_b)", r"indexer.\1"),
           (r"compressor\.indexer\.", "indexer.compressor."), (r"compressor\.kv_norm", "compressor.norm"),
           (r"shared_experts\.gate_proj", "shared_experts.w1"), (r"shared_experts\.down_proj", "shared_experts.w2"),
           (r"shared_experts\.up_proj", "shared_experts.w3"), ("position_bias", "ape"), ("gate_proj", "wgate"),
           ("kv_proj", "wkv"), (r"gate\.e_score_correction_bias", "gate.bias")]


def hub_views(tensors):
    """The tensors of transformers under the hub's names, as views: its stacked experts taken apart."""
    views = {}
    for name, t in tensors.items():
        for pattern, to in renames:
            name = re.sub(pattern, to, name)
        if name.endswith("experts.gate_up_proj"):  # [experts, w1 rows then w3 rows, hidden]
            for i, both in enumerate(t):
                views[name.replace("gate_up_proj", f"{i}.w1.weight")], views[name.replace("gate_up_proj", f"{i}.w3.weight")] = both.chunk(2)
        elif name.endswith("experts.down_proj"):
            for i, w2 in enumerate(t):
                views[name.replace("down_proj", f"{i}.w2.weight")] = w2
        else:
            views[name] = t
    return views


def read_tensors(path):
    try:
        return safetensors.torch.load_file(path)
    except Exception as e:
        raise BadFile(f"{path}: {e}") from e


def weight_files(directory):
    index = directory / "model.safetensors.index.json"
    if index.exists():
        return [directory / f for f in sorted(set(read_json(index)["weight_map"].values()))]
    return [f for f in (directory / "model.safetensors", directory / "weights.safetensors") if f.exists()][:1]


def read_json(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise BadFile(f"{path}: {e}") from e


def read_model(directory, random_if_none=False):
    """(DeepseekV4ForCausalLM in float32, how its weights came to be)"""
    fields = read_json(directory / "config.json")
    fields.pop("quantization_config", None)
    try:  # the ratios spelt out: transformers alone knows only 0, 4, 128, and one rate of each kind
        ratios = fields.pop("compress_ratios")[: fields["num_hidden_layers"]]
        hca = {r for r in ratios if r not in (0, 4)}
        if len(hca) > 1:
            raise BadFile(f"{directory}: ratios {sorted(hca)}: transformers knows one HCA ratio per model")
        kinds = {0: "sliding_attention", 4: "compressed_sparse_attention"}
        config = DeepseekV4Config(**fields, layer_types=[kinds.get(r, "heavily_compressed_attention") for r in ratios],
                                  compress_rates={"compressed_sparse_attention": 4, "heavily_compressed_attention": max(hca, default=128)})
        model = DeepseekV4ForCausalLM._from_config(config, dtype=torch.float32, attn_implementation="eager",
                                                   experts_implementation="eager").eval()
    except (KeyError, TypeError, ValueError) as e:
        raise BadFile(f"{directory / 'config.json'}: {type(e).__name__} {e}") from e
    files = weight_files(directory)
    if not files:
        if not random_if_none:
            raise BadFile(f"{directory}: no model.safetensors.index.json, model.safetensors or weights.safetensors")
        for n, b in model.named_buffers():
            if n.endswith("tid2eid"):
                b.copy_(torch.rand(len(b), config.n_routed_experts).argsort(1)[:, : b.shape[1]])
        return model, "random"
    missing = hub_views(model.state_dict())
    with torch.no_grad():
        for file in files:
            for name, t in read_tensors(file).items():
                if name.startswith("mtp."):
                    continue
                place = missing.pop(name, None)
                if place is None or place.shape != t.shape:
                    expected = "no such name (a quantised checkpoint?)" if place is None else list(place.shape)
                    raise BadFile(f"{file}: {name} {list(t.shape)}, expected {expected}")
                if t.dtype not in (torch.float32, torch.bfloat16, torch.float16) and (t.is_floating_point() or place.is_floating_point()):
                    raise BadFile(f"{file}: {name} is {t.dtype}: only a float checkpoint can be compared")
                place.copy_(t)
    if missing:
        raise BadFile(f"{directory}: {len(missing)} tensors are missing, the first: {min(missing)}")
    return model, "read"


def read_ids(text, vocabulary):
    """[batch, length] of 1,5,9 or [1,5,9] or [[1,5],[9,2]], or of a file that holds one, or of input_ids in a .safetensors."""
    path = pathlib.Path(text)
    if path.suffix == ".safetensors":
        rows = read_tensors(path).get("input_ids", torch.tensor([])).tolist()
    else:
        source = path.read_text().strip() if len(text) < 4096 and path.is_file() else text.strip()
        try:
            rows = json.loads(source if source.startswith("[") else f"[{source}]")
        except ValueError as e:
            raise Usage(f"--ids: {e}") from e
    rows = rows if rows and isinstance(rows[0], list) else [rows]
    flat = [i for row in rows for i in row]
    if not flat or len({len(row) for row in rows}) > 1 or not all(isinstance(i, int) and 0 <= i < vocabulary for i in flat):
        raise Usage(f"--ids: expected rows of equal length, ids below {vocabulary}")
    return torch.tensor(rows)
