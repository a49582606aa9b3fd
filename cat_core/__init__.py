"""Cascade-Aware Training (arXiv 2406.00060): a small model that learns to share its work with a large one.

Four doors:

    cat_core.loss       the training losses, token by token; `fused` from hidden states, without ever holding the logits
    cat_core.router     when to defer: a threshold on a confidence, chosen on calibration rows, tested on others
    cat_core.flops      what a query costs: exact integers from a model's configuration
    cat_core.cascade    a small and a large model that answer queries together, on whatever device they lie

The modules beside this file are the core: they need torch, transformers and numpy alone, and change for a reason. What
is built on them lies in rooms, each of which imports only those before it:

    shapes     below the core: what a model's configuration says of its cost
    tasks      examples and suites: built in, of the registry, or a reader's own
    analysis   the outcome table, and every number that is read off it
    rules      deferral rules that are learned
    training   models, teacher, Trainer, and whole experiments
    engines    other engines than transformers, and the command line of the cascade
    studies    experiments with many seeds, recorded once

`study`, `runs` and `bootstrap` are doors to command lines and hold nothing. The book's own code is `book/cat_book`.
"""

__version__ = "0.1.0"
