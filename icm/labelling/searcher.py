"""`ICMSearcher`: one call from a model name and a dataset to labels."""

import dataclasses
from typing import Any

from icm.config import EngineConfig, SearchConfig
from icm.consistency import LogicalConsistencyChecker
from icm.examples import ICMDataset
from icm.labelling.session import run_labeling
from icm.results.format import ICMResult
from icm.results.record import ModelRecord


class ICMSearcher:
    """Labels datasets with one model.

    Args:
        model_name: hub name, local folder or `embedded`.
        consistency_checker: logical rules; None takes the task's own.
        **settings: any field of `SearchConfig` or `EngineConfig`; an unknown one is a TypeError.
    """

    def __init__(
        self, model_name: str, consistency_checker: LogicalConsistencyChecker | None = None, **settings: Any
    ) -> None:
        engine_fields = {field.name for field in dataclasses.fields(EngineConfig)} - {"model"}
        engine_settings = {key: value for key, value in settings.items() if key in engine_fields}
        self.engine_config = EngineConfig(model=model_name, **engine_settings)
        self.config = SearchConfig(**{key: value for key, value in settings.items() if key not in engine_fields})
        self.checker = consistency_checker

    def search(self, dataset: ICMDataset, max_examples: int | None = None) -> ICMResult:
        """Load the model, label the dataset (or `max_examples` of it, whole groups), free the model."""
        from icm.engines import create_engine  # the engine packages take seconds to import

        if max_examples is not None:
            dataset = dataset.sample(max_examples, self.config.seed)
        with create_engine(self.engine_config) as engine:
            result = run_labeling(dataset, engine, self.config, self.checker)
        config = self.engine_config
        model = ModelRecord(config.model, config.revision, config.adapter, engine.name)
        record = dataclasses.replace(result.record, model=model, seed=self.config.seed)
        return dataclasses.replace(result, record=record)
