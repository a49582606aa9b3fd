"""The schema of metrics reads what studies recorded, writes it back byte for byte, and says where a value is wrong."""

import copy
import json
import re
from dataclasses import fields, replace

import pytest
from small_tables import table, text_table

from cat_core.analysis.claims import cascade_claims
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.metrics import CellMetrics, SuiteMetrics, read_metrics, suite_metrics
from cat_core.analysis.operating_points import calibrated, headroom, iso_quality, quality_at_budgets
from cat_core.analysis.publish import publish
from cat_core.analysis.quantities import NOT_THERE, Undefined, plain, read
from cat_core.curves import audc
from cat_core.ranking import Interval
from cat_core.training.provenance import find_root

RECORDED = sorted((find_root() / "papermill_runs" / "studies").glob("*/metrics/*.json"))
OLDEST = find_root() / "papermill_runs" / "studies" / "reference" / "metrics" / "mini-superglue-low.json"


@pytest.fixture
def content():
    """A recorded cell's metrics, to be changed."""
    return copy.deepcopy(json.loads(OLDEST.read_text(encoding="utf-8"))["metrics"])


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: f"{path.parents[1].name}/{path.stem}")
def test_what_was_recorded_is_written_back_byte_for_byte(path, tmp_path):
    found = read_metrics(json.loads(path.read_text(encoding="utf-8"))["metrics"])
    assert (found.study, found.cell) == (path.parents[1].name, path.stem)
    written = publish(tmp_path, path.stem, None, found)["metrics"].read_bytes()
    if b'\n "sha256": ' not in path.read_bytes():  # from before there were checksums
        written, count = re.subn(rb',\n "sha256": "[0-9a-f]{64}"\n}\n$', b"\n}\n", written)
        assert count == 1
    assert written == path.read_bytes()


def test_every_study_has_recorded_metrics():
    assert {path.parents[1].name for path in RECORDED} >= {"ablations", "edge", "headroom", "ledger", "reference"}


@pytest.mark.parametrize("made", [lambda: Comparison(table(tasks=("t", "u")), resamples=30),
                                  lambda: Comparison(text_table(), resamples=30)])  # fmt: skip
def test_metrics_of_a_suite_are_those_of_its_comparison(made, tmp_path):
    c = made()
    rows = cascade_claims(c, "C1")
    found = suite_metrics(c, rows, 0.3)
    assert (found.suite, found.metric, found.n, found.seeds, found.tasks) == ("s", c.metric, c.n, c.seeds, c.tasks)
    assert (found.scale, found.large_alone, found.large_flops) == (c.scale, c.large_alone(), c.large_flops)
    assert found.claims == tuple(rows) and found.methods.keys() == set(c.methods)
    for m, row in found.methods.items():
        assert (row.audc, row.random_audc, row.audc_over_random) == (c.audc(m), c.random_audc(m), c.over_random(m))
        assert (row.small_alone, row.oracle_audc) == (c.alone(m), audc(c.oracle(m)))
        assert (row.auroc, row.normalised_audc) == (c.auroc(m), c.normalised_audc(m))
        assert row.sequence_ledger == c.sequence_ledger(m).shares
        assert list(row.quality_at_budget.values()) == quality_at_budgets(c, m)
        assert list(row.quality_at_budget) == ["0.1", "0.25", "0.5"]
        assert row.calibrated == calibrated(c, m, 0.3) and row.iso_quality == iso_quality(c, m)
        assert row.headroom == headroom(c, m)
    assert list(found.differences) == list(c.rules)
    for a, b in c.pairs:
        assert found.difference(a, b) == c.difference(a, b)
    assert found.difference("cat-dist", "gatekeeper") == NOT_THERE
    assert list(suite_metrics(c, rows, 0.3, ("chow_average",)).differences) == ["chow_average"]
    path = publish(tmp_path, "p", None, found)["metrics"]
    assert read(SuiteMetrics, json.loads(path.read_text())["metrics"]) == found


def test_what_an_older_recording_lacks_is_not_there(content):
    for method in content["methods"].values():
        del method["headroom"], method["calibrated"], method["quality_at_budget"]
    for part in ("factors", "masks", "tokens", "bootstraps", "over_coin", "other_metrics", "rule_grid", "tables"):
        del content[part]
    older = read_metrics(content)
    row = older.methods["cat-dist"]
    assert row.headroom == row.calibrated == NOT_THERE
    assert row.quality_at_budget == {} and isinstance(row.audc, Interval)
    assert older.factors == NOT_THERE and older.bootstraps == () and older.joint is None and older.shift is None
    assert older.difference("large-dist", "dist") == older.difference("cat-dist", "dist", "alone") == NOT_THERE
    assert isinstance(older.difference("cat-dist", "dist"), Interval)


def test_differences_of_masks_are_found_beside_those_of_the_pairs(content):
    m = read_metrics(content)
    pair = "cat-dist - dist"
    assert m.difference("cat-dist", "dist") == m.differences["chow_average"][pair]
    other = {"large-dist - dist": Interval(1, 0, 2), pair: Interval(3, 2, 4)}
    made = replace(m, masks=replace(m.masks, audc=other, alone={pair: Interval(4, 3, 5)}))
    assert made.difference("large-dist", "dist") == Interval(1, 0, 2)
    assert made.difference("cat-dist", "dist") == m.difference("cat-dist", "dist")
    assert made.difference("cat-dist", "dist", "alone") == Interval(4, 3, 5)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("n",), "many", "^n: .*got 'many'$"),
        (("methods", "cat-dist", "audc", "low"), "much", r"^methods\.cat-dist\.audc\..*low: .*got 'much'$"),
        (("methods", "cat-dist", "iso_quality", "saving"), None, r"^methods\.cat-dist\.iso_quality\..*saving.*None$"),
        (("claims", 1, "role"), "main", r"^claims\.1: .*role is 'main', expected one of primary, control, reading"),
        (("claims", 0, "number"), [1, 2], r"^claims\.0\.number\..*got \[1, 2\]$"),
        (("bootstraps", 0, "resamples"), "x", r"^bootstraps\.0\.resamples: .*got 'x'$"),
        (("tokens", "xent", "ledger"), [0.5], r"^tokens\.xent\.ledger\..*got "),
        (("seeds",), 3, "^seeds: .*got 3$"),
        (("audc_by_seed", "dist", 0), {"value": None}, r"^audc_by_seed\.dist\.0: .*got {'value': None}$"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_its_place(content, place, value, message):
    part = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    with pytest.raises(ValueError, match=message) as caught:
        read_metrics(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["study", "n", "methods", "claims"])
def test_what_every_recording_has_may_not_be_missing(content, key):
    del content[key]
    with pytest.raises(ValueError, match=f"^{key}: Field required"):
        read_metrics(content)


def test_no_number_is_null_without_a_reason(content):
    content["methods"]["dist"]["auroc"] = {"value": None, "reason": " "}
    with pytest.raises(ValueError, match=r"^methods\.dist\.auroc\."):
        read_metrics(content)
    content["methods"]["dist"]["auroc"] = {"value": None, "reason": "S is right on all items"}
    found = read_metrics(content)
    assert found.methods["dist"].auroc == Undefined("S is right on all items")
    assert plain(found)["methods"]["dist"]["auroc"] == content["methods"]["dist"]["auroc"]


def test_fields_that_are_none_are_left_out():
    optional = {f.name for f in fields(CellMetrics) if f.default is None}
    assert optional == {"between", "guards", "joint", "rivals", "savings", "shift"}
