"""Data with two groupings between which only trusted labels can tell.

    python tests/support/notes.py languages.jsonl languages
    python tests/support/notes.py things.jsonl things

Each row has `text` and two fields, either A or B: label it with `label_field: language` or `register`, `kind` or
`number`. `languages` are notes in English (`language` A) and French (B), formal (`register` A) and casual (B), of no
tone: Qwen2.5-Coder-0.5B finds either, and neither cleanly. `things` are 80 phrases, animals (`kind` A) and tools (B),
several (`number` A) and one (B): what that model tells apart equally well, and cleanly.
"""

import sys
from itertools import product
from pathlib import Path

from icm.files import write_jsonl

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
ENGLISH_THINGS = (
    "the film at the cinema",
    "the new thriller with that actor",
    "the play at the theatre",
    "the documentary on television",
    "the last episode of the series",
    "the director's first movie",
    "the musical in town",
    "the late show",
    "the soup at the diner",
    "the pizza from that place",
    "the curry in the canteen",
    "the breakfast at the hotel",
    "the noodles from the market",
    "the chef's new dessert",
    "the grilled fish",
    "the apple pie",
)
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
THINGS = {"A": ENGLISH_THINGS, "B": FRENCH_THINGS}
FRENCH_REGISTERS = {
    "A": ("Monsieur, {}.", "J'ai l'honneur de signaler que {}.", "Veuillez noter que {}."),
    "B": ("salut mec, {}", "mdr {} haha", "yo, {} quoi"),
}

ANIMALS_AND_TOOLS = {
    "A": "dog cat horse cow sheep goat pig wolf fox bear lion tiger mouse rabbit frog snake duck goose owl crow",
    "B": "hammer saw nail screw ladder rope shovel rake axe knife drill brush bucket chain hook wrench file clamp "
    "pliers chisel",
}
NUMBERS = {"A": "the {}s", "B": "a {}"}


def in_languages() -> list[dict[str, str]]:
    """Notes without a tone, English and French, each formal and casual."""
    found = []
    for language, registers in (("A", REGISTERS), ("B", FRENCH_REGISTERS)):
        for place, (form, thing) in enumerate(product(LANGUAGES[language], THINGS[language])):
            text = form.format(it=thing)
            for register, ways in registers.items():
                found.append({"text": ways[place % 3].format(text), "language": language, "register": register})
    return found


def things() -> list[dict[str, str]]:
    """Animals and tools, several and one. Plurals end in s throughout."""
    return [
        {"text": NUMBERS[number].format(thing), "number": number, "kind": kind}
        for number, kind in product(("B", "A"), ANIMALS_AND_TOOLS)
        for thing in ANIMALS_AND_TOOLS[kind].split()
    ]


GROUPINGS = {"languages": in_languages, "things": things}

if __name__ == "__main__":
    write_jsonl(Path(sys.argv[1]), GROUPINGS[sys.argv[2]]())
