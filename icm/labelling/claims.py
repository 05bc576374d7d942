"""Data whose claims a model writes first, for labelling and, of the held-out part, for evaluation."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from icm.config import EngineConfig, GenerationConfig
from icm.doors.locks import held
from icm.engines import choose_engine
from icm.engines.base import Engine
from icm.errors import DataError
from icm.examples import TaskData
from icm.files import fingerprint, parse_json, read_text, write_json
from icm.labelling.workers import Workers
from icm.tasks import load_task
from icm.tasks.base import NEXT_QUESTION
from icm.tasks.source import DataSource
from icm.tasks.written import WritingCounts, keep_claims

PROMPTS_PER_FILE = {"transformers": 16}
"""Solutions that the model writes before they are kept, where it writes one after another."""

MOST_PROMPTS = 256
"""Likewise, where an engine writes many at once."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClaimWriter:
    """Writes claims and keeps them in `output_dir/generated`: an interrupted run loses little of them, and judges the
    same claims when it is resumed, whatever the engine would write the second time.

    Attributes:
        output_dir: of the stage.
        config: of the engine.
        sampling: how it writes.
        engine: loads the model, when something is left to write.
    """

    output_dir: str
    config: EngineConfig
    sampling: GenerationConfig
    engine: Callable[[], Engine | Workers]

    @property
    def folder(self) -> Path:
        """Where claims are kept."""
        return Path(self.output_dir) / "generated"

    def load(self, source: DataSource) -> tuple[TaskData, DataSource]:
        """The data, and the source that gives them again without a model.

        Raises:
            ICMError: as `load_task`.
        """
        data = load_task(source, lambda prompts: self._texts(prompts, source.seed, source.candidates))
        if not data.written:
            return data, source
        claims = keep_claims(self.folder, data.written)
        _log.info("%s; they are in %s", WritingCounts.of(data.written, source.candidates), claims)
        return data, replace(source, claims=claims)

    def _texts(self, prompts: Sequence[str], first_seed: int, candidates: int) -> list[str]:
        """One sampled continuation a prompt; the prompts stand `candidates` times each, one behind another. Of runs
        that want the same at once one has them written, and the others wait."""
        levels = self.sampling.schedule(candidates)
        self.folder.mkdir(parents=True, exist_ok=True)  # so that it stays for who waits, whatever becomes of the first
        sampler = [self.config.identity, choose_engine(self.config), self.sampling.sampler]
        with held(self.folder / f".{fingerprint([sampler, first_seed, prompts])}.lock", None):
            columns = [
                self._column(prompts[place::candidates], sampling, first_seed + place * len(prompts))
                for place, sampling in enumerate(levels)
            ]
        return [text for texts in zip(*columns, strict=True) for text in texts]

    def _column(self, prompts: Sequence[str], sampling: GenerationConfig, first_seed: int) -> list[str]:
        """One candidate a question. Engine, sampling, seed and prompts name the files of what is done."""
        engine = choose_engine(self.config)
        sampler, size = [self.config.identity, engine, sampling.sampler], PROMPTS_PER_FILE.get(engine, MOST_PROMPTS)
        texts: list[str] = []
        for start in range(0, len(prompts), size):
            part, seed = prompts[start : start + size], first_seed + start
            path = self.folder / f"{fingerprint([sampler, seed, part])}.json"
            if not path.exists():
                written = self.engine().generate(part, sampling, seed, NEXT_QUESTION)
                write_json(path, written)
            kept = parse_json(read_text(path), str(path))
            if not isinstance(kept, list) or len(kept) != len(part) or not all(isinstance(text, str) for text in kept):
                raise DataError(f"{path}: expected a list of {len(part)} texts; remove it to have them written again")
            texts += kept
            _log.info(
                "temperature %g: %d of %d solutions are there",
                sampling.generation_temperature,
                len(texts),
                len(prompts),
            )
        return texts
