"""Files are written whole or not at all, by one function."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cat_core.files import PROJECT, whole_file, write_text


def test_a_file_is_replaced_at_the_end_and_left_alone_by_an_error(tmp_path):
    path = tmp_path / "new folder" / "a.json"
    write_text(path, "one\n")
    with whole_file(path) as temporary:
        assert temporary.parent == path.parent and temporary.match(".*.tmp")
        temporary.write_bytes(b"tw")
        assert path.read_text() == "one\n"
        temporary.write_bytes(b"two")
        temporary.chmod(0o600)
    assert path.read_text() == "two" and stat.S_IMODE(path.stat().st_mode) == 0o644
    for error in (OSError("disk full"), KeyboardInterrupt()):
        with pytest.raises(type(error)), whole_file(path) as temporary:
            temporary.write_text("half")
            raise error
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \ud800")
    with pytest.raises(FileNotFoundError), whole_file(path):  # nothing was written
        pass
    assert path.read_text() == "two" and list(path.parent.iterdir()) == [path]


def test_kill_9_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "one")
    script = (
        "import os, signal, sys; from pathlib import Path; from cat_core.files import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=PROJECT, check=False)
    assert done.returncode == -signal.SIGKILL and path.read_text() == "one"
    (left,) = set(tmp_path.iterdir()) - {path}
    assert left.match(".*.tmp") and f".{os.getpid()}." not in left.name  # ignored by git, and nobody else's


def test_no_other_code_replaces_a_file():
    """What may call os.replace besides: a folder that is whole, and a notebook that another process has written."""
    folders = {"artifacts.py", "teacher.py", "overlay.py", "driver.py", "fetch.py"}
    tops = (PROJECT / "cat_core", PROJECT / "book" / "cat_book", PROJECT / "benchmarks")
    texts = {path: path.read_text(encoding="utf-8") for top in tops for path in sorted(Path(top).rglob("*.py"))}
    callers = {path.name for path, text in texts.items() if "os.replace(" in text or "mkstemp" in text}
    assert callers <= folders | {"files.py"}, callers
