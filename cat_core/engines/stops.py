"""What ends an answer: token ids and strings, one rule for every engine.

An answer ends with the first token that is one of the ids, or that completes one of the strings. That token belongs to
the answer, as EOS does; nothing behind it does, whatever an engine sends. The text ends before the string.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cat_core.text import TextFormat, before_stop, check_text_settings


@dataclass(frozen=True)
class Stops:
    """Token ids and strings that end an answer; none of either = the engine's own end alone.

    Raises ValueError for an empty string, and for one string where several are expected.
    """

    ids: frozenset[int] = frozenset()
    strings: tuple[str, ...] = ()

    def __post_init__(self):
        check_text_settings("plain", self.strings)
        if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in self.ids):
            raise ValueError(f"stop_ids must be token ids, whole numbers >= 0, got {sorted(self.ids, key=str)!r}")

    @classmethod
    def of(cls, text: TextFormat, ids=frozenset()) -> "Stops":
        """Those of a format, and further ids."""
        return cls(frozenset(ids) | text.stop_ids(), text.stop)

    def describe(self, eos: int | None = None) -> dict:
        """What is given besides EOS, as plain JSON: nothing where nothing is, so that a store stays what it was."""
        ids = sorted(self.ids - {eos})
        return {"stop": [ids, list(self.strings)]} if ids or self.strings else {}

    def before(self, text: str) -> str:
        """The text up to the first of the strings."""
        return before_stop(text, self.strings)

    def length(self, tokens: Sequence[int | str], text: Callable[[int], str]) -> int | None:
        """How many of the tokens there are up to the one that ends the answer, itself included; None where none does.

        text(n): the text of the first n tokens.
        """
        places = [next((n for n, token in enumerate(tokens, 1) if token in self.ids), None)]
        if self.strings and self._met(text(len(tokens))):
            places.append(1 + bisect_left(range(1, len(tokens) + 1), True, key=lambda n: self._met(text(n))))
        return min((n for n in places if n is not None), default=None)

    def _met(self, text: str) -> bool:
        return any(string in text for string in self.strings)
