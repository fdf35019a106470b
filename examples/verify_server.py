#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compares a served model with the reference through its API: log-probabilities, template, sampling, batching.

  verify_server.py http://127.0.0.1:8000 --model DIR --prompts prompts.jsonl [--dsv4 build/dsv4]

A line of the prompts is a text (one user message) or {"messages": [...]}.  Each is asked greedily for --tokens tokens
with the 20 most probable beside each (/v1/chat/completions); the answer's tokens are then given to `dsv4 forward` behind
the prompt that `dsv4 encode` makes, so that both sides speak about the same text, whatever the server chose.
What is looked at: the prompt's length and first distribution against other ways of writing it (thinking marker, begin of
text, no template); whether the tokens are the server's own most probable ones; KL over the top 20 and the rest, which is a
lower bound of the true one; whether the log-probabilities are those of another temperature; the same request twice; the
same request among others.  Standard library only.  Exit codes: 0 as the reference, 1 not, 2 usage, 3 no answer."""
import argparse, array, concurrent.futures, json, math, pathlib, statistics, struct, subprocess, sys, tempfile, urllib.error, urllib.request

TOP = 20                  # what OpenAI's protocol gives at most
SAME, OTHER = 1e-3, 5e-2  # mean KL: rounding below, other weights above, another precision between (docs/verification.md)


def run(dsv4, *arguments, text=None):
    done = subprocess.run([dsv4, *map(str, arguments)], input=text, capture_output=True, text=True)
    if done.returncode: sys.exit(f"dsv4 {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


class Reference:
    def __init__(self, dsv4, model): self.dsv4, self.model, self.ids = dsv4, model, {}

    def prompt(self, messages, mode="chat", bos=True):
        asked = {"messages": messages, "thinking_mode": mode, "add_default_bos_token": bos}
        return json.loads(run(self.dsv4, "encode", "--model", self.model, "--ids", text=json.dumps(asked)))["ids"]

    def plain(self, messages):
        return json.loads(run(self.dsv4, "tokenize", "--model", self.model, "--lines", text=json.dumps(messages[-1]["content"]) + "\n"))["ids"]

    def learn(self, tokens):
        """Ids of tokens, which come as bytes; None where the bytes are not one token."""
        new = [t for t in dict.fromkeys(tokens) if t not in self.ids]
        lines = "".join(json.dumps({"hex": t.hex(), "special": "allowed"}) + "\n" for t in new)
        for t, line in zip(new, run(self.dsv4, "tokenize", "--model", self.model, "--lines", text=lines).splitlines() if new else []):
            ids = json.loads(line).get("ids", [])
            self.ids[t] = ids[0] if len(ids) == 1 else None

    def log_probabilities(self, ids, first):
        """Of what follows each position from `first` on."""
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder, "run.safetensors")
            pathlib.Path(folder, "ids.json").write_text(json.dumps(ids))
            run(self.dsv4, "forward", "--model", self.model, "--ids", f"{folder}/ids.json", "--exec", "cpu", "--taps", r"^head\.logits$", "--out", out)
            raw = out.read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8:8 + size])
        entry = next(v for k, v in header.items() if k != "__metadata__" and k.endswith("logits"))
        a, b = entry["data_offsets"]
        logits = array.array({"F64": "d", "F32": "f"}[entry["dtype"]], raw[8 + size + a:8 + size + b])
        width, rows = entry["shape"][-1], []
        for t in range(first, len(ids)):
            row = logits[t * width:(t + 1) * width]
            top = max(row)
            z = top + math.log(sum(math.exp(x - top) for x in row))
            rows.append([x - z for x in row])
        return rows


class Server:
    def __init__(self, url, name): self.url, self.name = url.rstrip("/"), name

    def ask(self, messages, tokens):
        body = {"model": self.name, "messages": messages, "temperature": 0, "max_tokens": tokens, "logprobs": True, "top_logprobs": TOP, "reasoning_effort": "none"}
        asked = urllib.request.Request(self.url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(asked, timeout=600) as answer: got = json.load(answer)
        except (urllib.error.URLError, OSError) as e:
            print(f"{self.url}: {e}", file=sys.stderr)
            sys.exit(3)
        logprobs = got["choices"][0].get("logprobs") or {}
        steps = [{"token": bytes(s.get("bytes") or s["token"].encode()), "logprob": s["logprob"],
                  "top": {bytes(t.get("bytes") or t["token"].encode()): t["logprob"] for t in s["top_logprobs"]}}
                 for s in (logprobs.get("reasoning_content") or []) + (logprobs.get("content") or [])]
        return {"prompt_tokens": got.get("usage", {}).get("prompt_tokens"), "steps": steps}


def kl(ours, theirs):
    """Sum over what the server names, and the rest as one: at most the true divergence."""
    rest_o, rest_t, total = 1.0, 1.0, 0.0
    for i, lp in theirs.items():
        p = math.exp(ours[i])
        total += p * (ours[i] - lp)
        rest_o, rest_t = rest_o - p, rest_t - math.exp(lp)
    rest_o, rest_t = max(rest_o, 1e-12), max(rest_t, 1e-12)
    return max(0.0, total + rest_o * math.log(rest_o / rest_t))


def slope(ours, theirs):
    """How much steeper the server's log-probabilities are than ours, and what is left beside that: 1 / temperature."""
    x, y = [ours[i] for i in theirs], list(theirs.values())
    mx, my = statistics.fmean(x), statistics.fmean(y)
    xx = sum((a - mx) ** 2 for a in x)
    if xx < 1e-6: return 1.0, math.inf
    k = sum((a - mx) * (b - my) for a, b in zip(x, y)) / xx
    return k, max(abs((b - my) - k * (a - mx)) for a, b in zip(x, y))


def same(a, b): return [(s["token"], s["logprob"], s["top"]) for s in a["steps"]] == [(s["token"], s["logprob"], s["top"]) for s in b["steps"]]


def compare(server, reference, prompts, tokens, load):
    findings, kls, slopes, agree, judged, steps = [], [], [], 0, 0, 0
    alone = [server.ask(m, tokens) for m in prompts]
    for messages, answer in zip(prompts, alone):
        if not answer["steps"]: continue
        reference.learn([t for s in answer["steps"] for t in (s["token"], *s["top"])])
        known = lambda s: {reference.ids[t]: lp for t, lp in s["top"].items() if reference.ids[t] is not None}
        prompt = reference.prompt(messages)
        first = known(answer["steps"][0])

        def at_first(ids): return kl(reference.log_probabilities(ids, len(ids) - 1)[0], first)
        length, own = answer["prompt_tokens"], at_first(prompt)
        wrong_length = length is not None and length != len(prompt)
        if wrong_length or own > SAME:
            others = {"with the thinking marker of reasoning": reference.prompt(messages, "thinking"), "without the begin-of-text token": reference.prompt(messages, bos=False),
                      "with the begin-of-text token twice": prompt[:1] + prompt, "without any template": reference.plain(messages)}
            fits = [what for what, ids in others.items() if (length is None or length == len(ids)) and at_first(ids) < min(SAME, own)]
            if wrong_length or fits:
                count = f" ({length} tokens, expected {len(prompt)})" if wrong_length else ""
                findings.append(("template", "the prompt is not written as the released encoder does" + count + (f": it is as {fits[0]}" if fits else "")))
                if not fits: continue
                prompt = others[fits[0]]
        chosen = [reference.ids[s["token"]] for s in answer["steps"]]
        upto = chosen.index(None) if None in chosen else len(chosen)
        rows = reference.log_probabilities(prompt + chosen[:upto], len(prompt) - 1)
        for s, row in zip(answer["steps"], rows):
            theirs = known(s)
            if s["logprob"] < max(s["top"].values()) - 1e-6:
                findings.append(("sampling", "temperature 0 is not honoured: a token is chosen that the server itself finds less probable than another"))
            best = max(range(len(row)), key=row.__getitem__)
            kls.append(kl(row, theirs)), slopes.append(slope(row, theirs))
            steps += 1
            if len(theirs) == len(s["top"]):  # every token that it names is known
                judged, agree = judged + 1, agree + (max(theirs, key=theirs.get) == best)
    again = [server.ask(m, tokens) for m in prompts]
    if not all(map(same, alone, again)): findings.append(("determinism", "the same request, asked twice, has another answer"))
    with concurrent.futures.ThreadPoolExecutor(load) as pool:
        crowd = list(pool.map(lambda m: server.ask(m, tokens), [m for _ in range(load) for m in prompts]))
    loaded = [crowd[i::len(prompts)] for i in range(len(prompts))]
    if all(map(same, alone, again)) and not all(same(a, c) for a, several in zip(alone, loaded) for c in several):
        findings.append(("batch", f"the same request among {load} others has another answer than alone"))
    mean = statistics.fmean(kls) if kls else math.nan
    steep = statistics.median(k for k, _ in slopes) if slopes else 1.0
    if steps and abs(steep - 1) > 0.02 and max(left for _, left in slopes) < 0.05:
        findings.append(("sampling", f"the log-probabilities are those of temperature {1 / steep:.2f}, not the model's own"))
    elif steps and mean > SAME:
        findings.append(("precision", f"other numbers, as of quantisation: mean KL at least {mean:.2g}") if mean <= OTHER else
                        ("weights", f"another model, or an error in its computation: mean KL at least {mean:.2g}"))
    if not steps and not findings: findings.append(("nothing", "no log-probabilities in any answer: nothing was compared"))
    return {"steps": steps, "kl_mean": mean, "kl_max": max(kls, default=math.nan), "top1": agree / judged if judged else math.nan, "findings": sorted(set(findings))}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("url"), p.add_argument("--model", required=True), p.add_argument("--prompts", required=True)
    p.add_argument("--dsv4", default="dsv4"), p.add_argument("--name", default="", help="the server's name of the model (default: DIR's)")
    p.add_argument("--tokens", type=int, default=16), p.add_argument("--load", type=int, default=8, help="requests at once")
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    lines = [json.loads(line) for line in pathlib.Path(a.prompts).read_text().splitlines() if line.strip()]
    prompts = [[{"role": "user", "content": line}] if isinstance(line, str) else line["messages"] for line in lines]
    if not prompts: p.error("no prompts")
    r = compare(Server(a.url, a.name or pathlib.Path(a.model).resolve().name), Reference(a.dsv4, a.model), prompts, a.tokens, a.load)
    if a.json: print(json.dumps(r))
    else:
        print("DIFFERENT" if r["findings"] else "PASS", f"{r['steps']} tokens of {len(prompts)} prompts: KL mean {r['kl_mean']:.3g} max {r['kl_max']:.3g} (lower bounds), top-1 {100 * r['top1']:.1f} %", sep=": ")
        for kind, what in r["findings"]: print(f"  {kind}: {what}")
    sys.exit(1 if r["findings"] else 0)


if __name__ == "__main__": main()
