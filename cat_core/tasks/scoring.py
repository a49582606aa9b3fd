"""Scoring: how right an answer is, in [0, 1], against one or several right ones; the best of them counts.

Texts are compared in Unicode's composed form (NFC): an accent is one character or two, and looks the same.
"""

import functools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cat_core.tasks.drop import SPANS, drop_em, drop_f1, drop_words
from cat_core.tasks.schema import brief, nearest

TOKENIZERS = (
    "13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "flores101", "flores200", "spBLEU-1K", "none",
)  # fmt: skip
"""sacrebleu's ways to cut texts into the words of BLEU; 13a, the default, needs blanks between words."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_BLANKED = str.maketrans(dict.fromkeys(string.punctuation + "\u2018\u2019\u00b4`", " "))
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]")


@dataclass(frozen=True)
class Metric:
    """A metric for readers.

    label: its name. of_many: what makes one number of many answers: "mean"; "corpus", sacrebleu's score of all texts;
    "classes", a function of how often each option is right, chosen, and both; "groups", the share of questions whose
    answers are all right. Only a "mean" or "corpus" metric can be a task's own; the others need more than one answer.
    source: where the definition is from.
    """

    label: str
    of_many: str
    source: str


_SQUAD = "Rajpurkar et al. 2016, evaluate-v1.1.py"
_ROUGE = "Lin 2004; rouge-score, without stemmer"
TABLE = {
    "accuracy": Metric("Accuracy", "mean", ""),
    "exact_match": Metric("Exact match", "mean", ""),
    "exact_match_normalized": Metric("Exact match (normalized)", "mean", _SQUAD),
    "f1": Metric("Token F1", "mean", _SQUAD),
    "coqa_f1": Metric("CoQA F1", "mean", "Reddy et al. 2019, evaluate-v1.0.py"),
    "trivia_em": Metric("TriviaQA EM", "mean", "Joshi et al. 2017, triviaqa_evaluation.py"),
    "trivia_f1": Metric("TriviaQA F1", "mean", "Joshi et al. 2017, triviaqa_evaluation.py"),
    "drop_em": Metric("DROP EM", "mean", "Dua et al. 2019, drop_eval.py"),
    "drop_f1": Metric("DROP F1", "mean", "Dua et al. 2019, drop_eval.py"),
    "rouge_1": Metric("ROUGE-1", "mean", _ROUGE),
    "rouge_2": Metric("ROUGE-2", "mean", _ROUGE),
    "rouge_l": Metric("ROUGE-L", "mean", _ROUGE),
    "bleu": Metric("BLEU", "corpus", "Papineni et al. 2002; Post 2018, sacrebleu"),
    "chrf": Metric("chrF", "corpus", "Popovic 2015; sacrebleu"),
    "macro_f1": Metric("Macro-F1", "classes", "scikit-learn's f1_score, average='macro', zero_division=0"),
    "binary_f1": Metric("F1", "classes", "of the second option (label 1); scikit-learn's f1_score, zero_division=0"),
    "f1a": Metric("F1a", "classes", "Khashabi et al. 2018: binary F1 over all answers of all questions"),
    "matthews": Metric("Matthews correlation", "classes", "Matthews 1975; Gorodkin 2004; scikit-learn"),
    "question_em": Metric("EM over questions", "groups", "Khashabi et al. 2018; Wang et al. 2019, SuperGLUE"),
}
"""Every metric by name."""
CORPUS = tuple(name for name, metric in TABLE.items() if metric.of_many == "corpus")
CLASSES = tuple(name for name, metric in TABLE.items() if metric.of_many == "classes")
GROUPS = tuple(name for name, metric in TABLE.items() if metric.of_many == "groups")
METRICS = tuple(name for name in TABLE if name not in (*CLASSES, *GROUPS))
"""What a task's own metric may be: each answer has a quality by it."""
FURTHER = tuple(TABLE)
"""What a task may report beside its own metric."""


def composed(text: str) -> str:
    """The text in NFC."""
    return unicodedata.normalize("NFC", text)


def same_words(prediction: str, reference: str) -> bool:
    """Whether two texts are equal but for white space and the way accents are written; case counts."""
    return composed(prediction).split() == composed(reference).split()


def squad_words(text: str) -> list[str]:
    """The words that SQuAD's evaluation compares (Rajpurkar et al. 2016): lower case, without ASCII punctuation and
    the articles a, an, the."""
    return _ARTICLES.sub(" ", composed(text).lower().translate(_PUNCTUATION)).split()


def trivia_words(text: str) -> list[str]:
    """The words that TriviaQA's evaluation compares: as `squad_words`, but punctuation parts words (the official
    `normalize_answer` puts a blank in its place), and so do the quotes \u2018 \u2019 \u00b4 `."""
    return _ARTICLES.sub(" ", composed(text).lower().translate(_BLANKED)).split()


def rouge_words(text: str) -> list[str]:
    """The words that rouge-score compares: runs of a to z and 0 to 9, in lower case, without a stemmer."""
    return re.findall("[a-z0-9]+", composed(text).lower())


def overlap_f1(given: Sequence[str], wanted: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of words, repeats counted; 1 where both have none, 0 where one has."""
    common = (Counter(given) & Counter(wanted)).total()
    return 2 * common / (len(given) + len(wanted)) if given and wanted else float(given == wanted)


def exact_match_normalized(prediction: str, reference: str) -> float:
    """1 if `squad_words` of both are equal, else 0."""
    return float(squad_words(prediction) == squad_words(reference))


def token_f1(prediction: str, reference: str) -> float:
    """F1 over `squad_words` (SQuAD)."""
    return overlap_f1(squad_words(prediction), squad_words(reference))


def rouge(kind: str, prediction: str, reference: str) -> float:
    """F-measure of the package rouge-score: kind "rouge1", "rouge2" or "rougeL" (the longest common subsequence of the
    whole texts, not of their sentences, which is "rougeLsum").

    Without Porter's stemmer, which is the package's default and what T5 and FLAN did; papers that use the stemmer have
    higher numbers. One-line ImportError where the package is not installed.
    """
    return _rouge_scorer(kind).score(composed(reference), composed(prediction))[kind].fmeasure


@functools.cache
def _rouge_scorer(kind: str):
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise ImportError("ROUGE needs the package rouge-score (extra 'book'): pip install rouge-score") from None
    return RougeScorer([kind])


SHARES: dict[str, Callable[[str, str], float]] = {
    "accuracy": same_words,
    "exact_match": same_words,
    "exact_match_normalized": exact_match_normalized,
    "f1": token_f1,
    "coqa_f1": token_f1,
    "trivia_em": lambda prediction, reference: float(trivia_words(prediction) == trivia_words(reference)),
    "trivia_f1": lambda prediction, reference: overlap_f1(trivia_words(prediction), trivia_words(reference)),
    "drop_em": lambda prediction, reference: drop_em(composed(prediction), composed(reference)),
    "drop_f1": lambda prediction, reference: drop_f1(composed(prediction), composed(reference)),
    "rouge_1": functools.partial(rouge, "rouge1"),
    "rouge_2": functools.partial(rouge, "rouge2"),
    "rouge_l": functools.partial(rouge, "rougeL"),
}
"""Metrics of one answer against one right answer, in [0, 1]; their mean is the quality of many."""


def best(scores: Sequence[float]) -> float:
    """The best of the scores against each right answer."""
    return float(max(scores))


def best_of_others(scores: Sequence[float]) -> float:
    """CoQA's rule, which lets people and models meet as many right answers: each of n is left out in turn, the best of
    the other n - 1 counts, and these are averaged. Of one right answer it is the score itself."""
    top, *rest = sorted(scores, reverse=True)
    return float(((len(scores) - 1) * top + rest[0]) / len(scores)) if rest else float(top)


REPEATED = ("coqa_f1",)
"""Metrics to which a right answer that several people gave counts several times."""
_WORDS = {
    **dict.fromkeys(("exact_match_normalized", "f1", "coqa_f1"), squad_words),
    **dict.fromkeys(("trivia_em", "trivia_f1"), trivia_words),
    **dict.fromkeys(("drop_em", "drop_f1"), lambda text: drop_words(composed(text).replace(SPANS, " "))),
    **dict.fromkeys(("rouge_1", "rouge_2", "rouge_l"), rouge_words),
}


def nothing_left(text: str, metric: str) -> str | None:
    """Why no answer can be right by this metric where this text is the right one, None if one can."""
    if metric not in _WORDS or _WORDS[metric](text):
        return None
    left_out = "nothing but a to z and 0 to 9" if metric.startswith("rouge") else "neither punctuation nor articles"
    return f"nothing is left of {brief(text)} for metric {metric!r}, which compares {left_out}: use exact_match"


def quality_of(prediction: str, references: Sequence[str], metric: str, tokenize: str = "") -> float:
    """Quality of one answer in [0, 1], against one or several right ones.

    A metric of `SHARES`: of the best of them (CoQA's: `best_of_others`). `bleu`, `chrf`: sacrebleu's sentence score /
    100 with all references (BLEU with effective order, so that short sentences are not zero). tokenize: of
    `TOKENIZERS`, for BLEU; "" is 13a. ValueError for a metric of many answers together.
    """
    if metric in SHARES:
        scores = [SHARES[metric](prediction, reference) for reference in references]
        return best_of_others(scores) if metric in REPEATED else best(scores)
    score = _sentence_metric(metric, tokenize).sentence_score(composed(prediction), [composed(r) for r in references])
    return min(max(score.score / 100, 0.0), 1.0)  # sacrebleu's 100 may be 100.00000000000004


@functools.cache
def _sentence_metric(name: str, tokenize: str):
    if name not in CORPUS:
        if name in TABLE:
            raise ValueError(f"metric {name!r} is of many answers together: one alone has no quality by it")
        raise ValueError(f"unknown metric {name!r}{nearest(name, METRICS)}")
    from sacrebleu.metrics import BLEU, CHRF

    return BLEU(effective_order=True, tokenize=tokenize or None) if name == "bleu" else CHRF()


def check_usable(metric: str) -> None:
    """ImportError, in one line, where this metric needs a package that is not installed."""
    if metric.startswith("rouge"):
        quality_of("word", ["word"], metric)


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
