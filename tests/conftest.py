"""What all tests share. That this file is here also puts its folder on the path, for the modules beside it."""

import os
from typing import Any

import pytest
from transformers import AutoTokenizer

from icm.engines.devices import gpus
from icm.models import resolve_model

pytest_plugins = ["support.fake_hub", "support.tiny_training"]


SHORT_FUZZ = 400


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many damaged files the readers get."""
    parser.addoption("--fuzz-examples", type=int, default=SHORT_FUZZ, help="inputs of tests/fuzz in all")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked `gpu` runs where a card is. Files with slow tests come first: no process is alone with them in the
    end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not gpus():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own ICM_ variables do not change what is tested; where models are cached stays."""
    for name in os.environ:
        if name.startswith("ICM_") and name != "ICM_CACHE":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The embedded model's."""
    return AutoTokenizer.from_pretrained(resolve_model("embedded"))
