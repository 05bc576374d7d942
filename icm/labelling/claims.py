"""Data whose claims a model writes first, for labelling and, of the held-out part, for evaluation."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from icm.config import EngineConfig, GenerationConfig
from icm.engines import choose_engine
from icm.engines.base import Engine
from icm.errors import DataError
from icm.examples import TaskData
from icm.files import fingerprint, parse_json, read_text, write_json
from icm.labelling.workers import Workers
from icm.tasks import load_task
from icm.tasks.source import DataSource
from icm.tasks.written import keep_claims

PROMPTS_PER_FILE = 256
"""Solutions that the model writes before they are kept."""

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
        data = load_task(source, lambda prompts: self._texts(prompts, source.seed))
        if not data.written:
            return data, source
        claims = keep_claims(self.folder, data.written)
        _log.info("claims for %d questions are in %s", len(data.written), claims)
        return data, replace(source, claims=claims)

    def _texts(self, prompts: Sequence[str], first_seed: int) -> list[str]:
        """One sampled continuation a prompt. Engine, sampling, seed and prompts name the files of what is done."""
        sampler = [self.config.identity, choose_engine(self.config), asdict(self.sampling)]
        texts: list[str] = []
        for start in range(0, len(prompts), PROMPTS_PER_FILE):
            part, seed = prompts[start : start + PROMPTS_PER_FILE], first_seed + start
            path = self.folder / f"{fingerprint([sampler, seed, part])}.json"
            if not path.exists():
                written = self.engine().generate(part, self.sampling, seed)
                self.folder.mkdir(parents=True, exist_ok=True)
                write_json(path, written)
            kept = parse_json(read_text(path), str(path))
            if not isinstance(kept, list) or len(kept) != len(part) or not all(isinstance(text, str) for text in kept):
                raise DataError(f"{path}: expected a list of {len(part)} texts; remove it to have them written again")
            texts += kept
            _log.info("%d of %d solutions are there", len(texts), len(prompts))
        return texts
