"""Whether a family that no test has looked at answers in a batch as it does alone."""

from collections.abc import Callable

import torch

from cat_core.shapes.caches import BANNED


@torch.no_grad()
def check_padding(model, read: Callable, feed: Callable, select: Callable, start: int | None = None) -> None:
    """Raise ValueError unless a model says of a prompt in a padded batch, and on its cache, what it says alone.

    A few tokens are fed to it, in evaluation mode. For families whose way with padding, positions and caches no test
    has looked at: better no answer than one that depends on its neighbours. read, feed, select: how the model reads
    prompts, goes on, and how rows are chosen; start: what the decoder of an encoder-decoder model starts from.
    """
    name, device, training = type(model).__name__, model.device, model.training
    ids = torch.arange(12, device=device) % (model.get_output_embeddings().weight.shape[0] - 3) + 3
    prompt, more, rows = ids[:4], ids[9:], torch.tensor([1, 1], device=device)
    batch, mask = torch.stack([ids[:9], torch.cat([prompt.new_full((5,), 3), prompt])]), torch.ones(2, 12).to(ids)
    mask[1, :5] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    model.eval()
    try:
        if start is not None:
            fed = torch.cat([more.new_full((1,), start), more])
            alone = model(input_ids=prompt[None], decoder_input_ids=fed[None], use_cache=False).logits[0]
        else:
            alone = model(input_ids=torch.cat([prompt, more])[None], use_cache=False).logits[0, -4:]
        memory, first = read(model, batch, mask[:, :9], positions[:, :9])
        memory = select(memory, rows)
        parts = [feed(model, memory, more[None, :2].repeat(2, 1), mask[rows, :11], positions[rows, 9:11])]
        parts += [feed(model, memory, more[None, 2:].repeat(2, 1), mask[rows], positions[rows, 11:])]
    except (AttributeError, IndexError, KeyError, NotImplementedError, TypeError) as error:
        raise ValueError(f"{name} cannot be run as a cascade runs its models: {error!r}") from None
    finally:
        model.train(training)
    found, alone = torch.cat([first[1:], torch.cat(parts, dim=1)[1]]).float(), alone.float()
    alone = torch.where(found <= BANNED, found, alone)
    apart, tolerance = (found - alone).abs().max(), 2e-3 if model.dtype == torch.float32 else 0.1
    if not apart <= tolerance * alone.std():
        raise ValueError(
            f"{name} says something else of a prompt in a padded batch than alone (logits differ by {apart:.3g}, their "
            f"standard deviation is {alone.std():.3g}): its answers would depend on the batch"
        )
