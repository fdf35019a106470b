# SPDX-License-Identifier: MIT
"""The model: bits, memory that is nobody's copy, and memory that outlives its owner."""
import gc
import re
import threading

import numpy
import pytest

import dsv4
from conftest import DATA, PROMPT


def address(array):
    return array.__array_interface__["data"][0]


def fresh(model, n=64, back=0):
    return model.new_sequence(n, back)


def test_chunks_change_no_bit(model):
    whole = model.forward(fresh(model), PROMPT)
    assert whole.shape == (len(PROMPT), model.vocab_size) and whole.dtype == numpy.float64
    s = fresh(model)
    parts = [model.forward(s, PROMPT[:4]), model.forward(s, PROMPT[4:])]
    assert numpy.array_equal(numpy.concatenate(parts), whole)
    assert s.ids == PROMPT and len(s) == s.length == len(PROMPT)


def test_executors_and_numerics_agree_where_they_must(checkpoint, model):
    ref = dsv4.Model(checkpoint, executor="ref")
    a, b = model.record(fresh(model), PROMPT, r"attn\.out$"), ref.record(fresh(ref), PROMPT, r"attn\.out$")
    assert a.names == b.names and len(a.names) == 4
    for name in a.names:  # stored values: bit for bit
        assert a.dtype(name) == "BF16" and numpy.array_equal(a[name], b[name])
    fast = dsv4.Model(checkpoint, executor="cpu_fast", threads=1)
    assert fast.forward(fresh(fast), PROMPT).dtype == numpy.float32
    plain = dsv4.Model(checkpoint, numerics="float32", threads=1)
    assert numpy.abs(plain.forward(fresh(plain), PROMPT) - a.logits).max() < 2


def test_a_batch_is_its_sequences_alone(model):
    one, two = fresh(model), fresh(model)
    both = model.forward_batch([one, two], [PROMPT, PROMPT[:3]], last_only=True)
    assert both.shape == (2, model.vocab_size)
    alone = model.forward(fresh(model), PROMPT[:3], last_only=True)
    assert numpy.allclose(both[1], alone[0], rtol=0, atol=1e-9)
    with pytest.raises(dsv4.ContractViolation, match="twice"):
        model.forward_batch([one, one], [[1], [2]])


def test_numpy_ids_and_tokens_are_ids(model):
    ids = numpy.array(PROMPT, dtype=numpy.int32)
    assert numpy.array_equal(model.forward(fresh(model), ids), model.forward(fresh(model), PROMPT))
    token = next(model.generate(fresh(model), ids.astype(numpy.int64), max_new=1))
    assert model.forward(fresh(model), [token]).shape == (1, model.vocab_size)


def test_logits_go_where_they_are_asked_for(model):
    out = numpy.full((len(PROMPT), model.vocab_size), numpy.nan)
    returned = model.forward(fresh(model), PROMPT, out=out)
    assert returned is out and numpy.isfinite(out).all()
    for wrong in (out[:2], out.astype(numpy.float32), out.T, [[0.0]]):
        with pytest.raises(dsv4.ContractViolation, match="out must be"):
            model.forward(fresh(model), PROMPT, out=wrong)
    out.flags.writeable = False
    with pytest.raises(dsv4.ContractViolation, match="writable"):
        model.forward(fresh(model), PROMPT, out=out)


def test_recorded_values_are_lent_not_copied(model):
    r = model.record(fresh(model), PROMPT, r"^layers\.1\.|^head\.")
    assert "layers.1.attn.out" in r and "layers.2.attn.out" not in r and len(r) == len(r.names)
    for name in r.names:
        assert address(r[name]) == address(r[name])  # the same memory whenever it is asked for
        assert r[name].base is not None and not r[name].flags.owndata
        assert len(r[name].shape) == len(r.axes(name).split())
    logits = r.logits
    assert address(logits) == address(r.logits)
    assert numpy.array_equal(r["head.logits"], logits)
    bits = r["layers.1.attn.out"]
    assert numpy.array_equal(dsv4.to_float32(bits), r.float32("layers.1.attn.out"))
    with pytest.raises(KeyError, match="not recorded"):
        r["layers.9.out"]


def test_weights_are_the_mapped_file(checkpoint):
    name = next(n for n in checkpoint.names if n.endswith("wkv.weight"))
    weight = checkpoint.tensor(name)
    assert address(weight) == address(checkpoint.tensor(name)) and not weight.flags.writeable
    with open("/proc/self/maps") as maps:
        files = [line for line in maps if re.search(r"kjv-mini/.*\.safetensors", line)]
    ranges = [tuple(int(x, 16) for x in line.split()[0].split("-")) for line in files]
    assert any(low <= address(weight) and address(weight) + weight.nbytes <= high for low, high in ranges)
    with pytest.raises(KeyError, match="no tensor of this name"):
        checkpoint.tensor("nothing")


def test_arrays_outlive_what_they_came_from():
    checkpoint = dsv4.Checkpoint.open(dsv4.embedded_model())
    m = dsv4.Model(checkpoint, threads=1)
    s = m.new_sequence(16)
    record = m.record(s, PROMPT, "attn.out$")
    kept = [checkpoint.tensor("embed.weight"), record["layers.0.attn.out"], record.logits, m.forward(s, [5])]
    before = [k.copy() for k in kept]
    del checkpoint, m, s, record
    gc.collect()
    junk = [numpy.ones(k.shape, k.dtype) for k in before for _ in range(4)]  # takes the memory, were it free
    for k, b in zip(kept, before):
        assert numpy.array_equal(k, b, equal_nan=b.dtype.kind == "f")
    assert junk


def test_a_sequence_keeps_its_model_and_the_model_its_checkpoint():
    s = dsv4.Model(dsv4.Checkpoint.open(dsv4.embedded_model()), threads=1).new_sequence(16, 4)
    gc.collect()
    s.rewind(0)
    assert s.copy().length == 0
    g = dsv4.Model(dsv4.Checkpoint.open(dsv4.embedded_model()), threads=1)
    g = g.generate(g.new_sequence(16), PROMPT, max_new=3)
    gc.collect()
    assert len(list(g)) == 3


def test_a_tap_sees_the_value_itself_and_may_change_it(model):
    seen, found = [], []

    def look(tap):
        a, b = tap.array, tap.array
        found.append(address(a) == address(b) and a.flags.writeable)
        seen.append((tap.name, tap.layer, tap.start, tap.tokens, tap.dtype, a.shape))

    plain = model.forward(fresh(model), PROMPT, on_tap=look, taps=r"ffn\.out$")
    assert [s[0] for s in seen] == [f"layers.{l}.ffn.out" for l in range(4)] and all(found)
    assert seen[2][1:] == (2, 0, len(PROMPT), "BF16", (len(PROMPT), 256))
    assert numpy.array_equal(plain, model.forward(fresh(model), PROMPT))  # looking changes nothing

    def silence(tap):
        tap.array[...] = 0

    assert not numpy.array_equal(plain, model.forward(fresh(model), PROMPT, on_tap=silence, taps=r"layers\.1\.ffn\.out$"))


def test_the_last_tap_is_the_logits_memory(model):
    where = []
    out = numpy.empty((len(PROMPT), model.vocab_size))
    model.forward(fresh(model), PROMPT, out=out, taps="^head.logits$", on_tap=lambda t: where.append(address(t.array)))
    assert where == [address(out)]


def test_a_tap_that_is_kept_is_told(model):
    kept = []
    with pytest.raises(dsv4.ContractViolation, match="keep a copy"):
        model.forward(fresh(model), PROMPT, on_tap=lambda t: kept.append(t.array), taps="^layers.0.ffn.out$")
    kept[0].sum()  # its memory is the model's still: a stale number, never a crash
    taps = []
    s = fresh(model)
    model.forward(s, PROMPT, on_tap=taps.append, taps="^layers.0.ffn.out$")
    with pytest.raises(dsv4.ContractViolation, match="this tap is over"):
        taps[0].array
    copies = []
    model.forward(s, [3], on_tap=lambda t: copies.append((t.array.copy(), t.float32())), taps="^layers.0.ffn.out$")
    assert numpy.array_equal(dsv4.to_float32(copies[0][0]), copies[0][1])


def test_an_exception_of_a_callback_comes_through(model):
    s = fresh(model, back=len(PROMPT))
    model.forward(s, PROMPT[:2])

    class Stop(Exception):
        pass

    def stop(tap):
        raise Stop(tap.name)

    with pytest.raises(Stop, match="layers.2"):
        model.forward(s, PROMPT[2:], on_tap=stop, taps=r"layers\.2\.")
    assert s.length == 2 and s.ids == PROMPT[:2] and s.intact
    again = model.forward(s, PROMPT[2:])
    assert numpy.array_equal(again, model.forward(fresh(model), PROMPT)[2:])
    with pytest.raises(dsv4.ContractViolation, match="in the middle of a call"):
        model.forward(fresh(model), PROMPT, on_tap=lambda t: model.forward(fresh(model), PROMPT))


def test_rewind_and_copy(model):
    s = fresh(model, back=4)
    whole = model.forward(s, PROMPT)
    fork = s.copy()
    s.rewind(len(PROMPT) - 2)
    assert s.ids == PROMPT[:-2]
    assert numpy.array_equal(model.forward(s, PROMPT[-2:]), whole[-2:])
    assert fork.ids == PROMPT and numpy.array_equal(model.forward(fork, [5]), model.forward(s, [5]))
    with pytest.raises(dsv4.ContractViolation, match="max_rewind"):
        fork.rewind(1)


def test_a_state_goes_on_to_the_same_bits(model, checkpoint, tmp_path):
    s = fresh(model)
    model.forward(s, PROMPT)
    model.save(s, tmp_path / "state", b"what\0ever")
    other = dsv4.Model(checkpoint, threads=2)
    loaded, own = other.load(tmp_path / "state", 64)
    assert own == b"what\0ever" and loaded.ids == PROMPT
    assert numpy.array_equal(other.forward(loaded, [5]), model.forward(s, [5]))
    with pytest.raises(dsv4.FormatError, match="executor"):
        dsv4.Model(checkpoint, executor="ref").load(tmp_path / "state", 64)
    with pytest.raises(dsv4.ContractViolation, match="another model"):
        other.save(s, tmp_path / "other")


def test_two_models_at_once(checkpoint, model):
    mini = dsv4.Model(dsv4.Checkpoint.open(DATA / "official" / "flash-mini"), threads=1)
    alone = mini.forward(mini.new_sequence(8), [0, 17, 42]), model.forward(fresh(model), PROMPT)
    a, b = mini.new_sequence(8), fresh(model)
    mini.forward(a, [0, 17]), model.forward(b, PROMPT[:5])
    assert numpy.array_equal(mini.forward(a, [42]), alone[0][2:])
    assert numpy.array_equal(model.forward(b, PROMPT[5:]), alone[1][5:])
    with pytest.raises(dsv4.ContractViolation, match="another model"):
        mini.forward(b, [1])


def test_threads_take_turns_on_a_model_and_none_on_two(checkpoint, model):
    expected = model.forward(fresh(model), PROMPT)
    models = [model, model, dsv4.Model(checkpoint, threads=1), dsv4.Model(checkpoint, threads=2)]
    results = [None] * len(models)

    def work(i):
        for _ in range(5):
            results[i] = models[i].forward(models[i].new_sequence(16), PROMPT)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(models))]
    [t.start() for t in threads], [t.join() for t in threads]
    assert all(numpy.array_equal(r, expected) for r in results)


def test_the_interpreter_runs_while_the_model_computes(checkpoint):
    slow = dsv4.Model(checkpoint, executor="ref")
    counted, done = [0], threading.Event()

    def count():
        while not done.is_set():
            counted[0] += 1
            done.wait(0.001)

    other = threading.Thread(target=count)
    other.start()
    slow.forward(slow.new_sequence(64), PROMPT * 4)
    seen = counted[0]
    done.set(), other.join()
    assert seen > 3  # with the interpreter's lock held it would have stood still
