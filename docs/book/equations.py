"""The numbered equations of the DeepSeek-V4 report in LaTeX, with the report's letters.  What each says, and the statements that are it:
docs/equations.py."""

LATEX = {
    1: r"X_{l+1} = B_l X_l + C_l F_l(A_l X_l)",
    2: r"B_l \in \mathcal{M} = \{ M \in \mathbb{R}^{n \times n} \mid M \mathbf{1} = \mathbf{1}, \; \mathbf{1}^\top M = \mathbf{1}^\top, \; M \ge 0 \}",
    3: r"\tilde{A}_l = \alpha_l^{\mathrm{pre}} (\hat{X}_l W_l^{\mathrm{pre}}) + S_l^{\mathrm{pre}}",
    4: r"\tilde{B}_l = \alpha_l^{\mathrm{res}} \Mat(\hat{X}_l W_l^{\mathrm{res}}) + S_l^{\mathrm{res}}",
    5: r"\tilde{C}_l = \alpha_l^{\mathrm{post}} (\hat{X}_l W_l^{\mathrm{post}})^\top + S_l^{\mathrm{post}}",
    6: r"A_l = \sigma(\tilde{A}_l)",
    7: r"C_l = 2 \sigma(\tilde{C}_l)",
    8: r"M^{(0)} = \exp(\tilde{B}_l), \quad M^{(t)} = T_r(T_c(M^{(t-1)})), \quad B_l = M^{(t_{\max})}",
    9: r"C^a = H W^{aKV}, \quad C^b = H W^{bKV}",
    10: r"Z^a = H W^{aZ}, \quad Z^b = H W^{bZ}",
    11: r"[S^a_{mi:m(i+1)-1}; S^b_{m(i-1):mi-1}] = \softmax([Z^a_{mi:m(i+1)-1} + B^a; Z^b_{m(i-1):mi-1} + B^b])",
    12: r"C_i^{\mathrm{Comp}} = \sum_{j=mi}^{m(i+1)-1} S^a_j \odot C^a_j + \sum_{j=m(i-1)}^{mi-1} S^b_j \odot C^b_j",
    13: r"c_t^Q = h_t W^{DQ}",
    14: r"[q^I_{t,1}; \ldots; q^I_{t,n_h^I}] = c_t^Q W^{IUQ}",
    15: r"[w^I_{t,1}; \ldots; w^I_{t,n_h^I}] = h_t W^w",
    16: r"I_{t,s} = \sum_{h=1}^{n_h^I} w^I_{t,h} \cdot \ReLU(q^I_{t,h} \cdot K_s^{\mathrm{IComp}})",
    17: r"C_t^{\mathrm{SprsComp}} = \{ C_s^{\mathrm{Comp}} \mid I_{t,s} \in \TopK(I_{t,:}) \}",
    18: r"[q_{t,1}; \ldots; q_{t,n_h}] = c_t^Q W^{UQ}",
    19: r"o_{t,i} = \Attention(q_{t,i}, C_t^{\mathrm{SprsComp}}, C_t^{\mathrm{SprsComp}})",
    20: r"C = H W^{KV}",
    21: r"Z = H W^Z",
    22: r"S_{m'i:m'(i+1)-1} = \softmax(Z_{m'i:m'(i+1)-1} + B)",
    23: r"C_i^{\mathrm{Comp}} = \sum_{j=m'i}^{m'(i+1)-1} S_j \odot C_j",
    24: r"c_t^Q = h_t W^{DQ}",
    25: r"[q_{t,1}; \ldots; q_{t,n_h}] = c_t^Q W^{UQ}",
    26: r"o_{t,i} = \Attention(q_{t,i}, C^{\mathrm{Comp}}, C^{\mathrm{Comp}})",
    27: r"s_{h,i,j} = \frac{\exp(z_{h,i,j})}{\sum_k \exp(z_{h,i,k}) + \exp(z'_h)}",
    28: r"M_k = a M_{k-1} + b (M_{k-1} M_{k-1}^\top) M_{k-1} + c (M_{k-1} M_{k-1}^\top)^2 M_{k-1}",
    29: r"\mathcal{L}(\theta) = \sum_i w_i \KL(\pi_\theta \parallel \pi_{E_i})",
}

# The sites (core/tap.hpp) under which a run records what an equation gives, alone or together with its neighbours.
SITES = {
    1: ("hc_attn.y", "mid", "hc_ffn.y", "out"), 2: ("hc_attn.comb", "hc_ffn.comb"), 3: ("hc_attn.mixes", "hc_ffn.mixes"),
    4: ("hc_attn.mixes", "hc_ffn.mixes"), 5: ("hc_attn.mixes", "hc_ffn.mixes"), 6: ("hc_attn.pre", "hc_ffn.pre"),
    7: ("hc_attn.post", "hc_ffn.post"), 8: ("hc_attn.comb", "hc_ffn.comb"),
    12: ("attn.compressor.pooled", "attn.indexer.compressor.pooled"), 13: ("attn.qr",), 14: ("attn.indexer.q_had",), 15: ("attn.indexer.weights",),
    16: ("attn.indexer.scores",), 17: ("attn.topk_idxs",), 18: ("attn.q_norm",), 19: ("attn.o",), 23: ("attn.compressor.pooled",), 24: ("attn.qr",),
    25: ("attn.q_norm",), 26: ("attn.o",), 27: ("attn.o",),
}

# The report's letters that docs/notation.md does not list, because the code spells them out.
REPORT_LETTERS = {
    "X": "the n residual streams of a token", "B": "carry-over matrix of mHC; in compressors a positional bias (ape)",
    "C": "write weights of mHC; in compressors the rows that become entries", "F": "a sublayer: attention or MoE", "A": "read weights of mHC",
    "l": "layer", "M": "a matrix on its way through Sinkhorn, or Newton-Schulz", "n": "number of streams; with index h: number of heads",
    "α": "learned scale of a mix (scale)", "W": "a weight", "S": "static part of a mix (base); in compressors the pooling weights",
    "σ": "the logistic function", "θ": "the parameters of the student", "π": "a policy: the distribution of the next token", "E": "a teacher", "T": "normalisation of columns (c) or rows (r)", "t": "token; in Eq. (8) the round", "H": "the layer's normed input",
    "Z": "pooling logits", "m": "tokens per entry (ratio)", "i": "entry, or head, or query", "j": "token of a block, or slot", "c": "latent or column",
    "Q": "of queries", "D": "down", "U": "up", "K": "key", "V": "value", "I": "of the indexer, or its score", "q": "query", "h": "head, or input",
    "w": "weight of an indexer head", "s": "entry, or softmax weight", "o": "output of a head", "z": "logit; with a prime the sink's", "k": "slot, or step",
    "a": "own block, or coefficient", "b": "next block, or coefficient", "r": "row", "R": "the reals",
}
