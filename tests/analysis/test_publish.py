"""What a page leaves behind is written whole or not at all."""

import json

import numpy as np
import pytest
from small_tables import table

from cat_core.analysis.checksums import read_json
from cat_core.analysis.outcomes import read_outcomes
from cat_core.analysis.publish import publish
from cat_core.analysis.quantities import Undefined
from cat_core.ranking import Interval


def test_publish_writes_table_and_numbers(tmp_path):
    frame = table(seeds=(0,))
    metrics = {
        "audc": Interval(0.5, 0.4, 0.6), "none": Undefined("no such method"),
        "list": [1, np.float64(0.25), "a<b"],
        "nested": {"n": np.int64(3), 0.1: True}, "array": np.array([1.0, 2.0]),
    }  # fmt: skip
    written = publish(tmp_path, "04_superglue", frame, metrics)
    assert written["outcomes"] == tmp_path / "outcomes" / "04_superglue.parquet"
    assert len(read_outcomes(written["outcomes"])) == len(frame)
    found = read_json(written["metrics"])
    assert found == {"page": "04_superglue", "metrics": {
        "audc": {"estimate": 0.5, "low": 0.4, "high": 0.6},
        "none": {"value": None, "reason": "no such method"},
        "list": [1, 0.25, "a<b"], "nested": {"n": 3, "0.1": True}, "array": [1.0, 2.0]}}  # fmt: skip
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
        "04_superglue.json",
        "04_superglue.parquet",
    ]
    publish(tmp_path, "04_superglue", frame, {}, texts=False)
    assert read_outcomes(written["outcomes"])[["prediction", "target"]].isna().all().all()
    assert "outcomes" not in publish(tmp_path, "03_flops", None, {"n": 1})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float64("nan"), Interval(0.1, float("nan"), 1.0)])
def test_publish_refuses_what_is_no_number_and_leaves_the_old_files(tmp_path, bad):
    publish(tmp_path, "p", None, {"a": 1})
    with pytest.raises(ValueError, match=r"metric 'x\.y\[0\].*give Undefined\(reason\)"):
        publish(tmp_path, "p", table(seeds=(0,)), {"x": {"y": [bad]}})
    assert json.loads((tmp_path / "metrics" / "p.json").read_text())["metrics"] == {"a": 1}
    assert not (tmp_path / "outcomes").exists()


def test_publish_refuses_other_things(tmp_path):
    with pytest.raises(TypeError, match="metric 'x' is a DataFrame"):
        publish(tmp_path, "p", None, {"x": table(seeds=(0,))})
    with pytest.raises(ValueError, match="notebook's name without ending"):
        publish(tmp_path, "../p", None, {})
