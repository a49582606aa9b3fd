"""Next tokens as queries: the table against models asked token by token."""

import numpy as np
import pytest
import torch
from small_study import STUDY, project

from cat_core.analysis.verdicts import read_entries
from cat_core.flops import decode_flops
from cat_core.studies.command import main
from cat_core.studies.record import experiment_of
from cat_core.studies.study import open_cell
from cat_core.training.models import load_model
from cat_core.training.obtain import held_out_of, tokenizer_of, train_or_load

TEXT = STUDY.split("  other:")[0].replace("[xent, cat-dist, gatekeeper]", "[xent, cat-xent]")
for old, new in (
    ("seeds: [1, 2, 3]", "seeds: [1, 2]"),
    ("suite: mini-wmt", "claim: C9\n    queries: tokens\n    apart: true\n    context: 384\n    suite: python-manual"),
    ("{{train: 300, calibration: 20, test: 30}}", "{{train: 200, calibration: 12, test: 24}}"),
    ("large_steps: 20", "large_steps: 60"),
):
    assert old in TEXT
    TEXT = TEXT.replace(old, new)


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    root = project(tmp_path_factory.mktemp("project"), text=TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAT_ARTIFACTS", str(root / "artifacts"))
        patch.chdir(root)
        assert main(["run", "tiny"]) == 0
        yield open_cell("tiny/wmt")


def test_an_item_is_a_token_and_its_answer_the_most_probable_one(cell):
    experiment, frame = experiment_of(cell), cell.outcomes()
    config = experiment.small_config("cat-xent", 2)
    model = load_model(str(train_or_load(config))).eval()
    held_out, kept = held_out_of(config, tokenizer_of(config), "test", experiment.data)
    rows = frame[(frame["method"] == "cat-xent") & (frame["seed"] == 2) & (frame["split"] == "test")]
    assert len(rows) == sum(len(target) for _, target in held_out.pairs)
    examples = experiment.data.load().split("test")
    for number in (0, len(kept) - 1):
        prompt, target = held_out.pairs[number]
        mine = rows[rows["item_id"].str.startswith(examples[kept[number]].item_id + ":")].sort_values("item_id")
        assert len(mine) == len(target) and set(mine["cluster_id"]) == {examples[kept[number]].cluster_id}
        for k, row in enumerate(mine.itertuples()):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + target[:k]])).logits[0, -1]
            assert row.quality == float(logits.argmax() == target[k]) and row.n_prompt == len(prompt) + k
            assert row.confidence_chow_average == pytest.approx(float(logits.log_softmax(-1).max()), rel=2e-3)
            assert row.flops == decode_flops(model.config, row.n_prompt)


def test_the_cell_speaks_of_its_claim(cell):
    entries = [e for e in read_entries(cell.folder) if e.claim == "C9"]
    assert [e.role for e in entries][:3] == ["primary", "primary", "control"] and entries[1].family == "CAT-Xent"
    assert entries[1].n == int(np.sum([len(t) for _, t in held_out_of(
        experiment_of(cell).large_config(1), tokenizer_of(experiment_of(cell).large_config(1)), "test",
        experiment_of(cell).data)[0].pairs]))  # fmt: skip
    assert cell.metrics().tokens["xent"].nll > 0 and not cell.outcomes()["prediction"].notna().any()
