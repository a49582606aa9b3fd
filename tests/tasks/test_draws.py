"""FLAN's mixing in rounds, against a naive second implementation; the other draws are tested with the suites."""

from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cat_core.tasks.draws import draw_order, limit, mix
from cat_core.tasks.example import Example


def examples_of(sizes):
    """Training examples of tasks of these sizes, and two calibration and test examples of each, interleaved."""
    counts = {("train", t): n for t, n in sizes.items()} | {(s, t): 2 for s in ("calibration", "test") for t in sizes}
    rows = [(number, split, task) for (split, task), count in counts.items() for number in range(count)]
    return [Example(f"{t}/{s}-{n}", t, s, f"{s} {t} {n}", "yes", ("no", "yes")) for n, s, t in sorted(rows)]


def dealt_from_a_pack(examples, cap, rounds, seed):
    """(prompt, which copy) in order: a pack a task, cards taken from the top and put back at the bottom."""
    tasks = list(dict.fromkeys(e.task for e in examples if e.split == "train"))
    by_id = {e.item_id: e for e in examples}
    ids = {t: [e.item_id for e in examples if (e.task, e.split) == (t, "train")] for t in tasks}
    packs = {t: deque(draw_order(ids[t], seed)) for t in tasks}
    seen, dealt = Counter(), []
    for _ in range(rounds):
        for task in tasks:
            for _ in range(min(cap, len(packs[task]))):
                card = packs[task].popleft()
                packs[task].append(card)
                seen[card] += 1
                dealt.append((by_id[card].prompt, card + (f"#{seen[card]}" if seen[card] > 1 else "")))
    return dealt


@given(
    sizes=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 12), min_size=1),
    cap=st.integers(1, 14),
    rounds=st.integers(1, 6),
    seed=st.integers(0, 3),
)
@settings(deadline=None, max_examples=60)
def test_mix_deals_as_from_a_pack_a_task(sizes, cap, rounds, seed):
    examples = examples_of(sizes)
    mixed = mix(examples, cap, rounds, seed)
    trained = [e for e in mixed if e.split == "train"]
    assert [(e.prompt, e.item_id) for e in trained] == dealt_from_a_pack(examples, cap, rounds, seed)
    assert [e for e in mixed if e.split != "train"] == [e for e in examples if e.split != "train"]
    assert len({e.item_id for e in mixed}) == len(mixed)
    for task, size in sizes.items():
        copies = Counter(e.prompt for e in trained if e.task == task)
        assert sum(copies.values()) == rounds * min(size, cap)
        assert max(copies.values()) - min(copies.values()) <= 1  # seen evenly
        if rounds >= -(-size // cap):
            assert len(copies) == size  # none is lost


def test_rounds_of_a_large_task_hold_other_examples():
    mixed = [e.prompt for e in mix(examples_of({"large": 30, "small": 4}), 10, 3, 0) if e.split == "train"]
    assert len(mixed) == 3 * 14
    rounds = [set(mixed[start : start + 10]) for start in (0, 14, 28)]
    assert len(set.union(*rounds)) == 30
    assert {frozenset(mixed[start + 10 : start + 14]) for start in (0, 14, 28)} == {frozenset(mixed[10:14])}


def test_the_order_depends_on_the_seed_only():
    examples = examples_of({"a": 40, "b": 3})
    assert mix(examples, 20, 2, 1) == mix(examples, 20, 2, 1) != mix(examples, 20, 2, 2)
    turned = [e for e in mix(examples[::-1], 20, 2, 1) if (e.split, e.task) == ("train", "a")]
    assert turned == [e for e in mix(examples, 20, 2, 1) if (e.split, e.task) == ("train", "a")]
    assert [e.prompt for e in turned] != [e.prompt for e in examples if (e.split, e.task) == ("train", "a")]


@pytest.mark.parametrize("cluster", ["", "passage 3"])
def test_copies_stay_in_the_cluster_of_the_first(cluster):
    examples = [Example("one", "t", "train", "p", "a", metric="exact_match", cluster_id=cluster)]
    copies = mix(examples, 5, 3, 0)
    assert [e.item_id for e in copies] == ["one", "one#2", "one#3"]
    assert {e.cluster_id or e.item_id for e in copies} == {cluster or "one"}


def test_a_limit_without_room_for_one_question_is_refused():
    """Else a mixture would lose the task without a word."""
    examples = [Example(f"{n}", "t", "test", f"p {n}", "yes", ("no", "yes"), group_id=f"q{n // 4}") for n in range(12)]
    assert [len(limit(examples, {"test": count}, 0)) for count in (4, 7, 8, 99)] == [4, 4, 8, 12]
    with pytest.raises(ValueError, match="limits: test is 3, but task 't' has questions with more answers.* to 4, or"):
        limit(examples, {"test": 3}, 0)
