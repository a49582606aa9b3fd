"""Models of the cascade's command line."""

import pytest
from llama_server import plain_pair

from cat_core.training.models import save_model


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """(folder of S, folder of L, the models with their tokenizer)."""
    small, large, tokenizer = plain_pair()
    base = tmp_path_factory.mktemp("models")
    for name, model in (("small", small), ("large", large)):
        save_model(model, tokenizer, base / name)
    return str(base / "small"), str(base / "large"), (small, large, tokenizer)
