#!/usr/bin/env python3
"""The equations of the DeepSeek-V4 report, the statements that implement them, and the tests that hold them.

  docs/equations.py           writes docs/equations.md
  docs/equations.py --check   changes nothing; fails when a tag is missing, misplaced or not expected, when a header's
                              @paper line cites other equations than its tags, when a test is gone, when README sends
                              a reader to another header, or when the page is not up to date

A tag is the comment `// Eq. (N)` behind the statement that is the equation, or on a line of its own above it; one
statement may be several equations, `// Eq. (9), (20)`.  The table below says for every equation which functions must
carry it and how their statements look: a tag that is deleted, or that slips to another statement, no longer fits.
Whoever adds an implementation of an equation adds its line here.
"""
import collections
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parents[1]
page = root / "docs" / "equations.md"

# Tests by short names: file, name of the test.
TESTS = {
    "hyper.sinkhorn": ("unit/mhc/hyper.cpp", "sinkhorn by hand: softmax over j first, then the division by sums over i"),
    "hyper.stochastic": ("unit/mhc/hyper.cpp", "sinkhorn: sums over i are 1, sums over j only nearly"),
    "hyper.split": ("unit/mhc/hyper.cpp", "hc_split: pre, post and comb of the packed mixes"),
    "hyper.mixes": ("unit/mhc/hyper.cpp", "hc_mixes: the norm's factor multiplies the product"),
    "hyper.streams": ("unit/mhc/hyper.cpp", "hc_collapse and hc_post by hand"),
    "hyper.comb": ("conformance/properties.cpp", "(4) comb: sums over i are 1, sums over j nearly, and it is not symmetric"),
    "hyper.wrong": ("conformance/properties.cpp", "(4) an untransposed comb, a post without its factor 2"),
    "attn.ape": ("unit/attn/attn.cpp", "add_ape follows the position in the block"),
    "attn.pool": ("unit/attn/attn.cpp", "compressor_pool: which token, which half, by hand"),
    "attn.scores": ("unit/attn/attn.cpp", "index_scores: relu before the weight, every step stored"),
    "attn.select": ("unit/attn/attn.cpp", "index_select: visible entries only, by falling score"),
    "attn.scale": ("unit/attn/attn.cpp", "scale_stored does not round the constant"),
    "attn.sparse": ("unit/attn/attn.cpp", "sparse_attention equals its definition over several blocks of slots"),
    "attn.sink": ("unit/attn/attn.cpp", "sparse_attention by hand: one key, two keys, the sink"),
    "attn.topk": ("conformance/properties.cpp", "(3) top-k changes nothing before position 4k+3"),
    "attn.dense": ("conformance/properties.cpp", "(3) attention equals a dense softmax over window and closed entries"),
    "attn.sinks": ("conformance/properties.cpp", "(8) a sink far below is a plain softmax"),
    "ref": ("conformance/official_ref.cpp", "ref equals flash-mini"),
    "cpu": ("conformance/official_cpu.cpp", "cpu equals flash-mini"),
    "transformers": ("conformance/transformers.cpp", "float32 equals transformers in one call, tap by tap"),
    "grad.hyper": ("unit/train/modules.cpp", "mHC: read and write"),
    "grad.sinkhorn": ("unit/train/modules.cpp", "Sinkhorn: sizes, iterations, logits near and far apart"),
    "grad.attention": ("unit/train/attention.cpp", "attention: window, CSA and HCA over packed samples"),
    "grad.network": ("unit/train/network.cpp", "network: the loss is the inference engine's, MTP too"),
    "cpu.attend": ("unit/train/cpu.cpp", "cpu: core attention, tiles whole and partial, masks, windows, sinks"),
    "opd.logits": ("conformance/opd.cpp", "opd: every position from its logits"),
    "opd.teachers": ("conformance/opd.cpp", "opd: all teachers and routed, from hidden states and from logits"),
    "opd.tiles": ("unit/post/distill.cpp", "distill: tiles of positions and tokens against whole rows"),
    "muon.values": ("unit/optim/newton_schulz.cpp", "singular values go to one, singular vectors stay"),
    "muon.golden": ("unit/optim/golden.cpp", "muon follows golden/optimizer"),
    "muon.cpu": ("unit/optim/muon.cpp", "cpu takes ref's steps"),
}

# Number: what it says, the places (header, function, part of the statement), the tests.
Equation = collections.namedtuple("Equation", "says places tests")
EQUATIONS = {
    1: Equation("X' = B X + C F(A X): a half block F reads one mixture of the residual streams (A), its output is "
                "written to all of them (C), and the streams are carried over (B). In the code A is `pre`, C is `post`, "
                "B is `comb` transposed.", [
        ("mhc/pre.hpp", "hc_collapse<exec::ref>::run", "pre(t, j) *"),
        ("mhc/post.hpp", "hc_post<exec::ref>::run", "post(t, j) *"),
        ("mhc/post.hpp", "hc_post<exec::ref>::run", "comb(t, i, j) *"),
        ("cpu/mhc/hyper.hpp", "hc_collapse<exec::basic_cpu<M>>::run", "sum[i] += p *"),
        ("cpu/mhc/hyper.hpp", "hc_post<exec::basic_cpu<M>>::run", "y[k] = p * o[k]"),
        ("cpu/mhc/hyper.hpp", "hc_post<exec::basic_cpu<M>>::run", "y[k] += c * s[k]"),
        ("train/hyper_connection.hpp", "collapse", "weight[j] * from["),
        ("train/hyper_connection.hpp", "hyper_write", "share * from[d]"),
        ("train/hyper_connection.hpp", "hyper_write", "weight[i * n] * stream["),
    ], ["hyper.streams", "hyper.wrong", "grad.hyper"]),
    2: Equation("B is doubly stochastic: no entry is negative, every row and every column has the sum 1.", [
        ("mhc/sinkhorn.hpp", "split_mixes", "sinkhorn(comb, iterations"),
        ("train/hyper_connection.hpp", "hyper_read", "steps.forward("),
    ], ["hyper.stochastic", "hyper.comb"]),
    3: Equation("A~ = alpha_pre (X^ W_pre) + S_pre, with X^ = RMSNorm of all streams as one vector. The three products "
                "with X^ are one matrix `fn`, and the norm's factor multiplies their results.", [
        ("mhc/pre.hpp", "hc_mixes<exec::ref>::run", "linear<exec::ref>::run(e, x, fn, mixes)"),
        ("mhc/pre.hpp", "hc_mixes<exec::ref>::run", "mixes(t, m) *= r"),
        ("num/formulas.hpp", "hyper_pre", "sigmoid(hyper_logit("),
        ("mhc/sinkhorn.hpp", "split_mixes", "scale[0]"),
        ("cpu/mhc/hyper.hpp", "hc_mixes<exec::basic_cpu<M>>::run", "linear<E>::run(e, x, fn, mixes)"),
        ("cpu/mhc/hyper.hpp", "hc_mixes<exec::basic_cpu<M>>::run", "m *= r"),
        ("train/hyper_connection.hpp", "hyper_mixes", "project(e, x, fn, mixes)"),
        ("train/hyper_connection.hpp", "hyper_mixes", "m *= r[t]"),
        ("train/hyper_connection.hpp", "hyper_read", "w.scale[0]"),
    ], ["hyper.mixes", "hyper.split", "grad.hyper"]),
    4: Equation("B~ = alpha_res Mat(X^ W_res) + S_res, the logits of the carry-over matrix.", [
        ("mhc/pre.hpp", "hc_mixes<exec::ref>::run", "linear<exec::ref>::run(e, x, fn, mixes)"),
        ("mhc/pre.hpp", "hc_mixes<exec::ref>::run", "mixes(t, m) *= r"),
        ("mhc/sinkhorn.hpp", "split_mixes", "scale[2]"),
        ("cpu/mhc/hyper.hpp", "hc_mixes<exec::basic_cpu<M>>::run", "linear<E>::run(e, x, fn, mixes)"),
        ("cpu/mhc/hyper.hpp", "hc_mixes<exec::basic_cpu<M>>::run", "m *= r"),
        ("train/hyper_connection.hpp", "hyper_mixes", "project(e, x, fn, mixes)"),
        ("train/hyper_connection.hpp", "hyper_mixes", "m *= r[t]"),
        ("train/hyper_connection.hpp", "comb_logits", "w.scale[2]"),
    ], ["hyper.mixes", "hyper.split", "grad.hyper"]),
    5: Equation("C~ = alpha_post (X^ W_post) + S_post.", [
        ("mhc/pre.hpp", "hc_mixes<exec::ref>::run", "linear<exec::ref>::run(e, x, fn, mixes)"),
        ("mhc/pre.hpp", "hc_mixes<exec::ref>::run", "mixes(t, m) *= r"),
        ("num/formulas.hpp", "hyper_post", "2 * sigmoid(hyper_logit("),
        ("mhc/sinkhorn.hpp", "split_mixes", "scale[1]"),
        ("cpu/mhc/hyper.hpp", "hc_mixes<exec::basic_cpu<M>>::run", "linear<E>::run(e, x, fn, mixes)"),
        ("cpu/mhc/hyper.hpp", "hc_mixes<exec::basic_cpu<M>>::run", "m *= r"),
        ("train/hyper_connection.hpp", "hyper_mixes", "project(e, x, fn, mixes)"),
        ("train/hyper_connection.hpp", "hyper_mixes", "m *= r[t]"),
        ("train/hyper_connection.hpp", "hyper_read", "w.scale[1]"),
    ], ["hyper.mixes", "hyper.split", "grad.hyper"]),
    6: Equation("A = sigmoid(A~).", [
        ("num/formulas.hpp", "hyper_pre", "sigmoid(hyper_logit("),
        ("mhc/sinkhorn.hpp", "split_mixes", "pre[j] = hyper_pre("),
        ("train/hyper_connection.hpp", "hyper_read", "s.pre(t, j) = hyper_pre("),
    ], ["hyper.split", "grad.hyper"]),
    7: Equation("C = 2 sigmoid(C~).", [
        ("num/formulas.hpp", "hyper_post", "2 * sigmoid(hyper_logit("),
        ("mhc/sinkhorn.hpp", "split_mixes", "post[j] = hyper_post("),
        ("train/hyper_connection.hpp", "hyper_read", "s.post(t, j) = hyper_post("),
    ], ["hyper.split", "hyper.wrong", "grad.hyper"]),
    8: Equation("Sinkhorn: M_0 = exp(B~), M_k = T_r(T_c(M_{k-1})), B = M_20, where T_c makes the sums of columns 1 and T_r "
                "those of rows. The first T_c is written as a softmax.", [
        ("mhc/sinkhorn.hpp", "sinkhorn", "std::exp(comb(i, j) - largest)"),
        ("mhc/sinkhorn.hpp", "sinkhorn", "comb(i, j) / sum + eps"),
        ("mhc/sinkhorn.hpp", "sinkhorn", "divide_by_sum_over_i()"),
        ("mhc/sinkhorn.hpp", "sinkhorn", "divide_by_sum_over_j()"),
        ("mhc/sinkhorn.hpp", "sinkhorn", "divide_by_sum_over_i()"),
        ("train/sinkhorn.hpp", "sinkhorn_steps::forward", "exponential<E>::run("),
        ("train/sinkhorn.hpp", "sinkhorn_steps::forward", "/= sum[l]) + eps"),
        ("train/sinkhorn.hpp", "sinkhorn_steps::forward", "along(after[k], k, a, b)[l] / below[l]"),
    ], ["hyper.sinkhorn", "hyper.stochastic", "grad.sinkhorn"]),
    9: Equation("CSA: C^a = H W^aKV and C^b = H W^bKV, what the tokens give to an entry. Both are halves of one `wkv`: "
                "channels [0, d) are b, [d, 2d) are a.", [
        ("attn/compressor.hpp", "compress", "w.wkv, kv"),
        ("train/compressor.hpp", "compress", "w.wkv, s.kv"),
    ], ["ref", "transformers", "grad.attention"]),
    10: Equation("CSA: Z^a = H W^aZ and Z^b = H W^bZ, the scores they are weighted by; halves of one `wgate`.", [
        ("attn/compressor.hpp", "compress", "w.wgate, score"),
        ("train/compressor.hpp", "compress", "w.wgate, s.score"),
    ], ["ref", "transformers", "grad.attention"]),
    11: Equation("CSA: S = softmax of Z + B, per channel, over the 2m slots of an entry: its own block (a) and the block "
                 "before it (b).", [
        ("attn/compressor.hpp", "add_ape<exec::ref>::run", "score(t, d) += double(ape("),
        ("num/formulas.hpp", "softmax_mean", "weight = m.weight("),
        ("attn/compressor.hpp", "compressor_pool<exec::ref>::run", "softmax_mean<double>(slots)"),
        ("cpu/attn/compressor.hpp", "add_ape<exec::basic_cpu<M>>::run", "s[d] += W(a[d])"),
        ("cpu/attn/compressor.hpp", "compressor_pool<exec::basic_cpu<M>>::run", "weight = std::exp("),
        ("train/compressor.hpp", "compress", "+= bias[d]"),
        ("train/compressor.hpp", "compress", "mean_of_slots("),
    ], ["attn.ape", "attn.pool", "grad.attention"]),
    12: Equation("CSA: an entry is the sum of S times C over its slots. The code divides by the softmax's sum here.", [
        ("num/formulas.hpp", "softmax_mean", "sum / m.weights"),
        ("attn/compressor.hpp", "compressor_pool<exec::ref>::run", "softmax_mean<double>(slots)"),
        ("cpu/attn/compressor.hpp", "compressor_pool<exec::basic_cpu<M>>::run", "store<A>(sum[c] / weights[c])"),
        ("train/compressor.hpp", "compress", "mean_of_slots("),
    ], ["attn.pool", "ref", "grad.attention"]),
    13: Equation("CSA: c^Q = h W^DQ, the query latent that the attention and its indexer share.", [
        ("attn/attention.hpp", "attention", "w.wq_a"),
        ("train/attention.hpp", "attention", "w.wq_a"),
    ], ["ref", "transformers", "grad.attention"]),
    14: Equation("q^I = c^Q W^IUQ, the indexer's queries.", [
        ("attn/indexer.hpp", "index_queries_of", "w.wq_b"),
        ("train/indexer.hpp", "index_forward", "w.wq_b"),
    ], ["ref", "transformers", "grad.attention"]),
    15: Equation("w^I = h W^w, the weights of the indexer's heads. The constant that follows is the released code's.", [
        ("attn/indexer.hpp", "index_queries_of", "w.weights_proj"),
        ("train/indexer.hpp", "index_forward", "w.weights_proj"),
    ], ["ref", "attn.scale", "grad.attention"]),
    16: Equation("I_ts = sum over heads of w^I_th ReLU(q^I_th . K_s), the index score of entry s for query t.", [
        ("attn/indexer.hpp", "index_scores<exec::ref>::run", "score += rounded<A>(relu *"),
        ("cpu/attn/exact_scores.hpp", "add_head", "stored_as_bf16(std::max(dot[s], 0.0f)) * weight"),
        ("cpu/attn/indexer.hpp", "index_scores<exec::basic_cpu<M>>::of_tiles", "std::max(rounded<A>(dot[s]), W(0)) * w"),
        ("train/indexer.hpp", "index_scores", "weights[h] * std::max(products(h, s), T(0))"),
    ], ["attn.scores", "ref", "grad.attention"]),
    17: Equation("A query attends to the k visible entries of the highest scores.", [
        ("attn/indexer.hpp", "index_select<exec::ref>::select", "top_k("),
        ("train/indexer.hpp", "index_choose", "top_k("),
    ], ["attn.select", "attn.topk", "grad.attention"]),
    18: Equation("CSA: q = c^Q W^UQ, the queries of all heads.", [
        ("attn/attention.hpp", "attention_queries", "w.wq_b"),
        ("train/attention.hpp", "attention", "w.wq_b"),
    ], ["ref", "transformers", "grad.attention"]),
    19: Equation("CSA: o = CoreAttn(q, K = V = chosen entries), to which section 2.3.3 adds the window.", [
        ("attn/attention.hpp", "attention", "core_attention<"),
        ("attn/sparse_attention.hpp", "sparse_attention<exec::ref>::run", "acc[d] += stored *"),
        ("cpu/attn/sparse_attention.hpp", "sparse_attention<exec::basic_cpu<M>>::add_values", "result.noalias() +="),
        ("train/attention.hpp", "attention", "kernel::attend<E>::template forward<T>("),
        ("train/sparse_attention.hpp", "attend<exec::ref>::forward", "out[d] += p * key[d]"),
        ("cpu/train/sparse_attention.hpp", "attend<exec::basic_cpu<A>>::forward", "P * keys"),
    ], ["attn.sparse", "attn.dense", "cpu.attend"]),
    20: Equation("HCA: C = H W^KV, as equation 9 without halves.", [
        ("attn/compressor.hpp", "compress", "w.wkv, kv"),
        ("train/compressor.hpp", "compress", "w.wkv, s.kv"),
    ], ["ref", "transformers", "grad.attention"]),
    21: Equation("HCA: Z = H W^Z, as equation 10 without halves.", [
        ("attn/compressor.hpp", "compress", "w.wgate, score"),
        ("train/compressor.hpp", "compress", "w.wgate, s.score"),
    ], ["ref", "transformers", "grad.attention"]),
    22: Equation("HCA: S = softmax of Z + B, per channel, over the m' tokens of a block.", [
        ("attn/compressor.hpp", "add_ape<exec::ref>::run", "score(t, d) += double(ape("),
        ("num/formulas.hpp", "softmax_mean", "weight = m.weight("),
        ("attn/compressor.hpp", "compressor_pool<exec::ref>::run", "softmax_mean<double>(slots)"),
        ("cpu/attn/compressor.hpp", "add_ape<exec::basic_cpu<M>>::run", "s[d] += W(a[d])"),
        ("cpu/attn/compressor.hpp", "compressor_pool<exec::basic_cpu<M>>::run", "weight = std::exp("),
        ("train/compressor.hpp", "compress", "+= bias[d]"),
        ("train/compressor.hpp", "compress", "mean_of_slots("),
    ], ["attn.ape", "attn.pool", "grad.attention"]),
    23: Equation("HCA: an entry is the sum of S times C over its block.", [
        ("num/formulas.hpp", "softmax_mean", "sum / m.weights"),
        ("attn/compressor.hpp", "compressor_pool<exec::ref>::run", "softmax_mean<double>(slots)"),
        ("cpu/attn/compressor.hpp", "compressor_pool<exec::basic_cpu<M>>::run", "store<A>(sum[c] / weights[c])"),
        ("train/compressor.hpp", "compress", "mean_of_slots("),
    ], ["attn.pool", "ref", "grad.attention"]),
    24: Equation("HCA: c^Q = h W^DQ, as equation 13.", [
        ("attn/attention.hpp", "attention", "w.wq_a"),
        ("train/attention.hpp", "attention", "w.wq_a"),
    ], ["ref", "transformers", "grad.attention"]),
    25: Equation("HCA: q = c^Q W^UQ, as equation 18.", [
        ("attn/attention.hpp", "attention_queries", "w.wq_b"),
        ("train/attention.hpp", "attention", "w.wq_b"),
    ], ["ref", "transformers", "grad.attention"]),
    26: Equation("HCA: o = CoreAttn(q, K = V = all closed entries), to which section 2.3.3 adds the window.", [
        ("attn/attention.hpp", "attention", "core_attention<"),
        ("attn/sparse_attention.hpp", "sparse_attention<exec::ref>::run", "acc[d] += stored *"),
        ("cpu/attn/sparse_attention.hpp", "sparse_attention<exec::basic_cpu<M>>::add_values", "result.noalias() +="),
        ("train/attention.hpp", "attention", "kernel::attend<E>::template forward<T>("),
        ("train/sparse_attention.hpp", "attend<exec::ref>::forward", "out[d] += p * key[d]"),
        ("cpu/train/sparse_attention.hpp", "attend<exec::basic_cpu<A>>::forward", "P * keys"),
    ], ["attn.sparse", "attn.dense", "cpu.attend"]),
    27: Equation("s_hij = exp(z_hij) / (sum over k of exp(z_hik) + exp(z'_h)): a softmax whose denominator also holds a "
                 "learned sink per head.", [
        ("attn/sparse_attention.hpp", "sparse_attention<exec::ref>::run", "p = std::exp(score[s - block] - m)"),
        ("attn/sparse_attention.hpp", "sparse_attention<exec::ref>::run", "denominator += std::exp(double(sink[h]) - m)"),
        ("cpu/attn/sparse_attention.hpp", "sparse_attention<exec::basic_cpu<M>>::running::add", "e = std::exp(p[s] - maximum)"),
        ("cpu/attn/sparse_attention.hpp", "sparse_attention<exec::basic_cpu<M>>::of_heads", "std::exp(double(sink[h0 + h]) - r.maximum)"),
        ("train/sparse_attention.hpp", "attend<exec::ref>::forward", "T sum = std::exp(sink[h] - largest)"),
        ("train/sparse_attention.hpp", "attend<exec::ref>::forward", "p = std::exp(score(qt, key, n) - largest)"),
        ("cpu/train/sparse_attention.hpp", "attend<exec::basic_cpu<A>>::forward", "(row - largest).exp()"),
        ("cpu/train/sparse_attention.hpp", "attend<exec::basic_cpu<A>>::forward", "std::exp(sink[h] - largest)"),
    ], ["attn.sink", "attn.sparse", "attn.sinks", "cpu.attend"]),
    28: Equation("Hybrid Newton-Schulz: M_k = a M + b (M M^T) M + c (M M^T)^2 M, eight steps with (3.4445, -4.7750, "
                 "2.0315), then two with (2, -1.5, 0.5).", [
        ("optim/newton_schulz.hpp", "newton_schulz<exec::ref>::run", "p.a * x.data()[n]"),
        ("cpu/optim/muon.hpp", "newton_schulz<exec::basic_cpu<A>>::run", "block(polynomial, i, rows, k, depth) *"),
    ], ["muon.values", "muon.golden", "muon.cpu"]),
    29: Equation("On-policy distillation: L = sum over teachers i of w_i KL(pi_student || pi_i), the reverse KL over the whole "
                 "vocabulary, at the positions of the student's own answers.", [
        ("post/divergence.hpp", "divergence", "from_student ="),
        ("post/distill.hpp", "distill", "divergence[i] = mean[i]"),
        ("post/distill.hpp", "distill", "loss += double(weight[at[i]])"),
    ], ["opd.logits", "opd.teachers", "opd.tiles"]),
}

tag_pattern = re.compile(r"(?<!/)//(?!/)\s*Eq\. \(\d+\)(?:, \(\d+\))*\s*$")
Tag = collections.namedtuple("Tag", "file function statement line")


def functions(lines):
    """For every line the functions and structs that it lies in, outermost first, by indentation."""
    name = re.compile(r"^\s*(?:(?:template|static|inline|constexpr|explicit|friend|virtual|const)\b[^()]*?\s)?"
                      r"(?!return\b|else\b|new\b|throw\b|delete\b|case\b)[\w:<>,&*\s]+?[\s&*](\w+)\(")
    kind = re.compile(r"^\s*(?:struct|class) (\w+(?:<.*>)?)(?: final)?(?: :.*)?\s*\{")
    opened, where = [], []  # (indentation, name, whether a function)
    for line in lines:
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if text and not text.startswith("//") and not text.startswith("#"):
            while opened and indent <= opened[-1][0] and not text.startswith(("}", ")")):
                opened.pop()
            found = kind.match(line) or name.match(line)
            if found and not re.match(r"\s*(if|for|while|switch|return|using|else|do)\b", line):
                if not opened or not opened[-1][2]:  # no function is defined within another
                    opened.append((indent, found.group(1), not kind.match(line)))
        where.append([n for _, n, _ in opened])
    return where


def tags_of(file, lines):
    """(number, Tag) of every tag of a header, given by its name under include/dsv4 and its lines."""
    where, found = functions(lines), []
    for at, line in enumerate(lines):
        hit = tag_pattern.search(line)
        if not hit:
            continue
        code = line[:hit.start()].strip()
        if not code:  # above its statement
            after = at + 1
            while after < len(lines) and lines[after].strip().startswith("//"):
                after += 1
            code = ""
            while after < len(lines):
                code += " " + lines[after].strip()
                if code.rstrip().endswith((";", "{", "}")):
                    break
                after += 1
        else:  # behind its last line: from the line where the statement begins
            before = at - 1
            while before >= 0 and not re.search(r"[;{}]\s*(//.*)?$", lines[before].rstrip()) and lines[before].strip() \
                    and not lines[before].strip().startswith("//"):
                code = re.sub(r"\s*//.*$", "", lines[before].strip()) + " " + code
                before -= 1
            if not re.search(r"[;{}]$", code):  # and to the line where it ends
                after = at + 1
                while after < len(lines):
                    code += " " + re.sub(r"\s*//.*$", "", lines[after].strip())
                    if code.rstrip().endswith((";", "{", "}")):
                        break
                    after += 1
        scope = where[at]
        for number in re.findall(r"\((\d+)\)", hit.group(0)):
            found.append((int(number), Tag(file, scope, " ".join(code.split()), at + 1)))
    return found


def cited(lines):
    """The equations of this report that the @paper line of a header names."""
    numbers = set()
    for text in re.findall(r"@paper\{([^}]*)\}", "\n".join(lines)):
        for part in text.split(";"):
            if part.strip().startswith("DSV4"):
                for first, last in re.findall(r"\((\d+)\)(?:-\((\d+)\))?", part):
                    numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def header_errors(file, lines):
    """Equations named outside tags, and a @paper line that does not cite what the tags say."""
    errors = [f"include/dsv4/{file}:{at}: names an equation outside a tag and @paper: {line.strip()}"
              for at, line in enumerate(lines, 1)
              if "Eq. (" in line and not tag_pattern.search(line) and "@paper" not in line]
    own, named = {number for number, _ in tags_of(file, lines)}, cited(lines)
    if own != named:
        errors.append(f"include/dsv4/{file}: @paper and the tags disagree:"
                      + (f" tagged but not cited {sorted(own - named)}" if own - named else "")
                      + (f" cited but not tagged {sorted(named - own)}" if named - own else ""))
    return errors


def match(tags):
    """Tags against the table.  @returns errors, and for every equation the tags of its places, in their order."""
    errors, found = [], {}
    tagged = collections.defaultdict(list)
    for number, tag in tags:
        tagged[number].append(tag)
    for number, equation in sorted(EQUATIONS.items()):
        left, found[number] = tagged.pop(number, []), []
        for file, function, fragment in equation.places:
            hits = [t for t in left if t.file == file and "::".join(t.function).endswith(function)
                    and fragment in t.statement]
            if hits:
                left.remove(hits[0])
                found[number].append(hits[0])
            else:
                errors.append(f"Eq. ({number}): no tag in include/dsv4/{file}, {function}, at a statement with `{fragment}`"
                              + "".join(f"\n    line {t.line}, {'::'.join(t.function)}: `{t.statement}`"
                                        for t in left if t.file == file))
        errors += [f"Eq. ({number}): include/dsv4/{t.file}:{t.line}: a tag that docs/equations.py does not expect, in "
                   f"{'::'.join(t.function)}: `{t.statement}`" for t in left]
    for number, rest in tagged.items():
        errors.append(f"Eq. ({number}) is tagged in {rest[0].file}:{rest[0].line}, but docs/equations.py does not know it")
    return errors, found


def blind_spots(headers):
    """The check checked: without any one tag, or with it one statement lower, it must complain."""
    errors = []
    tags = {file: tags_of(file, lines) for file, lines in headers.items()}
    for file, own in tags.items():
        others = [t for f, rest in tags.items() if f != file for t in rest]
        for at in sorted({tag.line - 1 for _, tag in own}):
            line = headers[file][at]
            without, lower = list(headers[file]), list(headers[file])
            without[at] = lower[at] = tag_pattern.sub("", line)
            ends = [n for n in range(at + 1, len(lower)) if lower[n].split("//")[0].rstrip().endswith(";")]
            if not tag_pattern.sub("", line).strip():
                ends = ends[1:]  # the first one ends the tag's own statement
            below = ends[0] if ends else None
            changes = [("deleted", without)]
            if below:
                lower[below] += "  " + tag_pattern.search(line).group(0)
                changes.append(("lowered", lower))
            for what, lines in changes:
                if not match(others + tags_of(file, lines))[0]:
                    errors.append(f"include/dsv4/{file}:{at + 1}: this tag {what} would not be noticed")
    return errors


def readme_errors():
    """README's table of concepts sends a reader with an equation to a header: every one must be in a header of its row."""
    errors, named = [], set()
    for row in (root / "README.md").read_text().splitlines():
        hit = re.match(r"\|[^|]*\|[^|]*\bEq\. ([\d, -]+)\|(.*)\|", row)
        if not hit:
            continue
        listed = re.findall(r"`([\w/]+\.hpp)`", hit.group(2))
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", hit.group(1)):
            for number in range(int(first), int(last or first) + 1):
                named.add(number)
                if not {file for file, _, _ in EQUATIONS[number].places} & set(listed):
                    errors.append(f"README.md: Eq. ({number}) is in none of the headers of its row: {', '.join(listed)}")
    errors += [f"README.md: its table of concepts does not name Eq. ({n})" for n in EQUATIONS if n not in named]
    return errors


def page_of(found):
    out = ["# Equations of the report, and where they are", "",
           "<!-- generated by docs/equations.py: change the tags in the headers or the table there, then run it -->", "",
           "Every numbered equation of the DeepSeek-V4 report (arXiv 2606.19348) that this library implements, the",
           "statements that implement it, and the tests that hold them. The first header is the specification; those under",
           "`cpu/` are its fast counterpart, those under `train/` the pass that has a gradient. Kernels under `cuda/` are held to the specification's bits",
           "(docs/cuda.md) and carry no tags.", "",
           "Behind each of these statements stands the tag `// Eq. (N)`; `docs/equations.py --check` (ctest lint.equations)",
           "fails when one is missing, or stands behind another statement.", ""]
    for number, equation in sorted(EQUATIONS.items()):
        out += [f"## Eq. ({number})", "", equation.says, "", "| header | function | statement |", "|---|---|---|"]
        for (file, function, _), tag in zip(equation.places, found[number]):
            statement = tag.statement.replace("|", "\\|")
            out.append(f"| [{file}](../include/dsv4/{file}) | `{function}` | `{statement}` |")
        out += ["", "Held by " + "; ".join(f"[{TESTS[k][0]}](../reference_tests/{TESTS[k][0]}) \"{TESTS[k][1]}\""
                                           for k in equation.tests) + ".", ""]
    return "\n".join(out).rstrip() + "\n"


def main():
    include = root / "include" / "dsv4"
    headers = {str(h.relative_to(include)): h.read_text().splitlines() for h in sorted(include.rglob("*.hpp"))}
    errors = [e for file, lines in headers.items() for e in header_errors(file, lines)]
    tests = root / "reference_tests"
    for key, (file, name) in TESTS.items():
        if not (tests / file).exists() or f'("{name}' not in re.sub(r"\(\s+", "(", (tests / file).read_text()):
            errors.append(f"docs/equations.py: test {key!r}: reference_tests/{file} has no test named {name!r}")
    errors += [f"Eq. ({n}) is missing in docs/equations.py" for n in range(1, 30) if n not in EQUATIONS]
    errors += readme_errors()
    more, found = match([t for file, lines in headers.items() for t in tags_of(file, lines)])
    errors += more
    if not errors and "--check" in sys.argv[1:]:
        errors += blind_spots(headers)
        if not page.exists() or page.read_text() != page_of(found):
            errors.append("docs/equations.md is not up to date: run docs/equations.py")
    elif not errors:
        page.write_text(page_of(found))
    count = sum(len(e.places) for e in EQUATIONS.values())
    print("\n".join(errors) or f"equations: {len(EQUATIONS)} equations, {count} statements, {len(TESTS)} tests")
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
