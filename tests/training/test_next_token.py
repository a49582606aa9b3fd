"""Next tokens as queries: the table against models asked token by token."""

import numpy as np
import pytest
import torch
from small_study import project

from cat_core.analysis.verdicts import read_entries
from cat_core.flops import decode_flops
from cat_core.studies.command import main
from cat_core.studies.record import experiment_of
from cat_core.studies.study import open_cell
from cat_core.training.models import load_model
from cat_core.training.obtain import held_out_of, tokenizer_of, train_or_load

STUDY = """
study: tiny
methods: [xent, cat-xent]
seeds: [1, 2]
large_seeds: [1, 2]
texts: {texts}
cells:
  text:
    claim: C9
    queries: tokens
    suite: python-manual
    suite_options: {{train: 200, calibration: 12, test: 24}}
    small: hidden 8, layers 1, heads 2
    large: hidden 32, layers 2, heads 2
    vocab_size: 600
    context: 384
    truncate_prompts: true
    steps: 12
    large_steps: 60
    batch_size: 16
    large_batch_size: 16
    learning_rate: 0.01
    large_learning_rate: 0.01
    apart: true
    device: cpu
"""


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    root = project(tmp_path_factory.mktemp("project"), text=STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAT_ARTIFACTS", str(root / "artifacts"))
        patch.chdir(root)
        assert main(["run", "tiny"]) == 0
        yield open_cell("tiny/text")


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
