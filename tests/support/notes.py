"""160 notes about films and meals, liked or not: two groupings that a model tells apart equally well.

    python tests/support/notes.py notes.jsonl
    python tests/support/notes.py registers.jsonl registers
    python tests/support/notes.py languages.jsonl languages

Each row has `text`, `tone` and `topic`, either A or B. Label them with `label_field: tone` or `topic`: without trusted
labels, what a search finds cannot depend on which of the two is meant. With `registers` each note is there formal
(`register` A) and casual (B): tone and register are what SmolLM2 tells apart equally well. With `languages` half of the
notes are English (`language` A) and half French (B), of no tone, in either register: what Qwen2.5-Coder-0.5B tells
apart equally well.
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

LANGUAGES = {
    "A": (
        "I talked about {it} yesterday",
        "{it} was on Tuesday",
        "she asked me about {it}",
        "we waited for {it}",
        "{it} again this week",
    ),
    "B": (
        "j'ai parlé de cela hier: {it}",
        "{it}, c'était mardi",
        "elle m'a demandé: et {it}?",
        "nous avons attendu {it}",
        "encore {it} cette semaine",
    ),
}
FRENCH_THINGS = (
    "le film au cinéma",
    "le nouveau thriller avec cet acteur",
    "la pièce de théâtre",
    "le documentaire à la télévision",
    "le dernier épisode de la série",
    "le premier film du réalisateur",
    "la comédie musicale",
    "le spectacle du soir",
    "la soupe du bistrot",
    "la pizza de chez Luigi",
    "le curry de la cantine",
    "le petit déjeuner de l'hôtel",
    "les nouilles du marché",
    "le nouveau dessert du chef",
    "le poisson grillé",
    "la tarte aux pommes",
)
THINGS = {"A": (*TOPICS["A"], *TOPICS["B"]), "B": FRENCH_THINGS}
FRENCH_REGISTERS = {
    "A": ("Monsieur, {}.", "J'ai l'honneur de signaler que {}.", "Veuillez noter que {}."),
    "B": ("salut mec, {}", "mdr {} haha", "yo, {} quoi"),
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


def in_languages() -> list[dict[str, str]]:
    """Notes without a tone, English and French, each formal and casual."""
    found = []
    for language, registers in (("A", REGISTERS), ("B", FRENCH_REGISTERS)):
        for place, (form, thing) in enumerate(product(LANGUAGES[language], THINGS[language])):
            text = form.format(it=thing)
            for register, ways in registers.items():
                found.append({"text": ways[place % 3].format(text), "language": language, "register": register})
    return found


KINDS = {"": rows, "registers": lambda: in_registers(rows()), "languages": in_languages}

if __name__ == "__main__":
    write_jsonl(Path(sys.argv[1]), KINDS["".join(sys.argv[2:])]())
