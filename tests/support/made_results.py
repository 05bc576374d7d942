"""Results for tests: made up, but varied and complete."""

import random
from typing import Any

from icm.examples import ICMExample, LabelSpace, Relations
from icm.results.format import ICMResult, LabeledExample
from icm.results.record import RunRecord, read_record

SUBJECTS = ("The moon", "Bread", "A violin", "Lake Baikal", "Python", "Zoë's café", 'The 4th "bridge"', "雨")


def question(number: int) -> str:
    return f"What is true of {SUBJECTS[number % len(SUBJECTS)]} ({number})?"


def claim(number: int, answer: int, label: str, log_odds: float | None) -> LabeledExample:
    """Claim `answer` about question `number`, with an answer text."""
    asked, text = question(number), f"Answer {answer}, of {number * 7 + answer} words"
    metadata = {"question": asked, "prompt": f"Question: {asked}\nAnswer:", "completion": f" {text}"}
    relations = Relations(group=asked, answer=text.lower())
    example = ICMExample(f"Question: {asked}\nClaim: {text}\nI think this Claim is", metadata, relations)
    return LabeledExample(example, label, log_odds)


def claims(questions: int, answers: int, seed: int, **metadata: Any) -> ICMResult:
    """A result with random labels and log-odds."""
    rng = random.Random(seed)
    items = [
        claim(number, answer, rng.choice(["True", "False"]), round(rng.gauss(1, 2), 3))
        for number in range(questions)
        for answer in range(answers)
    ]
    return ICMResult(items, rng.uniform(-40, -5), task="truthfulqa", record=read_record(metadata))


def moods(seed: int, size: int = 30) -> ICMResult:
    """A three-class result without answers or groups; some labels are not scored."""
    rng = random.Random(seed)
    space = LabelSpace(("joy", "anger", "calm"), (" happy", " furious", " quiet"))
    items = [
        LabeledExample(
            ICMExample(f"Text: note {number} of {seed}, {'very ' * (number % 4)}short\nMood:", {"text": str(number)}),
            rng.choice(space.labels),
            rng.choice([None, rng.gauss(0, 1)]),
        )
        for number in range(size)
    ]
    return ICMResult(items, None, space, "classification", RunRecord(algorithm="bootstrap"))
