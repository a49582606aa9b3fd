"""Corpus metrics (BLEU, chrF) of a cascade's mixed output, exactly, at every threshold.

Such a metric is no mean over sentences: it is a function of counts summed over the corpus. With the counts of
every sentence under S and under L, the counts of the mixed output at deferral rate k/n are a prefix sum, so
the whole curve costs one pass instead of n + 1 scorings. Every point equals sacrebleu's `corpus_score` of the
mixed output with difference 0 (sacrebleu's own function turns the counts into the score). Scores are
sacrebleu's, 0 to 100.

Inside a tied group the curve is a straight line between the scores at its ends: here a convention, not an
expectation. sacrebleu is imported when first needed.
"""

import numpy as np

from cat_core.ranking import DeferralCurve, Ranking, check_confidence, rank, straighten


def corpus_metric(name: str, **options):
    """sacrebleu's BLEU or CHRF object for `name` ("bleu" or "chrf"), built with sacrebleu's own `options`."""
    if name not in ("bleu", "chrf"):
        raise ValueError(f"corpus metric must be 'bleu' or 'chrf', got {name!r}")
    from sacrebleu.metrics import BLEU, CHRF

    return {"bleu": BLEU, "chrf": CHRF}[name](**options)


def sentence_counts(metric, predictions, references) -> np.ndarray:
    """[n, d] integer sufficient statistics of each sentence under a sacrebleu `metric`; they add up.

    predictions, references: n texts each (one reference a sentence). BLEU: hypothesis and reference length,
    then matches and totals of each n-gram order (10 numbers); chrF: hypothesis, reference and match count of
    each order.
    """
    predictions, references = list(predictions), list(references)
    if len(predictions) != len(references) or not predictions:
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references: give one each, at least one"
        )
    for name, texts in (("predictions", predictions), ("references", references)):
        bad = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
        if bad is not None:
            raise ValueError(f"{name}[{bad}] is {texts[bad]!r}, expected text (was the table written without texts?)")
    return np.array(metric._extract_corpus_statistics(predictions, [references]), dtype=np.int64)


def exact_scores(metric, counts: np.ndarray) -> np.ndarray:
    """[m] scores of summed `counts` [m, d], each computed by sacrebleu itself."""
    return np.array([metric._compute_score_from_stats(row).score for row in counts.tolist()])


def fast_scores(metric, counts: np.ndarray) -> np.ndarray:
    """[...] scores of summed `counts` [..., d], vectorised; equal to sacrebleu's but for rounding.

    For resampling, where millions of scores are needed. BLEU with smoothing "exp" (the default), "none" or
    "floor", and chrF without epsilon smoothing; ValueError for other settings.
    """
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

    small_predictions, large_predictions, references: n texts each; confidence: [n]; metric: "bleu" or "chrf"
    with sacrebleu's own options (default settings otherwise). item_ids, cluster_ids: as in
    `outcomes.Pairing`.
    """

    def __init__(
        self,
        small_predictions,
        large_predictions,
        references,
        confidence,
        metric: str = "bleu",
        *,
        item_ids=None,
        cluster_ids=None,
        seed=None,
        **options,
    ):
        self.metric = corpus_metric(metric, **options)
        self.small = sentence_counts(self.metric, small_predictions, references)
        self.large = sentence_counts(self.metric, large_predictions, references)
        self.confidence = check_confidence(confidence)
        self.n = len(self.small)
        sizes = (self.n, len(self.large), len(self.confidence))
        if len(set(sizes)) > 1:
            raise ValueError(
                "got {} small predictions, {} large ones and {} confidences: align all arrays item by item".format(
                    *sizes
                )
            )
        self.item_ids, self.cluster_ids, self.seed = item_ids, cluster_ids, seed
        self.ranking: Ranking = rank(self.confidence)

    @property
    def signature(self) -> str:
        """sacrebleu's signature of the metric, to be printed beside every score."""
        return str(self.metric.get_signature())

    def curve(self) -> DeferralCurve:
        """The metric of the mixed output at all n + 1 deferral rates."""
        return self._curve(self.ranking)

    def greedy_oracle(self) -> DeferralCurve:
        """The curve of deferring by the gain of the sentence-level score, L - S, largest first.

        Greedy, not an upper bound: the corpus metric is not a sum of sentence scores, so a better order may
        exist. Sentence-level BLEU uses effective order, as sacrebleu advises.
        """
        single = self.metric
        if hasattr(single, "effective_order") and not single.effective_order:
            options = {
                name: getattr(single, name)
                for name in ("lowercase", "smooth_method", "smooth_value", "max_ngram_order")
            }
            single = corpus_metric("bleu", effective_order=True, **options)
        return self._curve(rank(exact_scores(single, self.small) - exact_scores(single, self.large)))

    def _curve(self, ranking):
        gained = (self.large - self.small)[ranking.order]
        counts = self.small.sum(axis=0) + _running(gained)
        scores = straighten(exact_scores(self.metric, counts), ranking)
        return DeferralCurve.from_ranking(scores, ranking, self.signature)

    def resample(self, counts: np.ndarray, grid: np.ndarray | None, scratch=None):
        """Areas [b] and values at the deferral rates `grid` [b, g] for item multiplicities `counts` [b, n].

        As `resampling.MeanRun.resample`. The copies of an item drawn more than once are a tied group.
        """
        areas, values = [], []
        small, gained = self.small[self.ranking.order], (self.large - self.small)[self.ranking.order]
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


def bleu_curve(small_predictions, large_predictions, references, confidence, **options) -> DeferralCurve:
    """Corpus BLEU (0 to 100) of the mixed output at every deferral rate; options: sacrebleu's BLEU.

    Exact: difference 0 from `corpus_score` of the mixed texts at every threshold. The mean of sentence-level
    BLEU is another number. The curve's `signature` is sacrebleu's.
    """
    return CorpusRun(small_predictions, large_predictions, references, confidence, "bleu", **options).curve()


def chrf_curve(small_predictions, large_predictions, references, confidence, **options) -> DeferralCurve:
    """Corpus chrF (0 to 100) of the mixed output at every deferral rate; options: sacrebleu's CHRF."""
    return CorpusRun(small_predictions, large_predictions, references, confidence, "chrf", **options).curve()
