"""The part of LaTeX that the report's equations use, as MathML: no font, no script, no network needed to read a page.

  to_mathml(r"\\frac{a}{b}", block=True) -> "<math display=block>…</math>"

An unknown command is an error, never dropped: a page must not show half an equation."""
import html
import re

GREEK = dict(alpha="α", beta="β", gamma="γ", delta="δ", epsilon="ϵ", varepsilon="ε", theta="θ", eta="η", lam="λ", mu="μ",
             pi="π", sigma="σ", tau="τ", phi="φ", omega="ω", Delta="Δ", Sigma="Σ", Omega="Ω")
GREEK["lambda"] = "λ"
OPERATORS = {
    "cdot": "⋅", "odot": "⊙", "times": "×", "le": "≤", "ge": "≥", "ne": "≠", "in": "∈", "approx": "≈", "to": "→",
    "leftarrow": "←", "infty": "∞", "ldots": "…", "cdots": "⋯", "quad": " ", "parallel": "∥", "mid": "|", "top": "⊤",
    "sum": "∑", "prod": "∏", "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "lVert": "‖", "rVert": "‖",
    "langle": "⟨", "rangle": "⟩", "colon": ":", "prime": "′", "cup": "∪", "pm": "±", "ll": "≪", "gg": "≫",
}
FUNCTIONS = {"exp", "log", "max", "min", "sin", "cos", "softmax", "ReLU", "RMSNorm", "softplus", "TopK", "Mat", "vec", "KL",
             "clip", "SiLU", "Attention", "Concat", "HybridNewtonSchulz"}
LIMITS = {"∑", "∏", "max", "min"}  # what stands above and below them, not beside
TOKEN = re.compile(r"\\[A-Za-z]+|\\[,;! {}|_&]|\\\\|[{}^_&]|\d+(?:\.\d+)?|[A-Za-z]|[^\s]")


def styled(style, letter):
    """A letter or digit of Unicode's mathematical alphabets: bold, double-struck or script."""
    special = {"R": "ℝ", "N": "ℕ", "Z": "ℤ"} if style == "mathbb" else {"L": "ℒ", "M": "ℳ", "F": "ℱ"} if style == "mathcal" else {}
    if letter in special:
        return special[letter]
    if style == "mathbf" and letter.isdigit():
        return chr(0x1D7CE + int(letter))
    first = {"mathbf": 0x1D400, "mathbb": 0x1D538, "mathcal": 0x1D49C}[style]
    return chr(first + ord(letter) - ord("A")) if "A" <= letter <= "Z" else letter


class TexError(ValueError):
    """LaTeX that this reader does not know."""


class _Reader:
    def __init__(self, text):
        self.text, self.tokens, self.at = text, TOKEN.findall(text), 0

    def peek(self):
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def next(self):
        token = self.peek()
        if token is None:
            raise TexError(f"ends too early: {self.text}")
        self.at += 1
        return token

    def row(self, until=None):
        """Everything up to `until`, as a list of MathML nodes."""
        nodes = []
        while self.peek() is not None and self.peek() != until:
            nodes.append(self.scripted())
        if until is not None:
            self.next()
        return nodes

    def group(self):
        """One argument: a group in braces, or a single item."""
        if self.peek() == "{":
            self.next()
            return "<mrow>" + "".join(self.row("}")) + "</mrow>"
        return self.item()[0]

    def raw_group(self):
        """The characters of a group in braces, spaces as in the source."""
        if self.next() != "{":
            raise TexError(f"a group is missing: {self.text}")
        words = []
        while self.peek() != "}":
            words.append(self.next())
        self.next()
        return "".join(" " if w == "\\ " else w for w in words)

    def scripted(self):
        base, limits = self.item()
        below = above = None
        while self.peek() in ("_", "^", "'"):
            mark = self.next()
            if mark == "'":
                above = "<mo>′</mo>" + (above or "")
            elif mark == "_":
                below = self.group()
            else:
                above = self.group() if above is None else f"<mrow>{above}{self.group()}</mrow>"
        if above == "<mo>′</mo>" and not below:  # the glyph is raised already; as a superscript of a script it would vanish
            return f'<mrow>{base}<mo lspace="0" rspace="0">′</mo></mrow>'
        kind = ("munder", "mover", "munderover") if limits else ("msub", "msup", "msubsup")
        if below and above:
            return f"<{kind[2]}>{base}{below}<mrow>{above}</mrow></{kind[2]}>"
        if below:
            return f"<{kind[0]}>{base}{below}</{kind[0]}>"
        if above:
            return f"<{kind[1]}>{base}<mrow>{above}</mrow></{kind[1]}>"
        return base

    def item(self):
        """(MathML of one item, whether its scripts stand above and below)."""
        t = self.next()
        if t == "{":
            return "<mrow>" + "".join(self.row("}")) + "</mrow>", False
        if t[0].isdigit():
            return f"<mn>{t}</mn>", False
        if t[0].isalpha():
            return f"<mi>{t}</mi>", False
        if t[0] != "\\":
            return f"<mo>{html.escape(t)}</mo>", False
        name = t[1:]
        if name in GREEK:
            return f"<mi>{GREEK[name]}</mi>", False
        if name in OPERATORS:
            return f"<mo>{OPERATORS[name]}</mo>", OPERATORS[name] in LIMITS
        if name in FUNCTIONS:
            return f'<mi mathvariant="normal">{name}</mi>', name in LIMITS
        if name in (",", ";", " ", "!", "quad"):
            return '<mspace width="0.3em"/>', False
        if name in ("{", "}", "|", "_", "&"):
            return f"<mo>{html.escape(name)}</mo>", False
        if name in ("left", "right"):
            return f"<mo>{html.escape(self.next())}</mo>", False
        if name == "frac":
            return f"<mfrac>{self.group()}{self.group()}</mfrac>", False
        if name == "sqrt":
            return f"<msqrt>{self.group()}</msqrt>", False
        if name in ("mathrm", "operatorname"):
            return f'<mi mathvariant="normal">{html.escape(self.raw_group())}</mi>', False
        if name == "text":
            return f"<mtext> {html.escape(self.raw_group())} </mtext>", False
        if name in ("mathbf", "mathbb", "mathcal"):
            # The letters themselves, not a mathvariant: browsers follow that for upright text only.
            return "<mi>" + "".join(styled(name, letter) for letter in self.raw_group()) + "</mi>", False
        if name in ("tilde", "hat", "bar"):
            return f'<mover accent="true">{self.group()}<mo>{ {"tilde": "~", "hat": "^", "bar": "¯"}[name] }</mo></mover>', False
        raise TexError(f"{t} is not known, in: {self.text}")


def to_mathml(text, block=False):
    """MathML of `text`; `\\\\` begins a new line.  Raises TexError for what it does not know."""
    reader = _Reader(text)
    lines = [[]]
    while reader.peek() is not None:
        if reader.peek() == "\\\\":
            reader.next()
            lines.append([])
        elif reader.peek() == "&":  # alignment: lines stand at their left edge anyway
            reader.next()
        else:
            lines[-1].append(reader.scripted())
    display = ' display="block"' if block else ""
    if len(lines) == 1:
        return f"<math{display}><mrow>{''.join(lines[0])}</mrow></math>"
    rows = "".join(f"<mtr><mtd style=\"text-align:left\"><mrow>{''.join(line)}</mrow></mtd></mtr>" for line in lines)
    return f'<math{display}><mtable columnalign="left">{rows}</mtable></math>'


def letters(text):
    """The identifiers of an equation, single letters and Greek, for the check against the notation."""
    plain = re.sub(r"\\(?:mathrm|text|operatorname|mathbf|mathbb|mathcal)\{[^}]*\}", " ", text)
    names = {GREEK[m] for m in re.findall(r"\\([A-Za-z]+)", plain) if m in GREEK}
    return names | set(re.findall(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])", re.sub(r"\\[A-Za-z]+", " ", plain)))
