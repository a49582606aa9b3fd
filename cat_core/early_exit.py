"""Exact early exit: an answer that will be deferred whatever follows is not written to its end.

Log-probabilities are never above 0, so the sum and the minimum of an answer's can only fall while it grows. Once
either is at or below the threshold it stays there. Means, higher quantiles, margins and entropies may rise again, and
the option rules read whole options: there no early exit is exact.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

EXACT_RULES = ("chow_sum", "chow_quantile_0")

# Added up in another order, or rounded to float32 in the end, a sum just below the threshold may come to lie above it.
# One that is lower by this share of the threshold cannot.
ROUNDING = 1e-6


@dataclass(frozen=True)
class EarlyExit:
    """When an unfinished answer is deferred for certain: its confidence so far, by `rule`, is <= tau.

    rule: "chow_sum" or "chow_quantile_0", the minimum; tau: a fixed threshold, in nats (-inf never, +inf always).
    Raises ValueError for a rule that can rise again, and for a tau that no log-probability exceeds, such as a
    deferral rate.
    """

    rule: str
    tau: float

    def __post_init__(self):
        if self.rule not in EXACT_RULES:
            raise ValueError(
                f"early exit is not exact for the rule {self.rule!r}, which may rise while an answer grows: "
                f"choose {' or '.join(EXACT_RULES)}, or run without early exit"
            )
        try:
            tau = float(self.tau)
        except (TypeError, ValueError):
            tau = math.nan
        if math.isnan(tau) or 0 < tau < math.inf:
            raise ValueError(
                f"early exit needs a fixed threshold tau <= 0 on log-probabilities (or +inf), got {self.tau!r}: "
                "a deferral rate is none, so calibrate one first (router.calibrate)"
            )
        object.__setattr__(self, "tau", tau)

    def certain(self, logprobs: Tensor) -> Tensor:
        """[B] boolean, True where no continuation can bring the confidence above tau.

        logprobs: [B, T] log-probabilities of the tokens so far, all of them real.
        """
        if self.rule == "chow_quantile_0":
            return logprobs.amin(-1).double() <= self.tau
        slack = ROUNDING * abs(self.tau) if math.isfinite(self.tau) else 0.0
        return logprobs.sum(-1, dtype=torch.float64) <= self.tau - slack
