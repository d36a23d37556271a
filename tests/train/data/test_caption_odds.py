import hashlib
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cusa.errors import ConfigError
from cusa.manifests import schemas
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.recipe import load
from cusa.train.data.caption_odds import CaptionDraw, refuse_unknown
from cusa.train.data.mixture.draws import Draws
from cusa.train.data.order import Order

Images = list[list[str]]


def _split(work: Path, images: Images) -> Split:
    """Write the tables of a split whose images have captions of these sources."""
    folder = work / "train"
    keys = [f"mini/{number:03d}" for number in range(len(images))]
    samples = [{"key": key, "sha256": "00" * 32} for key in keys]
    empty = {name: "" for name in ("shard", "ext", "source", "label", "role")}
    sizes = {name: 0 for name in ("image_offset", "image_bytes", "width", "height")}
    rows = [
        {
            "caption_key": f"{key}#{place}",
            "key": key,
            "position": place,
            "caption_id": "",
            "text": "x",
            "source": said,
        }
        for key, sources in zip(keys, images, strict=True)
        for place, said in enumerate(sources)
    ]
    whole = pa.Table.from_pylist([{**empty, **sizes, **row} for row in samples], schema=schemas.SAMPLES)
    store.write_table(folder / "samples.parquet", whole)
    captions = schemas.CAPTIONS.append(schemas.CAPTION_SOURCE)
    with store.table_writer(folder / "captions.parquet", captions) as writer:
        for start in range(0, len(rows), 4):  # several row groups, and images that lie in two of them
            writer.write_table(pa.Table.from_pylist(rows[start : start + 4], schema=captions))
    shard = {"shard": "00000.tar", "bytes": 0, "sha256": "00" * 32, "images": len(images), "captions": len(rows)}
    store.write_table(folder / "shards.parquet", pa.Table.from_pylist([shard], schema=schemas.SHARDS))
    return Split(work, "train")


_SOURCES = st.sampled_from(["human", "synthetic", "alt text", ""])
_IMAGES = st.lists(st.lists(_SOURCES, min_size=1, max_size=7), min_size=1, max_size=9)


@settings(max_examples=30, deadline=None)
@given(_IMAGES, st.integers(0, 2**31), st.data())
def test_draw__every_image_shows_its_captions_as_often_as_their_odds_say(
    tmp_path_factory: pytest.TempPathFactory, images: Images, seed: int, data: st.DataObject
) -> None:
    named = {source for sources in images for source in sources if source}
    odds = {name: data.draw(st.sampled_from([0.25, 0.5, 1.0, 3.0])) for name in sorted(named)}
    draw = CaptionDraw(odds, [_split(tmp_path_factory.mktemp("work"), images)])
    rows = np.arange(sum(map(len, images)))
    weights = [[Fraction(odds.get(source, 1.0)) for source in sources] for sources in images]
    for epoch in range(4):
        drawn = draw.draw(rows, seed=seed, epoch=epoch)
        counts, first = Counter(drawn.tolist()), 0
        for own in weights:
            turns = range(first, first + len(own))
            assert all(first <= drawn[turn] < first + len(own) for turn in turns)
            for place, weight in enumerate(own):
                # Systematic sampling: never further than the whole numbers beside the exact share of the turns.
                exact = len(own) * weight / sum(own)
                assert int(exact) <= counts[first + place] <= -(-exact // 1)
                if len(set(own)) == 1:
                    assert drawn[first + place] == first + place
            first += len(own)
        some = data.draw(st.lists(st.sampled_from(rows.tolist()), min_size=1, max_size=5))
        assert draw.draw(np.array(some), seed=seed, epoch=epoch).tolist() == drawn[some].tolist()


def test_draw__over_epochs_the_share_is_the_odds_and_a_zero_never_comes(tmp_path: Path) -> None:
    images = [["human", "human", "synthetic", "bad"]] * 3
    draw = CaptionDraw({"human": 1, "synthetic": 0.5, "bad": 0}, [_split(tmp_path, images)])
    counts = Counter[int]()
    for epoch in range(4000):
        counts.update(draw.draw(np.arange(12), seed=1, epoch=epoch).tolist())
    for first in (0, 4, 8):
        assert counts[first + 3] == 0
        # Of four turns 1.6, 1.6 and 0.8: one or two, none or one in an epoch; five standard deviations are 158.
        for place, expected in enumerate((6400, 6400, 3200)):
            assert abs(counts[first + place] - expected) < 158
    drawn = [draw.draw(np.arange(12), seed=1, epoch=epoch) for epoch in range(20)]
    assert len({tuple(one.tolist()) for one in drawn}) > 4, "epochs differ"
    assert any((one[:4] != one[4:8] - 4).any() for one in drawn), "images differ"
    assert "human 1, synthetic 0.5, bad 0" in draw.note
    assert "human 80.0% of the draws (50.0% of the captions)" in draw.note


def test_draw__is_written_down(tmp_path: Path) -> None:
    # Resuming with a later version relies on these numbers; here they come from a loop over plain integers.
    mask, weights = 2**64 - 1, [Fraction(1)] * 3 + [Fraction(1, 2)] * 2

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    key = int.from_bytes(hashlib.sha256(b"captions/7/3").digest()[:8], "little")
    expected = []
    for image in range(4):
        shift = Fraction(mix((key + (image + 1) * 0x9E3779B97F4A7C15) & mask) >> 11, 2**53)
        for turn in range(5):
            point, reached, caption = (turn + shift) / 5 * sum(weights), weights[0], 0
            while reached <= point:
                caption += 1
                reached += weights[caption]
            expected.append(5 * image + caption)
    draw = CaptionDraw({"human": 1, "synthetic": 0.5}, [_split(tmp_path, [["human"] * 3 + ["synthetic"] * 2] * 4)])
    assert draw.draw(np.arange(20), seed=7, epoch=3).tolist() == expected


def test_draw__of_several_splits_is_that_of_their_rows_joined(tmp_path: Path) -> None:
    one = [["human", "synthetic"], ["human"]]
    two = [["synthetic", "human", ""], ["", "synthetic"]]
    odds = {"human": 2.0, "synthetic": 0.5}
    apart = [_split(tmp_path / "one", one), _split(tmp_path / "two", two)]
    joined = CaptionDraw(odds, [_split(tmp_path / "both", one + two)])
    rows = np.arange(8)
    for epoch in range(9):
        expected = joined.draw(rows, seed=3, epoch=epoch)
        assert CaptionDraw(odds, apart).draw(rows, seed=3, epoch=epoch).tolist() == expected.tolist()


def test_order__draws_within_the_turns_that_it_has_anyway(tmp_path: Path) -> None:
    images = [["human"] * 3 + ["synthetic"] * 2] * 6
    draw = CaptionDraw({"human": 1, "synthetic": 0}, [_split(tmp_path, images)])
    plain, drawn = Order(30, 8, seed=5), Order(30, 8, seed=5, captions=draw)
    for step in (0, 2, 3, 100):
        rows, turns = drawn.rows(step), plain.rows(step)
        assert (rows // 5).tolist() == (turns // 5).tolist()
        assert (rows % 5 < 3).all()
        halves = [drawn.rows(step, rank=rank, world=2) for rank in range(2)]
        assert np.concatenate(halves).tolist() == rows.tolist()
    assert drawn.substitute(4, 1) % 5 < 3


def test_draw__the_note_tells_shares_of_the_draws_of_data_sets_not_of_their_captions(tmp_path: Path) -> None:
    one, two = [["human", "synthetic"]] * 3, [["", ""]] * 5
    splits = [_split(tmp_path / "one", one), _split(tmp_path / "two", two)]
    # The first set has three quarters of the draws, two thirds of which show what people wrote.
    draw = CaptionDraw({"human": 1, "synthetic": 0.5}, splits, (0.75, 0.25))
    assert "human 50.0% of the draws (18.8% of the captions)" in draw.note
    assert "synthetic 25.0% of the draws (18.8% of the captions)" in draw.note
    assert "no source 25.0% of the draws (62.5% of the captions)" in draw.note
    by_captions = CaptionDraw({"human": 1, "synthetic": 0.5}, splits)
    assert "human 25.0% of the draws" in by_captions.note


def test_order__of_several_data_sets_every_pass_over_one_has_the_shares_of_its_odds(tmp_path: Path) -> None:
    one, two = [["human", "human", "synthetic"]] * 4, [["human"]] * 20
    draw = CaptionDraw({"human": 1, "synthetic": 0.5}, [_split(tmp_path / "one", one), _split(tmp_path / "two", two)])
    # An epoch is two passes and a half over the first set, and so a pass lies in two epochs.
    order = Order(32, 8, seed=2, blocks=Draws((12, 20), (30, 2)), captions=draw)
    seen = [int(row) for step in range(4 * 24) for row in order.rows(step) if row < 12]
    passes = [Counter(seen[first : first + 12]) for first in range(0, len(seen), 12)]
    assert len(passes) == 60
    for counts in passes:
        for image in range(4):
            # Of three turns 1.2, 1.2 and 0.6.
            assert all(counts[3 * image + place] in wanted for place, wanted in enumerate(((1, 2), (1, 2), (0, 1))))
    assert any(one != two for one, two in zip(passes[::2], passes[1::2], strict=True)), "passes of an epoch differ"


@pytest.mark.parametrize("odds", ["{synthetic = 0}", "{human = 0, synthetic = 0}"])
def test_recipe__odds_0_of_what_is_named_leave_it_out_as_what_is_not_named_has_1(odds: str) -> None:
    assert load("tiny", [f"train.caption_odds={odds}"]).train.caption_odds["synthetic"] == 0


def test_draw__a_source_alone_may_be_left_out(tmp_path: Path) -> None:
    draw = CaptionDraw({"synthetic": 0.0}, [_split(tmp_path, [["human", "synthetic"], ["", "synthetic"]])])
    assert draw.draw(np.arange(4), seed=0, epoch=0).tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize(
    ("odds", "said"),
    [
        ({"humen": 1.0}, "no caption of .* has the source 'humen'. Did you mean 'human'"),
        ({"synthetic": 0.0, "human": 1.0}, r"1 of 3 images .* odds 0 alone \('synthetic'\)"),
        ({"synthetic": 0.0, "human": 0.0}, r"3 of 3 images .* odds 0 alone \('human', 'synthetic'\)"),
    ],
)
def test_refuse_unknown__names_what_the_data_lack(tmp_path: Path, odds: dict[str, float], said: str) -> None:
    split = _split(tmp_path, [["human", "synthetic"], ["synthetic"], ["human"]])
    with pytest.raises(ConfigError, match=said):
        refuse_unknown(odds, [split])


def test_refuse_unknown__without_any_source_says_how_to_name_them(tmp_path: Path) -> None:
    split = _split(tmp_path, [["", ""]])
    with pytest.raises(ConfigError, match="`cusa shard ... --caption-source` names sources"):
        refuse_unknown({"human": 1.0}, [split])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{human = -1}", "'human' are -1, below 0"),
        ("{human = inf}", "finite"),
        ("{human = 'much'}", "number"),
    ],
)
def test_recipe__odds_that_are_none_are_refused_by_name(value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load("clip-vit-b-32/coco/cusa", [f"train.caption_odds={value}"])
    assert "train.caption_odds" in str(caught.value)
