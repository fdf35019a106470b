#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Dumps what a served model computes, module by module, for `dsv4 golden convert` (docs/verify-another-engine.md).

Needs the engine's own torch and nothing else.  DSV4_DUMP names the folder; DSV4_DUMP_MODULES a regular expression that
narrows the modules (searched; default: all).  One request at a time, no CUDA graphs, no prefix cache: else rows of other
requests, of padding, or none at all are in the dump.

  vLLM     a plugin of the group vllm.general_plugins, `dsv4_dump = torch_dump:vllm_register`, then
             DSV4_DUMP=dump vllm serve DIR --enforce-eager --no-enable-prefix-caching --max-num-seqs 1
  SGLang   python -m sglang.launch_server --model-path DIR --disable-cuda-graph --disable-radix-cache --max-running-requests 1
             --forward-hooks '[{"name": "dsv4", "target_modules": [""], "hook_type": "forward_pre", "with_kwargs": true,
                                "hook_factory": "torch_dump:sglang_hook", "config": {"folder": "dump"}}]'
  any      torch_dump.attach(model, "dump")

Each module's outputs are dump/CALL/MODULE.npy (.0, .1 of a tuple), its inputs MODULE.in.0; CALL is prefill, decode00132
or chunk00005, by the first position of the call.  The last request is kept.  Only rank 0 writes.  Maps: docs/maps/vllm-sglang-template.json."""
import os, pathlib, re, shutil, struct


def write_npy(path, tensor):
    """A tensor as .npy: floats as float32, which holds bf16 and f16 exactly, integers as int32."""
    real = tensor.is_floating_point()
    t = tensor.detach().float() if real else tensor.detach().int()
    shape = "".join(f"{int(n)}, " for n in tensor.shape)
    text = f"{{'descr': '{'<f4' if real else '<i4'}', 'fortran_order': False, 'shape': ({shape}), }}\n".encode()
    path.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + t.cpu().contiguous().numpy().tobytes())


class Dump:
    def __init__(self, folder, modules=""):
        self.folder, self.wanted, self.call, self.uses, self.made = pathlib.Path(folder), re.compile(modules), None, {}, []

    def begin(self, positions):
        """A call of the whole model begins; its name comes from its positions."""
        first, count = int(positions.flatten()[0]), int(positions.shape[-1])
        self.call = "prefill" if first == 0 else f"decode{first:05}" if count == 1 else f"chunk{first:05}"
        self.uses = {}
        if first == 0:  # the last request is kept: engines run others to warm up
            for made in self.made: shutil.rmtree(made)
            self.made = []
        made = self.folder / self.call
        if made not in self.made:
            made.mkdir(parents=True)  # not over what is there already
            self.made.append(made)

    def keep(self, name, value):
        if hasattr(value, "is_floating_point"):
            use = self.uses[name] = self.uses.get(name, -1) + 1
            write_npy(self.folder / self.call / (name + (f"#{use}" if use else "") + ".npy"), value)
        elif isinstance(value, (tuple, list)):
            for i, v in enumerate(value): self.keep(f"{name}.{i}", v)

    def attach(self, model):
        for name, module in model.named_modules():
            if name and self.wanted.search(name):
                module.register_forward_hook(lambda m, inputs, out, n=name: self.call and (self.keep(n, out), self.keep(n + ".in", inputs)) and None)


def positions_of(args, kwargs):
    """Both engines call model(input_ids, positions, ...), by place or by name."""
    return kwargs["positions"] if "positions" in kwargs else args[1] if len(args) > 1 else None


def rank(): return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


def attach(model, folder=None, modules=None):
    folder = folder or os.environ.get("DSV4_DUMP")
    if not folder or rank() != 0: return None
    dump = Dump(folder, os.environ.get("DSV4_DUMP_MODULES", "") if modules is None else modules)

    def before(module, args, kwargs):
        positions = positions_of(args, kwargs)
        if positions is not None: dump.begin(positions)
    dump.attach(model), model.register_forward_pre_hook(before, with_kwargs=True)
    dump.before = before
    return dump


def vllm_register():
    """Called by vLLM in every process before it loads a model; called again, it does nothing."""
    from vllm.model_executor.model_loader import base_loader
    loader = base_loader.BaseModelLoader
    if getattr(loader.load_model, "of_dsv4", False): return
    load = loader.load_model

    def load_model(self, *args, **kwargs):
        model = load(self, *args, **kwargs)
        attach(model)
        return model
    load_model.of_dsv4, loader.load_model = True, load_model


def sglang_hook(config):
    """A forward-pre hook of the root module, which attaches the others at its first call."""
    state = {}

    def before(module, args, kwargs):
        if "dump" not in state:  # the hook that `attach` registers runs from the next call on
            state["dump"] = attach(module, config.get("folder"), config.get("modules"))
            if state["dump"]: state["dump"].before(module, args, kwargs)
    return before
