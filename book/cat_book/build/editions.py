"""Editions: which parameters every page of the book gets, checked before anything runs.

An edition is one file, `book/params/<edition>.yml`:

    edition: quick                  # the name of the file without .yml
    description: one line for `list`
    needs:                          # printed before a run starts
      core_seconds: 900             # all pages together, on the machine of the reference results
      memory_gib: 4                 # with all pages running side by side
      disk_gib: 1                   # models, tables, executed copies, HTML
      download_mb: 93               # to fetch the pair, once
    pair: smollm2-cut               # of data/pairs.yaml: `small` and `large` of the pages that take a `suite`
    defaults:                       # goes to every page that declares the parameter
      seeds: [1, 2]
    pages:                          # pages that are not named here run as well, with the defaults
      05_wmt22:
        core_seconds: 400           # heavy pages start first
        parameters: {steps: 400}    # wins over `defaults`
      02_cat_loss:
        left_out: it trains models  # not run in this edition; the built page says so, with this reason
    without_pair:                   # where the pair cannot be fetched, these win over the above; the pages say so
      defaults: {large: "hidden 96, layers 2, heads 4", small: "hidden 8, layers 2, heads 2"}
      pages: {05_wmt22: {steps: 600}}

Pages and their order come from `book/_toc.yml`. What a page can be given is what its cell tagged
`parameters` declares, one literal a line: `steps: int = 400  # help`. A page that declares `edition` or
`output_dir` gets the name of the edition and `papermill_runs/<edition>` (relative to the project's root,
which is every kernel's working directory).

A variant is an edition with some values changed on the command line. It lives in its own folder,
`papermill_runs/<edition>+<name>/`, and never touches the edition's. "pair=NAME" among the values takes another pair
(`PAIR=none`: what the file has where there is none).
"""

import ast
import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import nbformat
import yaml
from papermill import inspect_notebook
from pydantic import Field

from cat_core.tasks.schema import NAME, FileModel, SchemaError, brief, check, matching, nearest, read_yaml
from cat_core.training import model_store
from cat_core.training.provenance import RUNS

ARTIFACTS = "artifacts"  # papermill_runs/artifacts: trained models, shared by pages and editions
PAIR, NO_PAIR = "pair", "none"
RESERVED = ("edition", "output_dir")  # set by the driver, never by a file or the command line
Amount = Annotated[float, Field(ge=0)]


class EditionError(SchemaError):
    """A parameter file, a page or a command that cannot be run as it stands; one line for each problem."""


class Needs(FileModel):
    """What an edition takes, as written in its file."""

    core_seconds: Amount
    memory_gib: Amount
    disk_gib: Amount
    download_mb: Amount = 0.0


class PageFile(FileModel):
    """What an edition's file says of a page."""

    core_seconds: Amount = 0.0
    parameters: dict | None = None
    left_out: matching(r"(?s).*\S.*", "the reason in words") = ""


class WithoutPair(FileModel):
    """Parameters where the pair of an edition is not to be had."""

    defaults: dict = {}
    pages: dict[str, dict] = {}


class EditionFile(FileModel):
    """An edition as written; `pages` are read one by one as `PageFile`."""

    edition: object = None
    description: str | None = None
    needs: Needs
    pair: matching(NAME, "the name of a pair of data/pairs.yaml") | None = None
    without_pair: WithoutPair = WithoutPair()
    defaults: dict | None = None
    pages: dict | None = None


@dataclass(frozen=True)
class Parameter:
    """One line of a page's parameters cell; annotation and help are "" where there are none."""

    name: str
    default: object
    annotation: str = ""
    help: str = ""

    @property
    def sample(self):
        """A value of the type that is expected: the default, or one of its annotation where the default is None."""
        return {"int": 0, "float": 0.0, "str": ""}.get(self.annotation) if self.default is None else self.default


@dataclass(frozen=True)
class Page:
    """A notebook of the book: parameters `declared`, values `given`, values `effective`.

    left_out: why the edition does not run it; "" if it does. remark: what its reader has to know of this run, or "".
    """

    name: str
    path: Path
    declared: dict[str, Parameter]
    core_seconds: float = 0.0
    given: dict = field(default_factory=dict)
    left_out: str = ""
    remark: str = ""

    @property
    def effective(self):
        return {name: self.given.get(name, parameter.default) for name, parameter in self.declared.items()}


@dataclass(frozen=True)
class Edition:
    """A checked parameter file. `name` is its folder under papermill_runs, `base` the file's name.

    missing: the pair in whose place the pages take something else until it is fetched; "" where there is none.
    """

    name: str
    base: str
    description: str
    needs: dict
    pages: dict[str, Page]
    overrides: tuple[str, ...] = ()
    missing: str = ""

    @property
    def run_pages(self):
        """The pages that this edition runs, by name."""
        return {name: page for name, page in self.pages.items() if not page.left_out}


def toc_files(root):
    """Paths of all pages of book/_toc.yml, in reading order; a notebook is preferred to a Markdown file."""
    book = root / "book"

    def names(entry):
        for key, value in entry.items() if isinstance(entry, dict) else ():
            if key in ("root", "file") and isinstance(value, str):
                yield value
            for child in value if isinstance(value, list) else ():
                yield from names(child)

    paths = []
    for name in names(read_yaml(book / "_toc.yml")):
        bare = name.removesuffix(".ipynb").removesuffix(".md")
        candidates = [path for path in (book / f"{bare}.ipynb", book / f"{bare}.md") if path.is_file()]
        if not candidates:
            raise FileNotFoundError(f"_toc.yml names '{name}', but there is no book/{bare}.ipynb and no book/{bare}.md")
        paths.append(candidates[0])
    return paths


def notebook_paths(root):
    """Name -> path of the notebooks among the pages."""
    return {path.stem: path for path in toc_files(root) if path.suffix == ".ipynb"}


def read_notebook(path):
    """The notebook as a plain dict, every cell's source one string."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            source = cell["source"]
            cell["source"] = source if isinstance(source, str) else "".join(source)
        nbformat.validate(notebook)
    except FileNotFoundError:
        raise
    except Exception:  # nbformat answers a broken notebook with whatever it stumbles over
        raise EditionError(f"{path.name}: not a readable notebook (format 4)") from None
    return notebook


def tags(cell):
    """The tags of one notebook cell."""
    return cell.get("metadata", {}).get("tags", [])


def declared_parameters(path):
    """Name -> Parameter, from the cell tagged `parameters` of the notebook at `path`.

    Names and help come from papermill's own inspection, so that what it would not recognise is refused here;
    default values from Python's parser.
    """
    logging.getLogger("papermill").setLevel(logging.ERROR)  # its warnings are errors here, raised below
    cells = [cell for cell in read_notebook(path)["cells"] if "parameters" in tags(cell)]
    if len(cells) != 1:
        raise EditionError(f"{path.name}: has {len(cells)} cells tagged 'parameters', expected exactly one")
    try:
        inspected = inspect_notebook(path)
    except Exception as error:  # whatever a library says of a broken notebook
        message = " ".join(str(error).split())[:200]
        raise EditionError(f"{path.name}: papermill cannot read its parameters: {message}") from None
    rule = "expected `name: type = literal  # help`, no other = in the line"
    try:
        statements = ast.parse(cells[0]["source"]).body
    except SyntaxError as error:
        raise EditionError(f"{path.name}: parameters cell, line {error.lineno}: {error.msg}; {rule}") from None
    declared = {}
    for statement in statements:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        try:
            default = ast.literal_eval(statement.value)
            if inspected[target.id]["name"] in declared:
                raise ValueError
            annotation = ast.unparse(statement.annotation) if isinstance(statement, ast.AnnAssign) else ""
            declared[target.id] = Parameter(target.id, default, annotation, inspected[target.id]["help"])
        except (AttributeError, KeyError, ValueError, TypeError):
            line = brief(cells[0]["source"].splitlines()[statement.lineno - 1])
            raise EditionError(f"{path.name}: parameters cell, line {statement.lineno}: `{line}`; {rule}") from None
    return declared


def checked(value, default):
    """`value` if its type is that of `default` (an int may become a float); ValueError if not."""
    if default is None or type(value) is type(default) and not isinstance(default, list | tuple):
        return value
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, list | tuple) and isinstance(value, list | tuple):
        alike = len({type(element) for element in default}) == 1
        return [checked(element, default[0]) for element in value] if alike else value
    hint = ""
    if isinstance(value, str) and type(default) in (int, float):
        try:
            number = float(value)
            mantissa, _, exponent = value.lower().partition("e")
            written = f"{mantissa}.0e{exponent}" if exponent and "." not in mantissa else repr(number)
            written = repr(int(number)) if isinstance(default, int) and number.is_integer() else written
            hint = f": this is text in YAML, write {written}"
        except ValueError:
            pass
    elif isinstance(default, list | tuple) and isinstance(value, str | int | float):
        hint = f": write [{value}]"
    wanted = "list" if isinstance(default, tuple) else type(default).__name__
    description = f"{brief(value)} ({type(value).__name__})"
    raise ValueError(f"is {description}, expected {wanted} like the page's {brief(default)}{hint}")


def parse_text(text, default):
    """A value from the command line, read as the type of `default`; ValueError if it cannot be."""
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise ValueError(f"is {brief(text)}, expected true or false")
    try:
        if isinstance(default, int | float):
            return type(default)(text)
        value = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        wanted = f"{type(default).__name__} like the page's {brief(default)}"
        raise ValueError(f"is {brief(text)}, expected {wanted}") from None
    return checked(value, default)


def edition_names(root):
    """Names of all parameter files."""
    return sorted(path.stem for path in (root / "book" / "params").glob("*.yml"))


def _unfit(given, known, where):
    """What is wrong with the keys of parameters, or of pages, in a file."""
    return [
        f"{where}: '{key}' is set by the driver" if key in RESERVED
        else f"{where}: unknown key {brief(key)}{nearest(key, known)}"
        for key in given if key in RESERVED or key not in known
    ]  # fmt: skip


def load_edition(root, base, overrides=(), name=None, wanted=()):
    """Read and check book/params/<base>.yml against all pages.

    overrides: texts "name=value" that win over the file, for all pages that declare the name, and "pair=NAME"; name: of
    the variant they make (default: the pair, if it is all, else a digest of them); wanted: beginnings of the names of
    the pages that are to run, where not all are. Raises EditionError listing every problem found, one a line; of values
    that do not fit a page, those of the wanted pages where there are such.
    """
    path = root / "book" / "params" / f"{base}.yml"
    if not NAME.fullmatch(base) or not path.is_file():
        raise EditionError(f"unknown edition '{base}'{nearest(base, edition_names(root))}")
    content = read_yaml(path)
    paths = notebook_paths(root)
    problems, declared = [], {}
    for page, notebook in paths.items():
        try:
            declared[page] = declared_parameters(notebook)
        except EditionError as error:
            problems.append(str(error))
    if problems:
        raise EditionError("\n".join(problems))
    label = path.name
    file = check(EditionFile, content, [label], problems)
    if file.edition != base:
        problems.append(f"{label}: 'edition' is {brief(file.edition)}, expected '{base}' as in the file's name")
    everything = sorted({name for parameters in declared.values() for name in parameters})
    defaults, entries, without = file.defaults or {}, file.pages or {}, file.without_pair
    problems += _unfit(defaults, everything, f"{label}: defaults") + _unfit(entries, paths, f"{label}: pages")
    problems += _unfit(without.defaults, everything, f"{label}: without_pair: defaults")
    problems += _unfit(without.pages, paths, f"{label}: without_pair: pages")
    changed = _parse_overrides(overrides, [*everything, PAIR], problems)
    other = changed.pop(PAIR, file.pair)
    pair = models_of(root, other)
    folder = base
    if changed or name or other != file.pair:
        if name is not None and not NAME.fullmatch(name):
            problems.append(f"--name {brief(name)}: use letters, digits, '_', '-' and '.' only")
        content = json.dumps(changed | ({PAIR: other} if other != file.pair else {}), sort_keys=True)
        usual = hashlib.sha256(content.encode()).hexdigest()[:8] if changed else other
        folder = f"{base}+{name or usual}"
    pages, unfit = {}, {}
    for page, notebook in paths.items():
        entry = check(PageFile, entries.get(page) or {}, [label, page], problems)
        trains = "suite" in declared[page]
        own, remark = defaults | (pair or {} if trains else {}) | (entry.parameters or {}), ""
        problems += _unfit(entry.parameters or {}, declared[page], f"{label}: {page}: parameters")
        if pair is None and trains:
            instead = without.pages.get(page, {})
            problems += _unfit(instead, declared[page], f"{label}: without_pair: {page}")
            instead = {key: value for key, value in (without.defaults | instead).items() if key in declared[page]}
            own |= instead
            if instead and not own.get("recorded"):
                remark = f"Instead of the pair `{file.pair}` this page trains one from scratch: {_why(other)}."
        given = {}
        for key, parameter in declared[page].items():
            try:
                if key in changed:
                    given[key] = parse_text(changed[key], parameter.sample)
                elif key in own:
                    given[key] = checked(own[key], parameter.sample)
            except ValueError as error:
                place = unfit.setdefault(page, []) if key in changed else problems
                place.append(f"{'-p' if key in changed else label}: {page}: '{key}' {error}")
        own_folder = zip(RESERVED, (folder, f"{RUNS}/{folder}"))
        given |= {key: value for key, value in own_folder if key in declared[page]}
        pages[page] = Page(page, notebook, declared[page], entry.core_seconds, given, entry.left_out, remark)
    asked = [line for page, lines in unfit.items() if page.startswith(tuple(wanted)) for line in lines]
    problems += asked or [line for lines in unfit.values() for line in lines]
    if problems:
        raise EditionError("\n".join(dict.fromkeys(problems)))
    missing = "" if pair is not None or other == NO_PAIR else other
    needs, given = file.needs.model_dump(), tuple(sorted(overrides))
    return Edition(folder, base, file.description or "", needs, pages, given, missing)


def models_of(root, pair):
    """`small` and `large` of a pair of data/pairs.yaml; None where it has to be fetched first, {} of no pair."""
    if pair is None:
        return {}
    if pair == NO_PAIR:
        return None
    try:
        pairs = read_yaml(root / "data" / "pairs.yaml")["pairs"]
        found = pairs.get(pair) and {side: pairs[pair][side] for side in ("small", "large")}
        names = {name.rpartition(" of ")[2] for name in (found or {}).values()}  # of a cut, the model that is cut
    except (LookupError, TypeError, AttributeError):
        raise EditionError("data/pairs.yaml: not readable as pairs; `python -m cat_core.pairs` says why") from None
    if not found:
        raise EditionError(f"unknown pair {brief(pair)}{nearest(pair, [NO_PAIR, *pairs])}")
    return found if all(model_store.local(name) != name for name in names) else None


def _why(pair):
    return "so it was asked for" if pair == NO_PAIR else f"`{pair}` was not there, and could not be fetched"


def _parse_overrides(overrides, everything, problems):
    changed = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals:
            problems.append(f"-p {text}: expected name=value")
        elif key in RESERVED:
            problems.append(f"-p {text}: '{key}' is set by the driver; --name names a variant")
        elif key not in everything:
            problems.append(f"-p {text}: no page has a parameter '{key}'{nearest(key, everything)}")
        elif key in changed:
            problems.append(f"-p {text}: '{key}' is given twice")
        else:
            changed[key] = value.strip()
    return changed
