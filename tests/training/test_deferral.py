"""The deferral token: its targets by plain loops, the token itself, and S that learns it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cat_core.methods import METHODS
from cat_core.training.deferral import deferral_of, deferral_targets, deferral_token
from cat_core.training.experiment import Experiment


@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(2, 6))
def test_targets_by_definition(seed, n, vocabulary):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, 4, (n, vocabulary), generator=generator).float()  # ties happen
    labels = torch.randint(1, vocabulary, (n,), generator=generator)
    large = torch.rand(n, generator=generator) < 0.5
    before = logits.clone()
    found = deferral_targets(logits, labels, large, 0)
    for row, label, right, target in zip(logits.tolist(), labels.tolist(), large.tolist(), found.tolist()):
        small = row[label] >= max(row[1:])
        assert target == (0 if right and not small else label)
    assert torch.equal(logits, before)


def test_the_token_is_one_that_no_answer_holds():
    def text(bos, pad, eos, end=None):
        return SimpleNamespace(tokenizer=SimpleNamespace(bos_token_id=bos, pad_token_id=pad), eos=eos, end=end or eos)

    assert deferral_token(text(1, 0, 2)) == 1
    assert deferral_token(text(2, 0, 2)) == 0 == deferral_token(text(None, 0, 2))
    assert deferral_token(text(2, 2, 2)) is None is deferral_token(text(3, 3, 2, end=3))


@pytest.mark.parametrize("token", [None, 5, 2])
def test_a_method_that_needs_it_is_refused_where_there_is_none(token):
    training_set = SimpleNamespace(deferral=token, pairs=[([5], [1, 2])])
    assert deferral_of(METHODS["gatekeeper"], SimpleNamespace()) is None
    if token == 5:
        assert deferral_of(METHODS["call-token"], training_set) == 5
        return
    problem = "no answer holds, and token 2 is in some" if token else "needs a BOS or padding token that ends no answer"
    with pytest.raises(ValueError, match=problem):
        deferral_of(METHODS["call-token"], training_set)


@pytest.mark.slow
def test_s_learns_to_hand_over_what_l_alone_knows(tmp_path, monkeypatch):
    monkeypatch.setenv("CAT_ARTIFACTS", str(tmp_path))
    e = Experiment(
        suite="mini-superglue", suite_options={"train": 1000, "calibration": 60, "test": 200, "noise": 0.0},
        small="hidden 8, layers 1, heads 2", large="hidden 64, layers 2, heads 4", vocab_size=900, context=64,
        methods=("xent", "call-token"), seeds=(1,), steps=160, large_steps=450, batch_size=64, large_batch_size=64,
        learning_rate=0.02, large_learning_rate=0.003, second_rate=1.0, device="cpu",
    )  # fmt: skip
    frame = e.outcomes(learned_rules=("call-token",))
    small = frame[(frame["method"] == "call-token") & (frame["split"] == "test")]
    assert small["confidence_call_token"].notna().all() and (small["prompt_flops"] > 0).all()
    assert frame.loc[frame["method"] == "xent", "confidence_call_token"].isna().all()
    large = frame[(frame["model"] == "large") & (frame["split"] == "test")].set_index("item_id")["quality"]
    wanted = small["quality"].to_numpy() < large.loc[small["item_id"]].to_numpy()
    value = -small["confidence_call_token"].to_numpy()
    assert np.exp(value).mean() > 0.05  # it says so
    assert value[wanted].mean() > value[~wanted].mean()  # where it should
