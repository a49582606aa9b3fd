"""Files that people write: what is refused, and that each fault is one line which says what to do."""

import pytest

from cat_core.tasks.schema import FileModel, SchemaError, check, matching, nearest, read_file, read_yaml


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


def test_the_nearest_or_all_that_are_known():
    assert nearest("tset", ("train", "test")) == "; did you mean 'test'?"
    assert nearest("x", ("train", "test")) == "; known: train, test"
    assert nearest("x", ()) == "; there are none"
