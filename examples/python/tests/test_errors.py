# SPDX-License-Identifier: MIT
"""The four kinds, each also the built-in exception that a program would expect."""
import json
import shutil

import pytest

import dsv4


def test_kinds():
    for kind, built_in in ((dsv4.ContractViolation, ValueError), (dsv4.FormatError, ValueError),
                           (dsv4.Unsupported, NotImplementedError), (dsv4.InternalError, Exception)):
        assert issubclass(kind, dsv4.Error) and issubclass(kind, built_in)
    assert dsv4.__version__.count(".") == 2


def test_the_callers_mistake(model, checkpoint):
    with pytest.raises(dsv4.ContractViolation, match="vocabulary of 2048"):
        model.forward(model.new_sequence(4), [2048])
    with pytest.raises(dsv4.ContractViolation, match="max_tokens 1"):
        model.forward(model.new_sequence(1), [1, 2])
    with pytest.raises(dsv4.ContractViolation, match="expected official or float32"):
        dsv4.Model(checkpoint, numerics="fp16")
    with pytest.raises(dsv4.ContractViolation, match="not a regular expression"):
        model.record(model.new_sequence(4), [1], "(")
    with pytest.raises(TypeError):
        model.forward(model.new_sequence(4), ["a"])
    with pytest.raises(TypeError):
        dsv4.Sequence()


def test_a_bad_file(tmp_path):
    with pytest.raises(dsv4.FormatError, match="does not exist"):
        dsv4.Checkpoint.open(tmp_path / "nothing")
    broken = tmp_path / "broken"
    shutil.copytree(dsv4.embedded_model(), broken)
    shard = next(broken.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:100000])
    with pytest.raises(dsv4.FormatError, match=shard.name):
        dsv4.Checkpoint.open(broken)


def test_what_is_not_implemented(tmp_path):
    other = tmp_path / "other"
    shutil.copytree(dsv4.embedded_model(), other)
    config = json.loads((other / "config.json").read_text())
    config["architectures"], config["model_type"] = ["LlamaForCausalLM"], "llama"
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(dsv4.Unsupported):
        dsv4.Checkpoint.open(other)


def test_a_file_that_cannot_be_written(model, tmp_path):
    s = model.new_sequence(4)
    model.forward(s, [1])
    with pytest.raises(dsv4.Error, match="nowhere"):
        model.save(s, tmp_path / "nowhere" / "state")
