"""Make the virtual environment that `make book` and `make test` run in.

Standard library only: this runs before anything is installed. `python -m cat_core.bootstrap --extras book`
creates `.venv` beside pyproject.toml, says how large the torch is that it is about to install, installs the
package with the versions of constraints.txt, and leaves a stamp, so that nothing happens the next time unless
pyproject.toml, constraints.txt or the wanted extras have changed. pip's own configuration (index, proxy,
certificate) is honoured.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cat_core.files import write_text

ROOT = Path(__file__).resolve().parents[3]
STAMP = "cat_core-install.json"
CONSTRAINTS = "constraints.txt"
TYPICAL_SIZE = "about 0.2 GB as a CPU build, 2 to 3 GB with the CUDA packages that PyPI's Linux build brings"
CPU_HINT = "For a CPU build: make book TORCH_INDEX=https://download.pytorch.org/whl/cpu"


class BootstrapError(RuntimeError):
    """The environment could not be made; the message is one line that says what to do."""


def install_digest(root):
    """SHA-256 over the two files that say what gets installed."""
    files = [(root / name).read_bytes() + b"\0" for name in ("pyproject.toml", CONSTRAINTS)]
    return hashlib.sha256(b"".join(files)).hexdigest()


def known_extras(root):
    """The names under [project.optional-dependencies] of pyproject.toml."""
    import tomllib  # here, so that a Python too old for it gets as far as main's own message

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return set(project.get("optional-dependencies", {}))


def read_stamp(venv):
    """The stamp of the last finished install, or {} when there is none or it cannot be read."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def is_current(stamp, root, extras, torch_index):
    """True when the finished install that `stamp` describes already holds everything asked for."""
    return (
        stamp.get("digest") == install_digest(root)
        and stamp.get("root") == str(root)  # an editable install points at the folder it was made in
        and set(extras) <= set(stamp.get("extras", []))
        and torch_index in (None, stamp.get("torch_index"))
    )


def venv_python(venv):
    """The interpreter inside a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def clean_environment():
    """os.environ without what would let another Python's packages in, or send ours elsewhere."""
    unwanted = {"PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {**kept, "PYTHONNOUSERSITE": "1", "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def _runs(command):
    try:
        return subprocess.run(command, env=clean_environment(), capture_output=True).returncode == 0
    except OSError:
        return False


def make_venv(venv):
    """Create the virtual environment, or repair it; leave a working one alone."""
    python = venv_python(venv)
    if _runs([python, "-c", "import sys, pip; sys.exit(sys.version_info < (3, 11))"]):
        return
    if venv.exists() and any(venv.iterdir()) and not (venv / "pyvenv.cfg").exists():
        raise BootstrapError(f"{venv} exists but is no virtual environment: move it away and run this again.")
    if not _runs([sys.executable, "-c", "import venv, ensurepip"]):
        raise BootstrapError(
            f"{sys.executable} has no venv or ensurepip module to make an environment with: install them "
            "(apt install python3-venv on Debian and Ubuntu) or name another: make book PYTHON=/path/python"
        )
    print(f"Making {venv} with Python {sys.version.split()[0]}.", flush=True)
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], env=clean_environment())
    if made.returncode:
        raise BootstrapError(f"{sys.executable} -m venv {venv} failed, see above.")


def remote_size(url):
    """Bytes behind a file:// or http(s):// address, or None when they cannot be found out."""
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=10) as reply:
            return int(reply.headers["Content-Length"])
    except (OSError, ValueError, TypeError):  # URLError is an OSError
        return None


def torch_notice(report, sizes, free_bytes):
    """What is about to be installed with torch, in one or two lines.

    report: pip's installation report for `torch` (a dict); sizes: bytes of each of its items, None where
    unknown; free_bytes: free disk space. Besides torch, the CUDA libraries and triton are what is large.
    """
    items = [(item["metadata"]["name"].lower(), item["metadata"]["version"]) for item in report["install"]]
    cuda = [name for name, _ in items if name.startswith(("nvidia-", "cuda-")) or name == "triton"]
    wanted = [size for (name, _), size in zip(items, sizes) if name == "torch" or name in cuda]
    what = f"torch {dict(items)['torch']}" + (f" with {len(cuda)} CUDA packages" if cuda else "")
    how_large = TYPICAL_SIZE
    if None not in wanted:
        how_large = f"{sum(wanted) / 1e9:.1f} GB to download, two to four times that unpacked"
    text = f"About to install {what}: {how_large}; free disk: {free_bytes / 1e9:.0f} GB."
    return f"{text}\n{CPU_HINT}" if cuda else text


def announce_torch(python, root, index_options):
    """Print how large the torch is that pip would choose now."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        dry_run = [python, "-m", "pip", "install", "--quiet", "--dry-run", "--report", path]
        command = [*dry_run, "-c", CONSTRAINTS, *index_options, "torch"]
        try:
            subprocess.run(command, cwd=root, env=clean_environment(), capture_output=True, timeout=120, check=True)
            report = json.loads(path.read_text(encoding="utf-8"))
            urls = [item["download_info"]["url"] for item in report["install"]]
            with ThreadPoolExecutor(8) as pool:
                sizes = list(pool.map(remote_size, urls))
            print(torch_notice(report, sizes, shutil.disk_usage(root).free), flush=True)
        except (OSError, ValueError, KeyError, subprocess.SubprocessError):
            print(f"About to install torch: {TYPICAL_SIZE}.\n{CPU_HINT}", flush=True)


def pip_install(python, root, options):
    """Run `pip install` in the environment with the constraints; its output goes to the terminal."""
    command = [python, "-m", "pip", "install", "-c", CONSTRAINTS, *options]
    if subprocess.run(command, cwd=root, env=clean_environment()).returncode:
        raise BootstrapError("pip could not install everything, see above; then run the same command again.")


def bootstrap(extras, root=ROOT, venv=None, torch_index=None):
    """Bring `venv` (default: root/.venv) up to date with the wanted extras; True if it had to install."""
    venv = root / ".venv" if venv is None else Path(venv)
    python = venv_python(venv)
    known = known_extras(root)
    if unknown := sorted(set(extras) - known):
        raise BootstrapError(f"unknown extras {', '.join(unknown)}: pyproject.toml has {', '.join(sorted(known))}.")
    stamp = read_stamp(venv)
    if is_current(stamp, root, extras, torch_index) and python.exists():
        return False
    started = time.monotonic()
    make_venv(venv)
    stamp = read_stamp(venv)  # gone if the environment had to be made anew
    extras = sorted({*extras, *stamp.get("extras", [])})
    (venv / STAMP).unlink(missing_ok=True)  # from here on the install is unfinished
    has_torch = _runs([python, "-c", "import importlib.metadata as m; m.version('torch')"])
    if torch_index is not None and not (has_torch and stamp.get("torch_index") == torch_index):
        # Torch alone comes from that index; what it needs comes from the ordinary one below.
        options = ["--no-deps", "--index-url", torch_index, *(["--force-reinstall"] if has_torch else [])]
        announce_torch(python, root, options)
        pip_install(python, root, [*options, "torch"])
    elif not has_torch:
        announce_torch(python, root, [])
    pip_install(python, root, ["-e", f".[{','.join(extras)}]" if extras else "."])
    stamp = {
        "digest": install_digest(root),
        "root": str(root),
        "extras": extras,
        "torch_index": torch_index or stamp.get("torch_index"),
    }
    write_text(venv / STAMP, json.dumps(stamp, indent=1) + "\n")
    print(f"Installed into {venv} in {time.monotonic() - started:.0f} s.", flush=True)
    return True


def main(arguments=None):
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cat_core.bootstrap", description=__doc__.splitlines()[0])
    parser.add_argument("--extras", default="book", help="comma-separated extras of pyproject.toml")
    parser.add_argument("--torch-index", default=None, help="package index that torch alone is taken from")
    given = parser.parse_args(arguments)
    extras = [name.strip() for name in given.extras.split(",") if name.strip()]
    if sys.version_info < (3, 11):  # noqa: UP036 - the one place that an older Python may reach
        print(f"cat_core needs Python 3.11 or newer, this is {sys.version.split()[0]}.", file=sys.stderr)
        return 2
    try:
        bootstrap(extras, torch_index=given.torch_index)
    except BootstrapError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; run the same command again to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
