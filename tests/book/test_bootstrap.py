"""The installer: stamps, messages, and the stale or broken environments it must cope with (no network)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cat_book.build import bootstrap as module
from cat_book.build.bootstrap import BootstrapError, bootstrap, is_current, make_venv, remote_size, torch_notice

ROOT = Path(module.__file__).parents[3]


@pytest.fixture
def project(tmp_path):
    """A project folder with a space in its name and the two files that say what is installed."""
    root = tmp_path / "a project"
    root.mkdir()
    extras = "book = []\ntest = []\ndev = []\n"
    (root / "pyproject.toml").write_text(f"[project]\nname = 'x'\n[project.optional-dependencies]\n{extras}")
    (root / "constraints.txt").write_text("torch==2.13.0\n")
    return root


@pytest.fixture
def recorded(monkeypatch):
    """pip is replaced by a list of what it would have been asked; a venv is only its interpreter's file."""
    calls = []

    def fake_venv(venv):
        python = module.venv_python(venv)
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()

    monkeypatch.setattr(module, "make_venv", fake_venv)
    monkeypatch.setattr(module, "announce_torch", lambda *given: calls.append("announce"))
    monkeypatch.setattr(module, "pip_install", lambda python, root, options: calls.append(options))
    return calls


def test_second_run_installs_nothing_and_a_changed_constraint_does(project, recorded):
    assert bootstrap(["book"], root=project) is True
    assert recorded == ["announce", ["-e", ".[book]"]]
    recorded.clear()
    assert bootstrap(["book"], root=project) is False
    assert recorded == []
    (project / "constraints.txt").write_text("torch==2.13.1\n")
    assert bootstrap(["book"], root=project) is True
    assert recorded[-1] == ["-e", ".[book]"]


def test_extras_add_up(project, recorded):
    bootstrap(["book"], root=project)
    bootstrap(["test", "book"], root=project)
    assert recorded[-1] == ["-e", ".[book,test]"]
    recorded.clear()
    assert bootstrap(["book"], root=project) is False  # the smaller wish is met by the larger install
    bootstrap(["dev"], root=project)
    assert recorded[-1] == ["-e", ".[book,dev,test]"]


def test_no_extras_is_the_bare_package_and_an_unknown_one_is_refused(project, recorded):
    bootstrap([], root=project)
    assert recorded[-1] == ["-e", "."]
    recorded.clear()
    with pytest.raises(BootstrapError, match="unknown extras boook: pyproject.toml has book, dev, test"):
        bootstrap(["book", "boook"], root=project)
    assert recorded == []


def test_torch_alone_comes_from_the_torch_index(project, recorded):
    url = "https://example.org/cpu"
    bootstrap(["book"], root=project, torch_index=url)
    assert recorded == ["announce", ["--no-deps", "--index-url", url, "torch"], ["-e", ".[book]"]]
    recorded.clear()
    assert bootstrap(["book"], root=project, torch_index=url) is False
    assert bootstrap(["book"], root=project) is False  # `make test` afterwards keeps that torch
    assert recorded == []


def test_interrupted_install_leaves_no_stamp(project, recorded, monkeypatch):
    def fails(*_):
        raise BootstrapError("no network")

    bootstrap(["book"], root=project)
    (project / "constraints.txt").write_text("changed")
    with monkeypatch.context() as patch, pytest.raises(BootstrapError, match="no network"):
        patch.setattr(module, "pip_install", fails)
        bootstrap(["book"], root=project)
    assert not (project / ".venv" / module.STAMP).exists()
    assert bootstrap(["book"], root=project) is True


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"digest": 3}'])
def test_damaged_stamp_means_install_again(project, recorded, text):
    bootstrap(["book"], root=project)
    (project / ".venv" / module.STAMP).write_text(text)
    assert bootstrap(["book"], root=project) is True


def test_moved_project_is_installed_again(project, recorded):
    bootstrap(["book"], root=project)
    stamp = module.read_stamp(project / ".venv")
    assert is_current(stamp, project, ["book"], None)
    moved = project.rename(project.with_name("elsewhere"))
    assert not is_current(stamp, moved, ["book"], None)


def test_foreign_folder_is_left_alone(tmp_path):
    venv = tmp_path / ".venv"
    venv.mkdir()
    (venv / "letter.txt").write_text("keep me")
    with pytest.raises(BootstrapError, match="is no virtual environment: move it away"):
        make_venv(venv)
    assert (venv / "letter.txt").read_text() == "keep me"


def test_python_without_venv_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "_runs", lambda command: False)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    with pytest.raises(BootstrapError, match="python3-venv") as caught:
        make_venv(tmp_path / ".venv")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / ".venv").exists()


@pytest.mark.slow
def test_real_environment_is_made_kept_and_repaired(tmp_path):
    venv = tmp_path / "with space" / ".venv"
    make_venv(venv)
    python = module.venv_python(venv)
    assert subprocess.run([python, "-c", "import pip"]).returncode == 0
    before = (venv / "pyvenv.cfg").stat().st_mtime_ns
    make_venv(venv)
    assert (venv / "pyvenv.cfg").stat().st_mtime_ns == before  # a working one is left alone
    python.unlink()
    python.symlink_to(tmp_path / "python-that-was-removed")
    make_venv(venv)
    assert subprocess.run([python, "-c", "import pip"]).returncode == 0


def item(name, version="1.0"):
    return {"metadata": {"name": name, "version": version}}


def test_notice_adds_up_torch_and_cuda_only():
    report = {"install": [item("torch", "2.13.0"), item("nvidia-cublas"), item("triton"), item("sympy")]}
    text = torch_notice(report, [500_000_000, 400_000_000, 100_000_000, None], 50e9)
    assert "torch 2.13.0 with 2 CUDA packages: 1.0 GB to download" in text
    assert "free disk: 50 GB" in text
    assert "TORCH_INDEX=" in text


def test_notice_of_a_cpu_build_and_of_an_unknown_size():
    report = {"install": [item("torch", "2.13.0+cpu"), item("sympy")]}
    assert "torch 2.13.0+cpu: 0.2 GB" in torch_notice(report, [187_000_000, 6_000_000], 9e9)
    assert "TORCH_INDEX" not in torch_notice(report, [187_000_000, 6_000_000], 9e9)
    assert module.TYPICAL_SIZE in torch_notice(report, [None, 6_000_000], 9e9)


def test_remote_size_of_a_file_and_of_nothing(tmp_path):
    path = tmp_path / "a wheel.whl"
    path.write_bytes(b"x" * 1234)
    assert remote_size(path.as_uri()) == 1234
    assert remote_size((tmp_path / "missing").as_uri()) is None
    assert remote_size("no address") is None


def test_other_pythons_packages_stay_out(monkeypatch):
    for name in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_USER"):
        monkeypatch.setenv(name, "/somewhere")
    monkeypatch.setenv("PIP_INDEX_URL", "https://example.org/simple")
    environment = module.clean_environment()
    assert not {"PYTHONPATH", "PYTHONHOME", "PIP_TARGET"} & set(environment)
    assert environment["PIP_USER"] == "0"
    assert environment["PIP_INDEX_URL"] == "https://example.org/simple"  # the user's choice


def test_command_line_reports_an_error_in_one_line(monkeypatch, capsys):
    def fails(*_, **__):
        raise BootstrapError("what to do")

    monkeypatch.setattr(module, "bootstrap", fails)
    assert module.main(["--extras", "book"]) == 1
    assert capsys.readouterr().err == "error: what to do\n"


def test_needs_nothing_but_the_standard_library():
    """Through its door, where nothing is installed."""
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['bootstrap', '--help']\n"
        "try: runpy.run_module('cat_core.bootstrap', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print([n for n in sys.modules if n.split('.')[0] not in sys.stdlib_module_names and n[0] != '_'])"
    )
    printed = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip
    found = json.loads(printed.splitlines()[-1].replace("'", '"'))
    assert found == ["cat_core", "cat_book", "cat_book.build", "cat_core.files", "cat_book.build.bootstrap"]


def test_every_constraint_is_exact_and_names_no_local_build():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 and "+" not in line and "@" not in line for line in lines), lines
    names = [line.split("==")[0].lower() for line in lines]
    assert len(set(names)) == len(names) > 100
    assert "torch==2.13.0" in lines


def test_constraints_keep_the_bounds_of_pyproject():
    import tomllib

    requirements = pytest.importorskip("packaging.requirements")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1] for line in lines}
    for requirement in map(requirements.Requirement, declared):
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(pinned[requirement.name.replace("_", "-")]), requirement


def test_constraints_admit_the_first_python_3_11():
    """Debian 12 has 3.11.2: a pin that asks for a later patch release breaks `make book` there."""
    from importlib import metadata

    specifiers = pytest.importorskip("packaging.specifiers")
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1] for line in lines}
    checked = 0
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"].lower().replace("_", "-")
        wanted = distribution.metadata["Requires-Python"]
        if pinned.get(name) == distribution.version and wanted:
            assert specifiers.SpecifierSet(wanted).contains("3.11.0"), f"{name} needs Python {wanted}"
            checked += 1
    assert checked > 50, "run this in an environment made with constraints.txt"
