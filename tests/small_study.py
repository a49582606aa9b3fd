"""A study in miniature: two cells of small models."""

from contextlib import contextmanager
from pathlib import Path

import pytest
from cat_book.pages import study_report

from cat_core.analysis import publish
from cat_core.studies.cell_metrics import cell_metrics
from cat_core.studies.record import run_cell
from cat_core.studies.study import load_study

STUDY = """
study: tiny
description: one cell
methods: [xent, cat-dist, gatekeeper]
seeds: [1, 2, 3]
large_seeds: [1, 2]
texts: {texts}
cells:
  wmt: &wmt
    suite: mini-wmt
    suite_options: {{train: 300, calibration: 20, test: 30}}
    small: hidden 8, layers 1, heads 2
    large: hidden 16, layers 1, heads 2
    vocab_size: 500
    steps: 12
    large_steps: 20
    batch_size: 16
    large_batch_size: 16
    learning_rate: 0.01
    large_learning_rate: 0.01
    device: cpu
  other:
    <<: *wmt
    steps: 13
"""


def project(folder: Path, texts="false", text=STUDY) -> Path:
    (folder / "data" / "studies").mkdir(parents=True)
    (folder / "book").mkdir()
    (folder / "book" / "_toc.yml").write_text("root: intro\n")
    (folder / "data" / "studies" / "tiny.yaml").write_text(text.format(texts=texts))
    return folder


@contextmanager
def recorded_cells(folder: Path, text: str, resamples: int, artifacts: Path | None = None):
    """All cells of the study in `text`, run and recorded with their metrics, from inside the project's folder."""
    root = project(folder, text=text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAT_ARTIFACTS", str(artifacts or root / "artifacts"))
        patch.chdir(root)
        for cell in load_study("tiny", root).cells.values():
            run_cell(cell)
            publish.publish(cell.folder, cell.name, None, cell_metrics(cell, resamples=resamples))
        yield study_report.recorded("tiny", root=root).cells
