"""Scoring: how right an answer is, in [0, 1], against one or several right ones; the best of them counts.

Texts are compared in Unicode's composed form (NFC): an accent is one character or two, and looks the same.
"""

import functools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from cat_core.tasks.schema import brief, nearest

CORPUS = ("bleu", "chrf")
TOKENIZERS = (
    "13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "flores101", "flores200", "spBLEU-1K", "none",
)  # fmt: skip
"""sacrebleu's ways to cut texts into the words of BLEU; 13a, the default, needs blanks between words."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]")


def composed(text: str) -> str:
    """The text in NFC."""
    return unicodedata.normalize("NFC", text)


def same_words(prediction: str, reference: str) -> bool:
    """Whether two texts are equal but for white space and the way accents are written; case counts."""
    return composed(prediction).split() == composed(reference).split()


def squad_words(text: str) -> list[str]:
    """The words that SQuAD's evaluation compares (Rajpurkar et al. 2016): lower case, without ASCII punctuation and
    the articles a, an, the."""
    return re.sub(r"\b(a|an|the)\b", " ", composed(text).lower().translate(_PUNCTUATION)).split()


def exact_match_normalized(prediction: str, reference: str) -> float:
    """1 if `squad_words` of both are equal, else 0."""
    return float(squad_words(prediction) == squad_words(reference))


def token_f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall over `squad_words` (SQuAD); 1 where both have none, 0 where one has."""
    given, wanted = squad_words(prediction), squad_words(reference)
    common = (Counter(given) & Counter(wanted)).total()
    return 2 * common / (len(given) + len(wanted)) if given and wanted else float(given == wanted)


SHARES: dict[str, Callable[[str, str], float]] = {
    "accuracy": same_words,
    "exact_match": same_words,
    "exact_match_normalized": exact_match_normalized,
    "f1": token_f1,
}
"""Metrics of one answer against one right answer, in [0, 1]; their mean is the quality of many."""
BY_WORDS = ("exact_match_normalized", "f1")
METRICS = (*SHARES, *CORPUS)


def quality_of(prediction: str, references: Sequence[str], metric: str, tokenize: str = "") -> float:
    """Quality of one answer in [0, 1], against one or several right ones.

    A metric of `SHARES`: of the best of them. `bleu`, `chrf`: sacrebleu's sentence score / 100 with all references
    (BLEU with effective order, so that short sentences are not zero). tokenize: of `TOKENIZERS`, for BLEU; "" is 13a.
    """
    if metric in SHARES:
        return float(max(SHARES[metric](prediction, reference) for reference in references))
    score = _sentence_metric(metric, tokenize).sentence_score(composed(prediction), [composed(r) for r in references])
    return min(max(score.score / 100, 0.0), 1.0)  # sacrebleu's 100 may be 100.00000000000004


@functools.cache
def _sentence_metric(name: str, tokenize: str):
    if name not in CORPUS:
        raise ValueError(f"unknown metric {name!r}{nearest(name, METRICS)}")
    from sacrebleu.metrics import BLEU, CHRF

    return BLEU(effective_order=True, tokenize=tokenize or None) if name == "bleu" else CHRF()


def check_tokenizer(tokenize: str) -> None:
    """ValueError where sacrebleu cannot use this tokenizer here: some need a package, or download a model."""
    try:
        _sentence_metric("bleu", tokenize)
    except (Exception, SystemExit) as error:  # sacrebleu's optional packages each fail in a way of their own
        raise ValueError(f"tokenize {tokenize!r} cannot be used here ({brief(str(error))}): install what it asks for, "
                         "or choose another") from None  # fmt: skip


def has_no_blanks(text: str) -> bool:
    """Whether a text has Chinese, Japanese or Korean characters, which the tokenizer 13a does not part into words."""
    return _UNSPACED.search(text) is not None
