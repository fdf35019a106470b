"""The figures of the chapters, drawn as SVG from formulas and from constants that are read out of the headers."""
import math
import re

WIDTH = 720


class Drawing:
    """An SVG whose colours follow the page (style.css names them)."""

    def __init__(self, height, title):
        self.height, self.title, self.parts = height, title, []

    def rect(self, x, y, w, h, cls, label=""):
        title = f"<title>{label}</title>" if label else ""
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(w, 0.5):.1f}" height="{h:.1f}" class="{cls}">{title}</rect>')

    def line(self, x1, y1, x2, y2, cls="axis"):
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{cls}"/>')

    def path(self, points, cls):
        self.parts.append('<path d="M' + " L".join(f"{x:.1f} {y:.1f}" for x, y in points) + f'" class="{cls}"/>')

    def dot(self, x, y, r, cls):
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" class="{cls}"/>')

    def text(self, x, y, words, anchor="start", cls="label"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{cls}">{words}</text>')

    def svg(self):
        return (f'<figure><svg viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{self.title}">'
                + "".join(self.parts) + f"</svg><figcaption>{self.title}</figcaption></figure>")


def attention_coverage(window=128, csa=4, hca=128, top_k=512, context=1 << 20):
    """What one query at the end of a million tokens can see, by distance, on a logarithmic axis."""
    d = Drawing(230, "What the last of a million tokens can attend to, by distance from it (logarithmic). "
                     f"The window sees {window} tokens one by one; a CSA layer reads the {top_k} entries its indexer chose, "
                     f"each the mean of {csa} tokens, from anywhere; an HCA layer reads all {context // hca} entries of {hca} tokens.")
    left, right = 90, WIDTH - 20

    def x(distance):
        return left + (right - left) * math.log2(max(distance, 1)) / math.log2(context)

    rows = [("window", 30), ("CSA", 85), ("HCA", 140)]
    for name, y in rows:
        d.text(left - 10, y + 22, name, "end")
    d.rect(x(1), 30, x(window) - x(1), 32, "fill-a", f"{window} tokens")
    # CSA: a spread of chosen entries, the same fraction in every octave as an even choice would give.
    state = 12345
    for _ in range(top_k):
        state = (1103515245 * state + 12345) % (1 << 31)
        distance = window * (context / window) ** (state / (1 << 31))
        d.rect(x(distance), 85, 1.2, 32, "fill-b")
    octave = window
    while octave < context:
        width = x(octave * 2) - x(octave)
        d.rect(x(octave), 140, width - 1.5, 32, "fill-c", f"{octave // hca} entries of {hca} tokens")
        octave *= 2
    d.line(left, 185, right, 185)
    for power in range(0, 21, 4):
        d.line(x(1 << power), 185, x(1 << power), 190)
        d.text(x(1 << power), 205, f"{1 << power:,}", "middle")
    d.text(right, 222, "tokens back", "end")
    return d.svg()


def overlapping_blocks(ratio=4, blocks=4):
    """Which tokens and which half of their channels become which entry of CSA."""
    d = Drawing(250, f"CSA: entry i pools the {ratio} tokens of block i with their high channels (a) and those of block i−1 with "
                     "their low channels (b). The low channels of a token therefore belong to the next block.")
    left, cell = 90, 36
    d.text(left - 10, 45, "high (a)", "end")
    d.text(left - 10, 85, "low (b)", "end")
    classes = ["fill-a", "fill-b", "fill-c", "fill-d", "fill-e"]
    for token in range(ratio * blocks):
        own, following = token // ratio, token // ratio + 1
        x = left + token * cell
        d.rect(x + 2, 26, cell - 4, 28, classes[own % 5], f"token {token}, high channels: entry {own}")
        d.rect(x + 2, 66, cell - 4, 28, classes[following % 5] if following < blocks else "fill-off",
               f"token {token}, low channels: entry {following}")
        d.text(x + cell / 2, 112, str(token), "middle")
    for entry in range(blocks):
        x = left + (entry + 0.5) * ratio * cell - 40
        d.rect(x, 175, 80, 34, classes[entry % 5])
        d.text(x + 40, 228, f"entry {entry}", "middle")
        d.line(left + (entry + 0.5) * ratio * cell, 118, x + 40, 173, "link")
        if entry:
            d.line(left + (entry - 0.5) * ratio * cell, 118, x + 40, 173, "link thin")
    return d.svg()


def birkhoff(iterations=6, eps=1e-6):
    """Sinkhorn on 2 x 2 matrices: doubly stochastic ones are a segment, and every start ends on it."""
    d = Drawing(360, "Two streams: a 2×2 matrix is doubly stochastic exactly when both diagonal entries are equal, so the Birkhoff "
                     "polytope is the diagonal. Each polyline is Sinkhorn's way from a start, one point per round.")
    left, top, size = 210, 20, 300

    def at(a, b):
        return left + a * size, top + (1 - b) * size

    d.rect(left, top, size, size, "frame")
    d.line(*at(0, 0), *at(1, 1), "polytope")
    d.text(left + size / 2, top + size + 30, "comb[0][0]", "middle")
    d.text(left - 12, top + size / 2, "comb[1][1]", "end")
    for start in ((3.0, -1.0, 0.5, -2.0), (-2.0, 1.0, 0.0, 1.5), (0.2, 2.5, 1.0, -1.0), (2.0, 1.8, -1.0, 2.5), (-1.0, -3.0, 2.0, -2.0)):
        rows = []
        for i in range(2):
            powers = [math.exp(v) for v in start[2 * i:2 * i + 2]]
            rows.append([p / sum(powers) + eps for p in powers])
        points = [at(rows[0][0], rows[1][1])]
        for _ in range(iterations):
            for j in range(2):
                total = rows[0][j] + rows[1][j] + eps
                rows[0][j] /= total
                rows[1][j] /= total
            points.append(at(rows[0][0], rows[1][1]))
            rows = [[v / (sum(row) + eps) for v in row] for row in rows]
        d.path(points, "way")
        for p in points:
            d.dot(*p, 2.5, "point")
    return d.svg()


def hyper_connection(streams=4):
    """The way of one token through a sublayer with manifold-constrained hyper-connections."""
    d = Drawing(260, "One token through one sublayer: A reads a mean of the streams, the sublayer F works on it, C spreads the result, "
                     "and B carries the streams over without making them larger (its rows and columns sum to one).")
    x_in, x_a, x_f, x_c, x_out = 60, 200, 330, 460, 640
    for n in range(streams):
        y = 30 + 50 * n
        d.rect(x_in - 40, y, 60, 30, "fill-a")
        d.text(x_in - 10, y + 20, f"x{n}", "middle", "label inside")
        d.rect(x_out - 10, y, 60, 30, "fill-a")
        d.text(x_out + 20, y + 20, f"x{n}′", "middle", "label inside")
        d.line(x_in + 20, y + 15, x_a, 110, "link")
        d.line(x_c + 40, 110, x_out - 10, y + 15, "link")
        for j in range(streams):
            d.line(x_in + 20, y + 15, x_out - 10, 45 + 50 * j, "link thin")
    for x, name in ((x_a, "A"), (x_c, "C")):
        d.dot(x + 20, 110, 20, "fill-b")
        d.text(x + 20, 115, name, "middle", "label inside")
    d.line(x_a + 40, 110, x_f, 110, "link")
    d.line(x_f + 80, 110, x_c, 110, "link")
    d.rect(x_f, 85, 80, 50, "fill-c")
    d.text(x_f + 40, 115, "F", "middle", "label inside")
    d.text(WIDTH / 2, 245, "the thin lines are B", "middle")
    return d.svg()


def minifloat_values(exponent_bits, mantissa_bits, bias, largest):
    """All non-negative values of a small format, derived as num/minifloat.hpp derives them."""
    values = set()
    for code in range(1 << (exponent_bits + mantissa_bits)):
        exponent, mantissa = code >> mantissa_bits, code & ((1 << mantissa_bits) - 1)
        scale = 2.0 ** ((exponent or 1) - bias - mantissa_bits)
        values.add((mantissa + ((1 << mantissa_bits) if exponent else 0)) * scale)
    return sorted(v for v in values if v <= largest)


def number_line():
    """The values of e2m1 and e4m3 between 0 and 6."""
    fp4 = minifloat_values(2, 1, 1, 6)
    fp8 = [v for v in minifloat_values(4, 3, 7, 448) if v <= 6]
    d = Drawing(160, f"Every value of FP4 (e2m1, {len(fp4)} of them) and of FP8 (e4m3, {len(fp8)} of its values) between 0 and 6: "
                     "each FP4 value is an FP8 value, which is why FP4 weights can run as FP8 without loss.")
    left, right = 60, WIDTH - 30

    def x(value):
        return left + (right - left) * value / 6

    for name, y, values, height in (("FP8", 40, fp8, 16), ("FP4", 100, fp4, 26)):
        d.text(left - 12, y + 5, name, "end")
        d.line(left, y, right, y)
        for v in values:
            d.line(x(v), y - height / 2, x(v), y + height / 2, "tick")
    for v in fp4:
        d.text(x(v), 135, f"{v:g}", "middle")
    return d.svg()


def newton_schulz(header):
    """Singular values under the hybrid iteration; the coefficients are read out of the header."""
    found = re.search(r"hybrid_newton_schulz\[\]\s*=\s*\{(.*?)\};", header, re.S)
    if not found:
        raise ValueError("figures: no hybrid_newton_schulz[] in optim/newton_schulz.hpp")
    steps = [tuple(float(v) for v in group.split(",")) for group in re.findall(r"\{([^{}]+)\}", found[1])]
    d = Drawing(330, "Newton-Schulz on one singular value: after the fast steps every value of useful size lies near one, "
                     "after the last steps it is one. Coefficients from optim/newton_schulz.hpp.")
    left, top, width, height = 70, 20, WIDTH - 100, 250
    lowest, highest = 1e-5, 1.0

    def px(s):
        return left + width * (math.log10(s) - math.log10(lowest)) / (math.log10(highest) - math.log10(lowest))

    def py(v):
        return top + height * (1 - v / 1.3)

    d.rect(left, top, width, height, "frame")
    for v in (0, 0.5, 1):
        d.line(left, py(v), left + width, py(v), "grid")
        d.text(left - 8, py(v) + 4, f"{v:g}", "end")
    for power in range(-5, 1):
        d.text(px(10.0 ** power), top + height + 20, f"1e{power}" if power else "1", "middle")
    d.text(left + width, top + height + 42, "singular value before", "end")
    done = 0
    curves = {}
    starts = [10 ** (-5 + 5 * i / 300) for i in range(301)]
    values = list(starts)
    for a, b, c, times in steps:
        for _ in range(int(times)):
            values = [a * s + b * s ** 3 + c * s ** 5 for s in values]
            done += 1
            curves[done] = list(values)
    for n, cls in ((2, "way thin"), (5, "way mid"), (8, "way"), (done, "way strong")):
        d.path([(px(s), py(max(0.0, min(1.3, v)))) for s, v in zip(starts, curves[n])], cls)
        shown = next((i for i, v in enumerate(curves[n]) if v > 0.45), 300)
        d.text(px(starts[shown]) + 4, py(0.45) + 14 * (n % 3), f"{n}", "start", "label small")
    return d.svg()


def layers(below, counts):
    """Folders as boxes, each above everything it may include; `below` is layers.txt as a dictionary."""
    height_of = {}

    def level(name):
        if name not in height_of:
            height_of[name] = 1 + max((level(b) for b in below.get(name, [])), default=-1)
        return height_of[name]

    for name in below:
        level(name)
    top = max(height_of.values())
    d = Drawing(52 * (top + 1) + 20, "The folders of include/dsv4: a line goes from a folder down to what it names.")
    where = {}
    for n in range(top + 1):
        row = [f for f in below if height_of[f] == n]
        for i, folder in enumerate(row):
            where[folder] = (WIDTH * (i + 0.5) / len(row), 52 * (top - n) + 14)
    for folder, names in below.items():
        for name in names:
            d.line(where[folder][0], where[folder][1] + 30, where[name][0], where[name][1], "link thin")
    for folder, (x, y) in where.items():
        label = "dsv4.hpp" if folder == "." else folder
        d.rect(x - 55, y, 110, 30, "fill-a" if not folder.startswith("golden") else "fill-d")
        d.text(x, y + 19, f"{label} {counts.get(folder) or ''}", "middle", "label inside")
    return d.svg()
