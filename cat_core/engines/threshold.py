"""A calibrated threshold as a file: what was chosen, on how many queries, and for which models it holds.

Confidences of two models, or of one model asked in two ways, are on different scales: a threshold that is carried over
defers another share, without a word. So the file names all that the confidences depend on, and is refused elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cat_core.engines.contract import Engine
from cat_core.files import read_sealed, write_sealed
from cat_core.methods import RULES
from cat_core.tasks.schema import brief

KIND = "cat_core threshold, 1"
DIGITS_ONLY = ("batch_tokens", "device", "attention", "versions")
"""Of `Engine.describe`, what changes the last digits of a confidence and not its scale."""
SIDES = ("small", "large")


def holds_for(engine: Engine) -> dict:
    """What of an engine its confidences depend on, as plain JSON: model, words around the prompt, length, type."""
    about = engine.describe() | {"prediction": engine.prediction}
    return {key: value for key, value in about.items() if key not in DIGITS_ONLY}


@dataclass(frozen=True)
class Threshold:
    """Defer where the confidence by `rule` is at or below `tau` (natural-log probability for most rules).

    n: calibration queries that it was chosen on; deferral_rate: the share of these that it defers, in [0, 1];
    defer_empty: empty answers are deferred at any threshold above -inf; small, large: `holds_for` of both engines.
    """

    rule: str
    tau: float
    n: int
    deferral_rate: float
    small: Mapping
    large: Mapping
    defer_empty: bool = False

    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all, with a digest of what is in it."""
        content = {"kind": KIND} | asdict(self) | {"tau": repr(float(self.tau))}  # an infinity is no JSON
        write_sealed(Path(path), content)

    @classmethod
    def read(cls, path: str | Path) -> Threshold:
        """What `write` wrote. A one-line FileNotFoundError or ValueError for anything else."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no threshold file {path}: write one with --save-threshold")
        try:
            content = read_sealed(Path(path))
            if content.pop("kind") != KIND:
                raise ValueError("of another kind")
            found = cls(**content | {"tau": float(content["tau"])})
        except (ValueError, KeyError, TypeError):
            advice = "calibrate again with --save-threshold"
            raise ValueError(f"{path} is no threshold file of this version, or was changed: {advice}") from None
        if found.rule not in RULES or math.isnan(found.tau):
            raise ValueError(f"{path}: unknown rule {brief(found.rule)}, or a threshold that is no number")
        return found

    def check(self, small: Engine, large: Engine) -> None:
        """ValueError in one line that says in what an engine differs from the one that it was calibrated with."""
        for side, engine in zip(SIDES, (small, large)):
            was, now = getattr(self, side), holds_for(engine)
            if differing := [key for key in {**was, **now} if was.get(key) != now.get(key)]:
                key = differing[0]
                raise ValueError(
                    f"the threshold was calibrated with another {side} model or setting ({', '.join(differing)}; "
                    f"{key}: {brief(was.get(key))} then, {brief(now.get(key))} now): calibrate again"
                )
