#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets, corpus/TARGET/seed-*: small valid files, and one malformed of a kind each.

  make_corpus.py            and TARGET.dict, the words of the format (-dict=); findings (corpus/TARGET/found-*) stay as they are
Standard library only.  Seeds that more is learned from come first in a run, so each shows something of its own."""
import hashlib
import io
import json
import pathlib
import struct
import zipfile

here = pathlib.Path(__file__).resolve().parent
root = here.parents[1]


def seed(target, name, data):
    path = here / "corpus" / target / f"seed-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def compact(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


# ---- config.json: the published ones, an inference form, and a small one that the manifest has too
config = {
    "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "vocab_size": 64, "hidden_size": 32, "moe_intermediate_size": 16,
    "num_hidden_layers": 2, "num_hash_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16, "qk_rope_head_dim": 8,
    "q_lora_rank": 12, "o_groups": 2, "o_lora_rank": 5, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "scoring_func": "sqrtsoftplus", "routed_scaling_factor": 1.5, "swiglu_limit": 10.0, "rms_norm_eps": 1e-06, "hc_mult": 4, "hc_sinkhorn_iters": 3,
    "hc_eps": 1e-06, "sliding_window": 6, "max_position_embeddings": 128, "rope_theta": 10000.0, "compress_rope_theta": 160000.0,
    "num_nextn_predict_layers": 1, "compress_ratios": [0, 4, 0], "index_n_heads": 2, "index_head_dim": 16, "index_topk": 3, "rope_scaling": None}
seed("config_json", "small", compact(config))
seed("config_json", "yarn", compact(config | {"rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 64}}))
seed("config_json", "inference", compact({
    "vocab_size": 64, "dim": 32, "moe_inter_dim": 16, "n_layers": 2, "n_hash_layers": 1, "n_heads": 4, "head_dim": 16, "rope_head_dim": 8,
    "q_lora_rank": 12, "o_groups": 2, "o_lora_rank": 5, "n_routed_experts": 8, "n_activated_experts": 2, "route_scale": 1.5, "swiglu_limit": 10.0,
    "hc_mult": 4, "hc_sinkhorn_iters": 3, "window_size": 6, "rope_theta": 10000.0, "compress_rope_theta": 160000.0, "compress_ratios": [0, 4],
    "index_n_heads": 2, "index_head_dim": 16, "index_topk": 3, "original_seq_len": 64, "rope_factor": 4}))
seed("config_json", "other-model", '{"model_type":"deepseek_v41"}')
seed("config_json", "deep", "[" * 100)
for path in sorted((root / "reference_tests/data/configs").glob("*.json")):
    seed("config_json", path.stem, compact(json.loads(path.read_text())))

# ---- GGUF: an entry of every kind, tensors of every layout; a whole model of one layer; announcements that are not true
def gguf(entries, tensors, version=3, count=None):
    text = lambda t: struct.pack("<Q", len(t)) + t.encode()
    kinds = {"u32": (4, "I"), "i32": (5, "i"), "f32": (6, "f"), "bool": (7, "?"), "u64": (10, "Q"), "f64": (12, "d"), "u8": (0, "B"), "i64": (11, "q"), "i16": (3, "h")}

    def value(kind, v):
        if kind == "text":
            return struct.pack("<I", 8) + text(v)
        if kind == "texts":
            return struct.pack("<IIQ", 9, 8, len(v)) + b"".join(map(text, v))
        number, code = kinds[kind.rstrip("s")]
        if kind.endswith("s"):
            return struct.pack("<IIQ", 9, number, len(v)) + struct.pack(f"<{len(v)}{code}", *v)
        return struct.pack("<I" + code, number, v)

    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors) if count is None else count, len(entries))
    for key, kind, v in entries:
        head += text(key) + value(kind, v)
    data = b""
    for name, number, sizes, raw in tensors:
        head += text(name) + struct.pack("<I", len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes) + struct.pack("<IQ", number, len(data))
        data += raw + bytes(-len(raw) % 32)
    return head + bytes(-len(head) % 32) + data


every = [("general.architecture", "text", "x"), ("a", "u32", 7), ("b", "i32", -7), ("c", "f32", 1e-6), ("d", "bool", True), ("e", "u64", 1 << 40), ("f", "f64", 0.5),
         ("g", "u8s", b"abc"), ("h", "f32s", [1, 2]), ("tokens", "texts", ["", "ab"]), ("i", "i64", -1), ("j", "i16", -2)]
layouts = [("f32", 0, [3, 2], bytes(24)), ("q8_0", 8, [32], bytes(34)), ("mxfp4", 39, [64, 1], bytes(34)), ("unknown", 12, [256], bytes(144)), ("empty", 0, [0], b"")]
seed("gguf", "kinds", gguf(every, layouts))
seed("gguf", "many", gguf(every[:2], [], count=1 << 60))
seed("gguf", "short", gguf(every, layouts)[:-40])
seed("gguf", "twice", gguf(every[:1] * 2, []))
k, D, I, E, V, n = "deepseek4.", 32, 32, 2, 4, 4
model = [("general.architecture", "text", "deepseek4"), (k + "attention.compress_ratios", "u32s", [0]), (k + "swiglu_clamp_exp", "f32s", [10])]
model += [(k + key, "u32", v) for key, v in {
    "vocab_size": V, "context_length": 64, "embedding_length": D, "block_count": 1, "hash_layer_count": 0, "attention.head_count": 1, "attention.key_length": 16,
    "rope.dimension_count": 8, "attention.q_lora_rank": 32, "attention.output_group_count": 1, "attention.output_lora_rank": 8, "expert_count": E, "expert_used_count": 1,
    "expert_shared_count": 1, "expert_feed_forward_length": I, "hyper_connection.count": n, "hyper_connection.sinkhorn_iterations": 2, "attention.indexer.head_count": 1,
    "attention.indexer.key_length": 16, "attention.indexer.top_k": 2, "attention.sliding_window": 4}.items()]
model += [(k + key, "f32", v) for key, v in {
    "expert_weights_scale": 1.5, "attention.layer_norm_rms_epsilon": 1e-6, "hyper_connection.epsilon": 1e-6, "rope.freq_base": 1e4,
    "attention.compress_rope_freq_base": 1.6e5}.items()]
m = (2 + n) * n
weights = [("token_embd.weight", 30, [D, V]), ("output_norm.weight", 0, [D]), ("output.weight", 30, [D, V]), ("output_hc_fn.weight", 0, [n * D, n]), ("output_hc_base.weight", 0, [n]),
           ("output_hc_scale.weight", 0, [1])]
weights += [("blk.0." + name, number, sizes) for name, number, sizes in [
    ("attn_norm.weight", 0, [D]), ("ffn_norm.weight", 0, [D]), ("hc_attn_fn.weight", 0, [n * D, m]), ("hc_attn_base.weight", 0, [m]), ("hc_attn_scale.weight", 0, [3]),
    ("hc_ffn_fn.weight", 0, [n * D, m]), ("hc_ffn_base.weight", 0, [m]), ("hc_ffn_scale.weight", 0, [3]), ("attn_sinks.weight", 0, [1]), ("attn_q_a.weight", 8, [D, 32]),
    ("attn_q_a_norm.weight", 0, [32]), ("attn_q_b.weight", 1, [32, 16]), ("attn_kv.weight", 39, [D, 16]), ("attn_kv_a_norm.weight", 0, [16]), ("attn_output_a.weight", 30, [16, 8]),
    ("attn_output_b.weight", 0, [8, D]), ("ffn_gate_inp.weight", 30, [D, E]), ("exp_probs_b.bias", 0, [E]), ("ffn_gate_exps.weight", 39, [D, I, E]), ("ffn_up_exps.weight", 39, [D, I, E]),
    ("ffn_down_exps.weight", 39, [I, D, E]), ("ffn_gate_shexp.weight", 8, [D, I]), ("ffn_up_shexp.weight", 8, [D, I]), ("ffn_down_shexp.weight", 8, [I, D])]]
blocks = {0: (1, 4), 1: (1, 2), 30: (1, 2), 8: (32, 34), 39: (32, 17)}


def of_size(number, sizes):
    count, each = blocks[number]
    elements = 1
    for size in sizes:
        elements *= size
    return bytes(elements // count * each)


seed("gguf", "model", gguf(model, [(name, number, sizes, of_size(number, sizes)) for name, number, sizes in weights]))

# ---- manifest.json: two calls; values, a choice with its margin, entries, noise
number = 0


def entry(name, axes, shape, carrier="F32", cls="stored", site=None, step=0, call="prefill", pos=(0, 5), **more):
    global number
    scope = "head" if name.startswith("head.") else ".".join(name.split(".")[:2])
    t = {"name": name, "seq": number, "file": "taps-000.safetensors", "key": f"t{number}", "scope": scope, "site": name[len(scope) + 1:], "step": step,
         "call": call, "sequence": 0, "pos": list(pos), "axes": axes, "shape": shape, "carrier": carrier, "logical": carrier.lower(), "class": cls,
         "deps": [], "sha256": "0" * 64, "stats": {"min": -1, "max": 1.5, "rms": 0.5, "nan": 0, "inf": 0}} | more
    if scope.startswith("layers."):
        t["layer"] = int(scope[7:])
    number += 1
    return t


tensors = [
    entry("layers.0.attn_norm", ["token", "channel"], [5, 32], "BF16", noise={"relL2": 1e-3, "max_abs": 0.1, "runs": 2}),
    entry("layers.1.attn.compressor.entry", ["entry", "channel"], [1, 16], "BF16", "code", entries=[0, 1], state=["layers.1.attn_norm"]),
    entry("layers.1.ffn.gate.biased", ["token", "expert"], [5, 8], "F64", "f32_elementwise"),
    entry("layers.1.ffn.gate.indices.margin", ["token", "gap"], [5, 3], "F64", "margin"),
    entry("layers.1.ffn.gate.indices", ["token", "choice"], [5, 2], "I32", "choice", deps=["layers.1.ffn.gate.biased"],
          margin="layers.1.ffn.gate.indices.margin"),
    entry("head.logits", ["token", "vocabulary"], [1, 64], "F32", "logits", step=1, call="decode", pos=(5, 6))]
# The canonical text has the compiler's shortest numbers (1e-06, 10.0), as Python's.
manifest = {
    "schema": "v4gold/1", "name": "seed", "created_by": {"program": "make_corpus.py"}, "oracle": {"kind": "none"}, "numerics": {"policy": "official"},
    "config": config, "config_sha256": hashlib.sha256(compact(config).encode()).hexdigest(), "weights": {"kind": "recipe", "recipe": "none", "seed": 1},
    "input": {"ids_sha256": "0" * 64, "tokens": [6], "prefill": 5, "decode_steps": 1, "chunking": [], "mtp": False, "ladder": ""},
    "calls": [{"step": 0, "kind": "prefill", "parts": [{"sequence": 0, "pos": [0, 5]}]}, {"step": 1, "kind": "decode", "parts": [{"sequence": 0, "pos": [5, 6]}]}],
    "equal_runs": [{"what": "chunks", "lengths": [2, 1], "equal": True}],
    "files": [{"name": n, "bytes": 4096, "raw_bytes": 4096, "sha256": "0" * 64} for n in ("inputs.safetensors", "taps-000.safetensors")],
    "hash": {"algo": "sha256", "over": "raw little-endian bytes, row-major"}, "tensors": tensors, "x_note": [1, {"a": None}]}
seed("manifest", "good", compact(manifest))
seed("manifest", "files", compact(manifest | {"weights": {"kind": "files", "files": [{"name": "a", "bytes": 1, "sha256": "0" * 64}]}, "tensors": []}))
seed("manifest", "hostile-name", compact(manifest | {"files": [manifest["files"][0] | {"name": "../../etc/passwd"}]}))
seed("manifest", "absurd-shape", compact(manifest | {"tensors": [tensors[0] | {"shape": [5, 2**48]}]}))
seed("manifest", "deep", "[" * 100)
seed("manifest", "twice", '{"schema":"v4gold/1","schema":"v4gold/1"}')


# ---- safetensors
def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, str) else compact(header)
    return struct.pack("<Q", len(text) if length is None else length) + text.encode() + data


two = {"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {"dtype": "BF16", "shape": [1, 3], "data_offsets": [8, 14]}}
seed("safetensors", "two", safetensors(two, bytes(14)))
seed("safetensors", "empty", safetensors({}))
seed("safetensors", "scalar-and-none", safetensors({"s": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]}, "n": {"dtype": "F8_E4M3", "shape": [0, 7], "data_offsets": [8, 8]}}, bytes(8)))
seed("safetensors", "absurd-length", safetensors(two, bytes(14), 2**62))
seed("safetensors", "overflow", safetensors({"a": {"dtype": "F64", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, bytes(8)))
seed("safetensors", "overlap", safetensors({"a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}, "b": {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]}}, bytes(8)))
plain = safetensors(two, bytes(14))
# A zstd frame by hand: magic, single segment with its size in one byte, one raw block (the last).
seed("safetensors", "zstd", b"\x28\xb5\x2f\xfd\x20" + bytes([len(plain)]) + ((len(plain) << 3) | 1).to_bytes(3, "little") + plain)


# ---- npy, npz
def npy(descr, shape, data, version=1, order=False):
    text = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + data


seed("npy", "f4", npy("<f4", (2, 3), bytes(24)))
seed("npy", "bf16-fortran", npy("<V2", (2, 3), bytes(12), 2, True))
seed("npy", "scalar", npy("|u1", (), b"\1"))
seed("npy", "overflow", npy("<f8", (10**17, 10**17), b""))
seed("npy", "big-endian", npy(">f8", (1,), bytes(8)))
for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", method) as z:
        for member in ("a", "b"):  # a fixed date: the same bytes every time
            info = zipfile.ZipInfo(member + ".npy", (1980, 1, 1, 0, 0, 0))
            info.compress_type = method
            z.writestr(info, npy("<i4", (1,), b"\1\0\0\0"))
    seed("npy", "npz-" + name, archive.getvalue())

# ---- maps: what a rule may say, then a name
rule = {"match": "a", "to": "head.norm", "axes": ["batch", "token", "channel"], "slice": {"axis": "channel", "from": 0, "to": "hidden_size"}, "occurrence": 0,
        "layout": "half", "scale": {"head_dim": -0.5}, "dtype": "F64", "invert": "rope", "also": True, "regroup": True, "take": "last", "permute": [1, 0], "note": "x"}
full = {"schema": "v4map/1", "engine": "x", "numerics": "float32", "rules": [rule, {"match": "layers\\.(\\d+)\\.(.+)", "to": "layers.$1.$2"}], "ignore": ["b.*"]}
seed("name_map", "every-field", compact(full) + "\0a")
seed("name_map", "groups", compact(full) + "\0layers.12.attn.q_rope")
seed("name_map", "no-site", compact(full) + "\0layers.0.../../etc/passwd")
seed("name_map", "picks", compact({"schema": "v4map/1", "engine": "x", "rules": [{"match": "t-(\\d+)", "to": "layers.$1.attn.topk_idxs", "apply": "picks", "scale": 2}]}) + "\0t-3")
# A matcher that goes back needs 2^40 steps here.
seed("name_map", "exponential", compact({"schema": "v4map/1", "engine": "x", "rules": [{"match": "(a|a)*(a|a)*b", "to": "head.norm"}]}) + "\0" + "a" * 40)
seed("name_map", "states", compact({"schema": "v4map/1", "engine": "x", "rules": [{"match": "(((a{1000}){1000}){1000})", "to": "head.norm"}]}) + "\0a")
seed("name_map", "deep-pattern", compact({"schema": "v4map/1", "engine": "x", "rules": [{"match": "(" * 250 + ")" * 250, "to": "head.norm"}]}) + "\0a")


# ---- tokenizer.json, then a text (the target adds the tokens of the 256 bytes)
def tokenizer(pre=(), **more):
    model = {"type": "BPE", "vocab": {"th": 0, "the": 1, "<s>": 2, "ab": 3}, "merges": ["t h", "th e", "a b"]}
    return {"added_tokens": [{"id": 2, "content": "<s>", "special": True}], "model": model | more.pop("model", {}), "decoder": {"type": "ByteLevel"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*pre, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": not pre}]}} | more


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


words_pattern = "[!-/:-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
deepseek = tokenizer([split("\\p{N}{1,3}"), split("[\\u4e00-\\u9fa5]+"), split(words_pattern)])
every_flag = [{"id": 10 + i, "content": c, "special": i % 2 == 0, "normalized": i % 3 == 0, "single_word": i == 2, "lstrip": i == 3, "rstrip": i == 4}
              for i, c in enumerate(["<a>", "<a>b", "word", " x", "y ", "<s"])]
template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [2], "tokens": ["<s>"]}}}
ugly = "the <s>ab 1234\u9053\u53ef\U0001f600\n\n  e\u0301".encode() + b"\xff\xe9\x81"
for name, value in {"deepseek": deepseek, "gpt2": tokenizer(), "flags": tokenizer(added_tokens=every_flag),
                    "pairs": tokenizer(model={"merges": [["t", "h"], ["th", "e"]], "ignore_merges": True}), "template": tokenizer(post_processor=template),
                    "made-by-merges": tokenizer(added_tokens=[{"id": 1, "content": "the", "special": True}]),
                    "behaviours": tokenizer([split(" ", "MergedWithPrevious"), split("\\S", "MergedWithNext", True), split("a", "Contiguous", kind="String")]),
                    "removed": tokenizer([split("x*", "Removed")]), "look": tokenizer([split("(?<=a)b|(?<!a)c(?i:d)|(?>e+)|^.|.$")]),
                    "exponential": tokenizer([split("(a|a)*(a|a)*\\d")]), "refused": tokenizer([split("\\w[[:alpha:]]{2}+")])}.items():
    seed("tokenizer_json", name, compact(value).encode() + b"\0" + (b"a" * 40 if name == "exponential" else ugly))


# ---- saved states: of the model in state_file.cpp (window 4, ratios 0, 4, 8, MTP), at lengths around every block
def state(length, floor, mtp_length=0, ids=None, application=b"{}", more=()):
    window = lambda n, f: (n - max(0, f - 3), 4)
    rows = lambda ratio, n, f: n - max(0, f // ratio * ratio - (4 if ratio == 4 else 0))
    arrays = {"ids": ("I32", (length if ids is None else len(ids),)), "sampler_ids": ("I32", (3,)), "logits": ("F64", (16,)), "streams": ("BF16", (1, 2, 4)),
              "application": ("U8", (len(application),)), "layers.0.window": ("BF16", window(length, floor)), "layers.1.window": ("BF16", window(length, floor)),
              "layers.2.window": ("BF16", window(length, floor)), "mtp.0.window": ("BF16", window(mtp_length, max(0, mtp_length - 3)))}
    for who, ratio, width in (("layers.1.compressor", 4, 8), ("layers.1.indexer", 4, 8), ("layers.2.compressor", 8, 4)):
        arrays |= {f"{who}.kv": ("F64", (rows(ratio, length, floor), width)), f"{who}.score": ("F64", (rows(ratio, length, floor), width)),
                   f"{who}.entries": ("BF16", (length // ratio, 4))}
    arrays |= dict(more)
    size = {"I32": 4, "F64": 8, "BF16": 2, "U8": 1}
    header, data = {}, b""
    for name, (kind, shape) in sorted(arrays.items()):
        n = size[kind]
        for axis in shape:
            n *= axis
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [len(data), len(data) + n]}
        data += application if name == "application" else struct.pack(f"<{n // 4}i", *(ids or [1] * (n // 4))) if name == "ids" else b"\1" * n if kind != "I32" else bytes(n)
    numbers = {"length": length, "floor": floor, "mtp_length": mtp_length, "mtp_floor": max(0, mtp_length - 3), "seed": 2**64 - 1, "draws": 7}
    meta = {"format": "dsv4-state/1", "config_sha256": "c", "weights_sha256": "w", "policy": "official/BF16", "executor": "ref"}
    return safetensors({"__metadata__": meta | {k: str(v) for k, v in numbers.items()}} | header, data)


for n, low, pairs in ((0, 0, 0), (1, 0, 0), (9, 7, 8), (16, 14, 16), (32, 0, 31)):
    seed("state_file", f"length-{n}", b"c" + state(n, low, pairs))
seed("state_file", "too-long", b"c" + state(33, 31))
seed("state_file", "id-outside", b"c" + state(2, 0, ids=[1, 16]))
seed("state_file", "array-too-many", b"c" + state(2, 0, more=[("more", ("U8", (0,)))]))
whole = state(9, 7, 8)
# A zstd frame by hand: magic, single segment with its size in two bytes (less 256), one raw block (the last).
frame = b"\x28\xb5\x2f\xfd\x60" + (len(whole) - 256).to_bytes(2, "little") + ((len(whole) << 3) | 1).to_bytes(3, "little") + whole
seed("state_file", "body", b"z" + frame)
trailed = frame + b"\x5d\x2a\x4d\x18\x28\0\0\0dsv4st/1"
seed("state_file", "file", b"f" + trailed + hashlib.sha256(trailed).digest())
seed("state_file", "file-changed", b"f" + trailed + hashlib.sha256(frame).digest())


# ---- operations on a small model: 16 bytes of configuration, then operations (operations.cpp); low 3 bits which, high 5 how much
def play(*operations):
    return bytes(which | much << 3 for which, much in operations)


FORWARD, REWIND, STATE, FORK, REFUSED, THROWN, RESET = 0, 2, 3, 4, 5, 6, 7
usual = bytes(4) + bytes([36]) + bytes(11)  # max_rewind 3
seed("operations", "forward", usual + play((FORWARD, 0), (FORWARD, 3), (FORWARD, 11), (FORWARD, 6)))
seed("operations", "rewind", usual + play((FORWARD, 9), (REWIND, 2), (FORWARD, 2), (REWIND, 4), (REWIND, 31), (FORWARD, 5)))
seed("operations", "states", usual + play((STATE, 0), (FORWARD, 9), (STATE, 0), (REWIND, 2), (STATE, 0), (FORWARD, 6), (FORK, 3), (FORWARD, 2)))
seed("operations", "misuse", usual + play((FORWARD, 8), (REFUSED, 0), (REFUSED, 1), (REFUSED, 2), (THROWN, 3), (THROWN, 29), (RESET, 0), (THROWN, 5)))
seed("operations", "long-throws", bytes(16) + play((FORWARD, 9), (THROWN, 4), (THROWN, 22), (FORWARD, 4), (THROWN, 31), (STATE, 1), (FORWARD, 8)))
for name, b in {"one-layer": [3, 1, 1, 2, 0, 0, 0, 4], "odd-widths": [1, 0, 2, 0, 5, 7, 3, 2, 1, 0, 9, 2], "hca": [2, 1, 63, 0, 36, 0, 16, 0, 0, 0, 0, 5, 4, 2],
                "many-heads": [0, 0, 4, 1, 12, 0, 0, 8, 2, 2, 30, 1, 9, 1, 16, 3]}.items():
    seed("operations", name, bytes(b).ljust(16, b"\0") + play((FORWARD, 4), (FORK, 1), (FORWARD, 10), (REWIND, 1), (STATE, 0), (FORWARD, 7)))


# ---- words: keys, and short texts
def words(target, value, more=()):
    found = set(more)

    def visit(v):
        if isinstance(v, dict):
            found.update(v)
            for x in v.values():
                visit(x)
        elif isinstance(v, list):
            for x in v:
                visit(x)
        elif isinstance(v, str) and len(v) < 24:
            found.add(v)

    visit(value)
    (here / f"{target}.dict").write_text("".join('"' + json.dumps(w)[1:-1].replace("\\", "\\\\") + '"\n' for w in sorted(found) if w))


words("manifest", manifest, ("chunk", "mtp", "U8", "BOOL", "BF16", "9223372036854775807", "1e308", "-1", "mtp.0.", ".head."))
words("config_json", config | {"rope_scaling": {"type": "yarn", "factor": 1, "beta_fast": 1, "beta_slow": 1}}, ("dim", "n_layers", "281474976710656", "-1", "1e308"))
words("name_map", full, ("(?:", ".*", "{1000}", "|", "$1", "\\0", "picks", "sqrt_softplus", "hadamard"))
words("safetensors", two, ("F64", "F16", "F8_E4M3", "F8_E8M0", "I64", "I32", "I16", "I8", "U8", "BOOL", "18446744073709551615", "-1"))
words("tokenizer_json", [deepseek, template, every_flag, tokenizer([split("a", b, True, "String") for b in ("Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous")])],
      ("\\p{Lu}", "\\s", "(?=", "(?!", "(?<=", "(?i:", "{2,}", "[^", "++", "*?", "processors", "merges", "ignore_merges", "<s>"))
words("state_file", [], ("length", "floor", "mtp_length", "mtp_floor", "seed", "draws", "dsv4-state/1", "layers.1.indexer.kv", "layers.2.compressor.entries",
                         "BF16", "F64", "I32", "U8", "shape", "data_offsets", "32", "18446744073709551615", "-1"))
words("gguf", [e[0] for e in model], ("GGUF", "blk.0.ffn_gate_exps.weight", "general.alignment", "dsv4.fp8_scale.blk.0.attn_q_b.weight", "split.count", "yarn"))
