"""Names of classes: the rule, files of names, and labels that no name follows from."""

import json
from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.eval.texts.classes import name_of, of_labels


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("001.Black_footed_Albatross", "Black footed Albatross"),
        ("010.Red-winged_Blackbird", "Red-winged Blackbird"),
        ("train_val/Animal/great_white__shark", "great white shark"),
        ("12_monkeys", "monkeys"),
        ("737-200", ""),
        ("Boeing_737", "Boeing 737"),
        ("n01440764", ""),
        ("17", ""),
        ("étoile_de_mer", "étoile de mer"),
        ("猫", "猫"),
    ],
)
def test_name_of__reads_a_label_as_words(label: str, name: str) -> None:
    assert name_of(label) == name


def test_of_labels__numbers_the_classes_as_they_first_come() -> None:
    classes = of_labels(["b_dog", "", "cat", "b_dog"])
    assert classes.labels == ("b_dog", "cat")
    assert classes.names == ("b dog", "cat")
    assert classes.of_image.tolist() == [0, -1, 1, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["", ""], "no image has a label"),
        (["cat", "cat"], "every label is 'cat'"),
        (["cat", "17"], "'17' is no name of a class.*class_names"),
        (["id_00000025", "id_00000024"], "differ in their numbers alone.*class_names"),
        (["1.Cat", "2.cat"], "'1.Cat' and '2.cat' are both called 'cat'"),
    ],
)
def test_of_labels__refuses_labels_that_name_no_classes(labels: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        of_labels(labels)


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".json"])
def test_of_labels__takes_names_from_a_file(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"names{suffix}"
    names = {"1": "grand piano", "2": "cello", "3": "of no image"}
    mark = {".tsv": "\t", ".csv": ","}.get(suffix, "")
    file.write_text(json.dumps(names) if not mark else "".join(f"{one}{mark}{name}\n" for one, name in names.items()))
    classes = of_labels(["2", "1", "2"], str(file))
    assert classes.names == ("cello", "grand piano")
    assert f"names{suffix}" in classes.source


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\tcat\n", "no name for the label '2'"),
        ("1\tcat\n2\tCat\n", "both called 'Cat'.*in .*names.tsv"),
        ("1\tcat\n1\tdog\n2\tbird\n", "'1' has two names"),
        ("1 cat\n", "entry 1 is"),
        ("1\t\n", "entry 1 is"),
        ("", "names no class"),
    ],
)
def test_of_labels__refuses_a_file_that_does_not_name_them(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "names.tsv"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        of_labels(["1", "2"], str(file))


def test_of_labels__refuses_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        of_labels(["1", "2"], str(tmp_path / "none.tsv"))
