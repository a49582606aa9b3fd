"""Checksums inside files that are kept: a changed byte of a table, or digit of metrics, is found when it is read.

A Parquet file gets MARK and the sha256 of all its other bytes between its last page and its footer, where no reader
looks: page checksums of Parquet's own do not cover the footer, with names, types and counts. Metrics have a key
`sha256`. Files without either, as others write them and older runs did, are taken as they are.
"""

import hashlib
import json
from pathlib import Path

from cat_core.files import seal

MARK = b"CATSHA256"
_TAIL = 8  # bytes at the end of a Parquet file: length of the footer, and b"PAR1"


def seal_parquet(path: Path) -> None:
    """Put the checksum into a Parquet file that was just written."""
    content = path.read_bytes()
    footer = len(content) - _TAIL - int.from_bytes(content[-_TAIL:-4], "little")
    digest = hashlib.sha256(content).digest()
    path.write_bytes(content[:footer] + MARK + digest + content[footer:])


def check_parquet(content: bytes) -> None:
    """ValueError where the bytes of a Parquet file are not those that its checksum was made of."""
    footer = len(content) - _TAIL - int.from_bytes(content[-_TAIL:-4], "little")
    start = footer - len(MARK) - hashlib.sha256().digest_size
    if start > 0 and content[start:].startswith(MARK):
        if hashlib.sha256(content[:start] + content[footer:]).digest() != content[start + len(MARK) : footer]:
            raise ValueError("its bytes have changed since it was written")


def seal_json(content: dict) -> dict:
    """`content`, plain JSON, with a key `sha256` over it."""
    return content | {"sha256": seal(content)}


def read_json(path: Path) -> dict:
    """The object in a JSON file, less `sha256`. ValueError where it is not the one that its checksum was made of."""
    content = json.loads(path.read_text(encoding="utf-8"))
    digest = content.pop("sha256", None)
    if digest is not None and content | {"sha256": digest} != seal_json(content):
        raise ValueError("it has changed since it was written")
    return content
