"""The cascade, live: a question is typed, S answers, and L where S is not sure enough; as a card of HTML.

The same cards stand in the built page, of questions that were asked when it was run. What is typed, and what models say
to it, is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ipywidgets

from cat_book.drawing import markup
from cat_book.drawing.markup import escape
from cat_book.pages.covers import Fragment
from cat_book.pages.suite_report import label
from cat_core import router
from cat_core.analysis.outcomes import Pairing
from cat_core.analysis.quantities import fixed, true_minus
from cat_core.cascade import CascadeRunner, Request
from cat_core.queries import Response

QUESTION = "your question"
"""What messages call it."""


@dataclass(frozen=True)
class Live:
    """A cascade to be asked one question after the other.

    calibration: S's calibration rows by deferral rule, with which thresholds are chosen. Questions with options are
    deferred by the first rule, free ones by the first that is no rule of options.
    """

    runner: CascadeRunner
    calibration: Mapping[str, Pairing]

    def threshold(self, rule: str, rate: float) -> float:
        """The threshold that defers the share `rate` of the calibration items, at most."""
        return router.calibrate(self.calibration[rule], budget=rate).tau

    def card(self, question: str, options: Sequence[str] = (), rate: float = 0.3) -> str:
        """Question, answer, who gave it, its tokens, and what it cost, as HTML; or one line on what is wrong."""
        if not question.strip():
            return _line("Type a question first.")
        rule = next(r for r in self.calibration if options or not r.startswith("option"))
        request, tau = Request(QUESTION, question, tuple(options)), self.threshold(rule, rate)
        try:
            made = self.runner.run([request], tau, rule=rule)
            large = made.large[0] or self.runner.answer([request], "large")[0]  # what L alone would cost, and say
        except ValueError as error:  # too long for the context, one option only, ...
            return _line(str(error).replace(f"item {QUESTION!r}", "Your question"))
        small, deferred, sure = made.small[0], bool(made.deferred[0]), float(made.confidence[0])
        why = f"Confidence {true_minus(fixed(sure, 3))} ({label(rule)}), " + (
            f"{'at most' if deferred else 'above'} the threshold {true_minus(fixed(tau, 3))}"
            if math.isfinite(tau) else f"and {'everything' if deferred else 'nothing'} is deferred"
        )  # fmt: skip
        said = (large if deferred else small).prediction or "(nothing)"
        who = f"<b>{'L' if deferred else 'S'} answers: {escape(said)}</b>"
        other = f"S had said: {small.prediction}" if deferred else f"L, not asked, would say: {large.prediction}"
        parts = [("S", small)] + [("L", large)] * deferred
        return (
            f'<div class="cat-card cat-tokens" role="group" aria-label="{escape(QUESTION)}">{markup.sheets("tokens")}'
            f"<p>{escape(question)}</p>{who}<br>{escape(other)}"
            f"{''.join(self._tokens(*part) for part in parts)}"
            f"<ul><li>{escape(why)}</li><li>{escape(cost_text(made.flops[0], large.flops))}</li></ul></div>"
        )

    def _tokens(self, who: str, response: Response) -> str:
        """The tokens of an answer, each with its probability."""
        ids, texts = response.tokens, []
        for i in range(len(ids)):  # by what each adds: one alone may be a part of a letter
            before, after = (self.runner.tokenizer.decode(ids[:k]) for k in (i, i + 1))
            texts.append(after.removeprefix(before) if after.startswith(before) else after[len(before) :])
        spans = (
            f'<span style="background:rgba(0,114,178,{0.4 * math.exp(p):.2f})">{escape(markup.visible(text))}'
            f"<sub>{100 * math.exp(p):.0f} %</sub></span>" if math.exp(p) >= 0.005 else
            f"<span>{escape(markup.visible(text))}<sub>&lt; 1 %</sub></span>"
            for text, p in zip(texts, response.token_logprobs)
        )
        return f"<div>{who}: {''.join(spans)}</div>"

    def cards(self, requests: Sequence, rate: float = 0.3) -> Fragment:
        """The cards of some requests, for a page without a kernel."""
        made = "".join(self.card(r.prompt, r.options, rate) for r in requests)
        return Fragment(made, f"{len(requests)} questions and the cascade's answers")

    def panel(self, question: str = "", options: Sequence[str] = (), rate: float = 0.3) -> ipywidgets.VBox:
        """Fields, a slider and a button: live in Jupyter. Its children: question, options, rate, button, answer."""
        look = {"style": {"description_width": "110px"}, "layout": {"width": "min(100%, 640px)"}}
        asked = ipywidgets.Textarea(question, description="Question", **look)
        choices = ipywidgets.Text(", ".join(options), description="Options", placeholder="none: free text", **look)
        share = ipywidgets.FloatSlider(rate, min=0, max=1, step=0.05, description="Deferral rate", **look)
        button, answer = ipywidgets.Button(description="Ask"), ipywidgets.HTML()

        def ask(_):
            button.disabled, answer.value = True, _line("Answering ...")
            try:
                chosen = tuple(text.strip() for text in choices.value.split(",") if text.strip())
                answer.value = self.card(asked.value, chosen, share.value)
            finally:
                button.disabled = False

        button.on_click(ask)
        return ipywidgets.VBox([asked, choices, share, button, answer])


def cost_text(spent: int | None, alone: int | None) -> str:
    """FLOPs of an answer, and their share of what L alone would have taken."""
    if spent is None or not alone:
        return "Cost: not known for these models"
    prefix, unit = markup.si_prefix(spent)
    return f"Cost: {spent / unit:.1f} {prefix}FLOPs, {100 * spent / alone:.0f} % of L alone"


def _line(text: str) -> str:
    return f'<p role="status">{escape(" ".join(text.split()))}</p>'
