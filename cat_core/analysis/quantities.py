"""Quantities: a number with its interval, or the reason why there is none; how they are shown and written down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from numbers import Real
from typing import TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from cat_core.ranking import Interval
from cat_core.tasks.schema import brief

T = TypeVar("T")


def true_minus(number: str) -> str:
    return number.replace("-", "\u2212")


def fixed(value: float, digits: int, sign: bool = False) -> str:
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text  # neither -0.0 nor +0.0


@dataclass(frozen=True)
class Undefined:
    """In place of a number that does not exist, with the reason in words; never 0, never NaN."""

    reason: str

    def __post_init__(self):
        if not isinstance(self.reason, str) or not self.reason.strip():
            raise ValueError(f"an undefined number needs a reason in words, got {self.reason!r}")


@dataclass(frozen=True)
class Unit:
    """How numbers are shown: multiplied by `scale`, with `decimals` digits, then `suffix`; `sign` shows a plus."""

    scale: float = 1.0
    decimals: int = 1
    suffix: str = ""
    sign: bool = False


PERCENT = Unit(100.0, 1, "\u00a0%")
POINTS = Unit(100.0, 2, "", True)
PLAIN = Unit(1.0, 2)


def show_number(value, unit: Unit = PLAIN) -> str:
    """`value` (a number, an Interval or Undefined) as text: "61.2 %", "+0.4 [−0.1, +0.9]", "– (the reason)"

    An interval without width, but for that of an exact 0, is none: "100.0 (no interval)".

    Raises ValueError for NaN and infinity: what does not exist is `Undefined`, with a reason.
    """
    if isinstance(value, Undefined):
        return f"\u2013 ({value.reason})"
    if isinstance(value, Interval):
        middle, low, high = (_finite(part, unit) for part in (value.estimate, value.low, value.high))
        if value.low == value.high and value.estimate:  # all items agree, and drawing them anew shows nothing
            return f"{middle}{unit.suffix} (no interval)"
        return f"{middle}{unit.suffix} [{low},\u00a0{high}]"  # a narrow cell breaks before the bracket
    return f"{_finite(value, unit)}{unit.suffix}"


def _finite(value, unit: Unit) -> str:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number: give Undefined(reason) where there is none")
    return true_minus(fixed(unit.scale * float(value), unit.decimals, sign=unit.sign))


NOT_THERE = Undefined("not in the recorded metrics")

Quantity = Interval | float | Undefined
"""A number with its interval, a number without one, or the reason why there is none; its unit, n and seeds are those of
the metrics that hold it (`metrics.SuiteMetrics`)."""


def significant(values, bits: int, rounded=np.rint) -> np.ndarray:
    """`values` as float64 with `bits` significant binary digits, that float32 holds exactly; NaN and infinity stay.

    Numbers nearer to 0 than float32's smallest normal number (1.2e-38) keep fewer digits. rounded: np.rint or np.floor.
    """
    values = np.asarray(values, dtype=np.float64)
    mantissa, exponent = np.frexp(values)
    with np.errstate(invalid="ignore", over="ignore"):
        numbers = np.ldexp(rounded(np.ldexp(mantissa, bits)), exponent - bits)
        return numbers.astype(np.float32).astype(np.float64)


# ---------------------------------------------------------------- as JSON


def plain(value, name: str = "value"):
    """`value` as JSON values: what `read` reads again. name: of the value, for the error.

    Dataclasses become mappings of their fields, without those that are None (not measured); `Undefined` becomes the
    value null with its reason; what a class computes beside its fields it names in `also_written`. Raises ValueError
    for NaN and infinity (but for thresholds, `taus`, which are written as text), TypeError for what is none of these.
    """
    if isinstance(value, Undefined):
        return {"value": None, "reason": value.reason}
    if is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in fields(value)]
        for extra, before in getattr(value, "also_written", {}).items():
            names.insert(names.index(before), extra)
        parts = {n: getattr(value, n) for n in names}
        return {n: plain(part, f"{name}.{n}") for n, part in parts.items() if part is not None}
    if isinstance(value, Mapping):
        return {str(k): plain(v, f"{name}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, f"{name}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist(), name)
    if isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            if ".taus." in name and not math.isnan(value):
                return str(value)
            raise ValueError(f"metric {name!r} is {value}: give Undefined(reason) in place of a number that is none")
        return value
    raise TypeError(f"metric {name!r} is a {type(value).__name__}, expected numbers, texts, intervals or Undefined")


def read(kind: type[T], content) -> T:
    """What `plain` wrote of a `kind`. ValueError in one line, with the place, for anything else."""
    try:
        return _adapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place or kind.__name__}: {first['msg']}, got {brief(first['input'])}") from None


@lru_cache
def _adapter(kind: type[T]) -> TypeAdapter:
    return TypeAdapter(kind)
