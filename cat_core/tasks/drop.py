"""DROP's exact match and F1, by the rules of its official script.

Source: Dua et al. 2019 (arXiv 1903.00161) and AllenNLP's `drop_eval.py`, which lm-evaluation-harness has as
`tasks/drop/utils.py`. An answer is one span or several, divided by `SPANS`.
"""

import re
import string

import numpy as np

SPANS = " | "
"""Between the spans of an answer that has several: "Bears | Lions"."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def drop_words(text: str) -> list[str]:
    """The words of one span: parted at blanks and hyphens, lower case, without punctuation and a, an, the; a number as
    Python writes the float, so that "3" is "3.0" and "1,000" is "1000.0"."""
    words = []
    for token in re.split(" |-", text.lower()):
        token = token if _is_number(token) else token.translate(_PUNCTUATION)
        words += _ARTICLES.sub(" ", str(float(token)) if _is_number(token) else token).split()
    return words


def drop_em(prediction: str, reference: str) -> float:
    """1 if both have as many spans, and the same ones in whatever order, else 0."""
    given, wanted = ([" ".join(drop_words(span)) for span in text.split(SPANS)] for text in (prediction, reference))
    return float(set(given) == set(wanted) and len(given) == len(wanted))


def drop_f1(prediction: str, reference: str) -> float:
    """F1 of the spans' sets of words, spans aligned one to one as is best, a mean over the larger number of spans.

    A pair of spans counts only where the right one has no number, or one that the given one has, too. Rounded to two
    decimals, as the official script does.
    """
    given, wanted = ([set(drop_words(span)) for span in text.split(SPANS)] for text in (prediction, reference))
    scores = np.array([[_span_f1(g, w) for g in given] for w in wanted])
    aligned = np.zeros(max(scores.shape))
    if min(scores.shape) == 1:
        aligned[0] = scores.max()
    else:
        from scipy.optimize import linear_sum_assignment

        rows, columns = linear_sum_assignment(scores, maximize=True)
        aligned[rows] = scores[rows, columns]
    return float(np.round(aligned.mean(), 2))


def _span_f1(given: set[str], wanted: set[str]) -> float:
    numbers, common = {word for word in wanted if _is_number(word)}, len(given & wanted)
    if not common or (numbers and numbers.isdisjoint(given)):
        return float(not given and not wanted)
    precision, recall = common / len(given), common / len(wanted)
    return 2 * precision * recall / (precision + recall)  # as the official script has it, so that both round alike


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
