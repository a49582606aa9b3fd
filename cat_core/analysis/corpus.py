"""Corpus metrics (BLEU, chrF) of a cascade's mixed output, exactly, at every threshold.

Such a metric is no mean over sentences: it is a function of counts summed over the corpus. With the counts of every
sentence under S and under L, the counts of the mixed output at deferral rate k/n are a prefix sum, so the whole curve
costs one pass instead of n + 1 scorings. Every point equals sacrebleu's `corpus_score` of the mixed output with
difference 0 (sacrebleu's own function turns the counts into the score). Scores are sacrebleu's, 0 to 100.

Inside a tied group the curve is a straight line between the scores at its ends: here a convention, not an expectation.

Where texts may not be passed on, the counts of each sentence can be (`with_counts`): they give the same curves, bit
for bit, and say of a text little more than its length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import numpy as np
import pandas as pd
from sacrebleu.metrics import BLEU, CHRF

from cat_core.ranking import DeferralCurve, Ranking, check_confidence, rank, straighten
from cat_core.tasks.schema import brief
from cat_core.tasks.scoring import CORPUS, composed

_NREFS = re.compile(r"nrefs:\w+")
_counted: dict[tuple, np.ndarray] = {}
MOST = 2**17  # sentences whose counts are remembered: many models give the same answer, and several tables ask for it

METRICS = CORPUS
"""Corpus metrics, as the outcome table names them: "bleu", "chrf"."""


def scale_of(metric: str) -> float:
    """What brings quality by a metric to points, 0 to 100: corpus metrics are such points, all others are shares."""
    return 1.0 if metric in METRICS else 100.0


def corpus_metric(name: str, **options):
    """sacrebleu's BLEU or CHRF object for `name` ("bleu" or "chrf"), built with sacrebleu's own `options`."""
    if name not in METRICS:
        raise ValueError(f"corpus metric must be 'bleu' or 'chrf', got {name!r}")
    return {"bleu": BLEU, "chrf": CHRF}[name](**options)


def sentence_counts(metric, predictions, references) -> np.ndarray:
    """[n, d] integer sufficient statistics of each sentence under a sacrebleu `metric`; they add up.

    predictions: n texts; references: n right answers, each a text or a list of texts, as many as there are. BLEU:
    hypothesis and reference length (the nearest), then matches and totals of each n-gram order (10 numbers); chrF:
    hypothesis, reference and match count of each order, with the reference that gives the best score. Texts are
    compared in NFC.
    """
    predictions = list(predictions)
    references = [[r] if isinstance(r, str) or not isinstance(r, list | tuple) else list(r) for r in references]
    if len(predictions) != len(references) or not predictions:
        given = f"{len(predictions)} predictions for {len(references)} references"
        raise ValueError(f"{given}: give one each, at least one")
    for name, rows in (("predictions", [[text] for text in predictions]), ("references", references)):
        bad = next((i for i, row in enumerate(rows) if not row or not all(isinstance(text, str) for text in row)), None)
        if bad is not None:
            given = brief(rows[bad][0] if len(rows[bad]) == 1 else rows[bad])
            raise ValueError(f"{name}[{bad}] is {given}, expected text (was the table written without texts?)")
    rows = [(composed(text), *map(composed, row)) for text, row in zip(predictions, references)]
    kind = (type(metric), getattr(metric, "max_ngram_order", 0), _NREFS.sub("", _count_signature(metric)))
    if missing := [row for row in dict.fromkeys(rows) if (kind, row) not in _counted]:
        if len(_counted) + len(missing) > MOST:
            _counted.clear()
            missing = list(dict.fromkeys(rows))
        streams = [[row[k] if k < len(row) else None for row in missing] for k in range(max(map(len, missing)))]
        found = metric._extract_corpus_statistics(streams[0], streams[1:])
        _counted.update(((kind, row), counts) for row, counts in zip(missing, np.array(found, dtype=np.int64)))
    sizes = set(map(len, references))
    metric.num_refs = sizes.pop() if len(sizes) == 1 else -1  # as sacrebleu has it, for its signature
    return np.stack([_counted[kind, row] for row in rows])


# ---------------------------------------------------------------- counts in a table


def _count_signature(metric) -> str:
    """sacrebleu's signature of `metric`, of one reference a sentence if it was not asked for any yet."""
    metric.num_refs = getattr(metric, "num_refs", None) or 1
    return str(metric.get_signature())


def joined_signature(signatures: Iterable[str]) -> str:
    """The signature of counts made alike: "nrefs:var" where they differ in the number of references alone.

    ValueError where they differ in something else.
    """
    signatures = sorted(set(signatures))
    if len(signatures) > 1 and len({_NREFS.sub("", text) for text in signatures}) == 1:
        return _NREFS.sub("nrefs:var", signatures[0])
    if len(signatures) > 1:
        raise ValueError(f"counted as {' and as '.join(signatures)}: count all texts alike, or choose one task")
    return signatures[0]


def tokenizer_options(metric: str, tokenize: str) -> dict[str, str]:
    """sacrebleu's options for BLEU with a tokenizer ("" is its default, 13a); chrF has none."""
    return {"tokenize": tokenize} if metric == "bleu" and tokenize else {}


def tokenizer_of(signature: str) -> str:
    """The tokenizer that sacrebleu's signature names; "" where it is the default, or chrF's."""
    match = re.search(r"\|tok:([^|]+)", signature)
    return match[1] if match and match[1] != "13a" else ""


def _predicted(metric, counts: np.ndarray, back: bool) -> np.ndarray:
    """[n, d] `counts` as what is left after predicting most of them from the lengths; `back`: the way back.

    A text of m units has max(0, m - k + 1) n-grams of order k, so totals are predicted from the first one, and matches
    from those one order below. It is lossless whatever the counts are, and leaves mostly zeros.
    """
    out = counts.copy()
    true = out if back else counts  # what predictions are made from; on the way back restored column by column
    if hasattr(metric, "max_ngram_order"):
        n = metric.max_ngram_order
        families = [([0, *range(2 + n, 2 + 2 * n)], [1], [*range(2, 2 + n)], 0)]
    else:  # each order of characters, then of words: hypothesis, reference, matches
        chars, words = range(metric.char_order), range(metric.char_order, metric.char_order + metric.word_order)
        families = [([3 * k for k in o], [3 * k + 1 for k in o], [3 * k + 2 for k in o], 1) for o in (chars, words)]
    for hypothesis, reference, match, shorter in families:
        for first, *further in filter(None, (hypothesis, reference)):
            for k, column in enumerate(further):
                expected = np.maximum(true[:, first] - k - shorter, 0)
                out[:, column] += expected if back else -expected
        for before, column in zip(hypothesis[:1] + match[:-1], match):
            out[:, column] = true[:, before] - counts[:, column]  # its own inverse
    return out


def pack_counts(metric, counts: np.ndarray) -> list[bytes]:
    """`counts` [n, d] of `sentence_counts` as one cell of bytes each: little-endian 16-bit numbers, easily compressed.

    Raises ValueError for counts beyond 16 bits, which no sentence reaches.
    """
    left = _predicted(metric, np.asarray(counts, dtype=np.int64), back=False)
    most = int(np.abs(left).max(initial=0))
    if most > np.iinfo(np.int16).max:
        raise ValueError(f"a sentence counts up to {most} n-grams, expected at most 32767: split the text")
    return [row.tobytes() for row in left.astype("<i2")]


def unpack_counts(metric, cells: Iterable[bytes]) -> np.ndarray:
    """[n, d] counts from the `cells` of `pack_counts`; ValueError for cells that are not `metric`'s."""
    cells = list(cells)
    one_order = getattr(metric, "max_ngram_order", None)
    width = 2 + 2 * one_order if one_order else 3 * (metric.char_order + metric.word_order)
    bad = next((i for i, cell in enumerate(cells) if not isinstance(cell, bytes) or len(cell) != 2 * width), None)
    if bad is not None:
        raise ValueError(f"counts[{bad}] is {cells[bad]!r}, expected {width} numbers of 16 bits (was the table cut?)")
    left = np.frombuffer(b"".join(cells), dtype="<i2").reshape(-1, width).astype(np.int64)
    return _predicted(metric, left, back=True)


def with_counts(frame: pd.DataFrame, metrics: Iterable[str] = METRICS) -> pd.DataFrame:
    """A copy of an outcome table with the sentence counts of its texts, in the columns <metric>_counts and _signature.

    Rows whose metric is a corpus metric, or that name one in `also`, get the counts of all `metrics` (sacrebleu's
    default settings, but for the row's `tokenize`; against the target and the row's `references`), other rows null;
    counts that are there already are kept. After that `outcomes.drop_text` loses nothing that a curve needs. A table
    without such rows comes back as it is. Raises ValueError where a text is missing and no counts are there.
    """
    rows = counted_rows(frame)
    if not rows.any():
        return frame
    frame = frame.copy()
    for name in metrics:
        columns = [f"{name}_counts", f"{name}_signature"]
        cells = {c: frame[c].to_numpy(object) if c in frame else np.full(len(frame), None, object) for c in columns}
        counts, signatures = (cells[c].copy() for c in columns)
        wanted = rows & pd.isna(counts)
        for places in _alike(frame, wanted):
            rest = frame.iloc[places]
            metric = corpus_metric(name, **tokenizer_options(name, tokenizers(rest)[0]))
            right = right_answers(rest)
            packed = pack_counts(metric, sentence_counts(metric, rest["prediction"], right))
            for place, cell in zip(places, packed):
                counts[place] = cell
            signatures[places] = _count_signature(metric)
        # as objects: a text type would turn missing ones into NaN and bytes into text
        frame[columns[0]] = pd.Series(counts, index=frame.index, dtype=object)
        frame[columns[1]] = pd.Series(signatures, index=frame.index, dtype=object)
    return frame


def counted_rows(frame: pd.DataFrame) -> np.ndarray:
    """[n] whether a row's metric, or one that it names in `also`, is a corpus metric."""
    rows = frame["metric"].isin(METRICS).to_numpy()
    if "also" in frame:
        named = (set(cell.split()) if isinstance(cell, str) else set() for cell in frame["also"])
        rows = rows | np.array([not names.isdisjoint(METRICS) for names in named], dtype=bool)
    return rows


def right_answers(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """The target and the further references of each row of an outcome table; the former is None without texts."""
    if "references" not in frame:
        return list(zip(frame["target"].tolist()))
    return [
        tuple(dict.fromkeys((target, *(json.loads(more) if isinstance(more, str) else ()))))
        for target, more in zip(frame["target"], frame["references"])
    ]


def tokenizers(frame: pd.DataFrame) -> list[str]:
    """The tokenizers of BLEU that the rows of an outcome table name, sorted; "" is the default."""
    return sorted(frame["tokenize"].fillna("").unique()) if "tokenize" in frame else [""]


def _alike(frame: pd.DataFrame, wanted: np.ndarray) -> list[np.ndarray]:
    """Positions of the wanted rows, by task and tokenizer: what has one signature."""
    keys = [frame[name].fillna("") for name in ("task", "tokenize") if name in frame]
    group = pd.factorize(pd.Series(list(zip(*keys)) if keys else [()] * len(frame)))[0]
    return [np.flatnonzero(wanted & (group == number)) for number in np.unique(group[wanted])]


def check_signature(metric, signature: str) -> str:
    """`signature` of stored counts, or ValueError unless it is that of `metric`.

    sacrebleu's version and the number of references do not matter.
    """
    own = _count_signature(metric)
    if _NREFS.sub("", signature.split("|version:")[0]) != _NREFS.sub("", own.split("|version:")[0]):
        raise ValueError(f"the stored counts are those of {signature!r}, expected {own!r}: use the same settings")
    return signature


# ---------------------------------------------------------------- scores


def exact_scores(metric, counts: np.ndarray) -> np.ndarray:
    """[m] scores of summed `counts` [m, d], each computed by sacrebleu itself (or by a metric's own `scores`)."""
    if hasattr(metric, "scores"):
        return metric.scores(counts)
    return np.array([metric._compute_score_from_stats(row).score for row in counts.tolist()])


def fast_scores(metric, counts: np.ndarray) -> np.ndarray:
    """[...] scores of summed `counts` [..., d], vectorised; equal to sacrebleu's but for rounding.

    For resampling, where millions of scores are needed. BLEU with smoothing "exp" (the default), "none" or
    "floor", and chrF without epsilon smoothing; ValueError for other settings.
    """
    if hasattr(metric, "scores"):
        return metric.scores(counts)
    counts = counts.astype(np.float64)
    return _bleu(metric, counts) if hasattr(metric, "max_ngram_order") else _chrf(metric, counts)


def _bleu(metric, counts):
    """BLEU = bp exp(mean over orders of log p_n), with sacrebleu's smoothing of orders without a match."""
    if metric.smooth_method not in ("exp", "none", "floor") or metric.effective_order:
        raise ValueError(
            "resampling BLEU supports smooth_method exp, none or floor without effective_order, "
            f"got {metric.smooth_method!r} and effective_order={metric.effective_order}"
        )
    orders = metric.max_ngram_order
    length, reference = counts[..., 0], counts[..., 1]
    match, total = counts[..., 2 : 2 + orders], counts[..., 2 + orders :]
    missing = (match == 0) & (total > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        if metric.smooth_method == "exp":  # each further order without a match counts half as much
            match = np.where(missing, 0.5 ** np.cumsum(missing, axis=-1), match)
        elif metric.smooth_method == "floor":
            match = np.where(missing, metric.smooth_value or metric.SMOOTH_DEFAULTS["floor"], match)
        precision = np.where(total > 0, 100 * match / total, 0.0)
        geometric = np.exp(np.log(precision).sum(axis=-1) / orders)
        brevity = np.where(length < reference, np.exp(1 - reference / length), 1.0)
    # as sacrebleu: no match of any order is 0, whatever the smoothing
    return np.where(counts[..., 2 : 2 + orders].any(axis=-1) & (length > 0), brevity * geometric, 0.0)


def _chrf(metric, counts):
    """chrF: F-beta of precision and recall averaged over the orders present in both texts (Popovic 2015)."""
    if metric.eps_smoothing:
        raise ValueError("resampling chrF supports eps_smoothing=False only")
    hypothesis, reference, match = (counts[..., i::3] for i in range(3))
    present = (hypothesis > 0) & (reference > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        orders = present.sum(axis=-1)
        precision = np.where(present, match / hypothesis, 0.0).sum(axis=-1) / orders
        recall = np.where(present, match / reference, 0.0).sum(axis=-1) / orders
        factor = metric.beta**2
        score = 100 * (1 + factor) * precision * recall / (factor * precision + recall)
    return np.where(orders > 0, np.nan_to_num(score), 0.0)


class CorpusRun:
    """A corpus metric of one method and seed along its deferral curve; may be passed to `paired_bootstrap`.

    small_predictions, large_predictions: n texts each; references: n right answers, each a text or a list of texts;
    confidence: [n]; metric: "bleu" or "chrf"
    with sacrebleu's own options (default settings otherwise). item_ids, cluster_ids: as in
    `outcomes.Pairing`. `from_counts` builds the same run where there are no texts.
    """

    _signature = ""

    def __init__(
        self, small_predictions, large_predictions, references, confidence, metric: str = "bleu", *,
        item_ids=None, cluster_ids=None, seed=None, **options,
    ):  # fmt: skip
        self.metric = corpus_metric(metric, **options)
        counts = (sentence_counts(self.metric, texts, references) for texts in (small_predictions, large_predictions))
        self._start(*counts, confidence, item_ids, cluster_ids, seed)

    @classmethod
    def from_counts(
        cls, small_counts, large_counts, confidence, metric: str = "bleu", *, signature: str = "",
        item_ids=None, cluster_ids=None, seed=None, **options,
    ) -> CorpusRun:  # fmt: skip
        """The same run from the cells [n] of `with_counts` in place of the texts; curves are equal bit for bit.

        signature: as stored beside the counts; it must be that of `metric` and its `options`, but for sacrebleu's
        version. Raises ValueError where it is not, and for cells of another kind.
        """
        run = cls.__new__(cls)
        run.metric = corpus_metric(metric, **options)
        run._signature = check_signature(run.metric, signature) if signature else _count_signature(run.metric)
        counts = (unpack_counts(run.metric, cells) for cells in (small_counts, large_counts))
        run._start(*counts, confidence, item_ids, cluster_ids, seed)
        return run

    def _start(self, small, large, confidence, item_ids, cluster_ids, seed):
        self.small, self.large, self.confidence = small, large, check_confidence(confidence)
        self.n = len(self.small)
        sizes = (self.n, len(self.large), len(self.confidence))
        if len(set(sizes)) > 1:
            counts = "{} small predictions, {} large ones and {} confidences".format(*sizes)
            raise ValueError(f"got {counts}: align all arrays item by item")
        self.item_ids, self.cluster_ids, self.seed = item_ids, cluster_ids, seed
        self.ranking: Ranking = rank(self.confidence)

    @property
    def signature(self) -> str:
        """sacrebleu's signature of the metric, to be printed beside every score; as stored, for stored counts."""
        return self._signature or str(self.metric.get_signature())

    def curve(self) -> DeferralCurve:
        """The metric of the mixed output at all n + 1 deferral rates."""
        return self._curve(self.ranking)

    def gain_confidence(self) -> np.ndarray:
        """[n] confidence of the greedy oracle: sentence-level score of S less that of L (0 to 100).

        Sentence-level BLEU uses effective order, as sacrebleu advises.
        """
        single = self.metric
        if hasattr(single, "effective_order") and not single.effective_order:
            same = ("lowercase", "smooth_method", "smooth_value", "max_ngram_order")
            single = corpus_metric("bleu", effective_order=True, **{name: getattr(single, name) for name in same})
        return exact_scores(single, self.small) - exact_scores(single, self.large)

    def greedy_oracle(self) -> DeferralCurve:
        """The curve of deferring by `gain_confidence`, the largest gain first.

        Greedy, not an upper bound: the corpus metric is not a sum of sentence scores, so a better order may exist.
        """
        return self._curve(rank(self.gain_confidence()))

    def _curve(self, ranking):
        counts = self.small.sum(axis=0) + _running(self._gained(ranking))
        scores = straighten(exact_scores(self.metric, counts), ranking)
        return DeferralCurve.from_ranking(scores, ranking, self.signature)

    def _gained(self, ranking: Ranking) -> np.ndarray:
        """[n, d] what deferring each item, in that order, adds to the summed counts."""
        return (self.large - self.small)[ranking.order]

    def resample(self, counts: np.ndarray, grid: np.ndarray | None, scratch=None):
        """Areas [b] and values at the deferral rates `grid` [b, g] for item multiplicities `counts` [b, n].

        As `resampling.MeanRun.resample`. The copies of an item drawn more than once are a tied group.
        """
        areas, values = [], []
        small, gained = self.small[self.ranking.order], self._gained(self.ranking)
        knots = np.concatenate(([0], self.ranking.ends))
        for row in np.asarray(counts, dtype=np.int64)[:, self.ranking.order]:
            counts_here = row @ small + _running(row[:, None] * gained)[knots]
            score = fast_scores(self.metric, counts_here)
            rate = _running(row)[knots] / row.sum()
            areas.append((np.diff(rate) * (score[1:] + score[:-1])).sum() / 2)
            if grid is not None:
                values.append(np.interp(grid, rate, score))
        return np.array(areas), None if grid is None else np.array(values)


def _running(values: np.ndarray) -> np.ndarray:
    """[n+1, ...] running sums of `values` [n, ...] from 0."""
    return np.concatenate((np.zeros_like(values[:1]), np.cumsum(values, axis=0)))
