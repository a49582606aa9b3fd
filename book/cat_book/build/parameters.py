"""Lines of a parameters cell that set a field of `Experiment`: annotation and help are those of the field.

    python -m cat_book.build.parameters      writes them anew into every page that makes an experiment

A page itself says which of the fields it has, in which order, and with which values.
"""

import json
import re
from dataclasses import fields

from cat_book.build.editions import notebook_paths, tags
from cat_core.files import write_text
from cat_core.training.experiment import Experiment
from cat_core.training.provenance import find_root

CALL = re.compile(r"\b(Experiment\.from_parameters|Results\.of)\(globals\(\)")  # makes an experiment of a page's values
FIELDS = {f.name: f for f in fields(Experiment) if f.metadata["page"]}
LINE = re.compile(r"^(\w+)(?:: \w+)? = (.*?)(?:  # .*)?$", re.MULTILINE)


def declared(name: str, literal: str) -> str:
    """The line `name: type = literal  # help` of a field; tuples are lists in a notebook."""
    kind = re.match(r"\w+", FIELDS[name].type)[0].replace("tuple", "list")
    return f"{name}: {kind} = {literal}  # {FIELDS[name].metadata['help']}"


def written_anew(source: str) -> str:
    """The source of a parameters cell with its lines of fields as `declared`, all others as they are."""
    return LINE.sub(lambda line: declared(*line.groups()) if line[1] in FIELDS else line[0], source)


def main() -> None:
    """Write the pages."""
    for path in notebook_paths(find_root()).values():
        notebook = json.loads(path.read_text(encoding="utf-8"))
        if any(CALL.search("".join(cell["source"])) for cell in notebook["cells"]):
            for cell in notebook["cells"]:
                if "parameters" in tags(cell):
                    cell["source"] = written_anew("".join(cell["source"])).splitlines(keepends=True)
            write_text(path, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
