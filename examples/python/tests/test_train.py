# SPDX-License-Identifier: MIT
import gc
import json

import numpy
import pytest

import dsv4
from conftest import PROMPT, SOURCE

TEXT = "".join(f"And it came to pass in year {i}, that the {w} were numbered.\n" for i in range(150)
               for w in ("tribes", "stars", "kings"))


def small(**more):
    """Settings of a model that takes milliseconds."""
    s = json.loads((SOURCE / "examples/kjv-mini/train.json").read_text())
    s["model"].update(hidden_size=64, moe_intermediate_size=32, head_dim=32, num_attention_heads=2, n_routed_experts=4)
    s["tokenizer"] = str(dsv4.embedded_model() / "tokenizer.json")
    s.update(steps=6, checkpoint_every=0, eval_every=0)
    s["data"].update(length=64)
    s["batch"] = {"rows": 2}
    s.update(more)
    return s


def test_the_gradient_is_that_of_the_loss(checkpoint):
    g = dsv4.gradients(checkpoint, PROMPT, executor="ref")
    model = dsv4.Model(checkpoint, numerics="float32", executor="ref")
    logits = model.forward(model.new_sequence(16), PROMPT)
    top = logits.max(axis=1, keepdims=True)
    p = numpy.exp(logits - top)
    p /= p.sum(axis=1, keepdims=True)
    loss = -numpy.log(p[numpy.arange(len(PROMPT) - 1), PROMPT[1:]]).mean()
    assert g.tokens == len(PROMPT) - 1 and g.loss == pytest.approx(loss, abs=1e-4)
    # The gradient by the read-out matrix, by hand: mean of (p - target) times the normed streams.
    d = p[:-1] / g.tokens
    d[numpy.arange(g.tokens), PROMPT[1:]] -= 1 / g.tokens
    x = model.record(model.new_sequence(16), PROMPT, "^head.norm$").float32("head.norm")[:-1]
    assert g["head.weight"].dtype == numpy.float64
    assert numpy.abs(g["head.weight"] - d.T @ x).max() < 1e-4
    fast = dsv4.gradients(checkpoint, PROMPT, threads=1)
    assert fast["head.weight"].dtype == numpy.float32 and fast.loss == pytest.approx(g.loss, abs=1e-4)
    assert "embed.weight" in g.names and len(g) == len(g.names)


def test_gradients_are_lent_and_outlive_their_owner(checkpoint):
    g = dsv4.gradients(checkpoint, PROMPT, threads=1)
    a = g["head.weight"]
    assert a.__array_interface__["data"] == g["head.weight"].__array_interface__["data"] and not a.flags.owndata
    before = a.copy()
    del g
    gc.collect()
    assert numpy.array_equal(a, before)
    with pytest.raises(dsv4.ContractViolation, match="at least two"):
        dsv4.gradients(checkpoint, [1])


def test_a_run_learns_and_resumes_to_the_same_bits(tmp_path):
    run = dsv4.Trainer(small(), TEXT, threads=1)
    assert run.steps == 6 and run.steps_done == 0
    losses = [run.step()["loss"] for _ in range(3)]
    run.save(tmp_path / "half.zst")
    first = run.weight("head.weight")
    losses += [run.step()["loss"] for _ in range(3)]
    assert losses[-1] < losses[0] and run.evaluate(rows=1)["tokens"] > 0
    assert not numpy.array_equal(first, run.weight("head.weight"))  # a copy: it stayed

    again = dsv4.Trainer(small(), TEXT, threads=2)
    again.load(tmp_path / "half.zst")
    assert numpy.array_equal(again.weight("head.weight"), first)
    assert [again.step()["loss"] for _ in range(3)] == losses[3:]

    again.export(tmp_path / "float")
    again.export(tmp_path / "official", official=True)
    for folder, numerics in (("float", "float32"), ("official", "official")):
        model = dsv4.Model(dsv4.Checkpoint.open(tmp_path / folder), numerics=numerics, threads=1)
        assert model.forward(model.new_sequence(4), [5]).shape == (1, 2048)
    assert numpy.array_equal(dsv4.Checkpoint.open(tmp_path / "float").tensor("head.weight"), again.weight("head.weight"))


def test_settings(tmp_path):
    defaults = dsv4.training_settings()
    assert defaults["steps"] == 1000 and defaults["model"] is None
    with pytest.raises(dsv4.FormatError, match="model"):
        dsv4.Trainer(defaults, TEXT)
    with pytest.raises(dsv4.FormatError, match="steps"):
        dsv4.Trainer(small(stepz=3), TEXT)
    (tmp_path / "train.json").write_text(json.dumps(small()))
    assert dsv4.Trainer(tmp_path / "train.json", TEXT, threads=1).steps_done == 0
