"""Any one byte of what is kept may change: it is refused when it is read, or nothing has changed."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_tables import table

from cat_core.analysis.checksums import read_json, seal_json
from cat_core.analysis.outcomes import OutcomeError, read_outcomes, validate, write_outcomes
from cat_core.analysis.publish import publish
from cat_core.analysis.verdicts import read_entries


@pytest.mark.parametrize("compactly", [False, True])
def test_a_flipped_byte_of_a_table_is_never_other_numbers(tmp_path, compactly):
    path = write_outcomes(tmp_path / "o.parquet", table(n=30, seeds=(0,)), compactly=compactly)
    whole, expected = path.read_bytes(), read_outcomes(path)
    rng, refused = np.random.default_rng(0), 0
    for place in rng.permutation(len(whole))[:250]:
        broken = bytearray(whole)
        broken[place] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        try:
            pd.testing.assert_frame_equal(read_outcomes(path), expected)
        except OutcomeError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 240


def test_the_checksum_disturbs_no_other_reader_and_is_missed_by_none(tmp_path):
    path = write_outcomes(tmp_path / "o.parquet", table(seeds=(0,)))
    frame = read_outcomes(path)
    pd.testing.assert_frame_equal(validate(pq.read_table(path)), frame)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), other)
    pd.testing.assert_frame_equal(read_outcomes(other), frame)  # written by others, or before there were checksums
    path.write_bytes(path.read_bytes().replace(b"CATSHA256", b"CATSHA257"))
    pd.testing.assert_frame_equal(read_outcomes(path), frame)


def test_changed_metrics_are_refused(tmp_path):
    claim = {"claim": "C1", "measure": "m", "direction": 1, "number": {"estimate": 0.1, "low": 0.0, "high": 0.2},
             "n": 9, "seeds": 3, "large_seeds": 2, "role": "primary", "mass": 0.2, "level": 0.95, "scale": 100.0,
             "suite": "s"}  # fmt: skip
    path = publish(tmp_path, "p", None, {"claims": [claim], "text": "caf\u00e9"})["metrics"]
    (entry,) = read_entries(tmp_path)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("0.1", "0.9"), encoding="utf-8")
    with pytest.raises(ValueError, match="p.json does not hold a page's metrics .*changed since it was written"):
        read_entries(tmp_path)
    content = {key: value for key, value in json.loads(text).items() if key != "sha256"}
    path.write_text(json.dumps(content), encoding="utf-8")  # as before there were checksums, and in another layout
    assert read_entries(tmp_path) == [entry] and read_json(path) == content
    path.write_text(json.dumps(seal_json(content)), encoding="utf-8")
    assert read_entries(tmp_path) == [entry]
