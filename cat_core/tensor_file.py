"""A safetensors file that is filled in place: its tensors are written row by row, larger than memory if need be.

While it is filled it is named `<name>.partial`, beside a list of the parts that are done; a crash costs the part in
work. Finished, it is an ordinary safetensors file, which readers map into memory and processes share.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

DTYPES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16",
}  # fmt: skip


class TensorFile:
    """path: of the finished file; tensors: name -> (dtype, shape); metadata: texts that say what the file is of.

    `tensors[name]` writes through to the file. Raises ValueError where an unfinished file holds something else.
    """

    def __init__(
        self, path: str | Path, tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
    ):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.list = self.path.with_name(self.path.name + ".done")
        header, offset = {"__metadata__": dict(metadata)}, 0
        tensors = dict(sorted(tensors.items(), key=lambda item: -item[1][0].itemsize))  # every one aligned
        for name, (dtype, shape) in tensors.items():
            size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
            offset += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        head = len(text).to_bytes(8, "little") + text
        if not self.partial.is_file():
            self.list.unlink(missing_ok=True)
            temporary = self.partial.with_suffix(".tmp")
            with open(temporary, "wb") as file:
                file.write(head)
                file.truncate(len(head) + offset)
            os.replace(temporary, self.partial)
        elif self.partial.stat().st_size != len(head) + offset or _start(self.partial, len(head)) != head:
            raise ValueError(f"{self.partial} is the unfinished file of another run: delete it, or give another folder")
        self._map = (
            np.memmap(self.partial, dtype=np.uint8, mode="r+", offset=len(head)) if offset else np.zeros(0, np.uint8)
        )
        self.tensors = {}
        for name, (dtype, shape) in tensors.items():
            first, last = header[name]["data_offsets"]
            part = torch.from_numpy(self._map[first:last]) if last > first else torch.empty(0, dtype=dtype)
            self.tensors[name] = part.view(dtype).view(shape)
        self.done = self._read_done()

    def _read_done(self) -> set[int]:
        try:
            text = self.list.read_text(encoding="ascii")
        except FileNotFoundError:
            return set()
        whole, end, torn = text.rpartition("\n")
        if torn:  # a line without its end was being written: the next one must not be added to it
            temporary = self.list.with_suffix(".tmp")
            temporary.write_text(whole + end, encoding="ascii")
            os.replace(temporary, self.list)
        return {int(line) for line in whole.split("\n") if line.isdigit()}

    def finished(self, part: int) -> None:
        """The rows of this part are written: from now on it is not asked for again."""
        if isinstance(self._map, np.memmap):
            self._map.flush()
        with open(self.list, "a", encoding="ascii") as file:
            file.write(f"{part}\n")
            file.flush()
            os.fsync(file.fileno())
        self.done.add(part)

    def close(self) -> Path:
        """All parts are there: the file gets its name. Returns its path."""
        self.tensors = {}
        if isinstance(self._map, np.memmap):
            self._map.flush()
        del self._map
        os.replace(self.partial, self.path)
        self.list.unlink(missing_ok=True)
        return self.path


def _start(path: Path, size: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(size)
