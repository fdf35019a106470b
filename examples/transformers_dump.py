#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Dumps a run of transformers' deepseek_v4 for `dsv4 golden convert --map transformers` (docs/verify-another-engine.md).

  pip install torch 'transformers>=5.10.1' safetensors
  python transformers_dump.py MODEL_DIR --ids 1,5,9 --out dump.safetensors
  python transformers_dump.py MODEL_DIR --random 7 --save --ids 1,5,9 --out dump.safetensors
"""
import argparse, json, pathlib, re
import safetensors.torch, torch
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM, set_seed
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as code

p = argparse.ArgumentParser()
p.add_argument("model"), p.add_argument("--ids", required=True), p.add_argument("--out", required=True)
p.add_argument("--random", type=int, help="random weights from this seed"), p.add_argument("--save", action="store_true")
p.add_argument("--exec", default="", help="Python to run on `model` before the run: plant a fault")
a = p.parse_args()
ids = json.loads(pathlib.Path(a.ids).read_text() if pathlib.Path(a.ids).exists() else f"[{a.ids.strip('[]')}]")
fields = json.loads((pathlib.Path(a.model) / "config.json").read_text())
how = dict(dtype=torch.float32, attn_implementation="eager", experts_implementation="eager")
if a.random is None:
    model = DeepseekV4ForCausalLM.from_pretrained(a.model, config=DeepseekV4Config(**fields), **how)
else:
    set_seed(a.random)
    model = DeepseekV4ForCausalLM._from_config(DeepseekV4Config(**fields), **how)
    for w in list(model.parameters()) + [b for n, b in model.named_buffers() if "correction_bias" in n]:
        torch.nn.init.normal_(w, 1 if w.dim() == 1 else 0, .3 if w.dim() == 1 else w.shape[-1] ** -.5)
    for n, b in model.named_buffers():
        if n.endswith("tid2eid"): b.copy_(torch.rand(len(b), fields["n_routed_experts"]).argsort(1)[:, : b.shape[1]])
    if a.save: safetensors.torch.save_file(model.state_dict(), f"{a.model}/model.safetensors")  # `dsv4` reads these names
exec(a.exec)

dump = {"input_ids": torch.tensor([ids])}
def keep(name, value):
    if torch.is_tensor(value): dump[name] = value.detach().clone().contiguous()
    for i, v in enumerate(value if isinstance(value, tuple) else ()): keep(f"{name}.{i}", v)
for name, module in model.named_modules():
    if name: module.register_forward_hook(lambda m, i, o, n=name: keep(n, o) or keep(n + ".in", i))
def attention(module, q, k, *rest, _was=code.eager_attention_forward, **more):  # between these calls there is no module
    out = _was(module, q, k, *rest, **more)
    keep(names[module] + ".eager", (q, k[:, :, : q.shape[2]], out[0]))
    return out
names, code.eager_attention_forward = {m: n for n, m in model.named_modules()}, attention
with torch.no_grad(): dump["logits"] = model.eval()(dump["input_ids"], use_cache=False).logits.contiguous()
safetensors.torch.save_file({n: t for n, t in dump.items() if not re.search(r"rotary_emb|act_fn", n)}, a.out)
print(f"{a.out}: {len(dump)} tensors, {len(ids)} tokens")
