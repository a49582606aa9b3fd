"""Two hundred questions, one threshold: test items as dots, which the reader sends to L by moving a line.

One HTML fragment that needs no kernel, no network and no library. Python computes and formats every number; the script
looks texts up and moves dots. Every text of an item is escaped, because it comes from data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Template

import numpy as np

from cat_book.drawing import markup
from cat_book.drawing.markup import escape
from cat_book.drawing.styles import TOKEN_STYLE, token_kind
from cat_core.analysis.quantities import fixed
from cat_core.curves import cascade_cost, deferral_curve
from cat_core.router import route

COLUMNS, ROWS, STEP, RADIUS = 40, 5, 14.0, 5.2  # of a lane of dots, in units of the view box
LEFT, LANE, GAP, BELOW = 14.0, 84.0, 26.0, 25.0  # BELOW: from the name of a lane to its first row
KINDS = tuple(TOKEN_STYLE)
MOST = 400
LONGEST = 400  # characters of a text that are shown


@dataclass(frozen=True)
class Question:
    """A test item and what both models answered. right: whether the answer counts as right; confidence of S; FLOPs."""

    prompt: str
    target: str
    small_answer: str
    large_answer: str
    small_right: bool
    large_right: bool
    confidence: float
    small_flops: float
    large_flops: float

    @property
    def kind(self) -> str:
        """Who is right: a key of `TOKEN_STYLE`."""
        return token_kind(self.small_right, self.large_right)


def drawn(n: int, wanted: int = COLUMNS * ROWS, seed: int = 0) -> np.ndarray:
    """Numbers of at most `wanted` of n items, drawn without replacement, in rising order."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:wanted])


def questions_explorer(questions: Sequence[Question], *, name: str, title: str = "", start: float = 0.3) -> str:
    """The fragment. name: makes the ids; start: the deferral rate at first, in [0, 1].

    Questions stand in the order of S's confidence, the least sure first; equal confidences are deferred together, as a
    threshold cannot part them. Raises ValueError in one line for no questions, more than `MOST`, or a confidence that
    is no number.
    """
    if not 1 <= len(questions) <= MOST:
        raise ValueError(f"got {len(questions)} questions, expected 1 to {MOST}")
    confidence = np.array([q.confidence for q in questions], dtype=np.float64)
    if not np.isfinite(confidence).all() or not 0 <= start <= 1:
        raise ValueError("confidences must be finite, and start a deferral rate from 0 to 1")
    items = [questions[i] for i in np.argsort(confidence, kind="stable")]
    n, ranked = len(items), np.sort(confidence)
    small, large = (np.array([getattr(q, f"{m}_right") for q in items], dtype=float) for m in ("small", "large"))
    own, theirs = (np.array([getattr(q, f"{m}_flops") for q in items], dtype=float) for m in ("small", "large"))
    curve, cost = deferral_curve(small, large, ranked), cascade_cost(own, theirs, ranked)
    stops = [int(route(ranked, tau).sum()) for tau in (-np.inf, *ranked)]  # how many each threshold defers
    stop = np.array([max(s for s in stops if s <= k) for k in range(n + 1)])
    right = np.rint(n * curve.quality[stop]).astype(int)
    share = [fixed(100 * c / theirs.mean(), 0) for c in cost[stop]]
    said = [
        f"S keeps {n - k} and asks L about {k}. Right: {r} of {n} ({fixed(100 * r / n, 1)} %), at {s} % of the cost of "
        "L for all."
        for k, r, s in zip(stop, right, share)
    ]
    place = [(LEFT + STEP * (i * COLUMNS // n), STEP * _row(i, n)) for i in range(n)]
    first = int(round(start * n))
    data = {
        "stop": stop.tolist(), "said": said, "kinds": [KINDS.index(q.kind) for q in items],
        "xs": [x for x, _ in place], "ys": [y for _, y in place], "lane": LANE + GAP, "below": BELOW, "step": STEP,
        "left": LEFT, "cards": [_card(q) for q in items],
        "by": ["S answers: it is among the surer ones.", "L answers: S is not sure enough."],
    }  # fmt: skip
    payload = markup.script_data(data)
    ident = markup.ident(name, payload + title)
    dots = "".join(_dot(i, q, x, y, i < stop[first]) for i, (q, (x, y)) in enumerate(zip(items, place)))
    legend = "".join(
        f'<li><svg viewBox="0 0 14 14" width="14" height="14" aria-hidden="true"><circle cx="7" cy="7" r="{RADIUS}" '
        f'class="cx-k{k}"/></svg> {style.label}: {sum(q.kind == kind for q in items)}</li>'
        for k, (kind, style) in enumerate(TOKEN_STYLE.items())
    )
    alone = (
        f"S alone: {fixed(100 * small.mean(), 1)} % right, {fixed(100 * own.mean() / theirs.mean(), 0)} % of the cost. "
        f"L alone: {fixed(100 * large.mean(), 1)} %, 100 %."
    )
    card = "".join(
        f'<dt>{head}</dt><dd class="cx-c{i}">{escape(text)}</dd>'
        for i, (head, text) in enumerate(zip(HEADS, [*data["cards"][0], data["by"][int(stop[first] > 0)]]))
    )
    return Template(markup.asset("questions.html")).substitute(
        ident=ident, css=markup.sheets("widget", "questions"), title=escape(title), legend=legend, dots=dots, n=n,
        first=first, now=stop[first], width=LEFT + STEP * COLUMNS + 4, height=2 * LANE + GAP + 14,
        upper=12, lower=LANE + GAP + 12, left=LEFT - 8, line=_line(stop[first], n),
        said=escape(said[first]), alone=escape(alone), card=card, data=payload,
        script=markup.script("questions", ident),
    )  # fmt: skip


HEADS = ("Question", "S says", "L says", "Right answer", "Here")


def _row(i: int, n: int) -> int:
    """The row of item i: how many items before it stand in the same column."""
    return i - next(j for j in range(n) if j * COLUMNS // n == i * COLUMNS // n)


def _line(k: int, n: int) -> float:
    """Where the line between the k deferred items and the others stands."""
    column = min(k * COLUMNS // n, COLUMNS) if n else 0
    return LEFT + STEP * column - STEP / 2


def _dot(i: int, q: Question, x: float, y: float, deferred: bool) -> str:
    up = BELOW if deferred else LANE + GAP + BELOW
    wrong = " cx-wrong" if not (q.large_right if deferred else q.small_right) else ""
    style = f"translate({x:g} {y + up:g})"
    return f'<circle r="{RADIUS}" class="cx-k{KINDS.index(q.kind)}{wrong}" transform="{style}" data-i="{i}"/>'


def short(text: str) -> str:
    """The end of a long text."""
    return text if len(text) <= LONGEST else "\u2026 " + text[-LONGEST:]


def _card(q: Question) -> list[str]:
    marks = {True: "\u2713", False: "\u2717"}
    both = ((q.small_answer, q.small_right), (q.large_answer, q.large_right))
    return [short(q.prompt), *(f"{short(a) or '(nothing)'} {marks[bool(r)]}" for a, r in both), short(q.target)]
