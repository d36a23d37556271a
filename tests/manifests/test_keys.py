"""Keys: one spelling, no dots, different items never share one."""

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa.errors import DataError
from cusa.manifests.keys import caption_key, coco_caption_id, coco_image_id, image_key, split_caption_key


def test_image_key__plain_names_stay() -> None:
    assert image_key("coco", "000000391895") == "coco/000000391895"
    assert caption_key("coco/000000391895", 3) == "coco/000000391895#3"


@given(st.text(min_size=1, max_size=400))
def test_image_key__any_item_gives_a_key_webdataset_does_not_cut(item: str) -> None:
    key = image_key("any", item)
    assert re.fullmatch(r"any/[A-Za-z0-9_-]{1,80}", key)
    assert split_caption_key(caption_key(key, 4)) == (key, 4)


@given(st.lists(st.text(min_size=1, max_size=120), unique=True, min_size=2, max_size=20))
def test_image_key__different_items_get_different_keys(items: list[str]) -> None:
    assert len({image_key("any", item) for item in items}) == len(items)


@pytest.mark.parametrize(("dataset", "item"), [("coco", ""), ("", "1"), ("a/b", "1"), ("a b", "1"), ("x" * 65, "1")])
def test_image_key__unusable_names_are_refused(dataset: str, item: str) -> None:
    with pytest.raises(DataError, match="No key can be made"):
        image_key(dataset, item)


@pytest.mark.parametrize("key", ["coco/1", "coco/1#", "coco/1#x", "#3", "a.b/1#2", ""])
def test_split_caption_key__refuses_other_texts(key: str) -> None:
    with pytest.raises(DataError, match="not a caption key"):
        split_caption_key(key)


@pytest.mark.parametrize("length", [79, 80, 81, 300])
def test_image_key__a_long_name_is_cut_and_marked_by_its_digest(length: int) -> None:
    item = "x" * length
    mark = hashlib.sha256(item.encode()).hexdigest()[:8]
    assert image_key("d", item) == (f"d/{item}" if length <= 80 else f"d/{'x' * 71}-{mark}")


@pytest.mark.parametrize(
    ("item", "start"), [("a.b", "a_b"), ("-a b-", "-a_b-"), ("é/ü", ""), ("__x.__", "x"), ("a\udce9", "a")]
)
def test_image_key__what_had_to_be_replaced_is_marked_by_the_digest_of_the_name(item: str, start: str) -> None:
    """Keys of data sets that are there already must not change."""
    mark = hashlib.sha256(item.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    assert image_key("coco-x_1", item) == f"coco-x_1/{start}-{mark}"


def test_image_key__a_name_of_64_letters_is_the_longest_of_a_data_set() -> None:
    assert image_key("x" * 64, "1") == f"{'x' * 64}/1"


@pytest.mark.parametrize(
    ("key", "parts"), [("coco/1#0", ("coco/1", 0)), ("a-b/c_d#12", ("a-b/c_d", 12)), ("d/x#007", ("d/x", 7))]
)
def test_split_caption_key__into_image_and_number(key: str, parts: tuple[str, int]) -> None:
    assert split_caption_key(key) == parts


def test_coco_ids__by_the_rule_for_all() -> None:
    numbers = {
        **{"coco/000000391895": 391895, "COCO_val2014_000000000009": 9, "x/COCO_val2014_7": 7, "COCO_7": 7, "0": 0},
        **{"coco/picture_0003": -1, "coco/COCO_VAL2014_7": -1, "coco/7x": -1, "1" * 18: int("1" * 18), "1" * 19: -1},
    }
    assert {key: coco_image_id(key) for key in numbers} == numbers
    captions = {"15575": 15575, "0": 0, "007": 7, "": -1, "-1": -1, "1.0": -1, "1" * 19: -1}
    assert {name: coco_caption_id(name) for name in captions} == captions
