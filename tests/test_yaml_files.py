"""One reader of YAML mappings: every mistake is one line, and files go on from others."""

import os
from pathlib import Path

import pytest

from icm.errors import ConfigError
from icm.yaml_files import merged, read_mapping, source_files


def write(folder: Path, **files: str) -> Path:
    """Files `<name>.yaml`; returns the last one."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder / f"{name}.yaml"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1\nb: 2", ["a.yaml:2: not valid YAML"]),
        ('{"a": {"b": }}{', ["a.yaml", "not valid YAML"]),
        ("a: !!binary aGk=", ["a.yaml:1: not valid YAML", "binary"]),
        ("a: !!bool x", ["not valid YAML"]),
        ("a: &a [1, *a]", ["a.yaml:1: not valid YAML", "for itself"]),
        ("a0: &a0 x\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]\n" for n in range(1, 9)), ["50,000 values"]),
        ("a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{f'*a{n - 1},' * 9}]}}\n" for n in range(1, 9)), ["50,000"]),
        ('a: "\\ud800"', ["half a character"]),
        ('"\\0": 1', ["zero byte"]),
        ("a: " + "b" * 70_000, ["longer than 64 KiB"]),
        ("a: !!timestamp x", ["not valid YAML"]),
        ("? [a, b]\n: 1", ["a.yaml:1: not valid YAML"]),
        ("? {a: b}\n: 1", ["not valid YAML"]),
        ("a: !!python/object:os.system {}", ["not valid YAML"]),
        ("a: " + "[" * 5000, ["not valid YAML"]),
        ("a: \u0000", ["not valid YAML"]),
        ("a: " + "9" * 5000, ["not valid YAML"]),
        ("- a", ["found ['a'], expected a mapping"]),
        ("", ["found None, expected a mapping"]),
        ("just words", ["found 'just words', expected a mapping"]),
        ("extends: [a.yaml]", ["extends: found ['a.yaml']", "name of a file"]),
        ("extends: b.yaml", ["b.yaml: No such file", "a.yaml extends it"]),
        ("extends: a.yaml", ["a.yaml", "end the circle"]),
    ],
)
def test_mistakes_are_one_line_that_names_the_file(tmp_path: Path, text: str, words: list[str]) -> None:
    path = write(tmp_path, a=text)
    with pytest.raises(ConfigError) as error:
        read_mapping(path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    assert all(word in message for word in words), message


def test_a_missing_file_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: No such file or directory; --config takes a recipe"):
        read_mapping(tmp_path / "absent.yaml", "--config takes a recipe")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, found in ((tmp_path, "a directory"), (tmp_path / "pipe", "a pipe"), (tmp_path / "loop", "symbolic")):
        with pytest.raises(ConfigError, match=found):
            read_mapping(path)
    with pytest.raises(ConfigError, match="null byte"):
        read_mapping("a\0b")


def test_encodings(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("a: é".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_mapping(path)
    path.write_bytes("a: é".encode("utf-8-sig"))
    assert read_mapping(path) == {"a": "é"}
    path.write_text("a: &a [2026-11-26, 1]\nb: [*a, *a]")  # as it stands there: JSON has no dates
    assert read_mapping(path) == {"a": ["2026-11-26", 1], "b": [["2026-11-26", 1]] * 2}


def test_files_extend_others_beside_them(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path, base="a: {x: 1, y: [1, 2]}\nb: 1\nd: {z: 1}\n")
    middle = write(tmp_path / "deep", middle="extends: ../base.yaml\na: {y: [3]}\nd: null\n")
    top = write(tmp_path / "deep", top="extends: middle.yaml\nb: {c: 2}\n1: one\n")
    assert read_mapping(top) == {"a": {"x": 1, "y": [3]}, "b": {"c": 2}, "d": None, "1": "one"}
    assert [path.resolve() for path in source_files(top)] == [top, middle, (tmp_path / "base.yaml")]


def test_a_circle_of_two_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, a="extends: b.yaml", b="extends: a.yaml")
    with pytest.raises(ConfigError, match="end the circle"):
        read_mapping(path)


def test_merging_leaves_what_it_merges_as_it_was() -> None:
    base, over = {"a": {"x": 1}}, {"a": {"y": 2}}
    assert merged(base, over) == {"a": {"x": 1, "y": 2}}
    assert (base, over) == ({"a": {"x": 1}}, {"a": {"y": 2}})


def test_keys_are_the_text_that_stands_there(tmp_path: Path) -> None:
    text = "base: &base {yes: ' Yes', no: ' No'}\na: {<<: *base, true: 1, 010: x, 1.50: y, ~: z, off: [{on: true}]}"
    found = read_mapping(write(tmp_path, a=text))
    expected = {"yes": " Yes", "no": " No", "true": 1, "010": "x", "1.50": "y", "~": "z", "off": [{"on": True}]}
    assert found == {"base": {"yes": " Yes", "no": " No"}, "a": expected}
    aliased = read_mapping(write(tmp_path, b="a: &n 3\nb: {*n : 4}\nc: *n"))
    assert aliased == {"a": 3, "b": {"3": 4}, "c": 3}
