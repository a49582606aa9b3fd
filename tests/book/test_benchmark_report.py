"""Tables of benchmark results say what the committed files hold, and what is not there."""

import json
import shutil

import pytest
from cat_book.pages import benchmark_report

from cat_core.training.provenance import find_root


def test_tables_hold_the_ratios_of_the_files():
    loss = benchmark_report.results("loss")
    table = benchmark_report.loss_table(loss)
    rows = [row for row in loss["cpu"]["rows"] if row["way"] == "fused"]
    assert len(rows) == 3 * len(table.rows)
    for cells, (first, *_) in zip(table.rows, zip(*[iter(rows)] * 3)):
        assert first["rho"] == 1 and cells[0] == f"CPU, V = {first['vocabulary']:,}, N = {first['tokens']:,}"
        assert cells[1] == f"{first['speedup']:.2f}" and cells[4].startswith(f"{100 * first['memory_share']:.0f} %")
    assert "argmax for the mask" in table.note and "argmax for the mask" in benchmark_report.rivals_table(loss).note
    assert loss["cpu"]["git"]["commit"][:10] in table.note and loss["cpu"]["processor"] in table.note
    assert len(benchmark_report.rivals_table(loss).rows) == sum(row["rho"] == 1 for row in loss["cpu"]["rows"])
    assert f"{min(row['speedup'] for row in rows):.2f} to" in benchmark_report.words(loss, {}, {}, {})["loss_text"]
    others = {"teacher": ["teacher_table"], "pair": ["pair_table"], "runner": ["runner_table", "early_exit_table"]}
    for benchmark, tables in others.items():
        found = benchmark_report.results(benchmark)
        assert found and all(len(getattr(benchmark_report, name)(found).rows) > 1 for name in tables)
        assert benchmark_report.numbers(found)


def test_what_is_not_measured_is_said(tmp_path):
    assert benchmark_report.results("loss", tmp_path) == {}
    for name in ("loss_table", "rivals_table", "loss_figure", "teacher_table", "runner_table", "early_exit_table",
                 "batch_table", "pair_table"):  # fmt: skip
        table = getattr(benchmark_report, name)({})
        assert table.columns == ["no results are there"] and "python -m benchmarks." in table.rows[0][0]
    assert set(benchmark_report.words({}, {}, {}, {}).values()) == {"No results of this benchmark are there yet."}
    if "cuda" not in (found := benchmark_report.results("loss")):
        assert "Not measured yet: CUDA (python -m benchmarks.loss --device cuda)" in benchmark_report.setting(
            found, "loss"
        )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": []}', "cut off {"])
def test_a_file_that_holds_no_results_is_named(tmp_path, text):
    folder = tmp_path / benchmark_report.FOLDER
    folder.mkdir(parents=True)
    (folder / "loss-cpu.json").write_text(text)
    with pytest.raises(ValueError, match=r"loss-cpu.json is not a file of results: run `python -m benchmarks.loss`"):
        benchmark_report.results("loss", tmp_path)


def test_two_devices_stand_side_by_side(tmp_path):
    folder = tmp_path / benchmark_report.FOLDER
    shutil.copytree(find_root() / benchmark_report.FOLDER, folder)
    content = json.loads((folder / "loss-cpu.json").read_text())
    (folder / "loss-cuda.json").write_text(json.dumps(content | {"processor": "NVIDIA X"}))
    found = benchmark_report.results("loss", tmp_path)
    assert list(found) == ["cpu", "cuda"] and "Not measured" not in benchmark_report.setting(found, "loss")
    assert len(benchmark_report.loss_table(found).rows) == 2 * len(
        {(r["vocabulary"], r["tokens"]) for r in content["rows"]}
    )
    assert "CUDA: NVIDIA X" in benchmark_report.markdown(found)
    found["cuda"]["git"] = {"commit": "0123456789abcdef", "dirty": True}
    assert "commit 0123456789+, " in benchmark_report.setting(found, "loss")
