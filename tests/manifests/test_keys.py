"""Keys: one spelling, no dots, different items never share one."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa.errors import DataError
from cusa.manifests.keys import caption_key, image_key, split_caption_key


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
