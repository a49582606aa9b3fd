"""What an executed page has glued, and whether its metrics hold it."""

import ast
import re
from collections.abc import Iterator, Mapping

TIMES = {"minutes", "run_minutes", "run_seconds"}
"""Glued when a page ends: the time it took is no result, and its metrics are the same in every run."""
SHOWN_WHOLE = {"summary", "opening", "questions"}
"""Glued as objects with a look of their own (tables, figures), by {glue} and not in a sentence."""
ROLE = re.compile(r"\{glue:text\}`([^`:]+)(?::([^`]*))?`")
DECIMAL = re.compile(r"(?<![\w.])\d[\d,]*\.\d+(?![\d.])")


def leaves(value) -> Iterator:
    """All values in nested mappings and lists."""
    if isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from leaves(each)
    else:
        yield value


def texts_of(notebook) -> list[str]:
    return [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown"]


def glued(notebook) -> dict[str, str]:
    """name -> what it was glued as, from the outputs of an executed notebook."""
    found = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if name := output.get("metadata", {}).get("scrapbook", {}).get("name"):
                kinds = {kind.rpartition("record/")[2]: value for kind, value in output["data"].items()}
                found[name] = kinds["text/plain"]
    return found


def read_value(text: str):
    return ast.literal_eval(re.sub(r"np\.\w+\((.*)\)", r"\1", text))


def untraced(notebook, metrics: Mapping) -> list[str]:
    """What the prose of an executed page glues, but its metrics do not hold: one line each."""
    values, headline, problems = glued(notebook), metrics.get("headline", {}), []
    rest = [x for key, part in metrics.items() if key != "headline" for x in leaves(part)]
    rest += [x for x in leaves(headline) if not isinstance(x, str)]
    numbers = [abs(x) for x in rest if isinstance(x, int | float)]
    for name, text in values.items():
        if name in TIMES | SHOWN_WHOLE:
            continue
        value, kept = read_value(text), headline.get(name, metrics.get(name))
        if value != kept:
            problems.append(f"{name} is glued as {text}, the metrics have {kept!r}")
        for number in DECIMAL.findall(value) if isinstance(value, str) else ():
            digits, shown = len(number.partition(".")[2]), number.replace(",", "")
            if not any(f"{scale * x:.{digits}f}" == shown for x in numbers for scale in (1, 100)):
                problems.append(f"{name} says {number}, which is not in the metrics")
    for name, form in (role for text in texts_of(notebook) for role in ROLE.findall(text)):
        if name not in values:
            problems.append(f"the prose asks for {name}, which is not glued")
        elif form and not format(read_value(values[name]), form):
            problems.append(f"{name} cannot be shown as {form}")
    return problems
