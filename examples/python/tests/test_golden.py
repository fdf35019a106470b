# SPDX-License-Identifier: MIT
import gc
import shutil

import numpy
import pytest

import dsv4
from conftest import DATA, PROMPT

TINY = DATA / "bundles" / "tiny.v4gold"


@pytest.fixture(scope="module")
def tiny():
    return dsv4.Bundle.open(TINY)


def test_a_bundle_is_read_where_it_lies(tiny):
    assert tiny.numerics == "official" and len(tiny) == len(tiny.tensors) == len(tiny.manifest["tensors"])
    assert tiny.ids() == [int(i) for i in tiny.ids(0)]
    t = tiny.find("layers.0.attn.out")
    a = t.read()
    assert a.shape == t.shape and not a.flags.writeable and t.logical == "bf16" and t.call == "prefill"
    assert numpy.array_equal(dsv4.to_float32(a), t.float32())
    with pytest.raises(KeyError, match="no such tensor"):
        tiny.find("layers.0.attn.out", step=999)


def test_an_array_outlives_its_bundle():
    b = dsv4.Bundle.open(TINY)
    a = b.find("layers.0.attn.out").read()
    before = a.copy()
    del b
    gc.collect()
    assert numpy.array_equal(a, before)


def test_check_finds_damage(tmp_path):
    assert dsv4.check_bundle(TINY) == []
    shutil.copytree(TINY, tmp_path / "b")
    shard = tmp_path / "b" / "inputs.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert any("SHA-256" in p for p in dsv4.check_bundle(tmp_path / "b"))


def test_a_run_of_the_same_weights_passes_and_another_does_not(tiny, tmp_path):
    weights = dsv4.make_recipe_checkpoint(tiny, tmp_path / "weights")
    ids, plan = [tiny.ids(s) for s in range(tiny.sequences)], tiny.manifest["input"]
    how = dict(decode=plan["decode_steps"], chunks=plan["chunking"], mtp=plan["mtp"])
    mine = dsv4.make_bundle(weights, tmp_path / "mine.v4gold", ids, executor="ref", **how)
    assert dsv4.check_bundle(mine.path) == []
    verdict = dsv4.verify(tiny, mine, weights, policy="strict")
    assert verdict.passed and verdict.exit_code == 0 and verdict.culprit is None, verdict.text(all=True)
    assert verdict.json()["exit_code"] == 0 and "<html" in verdict.html()

    # One matrix of layer 1 has other signs: the first value that shows it is named.
    shutil.copytree(tmp_path / "weights", tmp_path / "wrong")
    file = next((tmp_path / "wrong").glob("*.safetensors"))
    whole, matrix = file.read_bytes(), weights.tensor("layers.1.attn.wkv.weight").tobytes()
    assert whole.count(matrix) == 1
    file.write_bytes(whole.replace(matrix, bytes(b ^ 0x80 for b in matrix)))
    other = dsv4.make_bundle(dsv4.Checkpoint.open(tmp_path / "wrong"), tmp_path / "wrong.v4gold", ids, threads=1, **how)
    verdict = dsv4.verify(tiny, other, weights)
    assert not verdict.passed and verdict.culprit == "layers.1.attn.kv_norm", verdict.text()


def test_nothing_is_overwritten_and_nothing_is_left(checkpoint, tmp_path):
    out = tmp_path / "b.v4gold"
    with pytest.raises(dsv4.ContractViolation, match="matches no value"):
        dsv4.make_bundle(checkpoint, out, [PROMPT], sites="nothing")
    assert not out.exists()
    dsv4.make_bundle(checkpoint, out, [PROMPT], sites="^head", numerics="float32")
    with pytest.raises(dsv4.ContractViolation):
        dsv4.make_bundle(checkpoint, out, [PROMPT])
    assert dsv4.check_bundle(out) == []
