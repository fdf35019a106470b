# SPDX-License-Identifier: MIT
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import numpy
import pytest

import dsv4
from conftest import PROMPT


def test_tokens_and_log_probabilities_are_those_of_the_command_line(model, cli):
    done = subprocess.run([cli, "generate", "--model", str(dsv4.embedded_model()), "--ids", ",".join(map(str, PROMPT)),
                           "--max-new", "12", "--threads", "1", "--logprobs", "3", "--temperature", "0.7", "--seed", "5"],
                          capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    tokens = list(model.generate(model.new_sequence(64), PROMPT, max_new=12, logprobs=3, temperature=0.7, seed=5,
                                 stop_ids=[1]))
    assert [t.id for t in tokens] == told["tokens"]
    for token, other in zip(tokens, told["logprobs"]):
        assert token.logprob == other["logprob"]
        assert token.top == [(o["id"], o["logprob"]) for o in other["top"]]


def test_log_probabilities_are_the_softmax_of_the_logits(model):
    logits = model.forward(model.new_sequence(64), PROMPT)[-1]
    token = next(model.generate(model.new_sequence(64), PROMPT, max_new=1, logprobs=2))
    p = logits - logits.max()
    p -= math.log(numpy.exp(p).sum())
    assert token.id == int(p.argmax()) == token.top[0][0]
    assert token.logprob == pytest.approx(p.max(), abs=1e-12) and token.top[1][1] <= token.logprob
    assert next(model.generate(model.new_sequence(64), PROMPT, max_new=1)).logprob is None


def test_a_token_is_computed_when_it_is_asked_for(model):
    s = model.new_sequence(64)
    g = model.generate(s, PROMPT, max_new=5)
    assert s.length == 0 and g.stop == "" and iter(g) is g
    first = next(g)
    assert s.length == len(PROMPT) and g.made == 1
    rest = list(g)
    assert len(rest) == 4 and g.stop == "length" and s.length == len(PROMPT) + 4
    # Whoever goes on begins with the last token, which nothing has read.
    more = list(model.generate(s, [rest[-1]], max_new=3))
    whole = list(model.generate(model.new_sequence(64), PROMPT, max_new=8))
    assert [t.id for t in [first, *rest, *more]] == [t.id for t in whole]


def test_stop_ids_seeds_and_biases(model):
    ids = [t.id for t in model.generate(model.new_sequence(64), PROMPT, max_new=6)]
    g = model.generate(model.new_sequence(64), PROMPT, max_new=6, stop_ids=[ids[2]])
    assert [t.id for t in g] == ids[:ids.index(ids[2]) + 1] and g.stop == "stop_id"
    draw = lambda seed: [t.id for t in model.generate(model.new_sequence(64), PROMPT, max_new=12, temperature=1.5, seed=seed)]
    assert draw(1) == draw(1) != draw(2)
    never = [t.id for t in model.generate(model.new_sequence(64), PROMPT, max_new=6, logit_bias={ids[0]: -math.inf})]
    assert ids[0] not in never
    s = model.new_sequence(64)
    model.forward(s, PROMPT)  # penalties see what the sequence held before
    assert len(list(model.generate(s, [5], max_new=4, repetition_penalty=1.3))) == 4
    for wrong in ({"temperature": -1.0}, {"top_p": 0.0}, {"max_new": 1000}):
        with pytest.raises(dsv4.ContractViolation):
            list(model.generate(model.new_sequence(64), PROMPT, **wrong))


def test_five_lines_from_nothing_to_text(model, tokenizer):
    text = "".join(dsv4.stream_text(model, tokenizer, "In the beginning", max_new=24))
    ids = [t.id for t in model.generate(model.new_sequence(64), [tokenizer.bos, *tokenizer.encode("In the beginning")],
                                        max_new=24, stop_ids=[tokenizer.eos])]
    assert text == tokenizer.decode(ids, skip_special=True) and len(text) > 20
    answer = dsv4.stream_text(model, tokenizer, dsv4.encode_chat([{"role": "user", "content": "Hi"}], thinking=False), max_new=3) \
        if tokenizer.token_to_id("<｜User｜>") is not None else ["-"]
    assert "".join(answer)


@pytest.mark.parametrize("what", ["forward", "generate"])
def test_ctrl_c_ends_a_long_call(checkpoint, what):
    slow = dsv4.Model(checkpoint, executor="ref")
    s = slow.new_sequence(2048)
    long = list(itertools.islice(itertools.cycle(PROMPT), 400))
    begin = time.perf_counter()
    alarm = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    alarm.start()
    with pytest.raises(KeyboardInterrupt):
        if what == "forward":
            slow.forward(s, long * 5)
        else:
            list(slow.generate(s, long, max_new=1600))
    assert time.perf_counter() - begin < 5
    assert s.ids == (long * 5)[:s.length]
    s.rewind(0)
    assert slow.forward(s, PROMPT[:2]).shape[0] == 2


def test_a_decode_step_through_python_costs_at_most_three_percent(model):
    def overhead():
        g = model.generate(model.new_sequence(400), PROMPT, max_new=200)
        next(g)
        begin = time.perf_counter()
        for token in g:
            token.id
        return (time.perf_counter() - begin) / g.decode_seconds - 1

    assert min(overhead() for _ in range(5)) < 0.03


def test_import_is_quick():
    code = "import time; t = time.process_time(); import dsv4; print(time.process_time() - t)"
    seconds = min(float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
                  for _ in range(3))
    assert seconds < 0.2
