import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import pytest
import torch
import warm
from hypothesis import given
from hypothesis import strategies as st
from small_models import large_model, sentences
from transformers import TrainingArguments

from cat_core.loss import cascade_aware_loss, gatekeeper_loss
from cat_core.methods import METHODS
from cat_core.shapes import caches
from cat_core.tasks.synthetic import MiniSuperGlue, MiniWmt, mini_superglue, mini_wmt
from cat_core.training import training_set as training_set_module
from cat_core.training.models import ModelSize, build_model
from cat_core.training.teacher import run_teacher
from cat_core.training.train import CascadeAwareTrainer, TrainSettings, train
from cat_core.training.training_set import DataOrder, TrainingSet, collate, joined, length_groups
from cat_core.training.tuning import eager_attention

TINY = ModelSize(hidden=16, layers=1, heads=2, context=48)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A tokenizer, a training set, L, and its outputs on it."""
    tokenizer, training_set = sentences()
    large = large_model(tokenizer, training_set, tmp_path_factory.mktemp("large"), steps=30)
    outputs = run_teacher(large, training_set, tmp_path_factory.mktemp("teacher"), batch_tokens=600)
    return tokenizer, training_set, large, outputs


def dense_logits(model, training_set, index):
    """One example alone, all positions, shifted by hand."""
    prompt, target = training_set.pairs[index]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + target])).logits[0]
    return logits[len(prompt) - 1 : -1], torch.tensor(target)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_collate_aligns_all_targets_at_one_column(setting):
    _, training_set, *_ = setting
    items = [training_set[i] for i in range(6)]
    batch = collate(items, training_set.pad)
    start = batch["target_start"]
    for row, item in enumerate(items):
        ids, mask = batch["input_ids"][row], batch["attention_mask"][row].bool()
        assert ids[mask].tolist() == item["prompt"] + item["target"]
        assert batch["position_ids"][row][mask].tolist() == list(range(int(mask.sum())))
        assert batch["labels"][row][start:].ne(-100).sum() == len(item["target"])
        assert batch["labels"][row][:start].eq(-100).all()


@pytest.mark.usefixtures("every_group")
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.router])
@pytest.mark.parametrize(
    "normalize, loss, groups", [("tokens", "fused", 1), ("kept", "fused", 3), ("tokens", "dense", 11)]
)
def test_trainer_loss_and_gradient_are_those_of_the_plain_formula(setting, tmp_path, method, normalize, loss, groups):
    tokenizer, training_set, _, outputs = setting
    settings = TrainSettings(
        method=method, steps=1, batch_size=8, normalize=normalize, label_weight=0.3, temperature=1.5, loss=loss,
        length_groups=groups,
    )  # fmt: skip
    model = build_model(TINY, tokenizer, 1)
    trainer = make_trainer(model, training_set, settings, tmp_path, outputs)
    model.train()
    batch = collate([training_set[i] for i in range(8)], training_set.pad)
    # as Trainer does where the divisor can be known in advance; "kept" needs the batch itself
    tokens = (batch["labels"] != -100).sum() if normalize == "tokens" else None
    trainer.training_step(model, batch, tokens)
    got = {name: p.grad.clone() for name, p in model.named_parameters()}

    model.zero_grad()
    logits, labels, teacher_logits = [], [], []
    for i in range(8):
        prompt, target = training_set.pairs[i]
        logits.append(model(input_ids=torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1])
        labels.append(torch.tensor(target))
        teacher_logits.append(outputs.logits(outputs.rows(torch.tensor([i]))))
    chosen = METHODS[method]
    if chosen.calls:  # "ask L" in place of what L gets right and S, among all other tokens, does not
        bos, called = tokenizer.bos_token_id, []
        for row, theirs, label in zip(torch.cat(logits), torch.cat(teacher_logits), torch.cat(labels)):
            others = [v for v in range(len(row)) if v != bos]
            called.append(bos if theirs[label] >= theirs.max() and row[label] < row[others].max() else int(label))
        assert bos in called and set(called) != {bos}
        expected = torch.nn.functional.cross_entropy(torch.cat(logits), torch.tensor(called))
    elif chosen.second_stage:
        expected = gatekeeper_loss(torch.cat(logits), torch.cat(labels))
    elif chosen.relabel:
        theirs = torch.cat(teacher_logits).argmax(-1)
        assert (theirs != torch.cat(labels)).any()
        expected = torch.nn.functional.cross_entropy(torch.cat(logits), theirs)
    else:
        expected = cascade_aware_loss(
            torch.cat(logits), torch.cat(labels), torch.cat(teacher_logits), label_weight=chosen.label_weight(0.3),
            temperature=1.5, mask=chosen.mask, normalize=normalize,
            generator=CascadeAwareTrainer._generator(fresh(trainer)) if chosen.mask == "random" else None,
        )  # fmt: skip
    expected.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, atol=2e-6, rtol=1e-4)


def fresh(trainer):
    trainer._calls = (-1, 0)
    return trainer


def make_trainer(model, training_set, settings, folder, outputs, **options):
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=1, use_cpu=True, report_to=[], remove_unused_columns=False, disable_tqdm=True,
        **options,
    )  # fmt: skip
    return CascadeAwareTrainer(
        model=model, args=arguments, train_dataset=training_set, settings=settings, teacher=outputs,
        data_collator=lambda items: collate(items, training_set.pad),
    )  # fmt: skip


@given(st.data())
def test_length_groups_hold_every_row_once_and_every_token(data):
    members, rows, groups = (data.draw(st.integers(1, n)) for n in (3, 9, 12))
    lengths = st.lists(
        st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=members * rows, max_size=members * rows
    )
    items = [{"prompt": [5] * p, "target": [6] * t, "index": 0} for p, t in data.draw(lengths)]
    batch = collate(items, 0)
    mask = batch["attention_mask"].unflatten(0, (members, rows))
    found = length_groups(mask, groups)
    together = torch.cat([taken for taken, _ in found], dim=-1)
    assert torch.equal(together.sort(dim=-1).values, torch.arange(rows).expand(members, rows))
    for taken, columns in found:
        for member in range(members):
            outside = mask[member, taken[member]].clone()
            outside[:, columns] = 0
            assert outside.sum() == 0  # no token is left out
    numbers = torch.arange(members * rows * 3.0).view(members, rows, 3, 1)
    parts = [numbers.take_along_dim(taken[..., None, None], dim=1) for taken, _ in found]
    assert torch.equal(joined(parts, [taken for taken, _ in found], 3), numbers)
    computed = sum(taken.numel() * (columns.stop - columns.start) for taken, columns in found)
    assert mask.sum() <= computed <= mask.numel()


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=7), st.integers(2, 8), st.data())
def test_length_groups_are_those_that_leave_the_least_to_compute(lengths, groups, data):
    """Against every way to cut the rows."""
    overhead, places = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 9))
    mask = collate([{"prompt": [5] * p, "target": [6] * t, "index": 0} for p, t in lengths], 0)["attention_mask"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(training_set_module.GROUP_TOKENS, "cpu", overhead)
        patch.setattr(caches, "MAX_CUTS", places)
        found = length_groups(mask, groups)
    ordered, costs = mask[mask.sum(1).argsort(stable=True)], []
    every = math.ceil(len(lengths) / places)  # cuts lie at multiples of it, so that they are few
    for count in range(min(groups, len(lengths))):
        for inner in combinations(range(every, len(lengths), every), count):
            runs = [ordered[a:b] for a, b in pairwise((0, *inner, len(lengths)))]
            costs.append(sum(len(run) * int(run.any(0).sum()) + overhead for run in runs))
    assert sum(len(rows) * (c.stop - c.start) + overhead for rows, c in found) == min(costs)


@pytest.mark.usefixtures("every_group")
def test_length_groups_look_their_tokens_up_once(setting, tmp_path):
    """Each look-up has a gradient as large as the embeddings."""
    tokenizer, training_set, _, _ = setting
    model, calls = build_model(TINY, tokenizer, 1), []
    embeddings = model.get_input_embeddings()
    forward, given = type(embeddings).forward, torch.nn.functional.embedding

    def counted(ids, *rest, **options):
        calls.append(ids.shape)
        return given(ids, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "embedding", counted)
        train(model, training_set, TrainSettings(steps=2, batch_size=16, length_groups=4), tmp_path)
    assert [shape[0] for shape in calls if shape[0] > 1] == [16, 16]  # beside a trial of the head
    assert embeddings.forward.__func__ is forward


@pytest.mark.usefixtures("every_group")
def test_embeddings_that_somebody_has_changed_stay_changed_in_length_groups(setting, tmp_path):
    """By a forward of the instance, as accelerate's hooks put there, and by a hook of PyTorch's."""
    tokenizer, training_set, _, _ = setting
    losses = []
    for groups in (1, 4):
        model = build_model(TINY, tokenizer, 1)
        embeddings = model.get_input_embeddings()
        plain = embeddings.forward
        own = embeddings.forward = lambda ids, plain=plain: 3 * plain(ids)
        embeddings.register_forward_hook(lambda _, __, output: 2 * output)
        settings = TrainSettings(steps=3, batch_size=16, length_groups=groups, gradient_accumulation=2)
        losses.append([row["loss"] for row in train(model, training_set, settings, tmp_path / str(groups))])
        assert embeddings.forward is own
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_process_takes_one_gpu(setting, tmp_path, monkeypatch):
    """Where it sees several, Trainer would deal a batch out to threads, and to replicas of the model."""
    _, training_set, _, _ = setting
    after = TrainingArguments.__post_init__

    def with_two(self):
        after(self)
        self._n_gpu = 2

    monkeypatch.setattr(TrainingArguments, "__post_init__", with_two)
    seen = []

    class Noting(CascadeAwareTrainer):
        def training_step(self, model, *given):
            seen.append((self.args.n_gpu, type(model)))
            return super().training_step(model, *given)

    model = build_model(TINY, setting[0], 1)
    train(model, training_set, TrainSettings(steps=1, batch_size=8), tmp_path, kind=Noting)
    assert seen == [(1, type(model))]


def test_gradient_accumulation_gives_the_same_step(setting, tmp_path):
    tokenizer, training_set, _, outputs = setting
    found = []
    for parts in (1, 4):
        settings = TrainSettings(
            method="cat-dist", steps=3, batch_size=16, gradient_accumulation=parts, learning_rate=1e-3
        )
        model = build_model(TINY, tokenizer, 1)
        log = train(model, training_set, settings, tmp_path / str(parts), outputs)
        found.append((weights(model), [entry["loss"] for entry in log], [entry["keep_rate"] for entry in log]))
    (one, one_loss, one_keep), (four, four_loss, four_keep) = found
    assert one_loss == pytest.approx(four_loss, rel=1e-4) and one_keep == pytest.approx(four_keep)
    for name in one:
        torch.testing.assert_close(one[name], four[name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("method", ["cat-dist", "gatekeeper", "xent"])
def test_micro_batches_of_a_loss_by_kept_tokens_give_the_step_of_one_batch(setting, tmp_path, method):
    """In float64, to 1e-10; and the first step's gradient is that of the dense loss of the whole batch by autograd."""
    tokenizer, training_set, _, outputs = setting
    outputs = replace(outputs, states=outputs.states.double(), head=outputs.head.double())
    found = {}
    for parts in (1, 2, 4, 8):
        settings = TrainSettings(
            method=method, steps=3, batch_size=16, gradient_accumulation=parts, learning_rate=1e-3, normalize="kept"
        )
        model = build_model(TINY, tokenizer, 1).double()
        log = train(model, training_set, settings, tmp_path / str(parts), outputs)
        found[parts] = weights(model), [(entry["loss"], entry["grad_norm"]) for entry in log]
    for parts in (2, 4, 8):
        assert found[parts][1] == [pytest.approx(row, rel=1e-5) for row in found[1][1]]  # logged in single precision
        for name, value in found[1][0].items():
            torch.testing.assert_close(found[parts][0][name], value, atol=1e-10, rtol=0)
    if method != "gatekeeper":
        model = build_model(TINY, tokenizer, 1).double()
        batch = collate([training_set[i] for i in list(DataOrder(len(training_set), 16, 0))], training_set.pad)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
        labels = batch["labels"][:, 1:]
        rows = outputs.rows(batch["examples"])
        logits = model(**inputs).logits[:, :-1][labels != -100]
        given = {"label_weight": METHODS[method].label_weight(0.5), "mask": METHODS[method].mask}
        loss = cascade_aware_loss(
            logits, labels[labels != -100], outputs.logits(rows).double(), normalize="kept", **given
        )
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
        assert found[4][1][0] == pytest.approx((loss.item(), norm.item()), rel=1e-4)


@pytest.mark.parametrize("method", ["xent", "cat-dist", "random-dist"])
def test_same_seed_same_bits_and_another_seed_other_bits(setting, tmp_path, method):
    tokenizer, training_set, _, outputs = setting
    found = []
    for run, seed in enumerate((3, 3, 4)):
        model = build_model(TINY, tokenizer, 1)
        train(
            model,
            training_set,
            TrainSettings(method=method, steps=4, batch_size=16, seed=seed),
            tmp_path / str(run),
            outputs,
        )
        found.append(weights(model))
    assert same(found[0], found[1]) and not same(found[0], found[2])


def test_log_holds_the_ledger_of_all_target_tokens(setting, tmp_path):
    tokenizer, training_set, _, outputs = setting
    model = build_model(TINY, tokenizer, 1)
    log = train(model, training_set, TrainSettings(method="cat-xent", steps=6, batch_size=16), tmp_path, outputs)
    for entry in log:
        shares = [entry[name] for name in ("both", "only_small", "only_large", "neither")]
        assert sum(shares) == pytest.approx(1) and entry["keep_rate"] == pytest.approx(1 - entry["neither"])
    assert not list(tmp_path.glob("checkpoint-*"))


def test_an_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(setting, tmp_path):
    tokenizer, training_set, _, outputs = setting
    settings = TrainSettings(method="random-dist", steps=12, batch_size=16, gradient_accumulation=2)

    def run(folder, progress=None):
        model = build_model(TINY, tokenizer, 1)
        log = train(model, training_set, settings, folder, outputs, progress=progress, checkpoint_every=4)
        return weights(model), [entry["loss"] for entry in log]

    expected = run(tmp_path / "whole")

    class Stop(Exception):
        pass

    from cat_core.training.train import _ProgressLine

    def stop_at(step):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise Stop

        return on_step_end

    original = _ProgressLine.on_step_end
    try:
        _ProgressLine.on_step_end = stop_at(10)
        with pytest.raises(Stop):
            run(tmp_path / "broken")
    finally:
        _ProgressLine.on_step_end = original
    assert sorted(p.name for p in (tmp_path / "broken").glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-8"]
    (tmp_path / "broken" / "checkpoint-8" / "model.safetensors").write_bytes(b"half")
    with pytest.warns(UserWarning, match="checkpoint-8 is not whole"):
        found = run(tmp_path / "broken")
    assert found[1] == expected[1] and same(found[0], expected[0])


@pytest.mark.slow
def test_kill_9_in_the_middle_of_an_epoch_with_dropout_changes_no_bit(tmp_path):
    """200 examples in batches of 16: an epoch ends between two steps, and the run dies in the second one."""
    script = textwrap.dedent("""
        import os, signal, sys, torch
        from pathlib import Path
        from small_models import sentences
        from cat_core.training.models import ModelSize, build_model
        from cat_core.training.train import CascadeAwareTrainer, TrainSettings, train
        folder, dies = Path(sys.argv[1]), int(sys.argv[2])
        step = CascadeAwareTrainer.training_step
        def training_step(self, *args, **kwargs):
            if self.state.global_step == dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(self, *args, **kwargs)
        CascadeAwareTrainer.training_step = training_step
        tokenizer, training_set = sentences()
        model = build_model(ModelSize(hidden=16, layers=2, heads=2, context=48), tokenizer, 1)
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = float(sys.argv[3])
        settings = TrainSettings(steps=24, batch_size=16, gradient_accumulation=2)
        train(model, training_set, settings, folder, checkpoint_every=4, use_cpu=True)
        torch.save(model.state_dict(), folder / "weights.pt")
    """)

    def run(name, dies=-1, dropout=0.3):
        code, said = warm.run(script, tmp_path / name, dies, dropout, output=tmp_path / f"{name}.log")
        assert code in (0, -signal.SIGKILL), said
        return code, torch.load(tmp_path / name / "weights.pt") if code == 0 else None

    _, whole = run("whole")
    assert run("killed", dies=18)[0] == -signal.SIGKILL
    assert (tmp_path / "killed" / "checkpoint-16").is_dir() and 16 * 16 % 200
    code, resumed = run("killed")
    assert code == 0 and same(whole, resumed)
    assert not same(whole, run("without", dropout=0.0)[1])  # there was dropout


@pytest.mark.slow
def test_kill_9_in_training_then_resume_gives_the_same_bits(tmp_path):
    """Killed and resumed by Pythons of their own, which hash strings with another seed each."""
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent("""
        import sys, torch
        torch.set_num_threads(1)
        from cat_core.training.configs import DataConfig, TrainConfig, TrainSettings
        from cat_core.training.obtain import train_or_load
        data = DataConfig("mini-superglue", {"train": 600, "calibration": 20, "test": 20})
        settings = TrainSettings(steps=20, batch_size=32), TrainSettings(method="random-dist", steps=400, batch_size=16)
        large = TrainConfig(data, "hidden 16, layers 1, heads 2", settings[0], vocab_size=400)
        config = TrainConfig(data, "hidden 8, layers 1, heads 2", settings[1], vocab_size=400, teacher=large)
        print(train_or_load(config, progress=lambda line: print(line, flush=True)), flush=True)
    """))  # fmt: skip

    def start(place):
        environment = dict(os.environ, CAT_ARTIFACTS=str(place), PYTHONPATH=str(Path(__file__).parents[2]))
        return subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True)

    def finish(process):
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        return Path(output.strip().splitlines()[-1])

    killed = start(tmp_path / "killed")
    deadline = time.monotonic() + 200
    while not list((tmp_path / "killed").glob("model-*.partial/checkpoints/checkpoint-200/complete.json")):
        assert killed.poll() is None and time.monotonic() < deadline, "no checkpoint before the end"
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    resumed = finish(start(tmp_path / "killed"))
    code, said = warm.run(script.read_text(), output=tmp_path / "whole.log", CAT_ARTIFACTS=str(tmp_path / "whole"))
    assert code == 0, said
    whole = Path(said.strip().splitlines()[-1])
    assert resumed.name == whole.name
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    logs = [json.loads((folder / "artifact.json").read_text())["result"]["log"] for folder in (resumed, whole)]
    assert [entry["loss"] for entry in logs[0]] == [entry["loss"] for entry in logs[1]]


def test_settings_and_sets_refuse_what_cannot_be_trained(setting, tmp_path):
    tokenizer, training_set, *_ = setting
    with pytest.raises(ValueError, match="unknown method 'cat'; expected one of xent"):
        TrainSettings(method="cat")
    with pytest.raises(ValueError, match=r"learning_rate is '1e-3'; .*write 1.0e-3"):
        TrainSettings(learning_rate="1e-3")
    with pytest.raises(ValueError, match="steps is -1; expected a whole number >= 0"):
        TrainSettings(steps=-1)
    with pytest.raises(ValueError, match="unknown normalize"):
        TrainSettings(normalize="batch")
    with pytest.raises(ValueError, match="multiple of gradient_accumulation"):
        TrainSettings(batch_size=10, gradient_accumulation=4)
    with pytest.raises(ValueError, match="no training examples"):
        TrainingSet([], tokenizer, 48)
    examples = mini_superglue(MiniSuperGlue(train=5, calibration=5, test=5))
    with pytest.raises(ValueError, match=r"item 'train-000000'.*exceed the context of 4"):
        TrainingSet(examples, tokenizer, 4)
    with pytest.raises(ValueError, match="compares S with L"):
        train(build_model(TINY, tokenizer, 0), training_set, TrainSettings(method="cat-xent", steps=1), tmp_path)


@pytest.mark.parametrize("method", ["xent", "cat-dist"])
def test_bf16_trains_alike_with_both_losses_and_in_bf16(setting, tmp_path, method):
    tokenizer, training_set, _, outputs = setting
    found = []
    for loss, precision in (("fused", "bf16"), ("dense", "bf16"), ("dense", "fp32")):
        model = build_model(TINY, tokenizer, 1)
        settings = TrainSettings(
            method=method, steps=10, batch_size=16, learning_rate=5e-3, loss=loss, precision=precision, label_weight=0.3
        )
        log = train(model, training_set, settings, tmp_path / f"{loss}-{precision}", teacher=outputs, use_cpu=True)
        assert all(p.dtype == torch.float32 for p in model.parameters())
        rows = torch.tensor([[row["loss"], row["keep_rate"]] for row in log])
        found.append((rows, torch.cat([p.detach().flatten() for p in model.parameters()])))
    (fused, fused_weights), (dense, dense_weights), (single, _) = found
    torch.testing.assert_close(fused, dense, rtol=0.005, atol=0.005)
    start = torch.cat([p.detach().flatten() for p in build_model(TINY, tokenizer, 1).parameters()])
    assert (fused_weights - dense_weights).norm() < 0.2 * (dense_weights - start).norm()
    assert not torch.equal(dense[:, 0], single[:, 0])


@pytest.mark.parametrize(("precision", "longest", "kernel"), [
    ("bf16", 256, "eager"), ("bf16", 8, "sdpa"), ("fp32", 256, "sdpa"),
])  # fmt: skip
def test_attention_is_eager_where_the_fused_kernel_is_slow(
    setting, tmp_path, monkeypatch, precision, longest, kernel
):
    tokenizer, training_set, _, _ = setting
    seen = []

    class Seeing(CascadeAwareTrainer):
        def compute_loss(self, model, *given, **named):
            seen.append(self.accelerator.unwrap_model(model).config._attn_implementation)
            return super().compute_loss(model, *given, **named)

    monkeypatch.setattr("cat_core.training.train.EAGER", longest)
    model = build_model(TINY, tokenizer, 1)
    settings = TrainSettings(steps=2, batch_size=4, precision=precision)
    train(model, training_set, settings, tmp_path, use_cpu=True, kind=Seeing)
    assert set(seen) == {kernel} and model.config._attn_implementation == "sdpa"
    assert 8 < training_set.longest <= 256
    with contextlib.suppress(RuntimeError), eager_attention(model, True):
        raise RuntimeError
    assert model.config._attn_implementation == "sdpa"


def test_with_bf16_the_loss_reads_heads_in_bf16(setting, tmp_path):
    """To the bit: dense and fused see the same logits only if the fused loss multiplies in bfloat16, too."""
    tokenizer, training_set, _, outputs = setting
    batch = collate([training_set[i] for i in range(8)], training_set.pad)
    losses = []
    for loss in ("fused", "dense"):
        settings = TrainSettings(method="cat-xent", steps=1, batch_size=8, loss=loss, precision="bf16")
        model = build_model(TINY, tokenizer, 1)
        trainer = make_trainer(model, training_set, settings, tmp_path, outputs, bf16=True)
        losses.append(trainer.compute_loss(trainer.accelerator.prepare(model), batch))
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)


def test_truncation_keeps_bos_the_end_of_the_prompt_and_the_whole_target(setting):
    tokenizer, training_set, *_ = setting
    examples = [e for e in mini_wmt(MiniWmt(train=200, calibration=5, test=30)) if e.split == "train"]
    longest = max(len(p) + len(t) for p, t in training_set.pairs)
    short = TrainingSet(examples, tokenizer, longest - 2, truncate_prompts=True)
    cut = 0
    for (prompt, target), (new_prompt, new_target) in zip(training_set.pairs, short.pairs):
        excess = max(0, len(prompt) + len(target) - (longest - 2))
        assert new_target == target and new_prompt == prompt[:1] + prompt[1 + excess :]
        cut += excess > 0
    assert cut


def test_diverged_training_stops_with_one_clear_line(setting, tmp_path):
    tokenizer, training_set, *_ = setting
    model = build_model(TINY, tokenizer, 1)
    with torch.no_grad():
        model.get_output_embeddings().weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite at .* lower the learning rate"):
        train(model, training_set, TrainSettings(steps=2, batch_size=8), tmp_path)


LAUNCHED = {
    "groups": {"length_groups": 2},
    "dense": {"loss": "dense", "gradient_accumulation": 2},
    "kept": {"normalize": "kept", "gradient_accumulation": 2, "double": True},
    "joint": {"method": "edge-joint", "normalize": "kept", "gradient_accumulation": 2, "double": True},
}


@pytest.fixture(scope="module")
def launched(setting, tmp_path_factory):
    """A folder with what `launched.py` makes of each of LAUNCHED: "one" in one process, "two" by `accelerate launch`
    with two processes on a CPU. One launch for all, as most of its time goes into importing torch three times."""
    folder = tmp_path_factory.mktemp("launched")
    _, training_set, large, _ = setting
    run_teacher(large, training_set, folder / "cache")
    script = str(Path(__file__).parents[1] / "launched.py")
    arguments = [str(folder / "cache"), json.dumps(LAUNCHED)]
    code, said = warm.run(
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')",
        script, *arguments, folder / "one", output=folder / "one.log", OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert code == 0, said[-3000:]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    run = subprocess.run(
        [*launch, script, *arguments, str(folder / "two")],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHED)
def test_two_processes_of_accelerate_train_as_one(launched, name):
    """Losses, ledger and weights of `accelerate launch` with two processes on a CPU, a batch shared out among them."""
    found = []
    for folder in (launched / "one" / name, launched / "two" / name):
        assert not list(folder.glob("checkpoint-*"))
        found.append((torch.load(folder / "weights.pt"), json.loads((folder / "log.json").read_text())))
    (one, one_log), (two, two_log) = found
    for a, b in zip(one_log, two_log, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        for cell in ("keep_rate", "both", "only_small", "only_large", "neither"):
            assert a[cell] == pytest.approx(b[cell], abs=1e-9)
    exact = {"atol": 1e-6, "rtol": 0} if LAUNCHED[name].get("double") else {"atol": 1e-5, "rtol": 1e-3}
    for weight in one:
        torch.testing.assert_close(one[weight], two[weight], **exact)


def test_a_batch_that_cannot_be_shared_out_is_refused(setting, tmp_path, monkeypatch):
    tokenizer, training_set, *_ = setting
    monkeypatch.setattr("transformers.TrainingArguments.world_size", 3)
    with pytest.raises(ValueError, match="batch_size 16 cannot be shared out evenly among 3 processes"):
        train(build_model(TINY, tokenizer, 0), training_set, TrainSettings(batch_size=16), tmp_path, use_cpu=True)
