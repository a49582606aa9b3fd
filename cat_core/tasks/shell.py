"""Command lines end alike: an expected error is one line, and what was stopped says that it goes on."""

import sys
from collections.abc import Callable


def exit_status(run: Callable[[], int | None], *expected: type[Exception]) -> int:
    """What `run` returns (None: 0), 2 after an error (ValueError, OSError and those `expected`), 130 after Ctrl-C."""
    try:
        return run() or 0
    except (ValueError, OSError, *expected) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130
