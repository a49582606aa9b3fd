"""What stands in for the paper's data and models on a page: said of the run that is shown, not of the defaults."""

from __future__ import annotations

import re

from IPython.display import Markdown

from cat_core.tasks.suite import Suite
from cat_core.training.configs import describes_size
from cat_core.training.depth import cut_sentence, named_cut, parse_cut
from cat_core.training.experiment import Experiment
from cat_core.training.models import load_config

DATA = {
    "almanac": (
        "Real words, out of Unicode's tables of names and facts (CLDR, by Babel): questions about currencies, "
        "languages, cities, scripts and units, and names, dates and amounts to be translated. L has met much of it "
        "before any training here, the famous more than the obscure, and S holds less of it. Half of the test asks "
        "facts of training in other words, the other half facts that training has not shown."
    ),
    "mini-superglue": (
        "A generated suite with three tasks. Reading asks whether a passage is good on balance, a negation turning "
        "the word after it. Entailment asks whether a claim follows from what somebody says about a thing. Choice "
        "asks for the more plausible of two causes or effects. It mixes what real data mix: capacity (there are "
        "more facts than S can hold, some frequent and most rare), structure (rules that must be combined), and "
        "what is irreducible (a share of the answers is changed, as annotators disagree, and nobody can know "
        "which). All words are invented: a controlled experiment, in which no earlier knowledge helps."
    ),
    "mini-wmt": (
        "Sentences of an invented language and their translations into another. It has capacity (a lexicon whose "
        "words follow Zipf's law: a few are frequent, most are rare), structure (the adjective moves behind its "
        "noun and takes the form that the noun's class demands) and something irreducible: many words have several "
        "translations, of which each sentence uses one at random. All words are invented: a controlled experiment, "
        "in which no earlier knowledge helps."
    ),
}
"""Of built-in suites by the beginning of their names."""


def about(experiment: Experiment, suite: Suite | None) -> Markdown:
    """Two paragraphs: the data, and the models. suite: the tested data; None where they are not at hand."""
    parts = {"The data": data_text(experiment, suite), "The models": models_text(experiment)}
    return Markdown("\n\n".join(f"**{name}.** {_plain(text)}" for name, text in parts.items()))


def _plain(text: str) -> str:
    """A text in which Markdown finds nothing: names of files and models are anybody's."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|$~&-])", r"\\\1", text)


def data_text(experiment: Experiment, suite: Suite | None) -> str:
    """What is tested, and what is learnt where it is something else."""
    known = [text for name, text in DATA.items() if experiment.suite.startswith(name)]
    said = [f"{experiment.suite if suite is None else suite.name}.", *known]
    if suite is not None and experiment.train_suite:
        learnt = experiment.training_data.load()
        said.append(
            f"S and L learn from {learnt.name}, {len(learnt.split('train')):,} examples of {len(learnt.tasks)} tasks; "
            f"this page tests {len(suite.tasks)} tasks."
        )
    return " ".join(said)


def models_text(experiment: Experiment) -> str:
    """How both models begin, and how they are trained."""
    e = experiment
    if describes_size(e.large):
        return (
            f"Two Llama-type decoders trained from scratch, with one shared vocabulary: S ({e.small}) is narrow, L "
            f"({e.large}) several times as large."
        )
    if not e.large_steps:
        trained = "as it was published"
    else:
        upper = f" in its upper {e.large_train_layers} layers" if e.large_train_layers else ""
        trained = f"pretrained, and fine-tuned here{upper} for {e.large_steps:,} steps"
    healed = f", has learnt from labels alone for {e.healing_steps:,} steps," if e.healing_steps else ""
    cut = parse_cut(named_cut(e.small, e.large))
    small = e.small if cut is None else f"cut out of L{_kept(cut)}"
    return f"L is {e.large}, {trained}. S is {small}{healed} and is trained by every method for {e.steps:,} steps."


def _kept(cut) -> str:
    try:
        return f" ({cut_sentence(load_config(cut.of), cut.keep).rstrip('.')})"
    except (ValueError, OSError):  # of a recorded cell: the model need not be here
        return ""
