#!/usr/bin/env python3
"""Every verb when the system fails it: the n-th write, fsync, rename, open, mmap, mkdir or allocation fails, an input is cut
while it is mapped, the disk is full, the folder is read-only, standard output is full or closed, a signal ends the program.
After each: the exit code, a message that says why, earlier files as they were or complete, nothing left behind, and no file
of the user's touched.  Needs a C compiler for the library that makes calls fail (reference_tests/faults/faults.c).

  check_faults.py --dsv4 build/dsv4                a sample, the same every time
  check_faults.py --dsv4 build/dsv4 --all          every write, fsync, rename, open, mmap; 200 allocations a verb
  check_faults.py --dsv4 build/dsv4 -k forward     verbs whose name holds this"""
import argparse
import collections
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from expectations import expect, finish

tests = pathlib.Path(__file__).resolve().parents[1]
parser = argparse.ArgumentParser()
parser.add_argument("--dsv4", required=True)
parser.add_argument("--cc", default=os.environ.get("CC", "cc"))
parser.add_argument("--all", action="store_true")
parser.add_argument("-k", dest="pattern", default="")
parser.add_argument("-v", dest="verbose", action="store_true", help="say which verb is tried")
o = parser.parse_args()
program = str(pathlib.Path(o.dsv4).resolve())
root = os.geteuid() == 0
done = collections.Counter()

model_config = {
    "model_type": "deepseek_v4", "vocab_size": 4096, "hidden_size": 32, "moe_intermediate_size": 32, "num_hidden_layers": 2,
    "num_hash_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "qk_rope_head_dim": 8, "q_lora_rank": 16,
    "o_groups": 2, "o_lora_rank": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "routed_scaling_factor": 1.5, "swiglu_limit": 10,
    "scoring_func": "sqrtsoftplus", "index_n_heads": 4, "index_head_dim": 16, "index_topk": 4, "sliding_window": 8, "hc_mult": 4,
    "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "rms_norm_eps": 1e-6, "max_position_embeddings": 512, "rope_theta": 10000,
    "compress_rope_theta": 160000, "rope_scaling": None, "num_nextn_predict_layers": 1, "compress_ratios": [0, 4, 0]}
train_settings = {"model": "config.json", "tokenizer": "tokenizer.json", "steps": 3, "data": {"length": 16}, "batch": {"rows": 2, "rows_at_once": 2},
                  "learning_rate": {"peak": 0.01}, "checkpoint_every": 1, "eval_every": 2, "eval_rows": 1}

folder = pathlib.Path(tempfile.mkdtemp(prefix="dsv4-faults-"))
folder.chmod(0o755)
given, out, scratch = folder / "in", folder / "out", folder / "tmp"
library = folder / "faults.so"

# name, arguments, standard input, outputs (files or folders under out/), what must be there before
Verb = collections.namedtuple("Verb", "name arguments stdin outputs before")


def verb(name, *arguments, stdin="", outputs=(), before=()):
    return Verb(name, [str(a) for a in arguments], stdin, outputs, before)


M, ids, text = given / "model", given / "ids.json", given / "text.txt"
train = ["train", "--config", given / "train.json", "--data", text, "--threads", 1, "--out", out / "run"]
chat = '{"messages":[{"role":"user","content":"Hi"}],"thinking_mode":"chat"}'
verbs = [
    verb("inspect", "inspect", M, "--json"),
    verb("inspect --scan", "inspect", M, "--scan"),
    verb("forward", "forward", "--model", M, "--ids", ids, "--taps", "attn.out", "--out", out / "o.safetensors", outputs=["o.safetensors"]),
    verb("generate", "generate", "--model", M, "--ids", ids, "--max-new", 2, "--threads", 1),
    verb("generate --prompt", "generate", "--model", M, "--prompt", "the light", "--max-new", 3, "--exec", "ref", "--stop", "zzz"),
    verb("chat", "chat", "--model", M, "--max-new", 2, "--context", 64, "--think", "off", "--threads", 1,
         stdin=f"Hi\n/save {out}/chat.state\n/quit\n", outputs=["chat.state"]),
    verb("tokenize", "tokenize", "--model", M, "In the beginning"),
    verb("encode", "encode", stdin=chat),
    verb("encode --ids", "encode", "--ids", "--model", M, stdin=chat),
    verb("parse", "parse", stdin='{"text":"a<｜end▁of▁sentence｜>","thinking_mode":"chat"}'),
    verb("grad", "grad", "--model", M, "--ids", "5,6,7", "--threads", 1, "--out", out / "g.safetensors", outputs=["g.safetensors"]),
    verb("train", *train, "--json", outputs=["run"]),
    verb("train --resume", *train, "--resume", outputs=["run"], before=[("run", given / "stopped")]),
    verb("train --export-only", *train, "--export-only", outputs=["run"], before=[("run", given / "trained")]),
    verb("train --plot", "train", "--plot", given / "trained", "--out", out / "curve.svg", outputs=["curve.svg"]),
    verb("evaluate", "evaluate", "--model", M, "--data", text, "--length", 16, "--prompts", 1, "--prompt-tokens", 4, "--max-new", 2, "--threads", 1),
    verb("golden weights", "golden", "weights", M / "config.json", "--tokenizer", M / "tokenizer.json", "--out", out / "weights", outputs=["weights"]),
    verb("golden make", "golden", "make", "--model", M, "--ids", "1,5,9", "--sites", "attn.out|logits", "--equal-chunks", "none", "--exec", "ref",
         "--out", out / "made.v4gold", outputs=["made.v4gold"]),
    verb("golden make --zstd", "golden", "make", "--model", M, "--ids", "1,5,9", "--sites", "ffn.out", "--equal-chunks", "none", "--exec", "ref",
         "--zstd", "--out", out / "made.v4gold", outputs=["made.v4gold"]),
    verb("golden check", "golden", "check", given / "golden.v4gold"),
    verb("golden convert", "golden", "convert", given / "dump.safetensors", out / "conv.v4gold", "--map", "dsv4", "--config", M, "--ids", "1,5,9",
         outputs=["conv.v4gold"]),
    verb("verify", "verify", given / "golden.v4gold", given / "golden.v4gold", "--mode", "free", "--json", out / "r.json", "--junit", out / "r.xml",
         "--html", out / "r.html", outputs=["r.json", "r.xml", "r.html"]),
    verb("help", "generate", "--help"),
    verb("version", "--version"),
]
verbs = [v for v in verbs if o.pattern in v.name]
changing = {"r.json", "r.xml", "r.html", "log.jsonl", "manifest.json", "run.lock"}  # they hold times


def is_golden(v):
    return v.arguments[0] in ("golden", "verify")


def digest(path):
    if path.is_dir():
        return {f.relative_to(path).as_posix(): digest(f) for f in sorted(path.rglob("*")) if f.is_file()}
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


bystanders = {"voice.part-a": "mine", "x.part-y.mp3": "mine", "notes.txt": "mine"}


def prepare(v):
    """What the user has in the folder: an older output, and files of his own."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(scratch, ignore_errors=True)
    out.mkdir()
    scratch.mkdir()
    for name, words in bystanders.items():
        (out / name).write_text(words)
    for name in v.outputs:
        if "." in name and not name.endswith(".v4gold"):
            (out / name).write_text("an older output")
    for name, source in v.before:
        shutil.copytree(source, out / name)
    for name in bystanders:
        if (out / "run").exists():
            (out / "run" / name).write_text("mine")


def run(v, fault=None, wait=None, roots=given, **how):
    environment = {**os.environ, "TMPDIR": str(scratch), "LC_ALL": "C"}
    if fault is not None:
        environment |= {"LD_PRELOAD": str(library), "DSV4_FAULT_ROOTS": f"{roots}:{out}"}
        environment |= {"DSV4_FAULT_COUNTS": str(folder / "counts")} if fault == "count" else {"DSV4_FAULT": fault}
    how = {"stdout": subprocess.PIPE, **how}
    p = subprocess.Popen([program, *v.arguments], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, **how)
    if wait:
        time.sleep(wait[0])
        p.send_signal(wait[1])
    try:
        p.out, p.err = p.communicate(v.stdin.encode(), timeout=120)
    except subprocess.TimeoutExpired:
        p.kill()
        p.out, p.err = p.communicate()
        p.err += b"\nTHE RUN DID NOT END"
    p.err = p.err.decode(errors="replace")
    return p


def unfinished(where):
    return [f for f in where.rglob("*") if ".part-" in f.name and f.name not in bystanders]


def check_files(what, v, leftovers=False, complete=False):
    """The outputs are the old ones or the new ones; nothing else was touched or left."""
    for name, words in bystanders.items():
        for f in [out / name, *([out / "run" / name] if v.before else [])]:
            expect(f.exists() and f.read_text() == words, f"{what}: the user's {f} is gone or changed")
    if not leftovers:
        expect(not unfinished(out), f"{what}: left behind: {unfinished(out)}")
        expect(not any(scratch.iterdir()), f"{what}: left in TMPDIR: {list(scratch.iterdir())}")
    for name in v.outputs:
        now, new = digest(out / name), reference[v.name][name]
        if isinstance(new, dict):
            now = now or {}
            if name == "run":  # each file is whole by itself
                known = {**new, **(digest(v.before[0][1]) if v.before else {})}
                for f in now:
                    expect(f in known or f in bystanders or (leftovers and ".part-" in f) or f in ("run.lock", "export.lock"), f"{what}: {f} is new")
            else:
                whole = {f for f in new} == set(now) and all(now[f] == new[f] for f in new if f.split("/")[-1] not in changing)
                gone = not now or (leftovers and "manifest.json" not in now and "model.safetensors.index.json" not in now)
                expect(whole or (gone and not complete), f"{what}: {name} is half there: {sorted(now)}")
        else:
            old = hashlib.sha256(b"an older output").hexdigest()
            is_new = now == new or (name in changing and now not in (None, old))
            expect(is_new or (now == old and not complete), f"{what}: {name} is neither the old one nor the new one")
    shown = [f.relative_to(out).parts[0] for f in out.iterdir()]
    expect(set(shown) <= set(bystanders) | set(v.outputs) or leftovers, f"{what}: {shown}")


def goes_on(what, v):
    """A run whose training failed goes on to the same models."""
    again = run(verb("train", *train, "--resume"))
    expect(again.returncode == 0, f"{what}: --resume: {again.returncode} {again.err[-500:]}")
    for part in ("float", "official"):
        new = {f: d for f, d in reference["train"]["run"].items() if f.startswith(part + "/")}
        now = {f: d for f, d in digest(out / "run").items() if f.startswith(part + "/")}
        expect(now == new, f"{what}: after --resume {part} has other bits")


errors = {"ENOSPC": "No space left on device", "EIO": "Input/output error", "EACCES": "Permission denied", "EMFILE": "Too many open files",
          "ENOMEM": "Cannot allocate memory", "ENOLCK": "No locks available"}


def check_fault(v, kind, n, code, later):
    fault = f"{kind}:{n}{'+' if later else ''}:{code}"
    what = f"{v.name}: {fault}"
    prepare(v)
    p = run(v, fault)
    done[kind] += 1
    golden = is_golden(v)
    if kind in ("write", "fsync", "rename", "mkdir"):
        codes = {74} if golden else {1}
    elif kind == "malloc":
        codes = {70} if golden else {1}
    elif kind == "flock":
        codes = {1}
    else:
        codes = {2, 66, 70, 74} if golden else {1, 3}
    if p.returncode == 0:  # done without what failed
        check_files(what, v, complete=True)
    else:
        expect(p.returncode in codes, f"{what}: exit code {p.returncode}, expected one of {sorted(codes)}: {p.err[-500:]}")
        lines = [line for line in p.err.splitlines() if line.startswith("dsv4: ")]
        told = bool(lines) or (v.name == "golden check" and b"NOT OK" in (p.out or b""))  # whose report says what it found
        expect(told, f"{what}: no message: {p.err[-500:]}")
        if kind in ("write", "fsync", "rename", "mkdir"):
            expect(errors[code] in p.err and str(folder) in p.err, f"{what}: the message does not say why and which file: {p.err[-500:]}")
        elif kind == "malloc":
            expect("memory" in p.err or str(folder) in p.err, f"{what}: {p.err[-500:]}")
        elif lines:
            expect(str(folder) in p.err, f"{what}: the message names no file: {p.err[-500:]}")
        check_files(what, v)
    if v.arguments[0] == "train" and "run" in v.outputs and "--export-only" not in v.arguments and kind != "malloc":
        goes_on(what, v)


def check_cut(v, n):
    what = f"{v.name}: input {n} cut while mapped"
    prepare(v)
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(given, copy, symlinks=True)
    moved = v._replace(arguments=[a.replace(str(given), str(copy)) for a in v.arguments])
    p = run(moved, f"cut:{n}", roots=copy)
    done["cut"] += 1
    cut = [f for f in copy.rglob("*") if f.is_file() and f.stat().st_size == 0]
    if not cut:  # a mapping of the program's own files
        return
    code = 74 if is_golden(v) else 3
    expect(p.returncode == code, f"{what}: exit code {p.returncode}, expected {code}: {p.err[-500:]}")
    expect(str(cut[0]) in p.err and ("was cut short" in p.err or "was changed" in p.err), f"{what}: {p.err[-500:]}")
    if "was cut short" in p.err:
        check_files(what, v)


def check_streams(v):
    said = bool(run_of[v.name].out)
    failed = 74 if is_golden(v) else 1
    for name, reason in (("full", "No space left on device"), ("closed", "Bad file descriptor")):
        prepare(v)
        what = f"{v.name}: standard output is {name}"
        if name == "full":
            with open("/dev/full", "wb") as full:
                p = run(v, stdout=full)
        else:
            p = run(v, stdout=None, preexec_fn=lambda: os.close(1))
        done["streams"] += 1
        expect(p.returncode == (failed if said else 0), f"{what}: exit code {p.returncode}: {p.err[-300:]}")
        if said:
            expect(f"standard output cannot be written: {reason}" in p.err, f"{what}: {p.err[-300:]}")
        check_files(what, v)


def check_signal(v, number, after):
    prepare(v)
    what = f"{v.name}: {signal.Signals(number).name} after {after:.3f} s"
    p = run(v, wait=(after, number))
    done["signals"] += 1
    allowed = {0, -number} | ({130} if v.arguments[0] == "train" and number == signal.SIGINT else set())
    expect(p.returncode in allowed, f"{what}: exit code {p.returncode}: {p.err[-300:]}")
    # A kill leaves an unfinished file, and a folder without the file that makes it one; other signals nothing.
    check_files(what, v, leftovers=number == signal.SIGKILL)
    if v.name in ("train", "train --resume"):
        goes_on(what, v)


def check_read_only(v):
    if not v.outputs:
        return
    prepare(v)
    what = f"{v.name}: a read-only folder"
    for d in [out, *(f for f in out.rglob("*") if f.is_dir())]:
        d.chmod(0o555)
    os.chmod(scratch, 0o777)
    p = run(v, **({"user": 65534, "group": 65534, "extra_groups": []} if root else {}))
    for d in [out, *(f for f in out.rglob("*") if f.is_dir())]:
        d.chmod(0o755)
    done["read-only"] += 1
    expect(p.returncode == (74 if is_golden(v) else 1), f"{what}: exit code {p.returncode}: {p.err[-300:]}")
    expect("Permission denied" in p.err, f"{what}: {p.err[-300:]}")
    check_files(what, v)


def check_full_disk(v):
    """A real one of 4 KiB, where this process may mount one."""
    if not v.outputs or v.before or v.name == "train --plot":
        return
    prepare(v)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(out)], capture_output=True).returncode:
        done["no tmpfs"] += 1
        return
    try:
        p = run(v)
        done["full disk"] += 1
        what = f"{v.name}: a full disk"
        expect(p.returncode == (74 if is_golden(v) else 1), f"{what}: exit code {p.returncode}: {p.err[-300:]}")
        expect("No space left" in p.err or "the disk has" in p.err, f"{what}: {p.err[-300:]}")
        left = [f.name for f in out.rglob("*") if f.is_file() and f.name not in ("run.lock", "settings.json", "log.jsonl")]
        expect(not left, f"{what}: left behind: {left}")
    finally:
        subprocess.run(["umount", str(out)])


begin = time.monotonic()
try:
    compiled = subprocess.run([o.cc, "-O1", "-shared", "-fPIC", "-o", library, tests / "faults/faults.c", "-ldl"], capture_output=True, text=True)
    if compiled.returncode:
        print("skipped: the library that makes calls fail needs a C compiler:", compiled.stderr[:300])
        sys.exit(0)
    # Inputs.
    given.mkdir()
    (given / "config.json").write_text(json.dumps(model_config))
    shutil.copyfile(tests / "data/text/tokenizer.json", given / "tokenizer.json")
    (given / "train.json").write_text(json.dumps(train_settings))
    ids.write_text("[1, 5, 9, 4]")
    r = random.Random(1)
    words = ["light", "water", "earth", "heaven", "the", "and", "of", "said", "was", "upon"]
    text.write_text("\n".join(" ".join(r.choice(words) for _ in range(12)) for _ in range(30)) + "\n")

    def make(*arguments):
        subprocess.run([program, *map(str, arguments)], check=True, capture_output=True)
    make("golden", "weights", given / "config.json", "--tokenizer", given / "tokenizer.json", "--out", M)
    make("golden", "make", "--model", M, "--ids", "1,5,9", "--sites", "attn.out|ffn.out|logits", "--equal-chunks", "none", "--zstd", "--out", given / "golden.v4gold")
    make("forward", "--model", M, "--ids", "1,5,9", "--taps", "attn.out", "--out", given / "dump.safetensors")
    make("train", "--config", given / "train.json", "--data", text, "--threads", 1, "--out", given / "trained")
    make("train", "--config", given / "train.json", "--data", text, "--threads", 1, "--out", given / "stopped", "--stop-at", 1)
    inputs = digest(given)

    # Each verb as it should be, and how often it calls what.
    reference, counts, run_of, seconds = {}, {}, {}, {}
    for v in [*verbs, *([] if any(v.name == "train" for v in verbs) else [verb("train", *train, "--json", outputs=["run"])])]:
        prepare(v)
        at = time.monotonic()
        run_of[v.name] = p = run(v)
        seconds[v.name] = time.monotonic() - at
        expect(p.returncode == 0, f"{v.name}: exit code {p.returncode}: {p.err[-500:]}")
        reference[v.name] = {name: digest(out / name) for name in v.outputs}
        expect(not unfinished(out) and not any(scratch.iterdir()), f"{v.name}: left behind")
        prepare(v)
        run(v, "count")
        counts[v.name] = {k: int(n) for k, n in (line.split() for line in (folder / "counts").read_text().splitlines())}
    if o.all:
        for name, c in counts.items():
            print(f"{name:22}", *(f"{k} {n}" for k, n in c.items() if n))

    r = random.Random(2)
    plan = {"write": ("ENOSPC", "EIO"), "fsync": ("EIO",), "rename": ("ENOSPC",), "mkdir": ("ENOSPC",), "flock": ("ENOLCK",),
            "open": ("EACCES", "EMFILE"), "mmap": ("ENOMEM",), "malloc": ("ENOMEM",)}
    for v in verbs:
        if o.verbose:
            print(f"{time.monotonic() - begin:5.0f} s  {v.name}", flush=True)
        for kind, codes in plan.items():
            total = counts[v.name][kind]
            most = (200 if kind == "malloc" else 10**9) if o.all else (4 if kind == "malloc" else 2 if kind in ("write", "open") else 1)
            if kind == "malloc":  # few at the beginning, many later
                some = sorted({min(total, int(r.uniform(1, total ** r.uniform(0.2, 1)) + 1)) for _ in range(most)}) if total else []
            else:
                some = range(1, total + 1) if total <= most else sorted(r.sample(range(1, total + 1), most))
            for n in some:
                for code in codes if o.all else [r.choice(codes)]:
                    # The disk stays full; a file stays unreadable; memory comes back.
                    check_fault(v, kind, n, code, later=kind == "write" and code == "ENOSPC")
        mapped = counts[v.name]["mmap"]
        for n in range(1, mapped + 1) if o.all or mapped <= 1 else [r.randint(1, mapped)]:
            check_cut(v, n)
        check_streams(v)
        if v.outputs:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                for _ in range(20 if o.all else 1):
                    check_signal(v, number, r.uniform(0, 1.2 * seconds[v.name]))
        if root and subprocess.run([program, "--version"], user=65534, capture_output=True).returncode:
            done["not readable to nobody"] += 1
        else:
            check_read_only(v)
        if root:
            check_full_disk(v)
        expect(digest(given) == inputs, f"{v.name}: an input was changed")
        inputs = digest(given)

    # An output that is an input.
    own = folder / "own"
    shutil.copytree(M, own)
    shutil.copyfile(ids, own / "ids.json")
    before = digest(own)
    shards = [f.name for f in own.iterdir() if f.suffix == ".safetensors"]
    (folder / "link").symlink_to(own / shards[0])
    for target in (own / shards[0], folder / "link", own / "config.json", own / "ids.json"):
        for name in ("forward", "grad"):
            p = subprocess.run([program, name, "--model", own, "--ids", own / "ids.json", "--out", target], capture_output=True, text=True)
            expect(p.returncode == 2 and "is an input of this run" in p.stderr, f"{name} --out {target}: {p.returncode} {p.stderr}")
    p = subprocess.run([program, "chat", "--model", own], input=f"/save {own / shards[0]}\n", capture_output=True, text=True)
    expect(p.returncode == 2 and "is being read" in p.stderr, f"/save over the model: {p.returncode} {p.stderr}")
    expect(digest(own) == before, "an input was replaced")
    # Links and devices.
    (folder / "curve.svg").symlink_to("drawn.svg")
    (folder / "chat").symlink_to("/dev/null")
    p = subprocess.run([program, "train", "--plot", given / "trained", "--out", folder / "curve.svg"], capture_output=True, text=True)
    expect(p.returncode == 0 and (folder / "curve.svg").is_symlink() and (folder / "drawn.svg").read_text().endswith("</svg>\n"), p.stderr)
    for device in ("/dev/null", folder / "chat"):
        p = subprocess.run([program, "chat", "--model", M, "--max-new", "1"], input=f"/save {device}\n", capture_output=True, text=True)
        expect(p.returncode == 0 and pathlib.Path("/dev/null").is_char_device(), f"/save {device}: {p.stderr}")
finally:
    shutil.rmtree(folder, ignore_errors=True)
print(", ".join(f"{n} {k}" for k, n in done.items()), f"in {time.monotonic() - begin:.0f} s")
finish("faults")
