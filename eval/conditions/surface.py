"""Controls without a language model: the most frequent label, and words and length without the question."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eval.conditions.answers import Answer, Batch
from eval.conditions.pool import EnginePool
from icm.examples import ICMExample, LabelSpace

if TYPE_CHECKING:
    from sklearn.model_selection import GridSearchCV

_FOLDS = 5
_STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)


@dataclass(frozen=True)
class Majority:
    """The most frequent label of the training part, with its frequency as probability.

    Attributes:
        labels: gold labels of the training part.
    """

    labels: tuple[str, ...]
    label_space: LabelSpace

    def answer(self, examples: Sequence[ICMExample], engines: EnginePool) -> Iterator[Batch]:
        """See `Condition.answer`."""
        counts = Counter(self.labels)
        share = (np.array([counts[label] for label in self.label_space.labels]) + 1.0) / (
            len(self.labels) + len(self.label_space.labels)
        )
        log_probs = tuple(np.log(share).tolist())
        yield Batch(tuple(Answer(example.id, log_probs) for example in examples))


@dataclass(frozen=True)
class SurfaceCues:
    """Logistic regression on the words and the length of the answer, trained on gold of the training part.

    It is supervised and blind to the question: what it gets right needs neither knowledge nor a model, so accuracy
    above it is what counts. Its strength is chosen by cross-validation over questions of the training part.

    Attributes:
        training: training examples.
        labels: their gold labels.
    """

    training: tuple[ICMExample, ...]
    labels: tuple[str, ...]
    label_space: LabelSpace

    def answer(self, examples: Sequence[ICMExample], engines: EnginePool) -> Iterator[Batch]:
        """See `Condition.answer`."""
        model = self._fitted()
        texts = [answer_text(example) for example in examples]
        log_probs = np.log(np.clip(model.predict_proba(texts), 1e-6, 1.0))
        columns = [list(model.classes_).index(label) for label in self.label_space.labels]
        rows = zip(examples, log_probs[:, columns].tolist(), strict=True)
        answers = tuple(Answer(example.id, tuple(row)) for example, row in rows)
        yield Batch(answers, facts={"gold_labels": len(self.labels)})

    def _fitted(self) -> "GridSearchCV":
        # Imported here: scikit-learn takes seconds that a wrong setting should not cost.
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
        from sklearn.pipeline import make_pipeline, make_union
        from sklearn.preprocessing import FunctionTransformer, StandardScaler

        groups = [example.group for example in self.training]
        words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w[\w']*\b")
        length = make_pipeline(FunctionTransformer(_lengths), StandardScaler())
        model = make_pipeline(make_union(words, length), LogisticRegression(max_iter=2000))
        folds = StratifiedGroupKFold(min(_FOLDS, len(set(groups))))
        search = GridSearchCV(model, {"logisticregression__C": _STRENGTHS}, scoring="accuracy", cv=folds)
        return search.fit([answer_text(example) for example in self.training], self.labels, groups=groups)


def answer_text(example: ICMExample) -> str:
    """The claim without its question, or the whole text of a task without questions."""
    return str(example.metadata.get("completion") or example.input).strip()


def _lengths(texts: Sequence[str]) -> NDArray[np.float64]:
    """Words and characters, [texts, 2]; logarithms, because lengths are skewed."""
    return np.log1p(np.array([[len(text.split()), len(text)] for text in texts], dtype=float))
