"""Fixtures that several test modules share."""

import gc
import os

import pytest
from filelock import FileLock
from small_book import copy_project, runs


def pytest_collection_finish():
    """What was imported stays: each Trainer looks for garbage as it starts, which took longer than a small training."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def every_group(monkeypatch):
    """Length groups of tiny batches, too, whose padding would not pay for a pass."""
    from cat_core.training import training_set

    monkeypatch.setitem(training_set.GROUP_TOKENS, "cpu", 0)


@pytest.fixture(scope="session")
def tiny_pair():
    """(small, large, tokenizer): random grouped- and multi-query Llamas that share a byte-level tokenizer.

    Weights are spread wide, so that no two logits come close enough for the order of additions to matter, and
    the end-of-sequence row of the head is enlarged, so that answers end at different lengths. Copy a model
    before changing it. The context is 64 tokens.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    lines = [
        "the cat sat on the mat",
        "a dog runs after the cat",
        "is the sky blue? yes",
        "no, the house is red",
    ]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    raw.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<s>", "</s>"]
    raw.train_from_iterator(
        lines,
        trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    bos = ("<s>", raw.token_to_id("<s>"))
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[bos])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )

    def build(hidden, layers, heads, kv_heads, seed):
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=64,
            initializer_range=0.25,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config).eval()
            with torch.no_grad():
                model.lm_head.weight[tokenizer.eos_token_id] *= 2.5
        return model

    return build(16, 2, 4, 2, seed=1), build(32, 2, 4, 1, seed=2), tokenizer


@pytest.fixture(scope="session")
def common_folder(tmp_path_factory):
    """A folder of this run of the tests that all its processes share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base  # each worker's own lies below it


@pytest.fixture(scope="session")
def common_artifacts(common_folder):
    """Where several modules find the models of the study in miniature: whoever comes first trains them."""
    return common_folder / "artifacts"


@pytest.fixture(scope="session")
def book(common_folder):
    """The project's folder copied, with all pages run in the edition `test` and the HTML built (-W -n)."""
    base = common_folder
    root, log = base / "project", base / "project.log"
    with FileLock(base / "project.lock"):
        if not log.exists():
            assert not root.exists(), "another worker has failed to make the book"
            copy_project(root)
            log.write_text(runs(root, "book", "--edition", "test", "--strict", seconds=570))
    return root, log.read_text()
