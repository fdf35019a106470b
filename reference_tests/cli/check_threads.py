#!/usr/bin/env python3
"""No false alarms: runs of exec::cpu on 1, 2, 3, 4 and 8 threads, exact and fast, are verified against recordings of the
specification, and every one must pass.  Standard library only.

  check_threads.py --dsv4 build/dsv4            five runs, one per number of threads
  check_threads.py --dsv4 build/dsv4 --runs 20  other tokens every five runs

A run is judged five times:
  exact, official    bundle            strict, value against value; faithful, operator by operator (forced)
  fast, official     dump of forward   faithful, operator by operator (forced): other sums, the same operators
  exact, float32     bundle            faithful, value against value
  fast, float32      dump of forward   faithful, value against value"""
import argparse
import pathlib
import random
import subprocess
import sys
import tempfile

model = pathlib.Path(__file__).resolve().parents[1] / "data/official/flash-mini"
parser = argparse.ArgumentParser()
parser.add_argument("--dsv4", required=True)
parser.add_argument("--runs", type=int, default=5)
arguments = parser.parse_args()
thread_counts = (1, 2, 3, 4, 8)
judged = alarms = 0


def dsv4(*args):
    return subprocess.run([arguments.dsv4, *map(str, args)], capture_output=True, text=True)


def must(*args):
    done = dsv4(*args)
    if done.returncode:
        sys.exit(f"dsv4 {' '.join(map(str, args))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def verify(what, *args):
    global judged, alarms
    done = dsv4("verify", *args)
    judged += 1
    if done.returncode or not done.stdout.startswith("PASS"):
        alarms += 1
        print(f"ALARM: {what}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)

    def make(name, ids, *more):
        must("golden", "make", "--model", model, "--out", folder / name, "--ids", ids, "--decode", 3, "--equal-chunks", "none", "--no-weight-hash", *more)
        return folder / name

    for run in range(arguments.runs):
        group, threads = divmod(run, len(thread_counts))
        threads = thread_counts[threads]
        if run % len(thread_counts) == 0:
            r = random.Random(group)
            ids = ",".join(str(r.randrange(512)) for _ in range(r.randrange(40, 90)))
            official = make(f"official-{group}", ids, "--exec", "ref", "--mtp")
            float32 = make(f"float32-{group}", ids, "--exec", "ref", "--numerics", "float32")
        at = f"run {run}, {threads} threads, {ids.count(',') + 1} tokens"
        on = ("--exec", "cpu", "--threads", threads)
        exact = make(f"exact-{run}", ids, *on, "--mtp")
        verify(f"{at}: exact, strict", official, exact, "--policy", "strict")
        verify(f"{at}: exact, forced", official, exact, "--model", model)
        verify(f"{at}: float32", float32, make(f"exact32-{run}", ids, *on, "--numerics", "float32"))
        for numerics, golden, how in [("official", official, ("--model", model)), ("float32", float32, ())]:
            dump = folder / f"{numerics}-{run}.safetensors"
            must("forward", "--model", model, "--ids", ids, *on, "--fast", "--numerics", numerics, "--taps", ".", "--out", dump)
            verify(f"{at}: fast, {numerics}", golden, dump, "--map", "dsv4", "--ids", ids, "--numerics", numerics, "--allow-skip", r"^mtp\.", *how)
            dump.unlink()
print(f"{arguments.runs} runs, {judged} verifications, {alarms} false alarms")
sys.exit(bool(alarms or not judged))
