r"""The TeX of docstrings as plain text, since the pages load nothing from the network.

Only what docstrings of this project use is known; anything else is an error, so that no
backslash reaches a page.

>>> plain(r"\dot v = \mu\,(1 - x^2)\,v")
'dv/dt = μ (1 − x²) v'
>>> plain(r"\frac{k_a}{V} A e^{-k_a t}")
'(kₐ/V) A exp(−kₐ t)'
"""

import re


_SYMBOLS = {
    **{
        name: chr(code)
        for start, names in (
            (
                0x3B1,
                "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi "
                "omicron pi rho varsigma sigma tau upsilon varphi chi psi omega",
            ),
            (
                0x391,
                "Alpha Beta Gamma Delta Epsilon Zeta Eta Theta Iota Kappa Lambda Mu Nu Xi "
                "Omicron Pi Rho _ Sigma Tau Upsilon Phi Chi Psi Omega",
            ),
        )
        for code, name in enumerate(names.split(), start)
    },
    **{name: name for name in ("ln", "log", "exp", "sin", "cos", "tanh", "min", "max")},
    "phi": "φ",
    "partial": "∂",
    "nabla": "∇",
    "sum": "∑",
    "int": "∫",
    "infty": "∞",
    "odot": "⊙",
    "circ": "∘",
    "cdot": "·",
    "dots": "…",
    "times": "×",
    "pm": "±",
    "sim": "~",
    "approx": "≈",
    "le": "≤",
    "ge": "≥",
    "ne": "≠",
    "ll": "≪",
    "gg": "≫",
    "in": "∈",
    "to": "→",
    "lvert": "|",
    "rvert": "|",
    "lVert": "‖",
    "rVert": "‖",
    "top": "ᵀ",
    "leftarrow": "←",
    "bigl": "",
    "bigr": "",
    "left": "",
    "right": "",
    "quad": "   ",
    "qquad": "\n",
    ",": " ",
    " ": " ",
}
# The space after these in TeX ends the name and is not meant to be seen.
_TIGHT = frozenset(
    (
        "partial",
        "nabla",
        "lvert",
        "lVert",
        "bigl",
        "bigr",
        "left",
        "right",
        "quad",
        "qquad",
        ",",
        " ",
    )
)
_LOWERED = dict(zip("0123456789aeijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉ₐₑᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", strict=True))
_RAISED = dict(zip("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹", strict=True))
_GROUP = r"\{((?:[^{}]|\{[^{}]*\})*)\}"


def plain(tex: str) -> str:
    """A formula as Unicode text; several equations stand on lines of their own.

    Raises `ValueError` for TeX that is not known here.
    """
    text = re.sub(r",\s*\\quad", r"\\qquad", " ".join(tex.split()))
    text = re.sub(r"\\(?:text|mathrm)" + _GROUP, r"\1", text)
    text = text.replace(r"\tfrac12", "½")
    text = re.sub(r"\\tfrac\s*(\w)\s*(\w)", r"(\1/\2)", text)
    text = re.sub(r"\\[dt]?frac" + _GROUP + _GROUP + r"(\s*[A-Za-z(\\])?", _fraction, text)
    text = re.sub(r"\\sqrt" + _GROUP, r"√(\1)", text)
    text = re.sub(r"\\dot (\w)", r"d\1/dt", text)
    text = re.sub(r"\\bar (\w)", "\\1\N{COMBINING MACRON}", text)
    text = re.sub(r"\\hat (\w)", "\\1\N{COMBINING CIRCUMFLEX ACCENT}", text)
    text = re.sub(r"\^\\top", "ᵀ", text)
    text = re.sub(r"\be\^" + _GROUP, r"exp(\1)", text)
    text = re.sub("_(?:" + _GROUP + r"|(\w))", lambda f: _script(f, _LOWERED, "_"), text)
    text = re.sub(r"\^(?:" + _GROUP + r"|(\w))", lambda f: _script(f, _RAISED, "^"), text)
    text = re.sub(r"\\([A-Za-z]+|[, ])\s?", _symbol, text)
    text = re.sub(r" *\n *", "\n", text.replace("-", "−"))
    lines = [re.sub(r"(?<=\S)  (?=\S)", " ", line).rstrip(", ") for line in text.splitlines()]
    text = "\n".join(line.strip() for line in lines)
    if re.search(r"[\\{}]", text):
        raise ValueError(f"docs/generation/formulae.py cannot put {tex!r} into plain text")
    return text


def _fraction(found: re.Match[str]) -> str:
    above, below, after = found[1], found[2], found[3] or ""
    parts = [
        part if re.fullmatch(r"[A-Za-z](_\w|\^\w)?|\d+", part) else f"({part})"
        for part in (above, below)
    ]
    # A sum or product above keeps its sense without brackets only if it is one term.
    if re.fullmatch(r"[\w^ ]+", above):
        parts[0] = above
    fraction = "/".join(parts)
    follows = bool(after) and not after.strip().startswith("\\q")
    return f"({fraction}){after}" if follows else f"{fraction}{after}"


def _script(found: re.Match[str], letters: dict[str, str], sign: str) -> str:
    text = found[1] or found[2]
    if all(letter in letters for letter in text):
        return "".join(letters[letter] for letter in text)
    return f"{sign}{text}" if len(text) == 1 else f"{sign}({text})"


def _symbol(found: re.Match[str]) -> str:
    name = found[1]
    if name not in _SYMBOLS:
        raise ValueError(f"docs/generation/formulae.py does not know \\{name}")
    space = found[0][len(name) + 1 :]
    return _SYMBOLS[name] + ("" if name in _TIGHT else space)
