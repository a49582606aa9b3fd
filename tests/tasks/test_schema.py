"""Files that people write: what is refused, and that each fault is one line which says what to do."""

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cat_core.tasks.schema import FileModel, SchemaError, brief, check, matching, nearest, read_file, read_yaml


class Part(FileModel):
    size: float = 0.0
    word: matching("[a-z]+", "a word") = ""


class File(FileModel):
    name: str
    steps: int = 1
    flag: bool = False
    words: list[str] = []
    parts: dict[str, Part] = {}


LONG = r"\n" * 58 + "..., expected a word"


def faults(**content):
    found = check(File, {"name": "x"} | content, ["f.yaml"], problems := [])
    return found, problems


def test_a_sound_file():
    found, problems = faults(steps=3, parts={"a": {"size": 2}})
    assert (found.steps, found.parts["a"].size, problems) == (3, 2.0, [])


@pytest.mark.parametrize(
    "content, line",
    [
        ({"name": 3}, "f.yaml: 'name' is 3, expected a text (in quotes)"),
        ({"flag": 1}, "f.yaml: 'flag' is 1, expected true or false"),
        ({"words": "a"}, "f.yaml: 'words' is 'a', expected a list"),
        ({"words": ["a", None]}, "f.yaml: words: item 2 is None, expected a text (in quotes)"),
        ({"parts": 3}, "f.yaml: 'parts' is 3, expected a mapping of keys to values"),
        ({"parts": {"a": 3}}, "f.yaml: parts: 'a' is 3, expected a mapping of keys to values"),
        ({"parts": {3: {}}}, "f.yaml: parts: a key is 3, expected a text (in quotes)"),
        ({"parts": {"a": {"size": True}}}, "f.yaml: parts: a: 'size' is True, expected a number >= 0"),
        ({"parts": {"a": {"word": "B"}}}, "f.yaml: parts: a: 'word' is 'B', expected a word"),
        ({"parts": {"a": {"sise": 1}}}, "f.yaml: parts: a: unknown key 'sise'; did you mean 'size'?"),
        ({"parts": {"a": {1: 1}}}, "f.yaml: parts: a: a key is 1, expected a text (in quotes)"),
        ({"parts": {"a\nb": {"word": "\n" * 200}}}, "f.yaml: parts: a b: 'word' is '" + LONG),
    ],
)  # fmt: skip
def test_nothing_is_converted_and_every_fault_is_one_line(content, line):
    assert faults(**content)[1] == [line]


@pytest.mark.parametrize("given", ["3", True, 3.5])
def test_a_number_is_not_made_of_something_else(given):
    assert faults(steps=given)[1]


def test_all_faults_are_found_and_what_is_sound_comes_back():
    found, problems = faults(name=3, flag="no", steps=5, what=1)
    assert len(problems) == 3 and (found.steps, found.flag) == (5, False)


def test_a_file_is_refused_in_one_line_of_five_problems(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text("{a: 1, b: 1, c: 1, d: 1, e: 1, f: 1}")
    with pytest.raises(SchemaError) as caught:
        read_file(File, path)
    assert str(caught.value).startswith("f.yaml: 'name' is missing; f.yaml: unknown key 'a'; ")
    assert "\n" not in str(caught.value) and str(caught.value).count("f.yaml: ") == 5


def test_a_key_given_twice_is_refused_but_not_one_that_is_merged(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}\n")
    assert read_yaml(path)["d"] == {"b": 3, "c": 2}
    path.write_text("a: 1\nd:\n  b: 1\n  b: 2\n")
    with pytest.raises(SchemaError, match="^f.yaml, line 4: not valid YAML: 'b' is given twice$"):
        read_yaml(path)
    path.write_bytes(b"a: \xff")
    with pytest.raises(SchemaError, match="^f.yaml: not UTF-8: save it as UTF-8$"):
        read_yaml(path)


def bomb(entry):
    """Each line holds the line before it nine times: nine to the ninth values in half a kilobyte."""
    first = "a: &a {x: 1}\n" if "<<" in entry else "a: &a [x, x, x, x, x, x, x, x, x]\n"
    lines = (f"{b}: &{b} {entry.format(', '.join([f'*{a}'] * 9))}\n" for a, b in itertools.pairwise("abcdefghij"))
    return first + "".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb("[{}]"), "more than 10,000 values once every alias"),
        (bomb("{{<<: [{}]}}"), "more than 10,000 values once every alias"),
        ("a: &a [*a]", "more than 10,000 values once every alias"),
        ("a: &a {b: *a}", "more than 10,000 values once every alias"),
        ("a: [" + "1, " * 20_000 + "]", "line 1: not valid YAML: more than 10,000 values"),
        ("a: " + "[" * 3_000, "line 1: not valid YAML: brackets more than 40 deep"),
        ("a:\n" + "".join(f"{' ' * depth}- \n" for depth in range(600)), "nested too deeply"),
        ("a: " + "x" * 200_000, "f.yaml: 200,003 bytes, expected at most 200,000"),
        ("a: " + "9" * 5_000, "line 1: not valid YAML: a number of more than 1,000 characters"),
        ("a: 0x" + "f" * 5_000, "line 1: not valid YAML: a number of more than 1,000 characters"),
        ("a: " + "1:" * 90_000 + "1", "line 1: not valid YAML: a number of more than 1,000 characters"),
        ("a: " + "1:" * 400 + "1.5", "a value cannot be read: int too large"),
        ("a: !!int ''", "a value cannot be read: string index out of range"),
        ("a: !!bool x", "a value cannot be read: 'x'"),
        ("a: \x00", "not valid YAML: unacceptable character #x0000"),
        ("a: !" + "x" * 10_000, "line 1: not valid YAML: could not determine a constructor"),
        ("a: 2024-13-45", "a value cannot be read: month must be"),
        ("a: !!timestamp x", "a value cannot be read"),
        ("? [a]\n: b", "line 1: not valid YAML: .'a'. is no key"),
    ],
)
def test_what_unfolds_into_too_much_is_refused_at_once_in_one_line(tmp_path, text, message):
    path = tmp_path / "f.yaml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(SchemaError, match=message) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250 and str(caught.value).startswith("f.yaml")
    assert time.process_time() - began < 5  # of a slow machine; written out, the first one takes minutes


DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.text("a'\n", min_size=100),
    lambda part: st.lists(part) | st.tuples(part, part) | st.tuples(part) | st.dictionaries(st.text(), part),
)


@settings(max_examples=40, deadline=None)
@given(DATA)
def test_a_value_is_shown_as_the_beginning_of_its_repr(value):
    text = repr(value)
    assert brief(value) == (text if len(text) <= 120 else text[:117] + "...")


def test_a_value_that_has_no_end_is_shown_in_brief():
    value = ["x"]
    for _ in range(100):
        value = [value] * 9
    assert brief(value) == "[" * 100 + "['x'], ['x'], ['x"[:17] + "..."
    value.append(value)
    assert len(brief(value)) == 120


def test_the_nearest_or_all_that_are_known():
    assert nearest("tset", ("train", "test")) == "; did you mean 'test'?"
    assert nearest("x", ("train", "test")) == "; known: train, test"
    assert nearest("x", ()) == "; there are none"
