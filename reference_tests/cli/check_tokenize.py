#!/usr/bin/env python3
"""dsv4 tokenize: text to ids and pieces, ids to text, JSON lines, every way to be wrong.

  check_tokenize.py --dsv4 build/dsv4"""
import argparse
import json
import pathlib
import subprocess
import tempfile

from expectations import expect, finish

arguments = argparse.ArgumentParser()
arguments.add_argument("--dsv4", required=True)
arguments = arguments.parse_args()
folder = pathlib.Path(__file__).resolve().parents[1] / "data/text"
tokenizer = ["--tokenizer", str(folder / "tokenizer.json")]


def dsv4(*args, given=b"", code=0, said=""):
    """Standard output; `said` must be in standard error."""
    done = subprocess.run([arguments.dsv4, "tokenize", *args], input=given, capture_output=True)
    told = done.stderr.decode()
    expect(done.returncode == code, f"tokenize {' '.join(args)}: exit code {done.returncode}, expected {code}\n{told}")
    expect(said in told, f"tokenize {' '.join(args)}: expected {said!r} in\n{told}")
    return done.stdout.decode()


# Text from the argument, a file, standard input: the same.
text = "In the beginning 道\n"
told = json.loads(dsv4(*tokenizer, text))
expect("".join(told["pieces"][:3]) == "In the beginning", told)
expect(told == json.loads(dsv4(*tokenizer, given=text.encode())), "standard input")
expect(told == json.loads(dsv4("--model", str(folder), text)), "--model")
with tempfile.TemporaryDirectory() as scratch:
    path = pathlib.Path(scratch) / "text"
    path.write_text(text)
    expect(told == json.loads(dsv4(*tokenizer, "--file", str(path))), "--file")
    path.write_text(json.dumps(told["ids"]))
    expect(dsv4(*tokenizer, "--ids", str(path)) == text + "\n", "--ids of a file")
    path.write_text('{"model": 1}')
    dsv4("--tokenizer", str(path), "x", code=3, said="model: found 1, expected an object")
    dsv4("--tokenizer", str(path) + "none", "x", code=3, said="cannot be opened")
    file = json.loads((folder / "tokenizer.json").read_text())
    file["normalizer"] = {"type": "NFKC"}
    path.write_text(json.dumps(file))
    dsv4("--tokenizer", str(path), "x", code=4, said="normalizer")
expect(dsv4(*tokenizer, "") == '{"ids":[],"pieces":[]}\n', "an empty text")
expect(json.loads(dsv4(*tokenizer, given=b"\xff")) == json.loads(dsv4(*tokenizer, "\ufffd")), "bytes that are no text")

# Control tokens only where they are asked for.
user = "<｜User｜>"
allowed, plain = json.loads(dsv4(*tokenizer, user, "--special", "allowed")), json.loads(dsv4(*tokenizer, user))
expect(allowed["pieces"] == [user] and len(plain["ids"]) > 1, (allowed, plain))
expect(dsv4(*tokenizer, "--ids", "0,632,1") == "<｜begin▁of▁sentence｜>ell<｜end▁of▁sentence｜>\n", "--ids")
expect(dsv4(*tokenizer, "--ids", "0,632,1", "--skip-special") == "ell\n", "--skip-special")

# Requests, one a line; a bad one does not stop the next.
requests = ['"hi"', '{"text": "hi"}', '{"hex": "6869"}', '{"text": "<｜User｜>", "special": "allowed"}', '{"ids": [0, 632], "skip_special": true}',
            '{"ids": [4096]}', '{"ids": [-1]}', '{"ids": ["a"]}', '{"hex": "6"}', '{"hex": "zz"}', '{"text": 5}', '{"text": "a", "special": "maybe"}',
            '{"text": "a", "special": 1}', "5", "{", "", '"\\ud800"', '{"text": "last"}']
answers = [json.loads(line) for line in dsv4(*tokenizer, "--lines", given="\n".join(requests).encode()).splitlines()]
expect(len(answers) == len(requests), f"{len(answers)} answers to {len(requests)} requests")
expect(answers[0] == answers[1] == answers[2] and answers[0]["ids"], answers[:3])
expect(answers[3] == {"ids": allowed["ids"]} and answers[4] == {"text": "ell"}, answers[3:5])
for asked, answer in zip(requests[5:-1], answers[5:-1]):
    expect(list(answer) == ["error"], f"{asked}: {answer}")
expect("expected the id of a token, 0 to 4095" in answers[5]["error"], answers[5])
expect("ids" in answers[-1], answers[-1])

# Usage.
for args in ([], ["x"], [*tokenizer, "--model", str(folder), "x"], [*tokenizer, "x", "--special", "maybe"], [*tokenizer, "x", "--lines"],
             [*tokenizer, "x", "--file", "y"], [*tokenizer, "x", "--ids", "1"]):
    dsv4(*args, code=2)
dsv4(*tokenizer, "--ids", "4096", code=2, said="found 4096 at position 0")
help_text = dsv4("--help")
expect("dsv4 tokenize --model" in help_text and "--lines" in help_text, help_text)

finish("tokenize")
