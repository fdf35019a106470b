#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds logits, gradients and training speed of dsv4 against PyPI torch + transformers: CPU, float32.

  python3 -m venv venv && venv/bin/pip install torch 'transformers>=5.10.1' safetensors numpy

  build/dsv4 forward --model DIR --ids 1,5,9 --numerics float32 --exec cpu --out ours.safetensors
  venv/bin/python train_transformers.py logits --model DIR --ids 1,5,9 --ours ours.safetensors
  venv/bin/python train_transformers.py grad --model DIR --ids ids.json --out theirs.safetensors
  venv/bin/python train_transformers.py grad --model DIR --ids ids.json --ours ours.safetensors --json
  venv/bin/python train_transformers.py speed --model DIR --batch 8 --length 512 --steps 8 --optimizer muon --ours build/bench/training

DIR: config.json in the hub's fields, and model.safetensors.index.json with its shards, or model.safetensors, or
weights.safetensors: hub names, F32/BF16/F16.  mtp.* is left out: transformers has no multi-token prediction.
Speed: only runs taken by turns on one quiet machine compare; torch suffers most when cores are shared.
Exit codes: 0 done or the same, 1 differs (and anything else), 2 usage, 3 a bad file."""
import argparse
import ctypes
import json
import math
import pathlib
import re
import subprocess
import sys
import time

try:
    import safetensors.torch
    import torch
    import transformers
    from torch.nn import functional as F
    from transformers.models.deepseek_v4 import modeling_deepseek_v4 as code

    from transformers_checkpoint import BadFile, Usage, hub_views, read_ids, read_model, read_tensors
except ImportError as e:
    print(f"{e}: see the pip line in the first lines of {__file__}", file=sys.stderr)
    sys.exit(2)


def mean_loss(logits, ids):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def compare_logits(o):
    model, _ = read_model(o.model)
    ids = read_ids(o.ids, model.config.vocab_size)
    with torch.no_grad():
        theirs = model(ids, use_cache=False).logits
    ours = read_tensors(o.ours).get(o.tensor)
    if ours is None or ours.numel() != theirs.numel():
        raise BadFile(f"{o.ours}: '{o.tensor}' is {None if ours is None else list(ours.shape)}, expected {list(theirs.shape)}")
    delta = (ours.double().reshape(theirs.shape) - theirs.double()).abs()
    worst = delta.max().item()
    position = delta.amax((0, 2)).argmax().item()
    return worst <= o.tolerance, {"tokens": ids.numel(), "max_abs_difference": worst, "at_position": position,
                                  "largest_logit": theirs.abs().max().item(), "tolerance": o.tolerance}


def compare_gradients(o):
    model, _ = read_model(o.model)
    ids = read_ids(o.ids, model.config.vocab_size)
    if ids.shape[1] < 2:
        raise Usage("--ids: a loss needs at least two tokens")
    loss = mean_loss(model(ids, use_cache=False).logits, ids)
    loss.backward()
    named = dict(model.named_parameters())
    theirs = hub_views({n: p.grad for n, p in named.items() if p.grad is not None})
    without = set(hub_views({n: p.detach() for n, p in named.items() if p.grad is None}))  # the indexer: top-k has no derivative
    if o.out:
        file = {**theirs, **{f"{n}#nograd": torch.zeros(1) for n in without}, "loss": loss.detach().reshape(1), "input_ids": ids}
        safetensors.torch.save_file({n: t.contiguous() for n, t in file.items()}, o.out)
    result = {"tokens": ids.numel(), "loss": loss.item(), "gradients": len(theirs), "without_gradient": len(without)}
    if not o.ours:
        return True, result
    ours = read_tensors(o.ours)
    if "loss" not in ours or ours["loss"].numel() != 1:
        raise BadFile(f"{o.ours}: no scalar 'loss'")
    our_loss = ours["loss"].double().item()
    rows = []  # (relL2, name, norm of theirs); a gradient missing, unknown or of another shape: inf
    for name, t in theirs.items():
        a, b = ours.get(name), t.double()
        if a is None or a.shape != b.shape:
            rows.append((math.inf, f"{name} ({'missing' if a is None else list(a.shape)})", b.norm().item()))
            continue
        distance, norm = (a.double() - b).norm().item(), b.norm().item()
        rows.append((distance / norm if norm else math.inf if distance else 0.0, name, norm))
    for name in set(ours) - set(theirs) - {"loss", "input_ids"}:
        unknown = name not in without and not name.startswith("mtp.") and not name.endswith("#nograd")
        if unknown or name in without and ours[name].any():
            rows.append((math.inf, f"{name} ({'unknown name' if unknown else 'transformers has no gradient here'})", 0.0))
    rows.sort(key=lambda r: -math.inf if math.isnan(r[0]) else -r[0])  # NaN first
    relative = abs(our_loss - loss.item()) / abs(loss.item())
    over = sum(not r[0] <= o.bar for r in rows)
    result.update(our_loss=our_loss, loss_relative_difference=relative, loss_bar=o.loss_bar, worst_relL2=rows[0][0], bar=o.bar,
                  over_the_bar=over, worst=[{"relL2": r, "name": n, "norm": norm} for r, n, norm in rows[: o.worst]])
    return relative <= o.loss_bar and not over, result


class Muon:
    """The report's Algorithm 1, equal shapes as one batch; w1 and w3 of each expert are matrices of their own."""

    def __init__(self, parameters, lr=2.7e-4, momentum=0.95, decay=0.1, gamma=0.18):
        self.lr, self.momentum, self.decay, self.gamma = lr, momentum, decay, gamma
        self.groups = {}  # shape: [(parameter, its shape as a batch of matrices)], and the momentum of all of them
        for name, p in parameters:
            rows, columns = (p.shape[1] // 2 if name.endswith("gate_up_proj") else p.shape[-2]), p.shape[-1]
            self.groups.setdefault((rows, columns), []).append((p, (-1, rows, columns)))
        self.state = {}

    @staticmethod
    def orthogonal(m):
        x = m.mT if m.shape[-2] > m.shape[-1] else m
        x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        for a, b, c in [(3.4445, -4.7750, 2.0315)] * 8 + [(2.0, -1.5, 0.5)] * 2:
            s = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(s, s, s, beta=b, alpha=c), x, beta=a)
        return x.mT if m.shape[-2] > m.shape[-1] else x

    @torch.no_grad()
    def step(self):
        for shape, members in self.groups.items():
            members = [(p, view) for p, view in members if p.grad is not None]
            if not members:
                continue
            g = torch.cat([p.grad.view(view) for p, view in members])
            m = self.state.setdefault(shape, torch.zeros_like(g)).mul_(self.momentum).add_(g)
            updates = self.orthogonal(g.add_(m, alpha=self.momentum)) * (self.lr * self.gamma * max(shape) ** 0.5)
            for (p, view), u in zip(members, updates.split([p.numel() // math.prod(shape) for p, _ in members])):
                p.mul_(1 - self.lr * self.decay).sub_(u.reshape(p.shape))


def bench_steps(o):
    """Seconds of a few steps of bench/training --plain on the same batch."""
    command = [o.ours, "--plain", "--json", "--steps", "2", "--threads", str(o.threads)] + ["--adamw"] * (o.optimizer == "adamw")
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise BadFile(f"{' '.join(command)}: exit code {run.returncode}: {run.stderr.strip()}")
    found = json.loads(run.stdout)
    if found["tokens"] != o.batch * o.length:
        raise Usage(f"{o.ours} runs steps of {found['tokens']} tokens: give --batch and --length of the same product")
    return found["seconds"]


def measure_speed(o):
    torch.set_num_threads(o.threads)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: keep large buffers instead of faulting them in each step
    if o.compile == "hc":  # hundreds of small operations; compiling all of the model takes minutes
        mhc = code.DeepseekV4HyperConnection
        mhc.forward = torch.compile(mhc.forward, dynamic=False)
    torch.manual_seed(0)
    model, weights = read_model(o.model, random_if_none=True)
    c = model.train().config
    named = list(model.named_parameters())
    matrix = [(n, p) for n, p in named if o.optimizer == "muon" and p.dim() > 1 and "embed_tokens" not in n and "lm_head" not in n]
    taken = {n for n, _ in matrix}
    optimizers = [torch.optim.AdamW([p for n, p in named if n not in taken], lr=2.7e-4, betas=(0.9, 0.95), eps=1e-20,
                                    weight_decay=0.1, fused=True)] + ([Muon(matrix)] if matrix else [])

    def step(update=True):
        ids = torch.randint(c.vocab_size, (o.batch, o.length))
        start = time.perf_counter()
        mean_loss(model(ids, use_cache=False).logits, ids).backward()
        for optimizer in optimizers if update else []:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        return time.perf_counter() - start

    ways = {}
    if o.experts == "auto":  # batched_mm gathers the weights of every token: only where that fits
        gathered = o.batch * o.length * c.num_experts_per_tok * 3 * c.moe_intermediate_size * c.hidden_size * 4
        for way in ["eager", "grouped_mm"] + ["batched_mm"] * (gathered < 1 << 29):
            model.set_experts_implementation(way)
            step(False)
            ways[way] = min(step(False), step(False))
    experts = min(ways, key=ways.get) if ways else o.experts
    model.set_experts_implementation(experts)
    step()
    seconds, ours = [], []
    for _ in range(o.steps):
        seconds.append(step())
        if o.ours:  # by turns: what slows the machine for a while slows both
            ours += bench_steps(o)
    tokens = o.batch * o.length
    mean, best = sum(seconds) / len(seconds), min(seconds)
    against = {"ours_tokens_per_second": tokens * len(ours) / sum(ours), "ours_best_step_tokens_per_second": tokens / min(ours),
               "ours_seconds": [round(s, 4) for s in ours], "times_as_fast": mean * len(ours) / sum(ours),
               "times_as_fast_best_steps": best / min(ours)} if ours else {}
    return True, {"tokens_per_second": tokens / mean, "best_step_tokens_per_second": tokens / best, **against,
                  "seconds": [round(s, 4) for s in seconds], "batch": o.batch, "length": o.length, "optimizer": o.optimizer,
                  "threads": o.threads, "parameters": sum(p.numel() for _, p in named), "weights": weights, "attention": "eager",
                  "experts": experts, "experts_seconds": {w: round(s, 4) for w, s in ways.items()}, "compile": o.compile}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    count = lambda text: int(text) if int(text) > 0 else parser.error(f"{text}: expected a number above 0")

    def verb(name, run, text):
        p = verbs.add_parser(name, help=text, description=text)
        p.add_argument("--model", type=pathlib.Path, required=True, help="checkpoint directory")
        p.add_argument("--json", action="store_true", help="one JSON object on standard output")
        if name != "speed":
            p.add_argument("--ids", required=True, help="1,5,9 or [1,5,9] or [[1,5],[9,2]] or a file of one; or a .safetensors with input_ids")
        p.set_defaults(run=run)
        return p

    p = verb("logits", compare_logits, "logits of `dsv4 forward --numerics float32` against transformers")
    p.add_argument("--ours", required=True, help="what dsv4 forward --out wrote: `logits` [n, vocabulary]")
    p.add_argument("--tensor", default="logits", help="another name in --ours")
    p.add_argument("--tolerance", type=float, default=1e-3, help="largest absolute difference (1e-3)")
    p = verb("grad", compare_gradients, "mean next-token cross-entropy and the gradient of every parameter, under hub names")
    p.add_argument("--ours", help="what dsv4 grad wrote: `loss` and a gradient under each weight's name")
    p.add_argument("--out", help="write transformers' own loss and gradients")
    p.add_argument("--bar", type=float, default=1e-4, help="largest relL2 of a gradient (1e-4)")
    p.add_argument("--loss-bar", type=float, default=1e-6, help="largest relative difference of the loss (1e-6)")
    p.add_argument("--worst", type=count, default=5, help="how many of the worst gradients to name (5)")
    p = verb("speed", measure_speed, "tokens per second of training steps on random ids, after a warm-up; no weights file: random weights")
    p.add_argument("--ours", help="build/bench/training: two steps of it after each of torch's, and the ratio")
    p.add_argument("--batch", type=count, default=4)
    p.add_argument("--length", type=count, default=256)
    p.add_argument("--steps", type=count, default=5)
    p.add_argument("--threads", type=count, default=2)
    p.add_argument("--optimizer", choices=["adamw", "muon"], default="adamw", help="muon: on matrices, AdamW on the rest")
    p.add_argument("--experts", choices=["auto", "eager", "grouped_mm", "batched_mm"], default="auto", help="auto: the fastest of a trial")
    p.add_argument("--compile", choices=["hc", "off"], default="hc", help="hc: torch.compile of the hyper-connections (needs g++)")
    o = parser.parse_args()
    if o.verb == "grad" and not (o.ours or o.out):
        parser.error("grad: give --ours to compare, --out to write, or both")
    if o.verb == "speed" and o.length < 2:
        parser.error("speed: a loss needs --length of at least 2")
    if tuple(map(int, re.findall(r"\d+", transformers.__version__)[:3])) < (5, 10, 1):
        parser.error(f"transformers {transformers.__version__} computes this model wrongly: 5.10.1 or newer is needed")
    try:
        same, result = o.run(o)
    except (BadFile, Usage) as e:
        print(e, file=sys.stderr)
        return 3 if isinstance(e, BadFile) else 2
    if o.json:
        text = json.dumps({"verb": o.verb, "same": same, **result, "torch": torch.__version__, "transformers": transformers.__version__})
        print(json.dumps(json.loads(text, parse_constant=str)))  # NaN and Infinity as strings: JSON has none
    else:
        for name, value in result.items():
            for line in value if name == "worst" else [value]:
                print(f"{name:28}" + (f"{line['relL2']:.3e}  {line['name']}  norm {line['norm']:.3e}" if name == "worst" else f"{line}"))
        print("done" if o.verb == "speed" or not o.ours else "same" if same else "DIFFERS")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
