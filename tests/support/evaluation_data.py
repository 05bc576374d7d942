"""Data of the evaluation's tests."""

from icm.tasks.source import DataSource

TRAIN = DataSource("reviews", max_examples=40)
TEST = {"dataset": "reviews", "part": "test", "max_examples": 24}
