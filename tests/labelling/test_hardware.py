"""What GPUs would need that are not here: the arithmetic against published figures."""

import pytest

from icm.config import EngineConfig
from icm.labelling.hardware import CARD_GIB, ModelShape, inference, model_shape

LLAMA_8B, LLAMA_70B = EngineConfig("meta-llama/Llama-3.1-8B"), EngineConfig("meta-llama/Llama-3.1-70B")


def shape(engine: EngineConfig) -> ModelShape:
    found = model_shape(engine)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("engine", "parameters", "kv_bytes"), [(LLAMA_8B, 8_030_261_248, 131_072), (LLAMA_70B, 70_553_706_496, 327_680)]
)
def test_documented_models_have_the_published_number_of_weights(
    engine: EngineConfig, parameters: int, kv_bytes: int
) -> None:
    found = shape(engine)
    assert (found.parameters, found.kv_bytes_per_token) == (parameters, kv_bytes)
    head, norms = found.embedding, (2 * found.layers + 1) * found.hidden
    assert sum(weights for weights, _ in found.linear.values()) + 2 * head + norms == parameters


def test_what_does_not_fit_is_said() -> None:
    one = inference(shape(LLAMA_70B), LLAMA_70B, prefixes=1000, tokens=10**6, cards=1, starts=1)
    four = inference(shape(LLAMA_70B), LLAMA_70B, prefixes=1000, tokens=10**6, cards=4, starts=1)
    assert one.missing > 0 and "\nWARNING" in str(one) and four.missing < 0 and "\n" not in str(four)
    assert sum(four.parts.values()) == pytest.approx(sum(one.parts.values()) / 4) and four.room == 0.9 * CARD_GIB
    assert four.rate == pytest.approx(4 * 0.8 * one.rate) and one.rate == pytest.approx(
        0.4 * 989e12 / (2 * 70.55e9), 1e-3
    )
    assert four.seconds == pytest.approx(10**6 / four.rate + 60 + 131.4, abs=1)


def test_prefixes_beyond_the_room_cost_time_alone() -> None:
    found = inference(shape(LLAMA_8B), LLAMA_8B, prefixes=10**6, tokens=10**6, cards=1, starts=1)
    assert found.missing < 0 and "\nnote" in str(found) and "computed again" in str(found)
