"""Editions: which parameters every page of the book gets, checked before anything runs.

An edition is one file, `book/params/<edition>.yml`:

    edition: quick                  # the name of the file without .yml
    description: one line for `list`
    needs:                          # printed before a run starts
      core_seconds: 900             # all pages together, on the machine of the reference results
      memory_gib: 4                 # with all pages running side by side
      disk_gib: 1                   # models, tables, executed copies, HTML
    defaults:                       # goes to every page that declares the parameter
      seeds: [1, 2]
    pages:                          # pages that are not named here run as well, with the defaults
      05_wmt22:
        core_seconds: 400           # heavy pages start first
        parameters: {steps: 400}    # wins over `defaults`
      02_cat_loss:
        left_out: it trains models  # not run in this edition; the built page says so, with this reason

Pages and their order come from `book/_toc.yml`. What a page can be given is what its cell tagged
`parameters` declares, one literal a line: `steps: int = 400  # help`. A page that declares `edition` or
`output_dir` gets the name of the edition and `papermill_runs/<edition>` (relative to the project's root,
which is every kernel's working directory).

A variant is an edition with some values changed on the command line. It lives in its own folder,
`papermill_runs/<edition>+<name>/`, and never touches the edition's.
"""

import ast
import difflib
import hashlib
import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

from cat_core.tasks import brief

RUNS = "papermill_runs"
ARTIFACTS = "artifacts"  # papermill_runs/artifacts: trained models, shared by pages and editions
RESERVED = ("edition", "output_dir")  # set by the driver, never by a file or the command line
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class EditionError(ValueError):
    """A parameter file, a page or a command that cannot be run as it stands; one line for each problem."""


@dataclass(frozen=True)
class Parameter:
    """One line of a page's parameters cell; annotation and help are "" where there are none."""

    name: str
    default: object
    annotation: str = ""
    help: str = ""


@dataclass(frozen=True)
class Page:
    """A notebook of the book: parameters `declared`, values `given`, values `effective`.

    left_out: why the edition does not run it; "" if it does.
    """

    name: str
    path: Path
    declared: dict[str, Parameter]
    core_seconds: float = 0.0
    given: dict = field(default_factory=dict)
    left_out: str = ""

    @property
    def effective(self):
        return {name: self.given.get(name, parameter.default) for name, parameter in self.declared.items()}


@dataclass(frozen=True)
class Edition:
    """A checked parameter file. `name` is its folder under papermill_runs, `base` the file's name."""

    name: str
    base: str
    description: str
    needs: dict
    pages: dict[str, Page]
    overrides: tuple[str, ...] = ()

    @property
    def run_pages(self):
        """The pages that this edition runs, by name."""
        return {name: page for name, page in self.pages.items() if not page.left_out}


def suggest(word, words):
    """End of an error message: the closest of `words`, or else all of them."""
    close = difflib.get_close_matches(str(word), [str(each) for each in words], n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(sorted(map(str, words)))}" if words else "; there are none"


def read_yaml(path):
    """A YAML mapping; a key given twice is refused, since YAML would silently keep the last one."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            seen = set()
            for key_node, _ in node.value:
                if key_node.tag == "tag:yaml.org,2002:merge":  # <<: *anchor, whose keys may be given again
                    continue
                key = self.construct_object(key_node, deep=True)
                if isinstance(key, str | int | float) and key in seen:
                    raise EditionError(f"{path.name}, line {key_node.start_mark.line + 1}: '{key}' is given twice")
                seen.add(key if isinstance(key, str | int | float) else str(key))
            return super().construct_mapping(node, deep)

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except UnicodeDecodeError:
        raise EditionError(f"{path.name}: not UTF-8: save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise EditionError(f"{path.name}{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise EditionError(f"{path.name}: expected a mapping of keys to values")
    return content


def find_root(start=None):
    """The nearest folder with book/_toc.yml, at `start` (default: the current folder) or above it."""
    start = Path(start or Path.cwd()).resolve()
    for folder in (start, *start.parents, Path(__file__).resolve().parent.parent):
        if (folder / "book" / "_toc.yml").is_file():
            return folder
    raise FileNotFoundError(f"no book/_toc.yml in {start} or above: run this from the project's folder")


def toc_files(root):
    """Paths of all pages of book/_toc.yml, in reading order; a notebook is preferred to a Markdown file."""
    book = root / "book"
    names = []

    def walk(entry):
        if isinstance(entry, dict):
            for key, value in entry.items():
                if key in ("root", "file") and isinstance(value, str):
                    names.append(value)
                elif isinstance(value, list):
                    walk(value)
        elif isinstance(entry, list):
            for each in entry:
                walk(each)

    walk(read_yaml(book / "_toc.yml"))
    paths = []
    for name in names:
        bare = name.removesuffix(".ipynb").removesuffix(".md")
        found = [path for path in (book / f"{bare}.ipynb", book / f"{bare}.md") if path.is_file()]
        if not found:
            raise FileNotFoundError(f"_toc.yml names '{name}', but there is no book/{bare}.ipynb and no book/{bare}.md")
        paths.append(found[0])
    return paths


def notebook_paths(root):
    """Name -> path of the notebooks among the pages."""
    return {path.stem: path for path in toc_files(root) if path.suffix == ".ipynb"}


def read_notebook(path):
    """The notebook as a plain dict, every cell's source one string."""
    import nbformat

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
    from papermill import inspect_notebook

    logging.getLogger("papermill").setLevel(logging.ERROR)  # its warnings are errors here, raised below
    cells = [cell for cell in read_notebook(path)["cells"] if "parameters" in tags(cell)]
    if len(cells) != 1:
        raise EditionError(f"{path.name}: has {len(cells)} cells tagged 'parameters', expected exactly one")
    try:
        inspected = inspect_notebook(path)
    except Exception as error:  # whatever a library says of a broken notebook
        said = " ".join(str(error).split())[:200]
        raise EditionError(f"{path.name}: papermill cannot read its parameters: {said}") from None
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
    wanted = "list" if isinstance(default, tuple) else type(default).__name__
    if default is None:
        return value
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    same = isinstance(value, list | tuple) if wanted == "list" else type(value) is type(default)
    if same:
        if wanted == "list" and default:
            if len({type(each) for each in default}) == 1:
                return [checked(each, default[0]) for each in value]
        return value
    hint = ""
    if isinstance(value, str) and isinstance(default, int | float) and not isinstance(default, bool):
        try:
            number = float(value)
            mantissa, _, exponent = value.lower().partition("e")
            written = f"{mantissa}.0e{exponent}" if exponent and "." not in mantissa else repr(number)
            written = repr(int(number)) if isinstance(default, int) and number.is_integer() else written
            hint = f": this is text in YAML, write {written}"
        except ValueError:
            pass
    found = f"{brief(value)} ({type(value).__name__})"
    raise ValueError(f"is {found}, expected {wanted} like the page's {brief(default)}{hint}")


def parse_text(text, default):
    """A value from the command line, read as the type of `default`; ValueError if it cannot be."""
    import yaml

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


def _check_keys(mapping, allowed, where, problems):
    if not isinstance(mapping, dict):
        problems.append(f"{where}: expected a mapping, got {brief(mapping)}")
        return False
    for key in mapping:
        if key not in allowed:
            problems.append(f"{where}: unknown key {brief(key)}{suggest(key, allowed)}")
    return True


def _number(mapping, key, where, problems):
    value = mapping.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    problems.append(f"{where}: '{key}' is {brief(value)}, expected a number >= 0")
    return 0.0


def load_edition(root, base, overrides=(), name=None):
    """Read and check book/params/<base>.yml against all pages.

    overrides: texts "name=value" that win over the file, for all pages that declare the name; name: of the
    variant they make (default: a digest of them). Raises EditionError listing every problem found, one a
    line.
    """
    path = root / "book" / "params" / f"{base}.yml"
    if not NAME.fullmatch(base) or not path.is_file():
        raise EditionError(f"unknown edition '{base}'{suggest(base, edition_names(root))}")
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
    _check_keys(content, ("edition", "description", "needs", "defaults", "pages"), label, problems)
    if content.get("edition") != base:
        found = brief(content.get("edition"))
        problems.append(f"{label}: 'edition' is {found}, expected '{base}' as in the file's name")
    needs = content.get("needs") or {}
    if _check_keys(needs, ("core_seconds", "memory_gib", "disk_gib"), f"{label}: needs", problems):
        keys = ("core_seconds", "memory_gib", "disk_gib")
        needs = {key: _number(needs, key, f"{label}: needs", problems) for key in keys}
    everything = {name for parameters in declared.values() for name in parameters}
    defaults = content.get("defaults") or {}
    entries = content.get("pages") or {}
    if _check_keys(defaults, everything, f"{label}: defaults", problems):
        problems += [f"{label}: defaults: '{key}' is set by the driver" for key in RESERVED if key in defaults]
    else:
        defaults = {}
    if not isinstance(entries, dict):
        problems.append(f"{label}: pages: expected a mapping, got {brief(entries)}")
        entries = {}
    problems += [
        f"{label}: pages: unknown page {brief(page)}{suggest(page, paths)}" for page in entries if page not in paths
    ]
    changed = _parse_overrides(overrides, everything, problems)
    folder = base
    if changed or name:
        if name is not None and not NAME.fullmatch(name):
            problems.append(f"--name {brief(name)}: use letters, digits, '_', '-' and '.' only")
        folder = f"{base}+{name or hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]}"
    pages = {}
    for page, notebook in paths.items():
        entry = entries.get(page) or {}
        where = f"{label}: {page}"
        if not _check_keys(entry, ("core_seconds", "parameters", "left_out"), where, problems):
            entry = {}
        left_out = entry.get("left_out", "")
        if not isinstance(left_out, str) or ("left_out" in entry and not left_out.strip()):
            problems.append(f"{where}: 'left_out' is {brief(left_out)}, expected the reason in words")
        seconds = _number(entry, "core_seconds", where, problems) if "core_seconds" in entry else 0.0
        own = entry.get("parameters") or {}
        if not _check_keys(own, declared[page], f"{where}: parameters", problems):
            own = {}
        problems += [f"{where}: '{key}' is set by the driver" for key in RESERVED if key in own]
        given = {}
        for key, parameter in declared[page].items():
            try:
                if key in changed:
                    given[key] = parse_text(changed[key], parameter.default)
                elif key in own or key in defaults:
                    given[key] = checked(own[key] if key in own else defaults[key], parameter.default)
            except ValueError as error:
                problems.append(f"{'-p' if key in changed else label}: {page}: '{key}' {error}")
        given |= {key: value for key, value in _reserved(folder).items() if key in declared[page]}
        pages[page] = Page(page, notebook, declared[page], seconds, given, str(left_out))
    if problems:
        raise EditionError("\n".join(dict.fromkeys(problems)))
    return Edition(folder, base, str(content.get("description") or ""), needs, pages, tuple(sorted(overrides)))


def _reserved(folder):
    return {"edition": folder, "output_dir": f"{RUNS}/{folder}"}


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
            problems.append(f"-p {text}: no page has a parameter '{key}'{suggest(key, everything)}")
        elif key in changed:
            problems.append(f"-p {text}: '{key}' is given twice")
        else:
            changed[key] = value.strip()
    return changed
