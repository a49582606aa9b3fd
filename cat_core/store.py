"""Finished work kept on disk: batches of a long run, each written whole, found again after a crash."""

import hashlib
import json
import os
import warnings
from pathlib import Path

import torch


def model_fingerprint(model) -> str:
    """sha256 over a model's configuration and weights: which model a stored answer came from."""
    ignored = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
    config = {key: value for key, value in model.config.to_diff_dict().items() if key not in ignored}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Store:
    """A folder of finished batches. `plan.json` says which run they belong to; each file is whole or absent.

    folder: made if missing; plan: what every stored number depends on, plain JSON. Raises ValueError when the
    folder belongs to another plan.
    """

    def __init__(self, folder: str | Path, plan: dict):
        self.folder = Path(folder)
        self.digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "plan.json"
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))["plan"]
                differing = [key for key in sorted({*found, *plan}) if found.get(key) != plan.get(key)]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path} is damaged ({error}): delete {self.folder} and run again") from None
            if differing:
                raise ValueError(
                    f"{self.folder} holds another run (different: {', '.join(differing)}): "
                    "give a new folder, or delete this one"
                )
        else:
            self._write(path, {"plan": plan})

    def _write(self, path: Path, content: dict) -> None:
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(temporary, path)

    def _path(self, number: int) -> Path:
        return self.folder / f"batch_{number:06d}.json"

    def _seal(self, number: int, records: list) -> str:
        return hashlib.sha256(json.dumps([self.digest, number, records]).encode()).hexdigest()

    def load(self, number: int) -> list | None:
        """The records of a finished batch, or None when it has to be computed."""
        path = self._path(number)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["sha256"] == self._seal(number, content["records"]):
                return content["records"]
            reason = "its checksum does not match"
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"it is unreadable ({error})"
        warnings.warn(f"{path} is computed again: {reason}", stacklevel=2)
        return None

    def save(self, number: int, records: list) -> None:
        """Write one finished batch, whole."""
        self._write(self._path(number), {"records": records, "sha256": self._seal(number, records)})
