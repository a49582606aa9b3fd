"""How far two engines of one model agree: tokens, log-probabilities, and where they part."""

from dataclasses import dataclass

import numpy as np

QUESTIONS = [
    *(f"What is the capital of {c}?" for c in ("France", "Japan", "Peru", "Kenya", "Norway", "Canada", "Egypt")),
    *(f"Which colour is {t}?" for t in ("the sky", "grass", "snow", "a ripe banana", "coal")),
    *(f"How many {t}?" for t in ("days has a week", "legs has a spider", "months has a year", "sides has a triangle")),
    *(f"What is {a} plus {b}?" for a, b in ((2, 3), (7, 8), (10, 5), (21, 4))),
    *(f"Who wrote {t}?" for t in ("Hamlet", "Faust", "War and Peace", "Don Quixote")),
    *(f"What is the opposite of {t}?" for t in ("hot", "big", "early", "happy")),
    *(f"Name {t}." for t in ("a planet", "an ocean", "a metal", "a river in Asia", "a fruit", "a musical instrument")),
]
OPTIONS = [
    (" Paris", " Tokyo", " Lima", " Nairobi", " Oslo", " Ottawa", " Cairo"),
    (" blue", " green", " white", " yellow", " black"),
    (" seven", " eight", " twelve", " three"),
    (" 5", " 15", " 25"),
    (" William Shakespeare", " Goethe", " Leo Tolstoy", " Miguel de Cervantes"),
    (" cold", " small", " late", " sad"),
    (" Mars", " the Atlantic", " iron", " the Ganges", " an apple", " the violin"),
]
SIZES = (7, 5, 4, 4, 4, 4, 6)
CHOICES = [options for options, size in zip(OPTIONS, SIZES) for _ in range(size)]


@dataclass(frozen=True)
class Agreement:
    """Of answers of two engines to the same prompts.

    equal: share of answers whose tokens are all the same; partings: of each other answer, (prompt, position of the
    first token that differs, the first engine's margin there in nats); gaps: absolute differences of the
    log-probabilities of the tokens that both have, up to the first that differs.
    """

    equal: float
    partings: list[tuple[str, int, float]]
    gaps: np.ndarray

    def __str__(self) -> str:
        margins = [margin for *_, margin in self.partings]
        return (
            f"{self.equal:.1%} of answers equal, {len(margins)} part (margin at most {max(margins, default=0):.2g} "
            f"nats); {len(self.gaps)} log-probabilities differ by {self.gaps.mean():.2g} on average, "
            f"{self.gaps.max():.2g} at most"
        )


def compare(prompts, first, second) -> Agreement:
    """Answers of two engines to `prompts`; those of the first have margins."""
    partings, gaps = [], []
    for prompt, a, b in zip(prompts, first, second, strict=True):
        pairs = list(zip(a.tokens, b.tokens))
        same = next((i for i, (x, y) in enumerate(pairs) if x != y), len(pairs))
        gaps += [abs(x - y) for x, y in zip(a.logprobs[:same], b.logprobs[:same])]
        if a.tokens != b.tokens:
            partings.append((prompt, same, a.margins[same] if same < len(a.margins) else float("nan")))
    return Agreement(1 - len(partings) / len(prompts), partings, np.array(gaps))


def option_sums(engine, prompts, choices) -> list[np.ndarray]:
    """Of each prompt, the summed log-probability of its options."""
    return [np.array([sum(a.logprobs) for a in row]) for row in engine.score(prompts, choices)]
