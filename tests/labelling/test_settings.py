"""Settings: precedence of their sources, and refusal of what is unknown or wrong, with the fix."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from icm.config import SearchConfig
from icm.errors import ConfigError
from icm.labelling.options import Settings, options
from icm.labelling.settings import PRESETS, environment_values, preset_values, resolve_settings, settings_yaml

DOCUMENTED_FILE = {
    "search_params": {
        "alpha": 30.0,
        "initial_temperature": 15.0,
        "final_temperature": 0.005,
        "max_iterations": 2000,
    },
    "model_params": {"generation_temperature": 0.8, "generation_top_p": 0.95},
    "system_params": {"device": "cuda", "seed": 123},
}


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def resolve(given: dict[str, Any] | None = None, **sources: Any) -> Settings:
    return resolve_settings(given or {}, **{"environ": {}, **sources})


def test_without_any_source_the_data_classes_defaults_hold() -> None:
    settings = resolve()
    for part, kind in get_type_hints(Settings).items():
        assert getattr(settings, part) == kind()


def test_the_documented_file_is_read_as_written(tmp_path: Path) -> None:
    settings = resolve(settings_file=write(tmp_path / "config.json", DOCUMENTED_FILE))
    search = settings.search
    assert (search.alpha, search.initial_temperature, search.final_temperature) == (30.0, 15.0, 0.005)
    assert search.max_iterations == 2000
    assert (settings.generation.generation_temperature, settings.generation.generation_top_p) == (0.8, 0.95)
    assert settings.engine.device == "cuda"
    assert settings.search.seed == settings.data.seed == 123


def test_sections_are_the_parts_and_older_names_say_the_same(tmp_path: Path) -> None:
    new = {
        "data": {"size": 7, "seed": 123},
        "search": {"alpha": 30.0, "seed": 123},
        "engine": {"model": "m", "device": "cuda"},
        "generation": {"generation_temperature": 0.8},
        "output": {"output_dir": "out"},
    }
    old = {
        "data_params": {"synthetic_size": 7},
        "search_params": {"alpha": 30.0},
        "model_params": {"model": "m", "generation_temperature": 0.8},
        "system_params": {"device": "cuda", "output_dir": "out", "seed": 123},
    }
    settings = resolve(settings_file=write(tmp_path / "new.json", new))
    assert settings == resolve(settings_file=write(tmp_path / "old.json", old))
    assert (settings.data.size, settings.data.seed, settings.search.seed) == (7, 123, 123)
    assert (settings.engine.model, settings.output.output_dir) == ("m", "out")


def test_a_file_goes_on_from_the_one_it_extends(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "search: {alpha: 2, beta: 0.5, rules: [at-most-one, exactly-one]}\n")
    over = write(tmp_path / "over.yaml", "extends: base.yaml\nsearch: {alpha: 3, rules: [at-most-one]}\n")
    search = resolve(settings_file=over).search
    assert (search.alpha, search.beta, search.rules) == (3.0, 0.5, ("at-most-one",))


@pytest.mark.parametrize(
    ("given", "sources"),
    [
        ({}, {}),
        ({}, {"preset": "paper"}),
        ({"cooling_rate": "0.5"}, {"preset": "codelion"}),
        ({}, {"preset": "fork"}),
        ({"rules": ["at-most-one"], "verbalisers": {"True": " ja", "False": " né"}, "seed": "7"}, {}),
        ({"output_name": "no", "max_examples": "null", "template": "{a}: {b}\n'", "alpha": "1e-9"}, {}),
    ],
)
def test_printed_settings_are_read_back_the_same(tmp_path: Path, given: dict[str, Any], sources: Any) -> None:
    settings = resolve(given, **sources)
    text = settings_yaml(settings)
    assert list(yaml.safe_load(text)) == ["data", "search", "engine", "generation", "output"]
    assert resolve(settings_file=write(tmp_path / "printed.yaml", text)) == settings


def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    yaml_text = "search_params: {alpha: 7, early_stop: false, rules: [at-most-one]}\nsystem_params:\n  seed: 9\n"
    as_json = {
        "search_params": {"alpha": 7, "early_stop": False, "rules": ["at-most-one"]},
        "system_params": {"seed": 9},
    }
    from_yaml = resolve(settings_file=write(tmp_path / "a.yaml", yaml_text))
    assert from_yaml == resolve(settings_file=write(tmp_path / "a.json", as_json))
    assert from_yaml.search.rules == ("at-most-one",)


def test_each_source_overrides_the_one_before(tmp_path: Path) -> None:
    file = write(tmp_path / "s.json", {"search_params": {"alpha": 2.0, "initial_examples": 3}})
    layers: list[dict[str, Any]] = [
        {},
        {"preset": "codelion"},
        {"preset": "codelion", "settings_file": file},
        {"preset": "codelion", "settings_file": file, "environ": {"ICM_ALPHA": "3"}},
        {"preset": "codelion", "settings_file": file, "environ": {"ICM_ALPHA": "3"}, "given": {"alpha": "4"}},
    ]
    assert [resolve(**layer).search.alpha for layer in layers] == [SearchConfig.alpha, 100.0, 2.0, 3.0, 4.0]
    assert [resolve(**layer).search.initial_examples for layer in layers] == [8, 20, 3, 3, 3]


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("paper", {"alpha": 50.0, "initial_temperature": 10.0, "final_temperature": 0.01, "beta": 0.99}),
        (
            "codelion",
            {
                "alpha": 100.0,
                "initial_temperature": 3.0,
                "final_temperature": 0.001,
                "cooling_rate": 0.98,
                "initial_examples": 20,
                "max_iterations": 1000,
                "generation_temperature": 0.2,
                "generation_top_p": 0.9,
                "generation_max_tokens": 512,
                "synthetic_size": 100,
                "seed": 42,
            },
        ),
        (
            "fork",
            {
                "model": "meta-llama/Llama-3.1-70B",
                "batch_size": 256,
                "max_iterations": 1500,
                "alpha": 1.0,
                "tensor_parallel_size": 1,
                "gpu_memory_utilization": 0.9,
                "initial_temperature": 1.0,
                "final_temperature": 0.01,
                "task_type": "truthfulqa",
            },
        ),
    ],
)
def test_presets_hold_the_documented_values(preset: str, expected: dict[str, Any]) -> None:
    values = preset_values(preset)
    assert {name: values[name] for name in expected} == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_resolve(preset: str) -> None:
    assert isinstance(resolve(preset=preset), Settings)


def test_environment_variables() -> None:
    environ = {
        "ICM_MODEL": "google/gemma-3-1b-it",
        "ICM_DEVICE": "cuda",
        "ICM_LOG_LEVEL": "INFO",
        "ICM_CONSISTENCY": "false",
        "ICM_RULES": "at-most-one 'my.rules:A B'",
        "ICM_VERBALISERS": '{"True": " yes", "False": " no"}',
        "ICM_MAX_EXAMPLES": "",
        "ICM_CACHE": "/somewhere",
        "ICM_BUILD_NUMBER_OF_ANOTHER_PROGRAM": "7",
        "PATH": "/bin",
    }
    assert environment_values(environ) == {
        "model": "google/gemma-3-1b-it",
        "device": "cuda",
        "log_level": "INFO",
        "consistency": False,
        "verbalisers": {"True": " yes", "False": " no"},
        "rules": ("at-most-one", "my.rules:A B"),
    }
    assert environment_values({"ICM_RULES": "[a, b]"}) == {"rules": ("a", "b")}
    assert environment_values({"ICM_VERBALISERS": "True=' yes' False=no"}) == {
        "verbalisers": {"True": " yes", "False": "no"}
    }


def test_cooling_rate_is_beta_of_the_log_schedule_unless_beta_is_given() -> None:
    assert resolve({"cooling_rate": "0.5"}).search.beta == 0.5
    assert resolve({"cooling_rate": "0.5", "beta": "0.7"}).search.beta == 0.7
    assert resolve({"cooling_rate": "0.5", "schedule": "geometric"}).search.beta == SearchConfig.beta
    assert resolve({"cooling_rate": "0.5"}, preset="codelion").search.beta == 0.5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"alpha": "much"}, ["--alpha", "'much'", "number"]),
        ({"alpha": "nan"}, ["--alpha", "'nan'", "finite"]),
        ({"alpha": "inf"}, ["--alpha", "finite"]),
        ({"alpha": "-1"}, ["alpha", "-1", "above 0"]),
        ({"max_iterations": "2.5"}, ["--max-iterations", "'2.5'", "whole number"]),
        ({"max_examples": "few"}, ["--max-examples", "'few'", "whole number or null"]),
        ({"schedule": "linnear"}, ["--schedule", "'linnear'", "linear"]),
        ({"alhpa": "3"}, ["'alhpa'", "alpha"]),
        ({"gpu_memory_utilization": "90"}, ["gpu_memory_utilization", "90"]),
        ({"generation_top_p": "0"}, ["generation_top_p", "0"]),
        ({"tensor_parallel_size": "0"}, ["tensor_parallel_size", "0"]),
    ],
)
def test_wrong_values_name_option_value_and_expectation(given: dict[str, str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(given)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"search_params": {"alhpa": 3}}, ["search_params", "'alhpa'", "did you mean alpha"]),
        ({"search_parms": {"alpha": 3}}, ["'search_parms'", "did you mean search_params"]),
        ({"serch": {"alpha": 3}}, ["'serch'", "did you mean search?"]),
        ({"alpha": 3}, ["'alpha'", "under search"]),
        ({"search": {"device": "cpu"}}, ["search: 'device' belongs under engine"]),
        ({"search_params": {"device": "cpu"}}, ["search_params: 'device' belongs under engine"]),
        ({"search": {"alpha": 1}, "search_params": {"alpha": 2}}, ["search_params.alpha", "2.0", "1.0 before it"]),
        ({"data": {"part": "test"}}, ["data: unknown key 'part'"]),
        ({"search_params": {"alpha": True}}, ["search_params.alpha", "True", "number"]),
        ({"search_params": {"alpha": [1]}}, ["search_params.alpha", "[1]", "number"]),
        ({"search_params": {"consistency": "perhaps"}}, ["search_params.consistency", "true or false"]),
        ({"search": {"rules": ["at-most-one", 3]}}, ["search.rules[1]: found 3, expected text"]),
        ({"search_params": 3}, ["search_params", "3", "mapping"]),
        ({"system_params": {"seed": 1.5}}, ["system_params.seed", "1.5", "whole number"]),
        ({"data_params": {"verbalisers": {"True": 1}}}, ["data_params.verbalisers", "mapping"]),
        ([1, 2], ["found [1, 2], expected a mapping"]),
        ("", ["found None, expected a mapping"]),
        ({"extends": "absent.yaml"}, ["absent.yaml: No such file", "extends it"]),
    ],
)
def test_wrong_files_name_file_key_and_fix(tmp_path: Path, content: Any, words: list[str]) -> None:
    path = write(tmp_path / "s.json", content)
    with pytest.raises(ConfigError) as error:
        resolve(settings_file=path)
    assert str(path) in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        resolve(settings_file=tmp_path / "absent.json")
    with pytest.raises(ConfigError, match="directory"):
        resolve(settings_file=tmp_path)


def test_a_misspelt_variable_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ICM_MODLE.*did you mean model"):
        environment_values({"ICM_MODLE": "x"})


def test_every_setting_is_an_option_with_help() -> None:
    places = {place for option in options().values() for place in option.places}
    missing = {
        (part, field.name)
        for part, kind in get_type_hints(Settings).items()
        for field in fields(kind)
        if (part, field.name) not in places
    }
    assert missing == {("data", "part")}
    assert [option.name for option in options().values() if not option.help] == []
