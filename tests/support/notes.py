"""160 notes about films and meals, liked or not: two groupings that Qwen2.5-Coder-0.5B tells apart equally well.

    python tests/support/notes.py notes.jsonl
    python tests/support/notes.py registers.jsonl registers

Each row has `text`, `tone` and `topic`, either A or B. Label them with `label_field: tone` or `topic`: without trusted
labels, what a search finds cannot depend on which of the two is meant. With `registers` each note is there formal
(`register` A) and casual (B): tone and register are what SmolLM2 tells apart equally well.
"""

import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from icm.files import write_jsonl

TONES = {
    "A": (
        "I loved {it}, it was wonderful",
        "what a delight {it} was",
        "{it} was superb, I was so happy",
        "I adored {it}, truly excellent",
        "{it}: brilliant, a joy",
    ),
    "B": (
        "I hated {it}, it was awful",
        "what a disappointment {it} was",
        "{it} was horrible, I was so angry",
        "I loathed {it}, truly terrible",
        "{it}: dreadful, a pain",
    ),
}
TOPICS = {
    "A": (
        "the film at the cinema",
        "the new thriller with that actor",
        "the play at the theatre",
        "the documentary on television",
        "the last episode of the series",
        "the director's first movie",
        "the musical in town",
        "the late show",
    ),
    "B": (
        "the soup at the diner",
        "the pizza from that place",
        "the curry in the canteen",
        "the breakfast at the hotel",
        "the noodles from the market",
        "the chef's new dessert",
        "the grilled fish",
        "the apple pie",
    ),
}


REGISTERS = {
    "A": ("Dear Sir, {}.", "I beg to report that {}.", "Be it noted that {}."),
    "B": ("hey dude, {}", "lol {} haha", "yo, {} btw"),
}


def rows() -> list[dict[str, str]]:
    """All notes."""
    found = []
    for tone, topic in product(TONES, TOPICS):
        for form, thing in product(TONES[tone], TOPICS[topic]):
            text = form.format(it=thing)
            found.append({"text": text[0].upper() + text[1:], "tone": tone, "topic": topic})
    return found


def in_registers(notes: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Each note formal and casual, in one of three ways."""
    return [
        {**note, "text": REGISTERS[register][place % 3].format(note["text"]), "register": register}
        for register in REGISTERS
        for place, note in enumerate(notes)
    ]


if __name__ == "__main__":
    write_jsonl(Path(sys.argv[1]), in_registers(rows()) if sys.argv[2:] == ["registers"] else rows())
