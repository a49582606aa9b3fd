"""Costs counted over a model's own passes, where no formula reads its configuration.

PyTorch's counter watches the model answer one query of each length, by itself, with eager attention and experts: it
sees nothing of attention kernels on a CPU, nor of grouped products. What is found is kept by lengths.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count

import torch
from torch.utils.flop_counter import FlopCounterMode


class Measured:
    """FLOPs of queries to a model. read, feed, select: how it reads prompts, goes on, and how rows of what it keeps of
    them are chosen (`architectures.read_prompts`, `go_on`, `selected`).

    Raises ValueError, when it is asked, for a model without eager attention, and where the counter sees nothing.
    """

    def __init__(self, model, read: Callable, feed: Callable, select: Callable):
        self.model, self.read, self.feed, self.select = model, read, feed, select
        self._requests: dict[int, list[int]] = {}  # FLOPs after each new token, by the length of the prompt
        self._options: dict[tuple[int, int], int] = {}  # of an option, by the lengths of prompt and option

    def request(self, prompt_tokens: int, new_tokens: int) -> int:
        """As `flops.request_flops`."""
        known = self._requests.setdefault(prompt_tokens, [])
        if len(known) < new_tokens:
            known[:] = [total for _, total in zip(range(new_tokens), self._counts(prompt_tokens))]
        return known[new_tokens - 1]

    def options(self, prefix_tokens: int, option_tokens: Sequence[int]) -> int:
        """As `flops.option_flops`."""
        return self.request(prefix_tokens, 1) + sum(self._option(prefix_tokens, n) for n in option_tokens)

    def _option(self, prefix: int, n: int) -> int:
        if n > 1 and (prefix, n) not in self._options:
            with _counted(self.model) as counter:
                memory = self._read(prefix)
                before = counter.get_total_flops()
                row = torch.zeros(1, dtype=torch.long, device=self.model.device)
                self._feed(self.select(memory, row), prefix, n - 1)
                self._options[prefix, n] = counter.get_total_flops() - before
        return self._options.get((prefix, n), 0)

    def _counts(self, prompt: int) -> Iterator[int]:
        """FLOPs of answers of 1, 2, 3 ... tokens."""
        with _counted(self.model) as counter:
            memory = self._read(prompt)
            for cached in count(prompt):
                if not (total := counter.get_total_flops()):
                    raise ValueError(f"the counter sees no matrix product of {type(self.model).__name__}: no cost")
                yield total
                self._feed(memory, cached, 1)

    def _read(self, tokens: int):
        ids = torch.full((1, tokens), 3, device=self.model.device)
        return self.read(self.model, ids, torch.ones_like(ids), torch.arange(tokens, device=ids.device)[None])[0]

    def _feed(self, memory, cached: int, tokens: int) -> None:
        ids = torch.full((1, tokens), 3, device=self.model.device)
        positions = torch.arange(cached, cached + tokens, device=ids.device)[None]
        self.feed(self.model, memory, ids, ids.new_ones(1, cached + tokens), positions)


@contextmanager
def _counted(model) -> Iterator[FlopCounterMode]:
    """The counter over a model in evaluation mode, for the time with attention and experts that it sees."""
    config, training = model.config, model.training
    attention, experts = config._attn_implementation, getattr(config, "_experts_implementation", None)
    model.set_attn_implementation("eager")
    if experts is not None:
        model.set_experts_implementation("eager")
    model.eval()
    try:
        if config._attn_implementation != "eager":
            raise ValueError(f"{type(model).__name__} has no eager attention, so its costs cannot be measured")
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        model.train(training)
        model.set_attn_implementation(attention)
        if experts is not None:
            model.set_experts_implementation(experts)
