"""Names: the training methods and the deferral rules, each with what a reader and a program must know of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A training method: its name for readers (`label`), which tokens count (`mask`), whether L's distribution is a
    target (`distil`), whether it goes on from an S that Xent has trained (`second_stage`), whether a router is trained
    with S (`router`), whether L's most probable token takes the label's place (`relabel`), and whether a token that
    says "ask L" does where L alone is right (`calls`)."""

    label: str
    mask: str
    distil: bool
    second_stage: bool = False
    router: bool = False
    relabel: bool = False
    calls: bool = False

    @property
    def compares(self) -> bool:
        """Whether the loss needs to know anything of L."""
        return self.distil or self.router or self.relabel or self.calls or self.mask not in ("none", "small")

    def label_weight(self, weight: float) -> float:
        """The w of the loss: `weight` where L's distribution is used, else 1 (labels alone)."""
        return weight if self.distil else 1.0


METHODS = {
    "xent": Method("Xent", "none", False),
    "dist": Method("Dist", "none", True),
    "cat-xent": Method("CAT-Xent", "either", False),
    "cat-dist": Method("CAT-Dist", "either", True),
    "random-xent": Method("Random mask, Xent", "random", False),
    "random-dist": Method("Random mask", "random", True),
    "large-xent": Method("L-right mask, Xent", "large", False),
    "large-labels": Method("Xent on L's labels", "none", False, relabel=True),
    "large-dist": Method("L-right mask", "large", True),
    "small-dist": Method("S-right mask", "small", True),
    "both-dist": Method("Both-right mask", "both", True),
    "neither-dist": Method("Both-wrong mask only", "neither", True),
    "gatekeeper": Method("Gatekeeper", "none", False, second_stage=True),
    "call-token": Method("Deferral token", "none", False, second_stage=True, calls=True),
    "edge-joint": Method("EdgeInference, joint", "none", False, router=True),
}
"""The four methods of the paper; for each CAT method the control that keeps as many tokens, at random; filtering of
labels without a cascade: the tokens that L gets right alone, and L's most probable token in place of the label, after
the same correct tokens; CAT-Dist with other masks; Gatekeeper (arXiv 2502.19335), `loss.gatekeeper_loss`; a deferral
token (`training.deferral`); EdgeInference (Kag et al., ICLR 2023), a router trained together with S by
`rules.edge.joint_loss`."""


def name(method: str) -> str:
    """The method's name for readers; a method of one's own is called as it is."""
    return METHODS[method].label if method in METHODS else method


@dataclass(frozen=True)
class Rule:
    """A deferral rule: its name for readers (`label`), and in plain words (`words`); what it reads (`needs`); what it
    costs beyond S's answer (`cost`); its `source`. learned: on calibration rows, or with S. exact_exit: an unfinished
    answer that it defers stays deferred. family: shown with its family alone. before: decides before S answers."""

    label: str
    needs: str
    source: str
    cost: str = "none"
    words: str = ""
    learned: bool = False
    exact_exit: bool = False
    family: bool = False
    before: bool = False


_TOKENS, _DISTRIBUTIONS = "log-probabilities of its tokens", "distributions of its tokens"
_CASCADES, _OURS, _EDGE = "Gupta et al., arXiv 2404.10136", "a common choice", "Kag et al., ICLR 2023"
_OPTIONS, _SMALL, _QUANTILES = "scores of the options", "a small network, not counted", (25, 50, 75, 100)

RULES = {
    "chow_average": Rule("Chow-Average", _TOKENS, "arXiv 2406.00060", words="average token log-probability"),
    "chow_sum": Rule("Chow-Sum", _TOKENS, _CASCADES, words="sum of token log-probabilities", exact_exit=True),
    "chow_quantile_0": Rule("Chow-Quantile-0", _TOKENS, _CASCADES, words="minimum token log-probability",
                            exact_exit=True),  # fmt: skip
    **{f"chow_quantile_{k}": Rule(f"Chow-Quantile-{k / 100:g}", _TOKENS, _CASCADES, family=True) for k in _QUANTILES},
    "token_margin": Rule("Token margin", _DISTRIBUTIONS, _OURS),
    "token_entropy": Rule("Token entropy", _DISTRIBUTIONS, _OURS),
    "option_probability": Rule("Option probability", _OPTIONS, _OURS, words="probability among the options"),
    "option_margin": Rule("Option margin", _OPTIONS, _OURS, words="margin between the best two options"),
    "post_hoc_quantile": Rule("Post-Hoc-Quantile", _TOKENS, _CASCADES, _SMALL, learned=True),
    "post_hoc_embed": Rule("Post-Hoc-Embed", f"{_TOKENS}, L's first layer", _CASCADES, "L's first layer", learned=True),
    "edge": Rule("EdgeInference", f"{_TOKENS}, S's states", _EDGE, _SMALL, learned=True),
    "route_ngrams": Rule("Router on n-grams", "the prompt", _OURS, _SMALL, learned=True, before=True),
    "route_probe": Rule("Router on S's state", "S's state after it", _OURS, "S reads it", learned=True, before=True),
    "call_token": Rule("Deferral token", "the probability of a token trained with S", _OURS, learned=True),
    "joint_router": Rule("EdgeInference, joint", "a router trained with S", _EDGE, _SMALL, learned=True),
}
"""Deferral rules in the order in which pages show them. `confidence` computes those that need no learning."""


def rule_name(rule: str) -> str:
    """The rule's name for readers; a rule of one's own is called as it is."""
    return RULES[rule].label if rule in RULES else rule
