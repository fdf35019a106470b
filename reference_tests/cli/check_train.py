#!/usr/bin/env python3
"""dsv4 train survives what happens to long runs: a small model is trained in one go, on one thread and on two; then again
with SIGKILL at random moments, each time resumed.  All must end in the same float32 checkpoint, byte for byte.
Also the verb's messages and exit codes, and dsv4 grad.  Standard library only.

  check_train.py --dsv4 build/dsv4
  check_train.py --dsv4 build/dsv4 --kills 50 --seed 7"""
import argparse
import hashlib
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

tests = pathlib.Path(__file__).resolve().parents[1]
parser = argparse.ArgumentParser()
parser.add_argument("--dsv4", required=True)
parser.add_argument("--kills", type=int, default=6)
parser.add_argument("--seed", type=int, default=1)
arguments = parser.parse_args()
failed = 0

model = {"model_type": "deepseek_v4", "vocab_size": 4096, "hidden_size": 32, "moe_intermediate_size": 32, "num_hidden_layers": 4,
         "num_hash_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "qk_rope_head_dim": 8, "q_lora_rank": 16,
         "o_groups": 2, "o_lora_rank": 16, "n_routed_experts": 6, "num_experts_per_tok": 2, "routed_scaling_factor": 1.5, "swiglu_limit": 10,
         "scoring_func": "sqrtsoftplus", "index_n_heads": 4, "index_head_dim": 16, "index_topk": 4, "sliding_window": 8, "hc_mult": 4,
         "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "rms_norm_eps": 1e-6, "max_position_embeddings": 1024, "rope_theta": 10000,
         "compress_rope_theta": 160000, "rope_scaling": None, "num_nextn_predict_layers": 1, "compress_ratios": [0, 4, 16, 4, 0]}
settings = {"model": "config.json", "tokenizer": str(tests / "data/text/tokenizer.json"), "steps": 24, "data": {"length": 32, "separator": "blank-line"},
            "batch": {"rows": 4, "rows_at_once": 2}, "learning_rate": {"peak": 0.02, "final": 0.002}, "quantise": {"from": 18},
            "anticipatory": {"when": "on_spike", "delay": 2, "spike": 0.5, "memory": 5, "quiet": 6, "snapshot_every": 3, "duration": 4, "most_rollbacks": 3},
            "checkpoint_every": 2, "eval_every": 8, "eval_rows": 4}


def check(what, good, more=""):
    global failed
    if not good:
        failed += 1
        print(f"FAILED: {what} {more}")


def dsv4(*args):
    return subprocess.run([arguments.dsv4, *map(str, args)], capture_output=True, text=True)


def refuses(what, code, text, *args):
    done = dsv4(*args)
    check(what, done.returncode == code and text in done.stderr, f"exit code {done.returncode}, expected {code} and {text!r}: {done.stderr}")


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    (folder / "config.json").write_text(json.dumps(model))
    (folder / "train.json").write_text(json.dumps(settings))
    r = random.Random(arguments.seed)
    words = ["light", "water", "earth", "heaven", "the", "and", "of", "said", "was", "upon"]
    text = "\n\n".join(" ".join(r.choice(words) for _ in range(r.randrange(5, 60))) + "." for _ in range(150))
    (folder / "text.txt").write_text(text)

    def arguments_of(out, *more):
        return ["train", "--config", folder / "train.json", "--data", folder / "text.txt", "--out", folder / out, *more]

    def digest(out):
        return {p.relative_to(folder / out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
                for part in ("float", "official") for p in sorted((folder / out / part).iterdir())}

    # In one go, on one thread and on two.
    begin = time.monotonic()
    done = dsv4(*arguments_of("one", "--threads", 1, "--json"))
    seconds = time.monotonic() - begin
    check("a run ends well", done.returncode == 0, done.stderr)
    if done.returncode:
        sys.exit(1)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    steps = [line for line in lines if "loss" in line]
    held_out = [line["held_out"] for line in lines if "held_out" in line]
    check("a line for every step", {line["step"] for line in steps} == set(range(1, 25)))
    check("it learns", held_out[-1]["loss"] < held_out[0]["loss"] < 8.4, held_out)
    check("the held-out text is read whole", held_out[-1]["bytes"] > 0.04 * len(text), held_out[-1])
    check("the log is what --json prints", [json.loads(line) for line in (folder / "one/log.jsonl").read_text().splitlines()] == lines)
    check("a curve", (folder / "one/loss.svg").read_text().endswith("</svg>\n"))
    dsv4(*arguments_of("two", "--threads", 2))
    wanted = digest("one")
    check("threads change no bit", digest("two") == wanted)

    # Killed at random moments.  Each attempt that makes no progress gets more time, so that the run ends.
    kills, limit = 0, seconds
    while True:
        run = subprocess.Popen([arguments.dsv4, *map(str, arguments_of("killed", "--resume", "--threads", 1 + kills % 2))], stderr=subprocess.DEVNULL)
        try:
            code = run.wait(r.uniform(0, limit) if kills < arguments.kills else None)
            check("a resumed run ends well", code == 0, f"exit code {code}")
            if kills >= arguments.kills or code:
                break
            # It ended before it was killed: kill the next one, which begins anew.
            for p in (folder / "killed").glob("checkpoint*"):
                p.unlink()
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            run.wait()
            kills += 1
    check(f"after {kills} kills the same bits", digest("killed") == wanted)
    log = [json.loads(line) for line in (folder / "killed/log.jsonl").read_text().splitlines()]
    check("its log has every step", {line["step"] for line in log if "loss" in line} == set(range(1, 25)))

    # Stopped and gone on with; exported alone; drawn together.
    dsv4(*arguments_of("parts", "--stop-at", 7))
    check("a stopped run has no model", not (folder / "parts/float").exists())
    dsv4(*arguments_of("parts", "--resume"))
    check("stop and resume: the same bits", digest("parts") == wanted)
    for p in (folder / "parts/float").iterdir():
        p.unlink()
    dsv4(*arguments_of("parts", "--export-only"))
    check("--export-only writes the models again", digest("parts") == wanted)
    done = dsv4("train", "--plot", folder / "one", folder / "two", "--out", folder / "both.svg")
    check("--plot", done.returncode == 0 and "two held-out" in (folder / "both.svg").read_text(), done.stderr)

    # Files of the user's in a run's folder stay, whatever they are called; what a kill left of the run's own goes.
    mine = [folder / "parts" / part / name for part in ("", "float", "official")
            for name in ("voice.part-a", "x.part-y.mp3", "checkpoint.safetensors.zst.part-", "notes.part-abcdef")]
    left = [folder / "parts" / name for name in ("checkpoint.safetensors.zst.part-aZ09xy", "float/config.json.part-abcdef")]
    for p in [*mine, *left]:
        p.write_text("x")
    (folder / "strange").mkdir()
    strange = [folder / "strange" / name for name in ("voice.part-a", "checkpoint.safetensors.zst.part-abcdef")]
    for p in strange:
        p.write_text("x")
    refuses("no run to export", 2, "does not exist", *arguments_of("strange", "--export-only"))
    dsv4(*arguments_of("strange", "--stop-at", 1))
    check("a folder that was no run is not tidied", all(p.exists() for p in strange))
    dsv4(*arguments_of("parts", "--export-only"))
    check("reading a run removes nothing", all(p.exists() for p in [*mine, *left]))
    done = dsv4(*arguments_of("parts", "--resume"))
    check("resuming removes what a kill left, and nothing else", done.returncode == 0 and all(p.exists() for p in mine)
          and not any(p.exists() for p in left), done.stderr)
    for p in mine:
        p.unlink()

    # A second process on a run that is going on.
    def wait_for(path, run):
        while not path.exists() and run.poll() is None:
            time.sleep(0.005)

    run = subprocess.Popen([arguments.dsv4, *map(str, arguments_of("live", "--threads", 1))], stderr=subprocess.PIPE, text=True)
    wait_for(folder / "live/checkpoint.safetensors.zst", run)
    part = folder / "live/log.jsonl.part-abcdef"
    part.write_text("as if the trainer were writing it")
    refuses("one trainer a folder", 2, f"process {run.pid} trains there now", *arguments_of("live", "--resume"))
    exports = 0
    while exports < 3 or run.poll() is None:
        done = dsv4(*arguments_of("live", "--export-only"))
        exports += 1
        check("an export of a live run", done.returncode == 0, done.stderr)
        if exports == 1:
            check("an export leaves the trainer's files alone", part.exists())
    said = run.communicate()[1]
    check("the trainer lives through exports and a second trainer", run.returncode == 0, said[-500:])
    dsv4(*arguments_of("live", "--export-only"))
    check("the models of a live run are those of its end", digest("live") == wanted, f"after {exports} exports")

    # The models are models.
    for numerics, part in (("float32", "float"), ("official", "official")):
        done = dsv4("generate", "--model", folder / "one" / part, "--numerics", numerics, "--prompt", "the light", "--max-new", 5, "--json")
        check(f"generate reads {part}", done.returncode == 0 and len(json.loads(done.stdout)["tokens"]) > 0, done.stderr)
    for ref in ((), ("--ref",)):
        done = dsv4("grad", "--model", folder / "one/float", "--ids", "5,6,7,8,9", "--out", folder / f"grads{len(ref)}.safetensors", *ref)
        check("grad", done.returncode == 0 and "loss" in done.stderr, done.stderr)
    refuses("grad needs two tokens", 2, "at least two", "grad", "--model", folder / "one/float", "--ids", "5", "--out", folder / "x")

    # What is refused, and how.
    done = dsv4("train", "--defaults")
    check("--defaults", done.returncode == 0 and json.loads(done.stdout)["muon"]["gamma"] == 0.18)
    refuses("a run is not overwritten", 2, "--resume goes on with it", *arguments_of("one"))
    kept = (folder / "one/settings.json").read_text()
    refuses("other settings", 3, "other settings: steps", *arguments_of("one", "--resume", "--steps", 30))
    check("a refused run leaves the settings", (folder / "one/settings.json").read_text() == kept)
    done = dsv4("train", "--config", folder / "one/settings.json", "--data", folder / "text.txt", "--out", folder / "again")
    check("the settings of a run make it again", done.returncode == 0 and digest("again") == wanted, done.stderr)
    with (folder / "two/log.jsonl").open("a") as log:
        log.write('{"step":24,"held_out":{"loss":null}}\n')
    done = dsv4("train", "--plot", folder / "one", folder / "two", "--out", folder / "both.svg")
    check("--plot of a log whose loss was no number", done.returncode == 0, done.stderr)
    refuses("no arguments", 2, "required", "train")
    refuses("no text", 3, "missing.txt", "train", "--config", folder / "train.json", "--data", folder / "missing.txt", "--out", folder / "x")
    refuses("nothing to export", 2, "does not exist", *arguments_of("new", "--export-only"))
    (folder / "wrong.json").write_text(json.dumps({**settings, "chekpoint_every": 5}))
    refuses("an unknown name", 3, "the nearest name is 'checkpoint_every'", "train", "--config", folder / "wrong.json", "--data", folder / "text.txt",
            "--out", folder / "x")

print(f"train: {kills} kills, {failed} failures, {seconds:.1f} s a run")
sys.exit(bool(failed))
