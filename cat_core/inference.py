"""Batched inference on one transformers language model: greedy answers, and scores of given options.

The log-probability of every produced token, and the margin and entropy of the distribution it was taken from,
are computed on the fly, so that memory never holds a tensor of steps x batch x vocabulary. Prompts of one batch
are padded on the left, with explicit position ids where the model takes them, so that a query gets the same
answer in a batch as alone (log-probabilities, margins and entropies within 1e-5 in float32). Tokens are those of
`text.TextFormat`.

Exact early exit: an answer that will be deferred whatever follows is not written to its end. Log-probabilities are
never above 0, so the sum and the minimum of an answer's can only fall while it grows. Once either is at or below the
threshold it stays there. Means, higher quantiles, margins and entropies may rise again, and the option rules read whole
options: there no early exit is exact.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cat_core.architectures import Memory, go_on, has_encoder, read_prompts, selected
from cat_core.confidence import chosen_logprob, margin_and_entropy
from cat_core.methods import RULES
from cat_core.queries import aligned
from cat_core.shapes.caches import joined, keeps_every_token, runs

# ---------------------------------------------------------------- exact early exit

EXACT_RULES = tuple(name for name, rule in RULES.items() if rule.exact_exit)

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


# ---------------------------------------------------------------- batches

# Logits of one option pass: at most this many numbers at once (128 MiB in float32).
LOGIT_BUDGET = 1 << 25
PIECE = 1 << 19  # of logits that log-probabilities are read off at once

# Dropping finished rows copies the cache: worth it once no more than this share of the batch is unfinished.
BUSY_SHARE = 0.75


@contextmanager
def answering(model):
    """Evaluation mode without gradients; the model's training mode is put back at the end."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _read(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities of `tokens` [...], margins and entropies of logits [..., V]: float32 [3, ...], a few rows at a
    time, so that what is computed on the way stays in a CPU's caches."""
    rows = len(tokens.flatten()) if logits.is_cuda else max(1, PIECE // logits.shape[-1])
    parts = zip(logits.flatten(0, -2).split(rows), tokens.flatten().split(rows))
    found = [torch.stack([chosen_logprob(part, ids), *margin_and_entropy(part)]).float() for part, ids in parts]
    return torch.cat(found, dim=1).unflatten(1, tokens.shape)


def _prefill(model, prompts, pad: int, vocab: int) -> tuple[Memory, Tensor, Tensor]:
    """What is kept of left-padded prompts, their mask [B, P], and the logits [B, vocab] that follow them.

    Prompts are read in runs of like length where their caches can be put together.
    """
    ids, mask, width = aligned(prompts, [[]] * len(prompts), pad)
    positions = np.maximum(mask.cumsum(-1) - 1, 0)
    ids, mask, positions = (torch.from_numpy(array).to(model.device) for array in (ids, mask, positions))
    lengths, whole = [*map(len, prompts)], has_encoder(model) or not keeps_every_token(model.config)
    parts = []
    for rows in [slice(0, len(prompts))] if whole else runs(lengths, mask.device):
        place = rows, slice(width - max(lengths[rows]), width)
        parts.append(read_prompts(model, ids[place], mask[place], positions[place]))
    memories, logits = zip(*parts)
    return joined(memories, width), mask, torch.cat(logits)[:, :vocab]


def generate_batch(
    model,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Iterable[int],
    pad: int,
    vocab: int,
    max_new_tokens: int,
    stopped: Callable[[list[list[int]]], list[bool]] | None = None,
    early_exit: EarlyExit | None = None,
) -> list[tuple[list[int], list[float], list[float], list[float]]]:
    """Greedy answers of one batch: (token ids, log-probabilities, margins, entropies), one of each a token.

    An answer includes the token that ends it, where there is one; margins and entropies are those of
    `confidence.margin_and_entropy`. prompts: token ids; stop_ids: the ids that end an answer; stopped: tells of the ids
    of answers so far whether they end there (`text.TextFormat.stopped`); pad: any id, for the padding; vocab: number of
    logits used. Rows that are finished leave the batch; memory holds one step's logits [B, vocab] at a time.
    early_exit: rows that are deferred for certain are finished, too; their answers end there.
    """
    cache, mask, logits = _prefill(model, prompts, pad, vocab)
    size, width = mask.shape
    device = mask.device
    # Of all B rows, to the end: tokens [B, M]; log-probabilities, margins and entropies [3, B, M]; lengths [B].
    tokens = torch.full((size, max_new_tokens), pad, dtype=torch.long, device=device)
    ends = torch.tensor(sorted(stop_ids), device=device)
    values = torch.zeros((3, size, max_new_tokens), dtype=torch.float32, device=device)
    counts = torch.zeros(size, dtype=torch.long, device=device)  # a finished row writes on until it is dropped
    # Of the b <= B rows that are still in the batch, as the cache and the logits [b, V]: their numbers in it, mask
    # [b, P + M], the position of the next token [b, 1], and whether they are finished.
    rows = torch.arange(size, device=device)
    mask = torch.cat([mask, mask.new_ones(size, max_new_tokens)], dim=1)
    position = mask[:, :width].sum(-1, keepdim=True)
    done = torch.zeros(size, dtype=torch.bool, device=device)
    for step in range(max_new_tokens):
        token = logits.argmax(-1)  # [b]
        tokens[rows, step] = token
        values[:, rows, step] = _read(logits, token)
        counts[rows] += ~done
        done |= torch.isin(token, ends)
        if stopped is not None:
            done |= torch.tensor(stopped(tokens[rows, : step + 1].tolist()), device=device)
        if early_exit is not None:
            done |= early_exit.certain(values[0, rows, : step + 1])
        left = len(rows) - int(done.sum())
        if left == 0 or step == max_new_tokens - 1:
            break
        if left <= BUSY_SHARE * len(rows):  # b falls to `left`
            kept = (~done).nonzero().squeeze(-1)
            cache.batch_select_indices(kept)
            rows, mask, position, token, done = (x[kept] for x in (rows, mask, position, token, done))
        logits = go_on(model, cache, token[:, None], mask[:, : width + step + 1], position, keep=1)[:, -1, :vocab]
        position = position + 1
    tokens, values = tokens.cpu().numpy(), values.cpu().numpy()
    return [(tokens[i, :n].tolist(), *values[:, i, :n].tolist()) for i, n in enumerate(counts.tolist())]


def score_batch(
    model,
    prompts: Sequence[Sequence[int]],
    options: Sequence[Sequence[Sequence[int]]],
    *,
    pad: int,
    vocab: int,
    batch_tokens: int,
) -> list[list[list[list[float]]]]:
    """Of every option of every prompt: [log-probabilities, margins, entropies], one of each a token.

    Options include their EOS. Margins and entropies are those of the distributions at the option's positions
    (`confidence.margin_and_entropy`), whichever token the option has there.
    Each prompt is read once (by the encoder, where there is one); its cache is repeated for its options. Options of
    equal length go through the model together, so that no padding is computed among them and an item alone
    costs `flops.option_flops` exactly. A pass holds at most `batch_tokens` tokens and LOGIT_BUDGET logits.
    """
    cache, mask, logits = _prefill(model, prompts, pad, vocab)
    width, count = mask.shape[1], mask.sum(-1, keepdim=True)  # columns; [B, 1] tokens of each prompt
    # option length -> (row of its prompt, number among the row's options)
    groups: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row, choices in enumerate(options):
        for k, choice in enumerate(choices):
            groups[len(choice)].append((row, k))
    first = torch.stack(margin_and_entropy(logits))  # [2, B]: all options of a prompt start from the same one
    scores: list[list[list[list[float]]]] = [[[] for _ in choices] for choices in options]
    for length, places in sorted(groups.items()):
        step = max(1, min(batch_tokens // (width + length), LOGIT_BUDGET // (length * vocab)))
        for start in range(0, len(places), step):
            part = places[start : start + step]
            rows = torch.tensor([row for row, _ in part], device=mask.device)
            ids = torch.tensor([options[row][k] for row, k in part], device=mask.device)
            # [3, n, 1] of the first token of n options, read off the prompt's own logits [B, V]
            values = torch.cat([chosen_logprob(logits[rows], ids[:, 0])[None], first[:, rows]]).unsqueeze(-1)
            if length > 1:  # all but the last token are fed, on a copy of the cache: [n, length - 1, V] logits
                seen = torch.cat([mask[rows], mask.new_ones(len(part), length - 1)], dim=1)
                positions = count[rows] + torch.arange(length - 1, device=mask.device)
                rest = go_on(model, selected(cache, rows), ids[:, :-1], seen, positions)[..., :vocab]
                values = torch.cat([values, _read(rest, ids[:, 1:])], dim=-1)  # [3, n, length]
            for (row, k), value in zip(part, values.float().transpose(0, 1).tolist(), strict=True):
                scores[row][k] = value
    return scores


def model_fingerprint(model) -> str:
    """sha256 over a model's configuration and weights: which model a stored answer came from."""
    ignored = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
    config = {key: value for key, value in model.config.to_diff_dict().items() if key not in ignored}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
