"""Human judgements of pairs, from CxC, from verdicts and from a truth."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cusa.errors import DataError
from cusa.manifests import schemas
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline.pairs.ratings import PairRatings, read_ratings
from tests.manifests.judgements.test_verdicts import make
from tests.worlds import make_work


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return make_work(tmp_path / "val", images=6, splits=("val",))


def test_read_ratings__cxc(work: Path, tmp_path: Path) -> None:
    split = Split(work, "val")
    captions = split.captions["caption_id"].to_pylist()
    number = [f"{row + 1000:012d}" for row in range(split.num_images)]
    split.image_keys = [f"coco/COCO_val2014_{each}" for each in number]
    lines = [
        f"COCO_val2014:sentid:{captions[7]},COCO_val2014_{number[0]}.jpg,4.2,c2i_intrasim",
        f"COCO_val2014:sentid:{captions[20]},COCO_val2014_{number[0]}.jpg,2.9,c2i_intrasim",
        f"COCO_val2014:sentid:{captions[0]},COCO_val2014_{number[0]}.jpg,5.0,c2i_original",
        "COCO_val2014:sentid:999999,COCO_val2014_000000000001.jpg,5.0,c2i_intrasim",
    ]
    path = tmp_path / "sits_val.csv"
    path.write_text("caption,image,agg_score,sampling_method\n" + "\n".join(lines))
    rated = read_ratings(split, tmp_path)
    assert list(zip(rated.images, rated.captions, rated.match, strict=True)) == [(0, 7, True), (0, 20, False)]
    assert (rated.unknown, rated.complete) == (1, False)
    assert "sampled" in rated.caveat
    path.write_text("caption,image,agg_score\nCOCO:sentid:1,COCO_val2014_5.jpg,9\n")
    with pytest.raises(DataError, match=r"sits_val.csv:2 is no rating .*score 9"):
        read_ratings(split, path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"sits_val.csv:2 is no rating"):
        read_ratings(split, path)
    with pytest.raises(DataError, match="does not exist"):
        read_ratings(split, tmp_path / "none.csv")


def test_read_ratings__several_ratings_of_a_pair_have_their_mean(work: Path, tmp_path: Path) -> None:
    split = Split(work, "val")
    captions = split.captions["caption_id"].to_pylist()
    number = [f"{row + 1000:012d}" for row in range(split.num_images)]
    split.image_keys = [f"coco/COCO_val2014_{each}" for each in number]
    scores = {(0, 7): (3.5, 2.4), (0, 8): (3.5, 2.6), (3, 2): (3.0,)}  # CxC calls 3 and more a match
    lines = [
        f"COCO_val2014:sentid:{captions[caption]},COCO_val2014_{number[image]}.jpg,{score},c2i"
        for (image, caption), given in scores.items()
        for score in given
    ]
    path = tmp_path / "sits_val.csv"
    path.write_text("caption,image,agg_score,sampling_method\n" + "\n".join(lines))
    rated = read_ratings(split, path)
    pairs = zip(rated.images.tolist(), rated.captions.tolist(), rated.match.tolist(), strict=True)
    assert list(pairs) == [(0, 7, False), (0, 8, True), (3, 2, True)]


def test_read_ratings__a_truth_lists_matches_and_says_whether_it_is_complete(work: Path, tmp_path: Path) -> None:
    split = Split(work, "val")
    rows = [(split.image_keys[0], split.caption_keys[row]) for row in (0, 9, 20)]
    table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=schemas.TRUTH)
    for complete in (True, False):
        metadata = None if complete else {"complete": "false"}
        store.write_table(tmp_path / "truth.parquet", table.replace_schema_metadata(metadata))
        rated = read_ratings(split, tmp_path / "truth.parquet")
        assert (rated.images.tolist(), rated.captions.tolist()) == ([0, 0], [9, 20]), "its own caption is no rating"
        assert np.array_equal(rated.match, [True, True])
        assert rated.complete is complete


def test_read_ratings__flickr8k(work: Path, tmp_path: Path) -> None:
    """The experts decide where they saw a pair, the crowd elsewhere; a pair of an image's own caption is no rating."""
    split = Split(work, "val")
    name = [Path(source).name for source in split.samples["source"].to_pylist()]
    experts = [(0, 1, 2, "4\t3\t1"), (0, 0, 0, "4\t4\t4"), (3, 2, 0, "2\t2\t4")]
    crowd = [(3, 2, 0, "1\t3\t0"), (1, 0, 1, "0.666666666666667\t2\t1"), (1, 0, 2, "0.6\t3\t2"), (9, 0, 0, "0\t0\t3")]
    for file, rows in (("ExpertAnnotations.txt", experts), ("CrowdFlowerAnnotations.txt", crowd)):
        lines = [
            f"{name[image] if image < 6 else 'none.jpg'}\t{name[owner]}#{k}\t{judged}"
            for image, owner, k, judged in rows
        ]
        (tmp_path / file).write_text("\n".join(lines))
    rated = read_ratings(split, tmp_path)
    pairs = list(zip(rated.images.tolist(), rated.captions.tolist(), rated.match.tolist(), strict=True))
    assert pairs == [(0, 7, True), (1, 1, True), (1, 2, False), (3, 10, False)]
    assert (rated.unknown, rated.complete) == (1, False)
    assert "3 of the 5,822 official rows" in rated.caveat
    alone = read_ratings(split, tmp_path / "CrowdFlowerAnnotations.txt")
    assert alone.match.tolist() == [True, False, True], "without the experts the crowd decides"
    (tmp_path / "CrowdFlowerAnnotations.txt").unlink()
    (tmp_path / "ExpertAnnotations.txt").write_text(f"{name[0]}\t{name[0]}#0\t4\t4\t4")
    with pytest.raises(DataError, match="judges no image of the split 'val' with another's caption"):
        read_ratings(split, tmp_path)


def test_read_ratings__verdicts_without_the_disputed_and_skipped_ones(work: Path) -> None:
    split = Split(work, "val")
    image = split.image_keys[0]
    said = {
        7: ("match", "match"),
        8: ("match", "no match"),
        9: ("related", "related"),
        20: ("skip", "skip"),
        2: ("no match", "no match"),  # its own caption
        11: ("duplicate", "duplicate"),
    }
    (split.folder / "audit").mkdir()
    with Journal(split.folder / "audit") as journal:
        for caption, words in said.items():
            for reviewer, word in zip(("ada", "bob"), words, strict=True):
                key = split.caption_keys[caption]
                number = 10 * caption + (reviewer == "bob")
                journal.append(make(number, word, reviewer, image_key=image, caption_key=key))
    rated = read_ratings(split, None)
    pairs = zip(rated.images.tolist(), rated.captions.tolist(), rated.match.tolist(), strict=True)
    assert list(pairs) == [(0, 7, True), (0, 9, False), (0, 11, True)]
    assert (rated.complete, rated.source, rated.unknown) == (False, "verdicts", 0)
    assert rated.caveat


@pytest.mark.parametrize(("matches", "others", "enough"), [(10, 10, True), (9, 50, False), (50, 9, False)])
def test_refuse_too_few__ten_of_each_are_enough(matches: int, others: int, enough: bool) -> None:
    rated = PairRatings(np.zeros(1), np.zeros(1), np.zeros(1), complete=False, source="people")
    if enough:
        rated.refuse_too_few(matches, others)
        return
    with pytest.raises(DataError, match=f"people has {matches} matches and {others} pairs that do not match"):
        rated.refuse_too_few(matches, others)


def test_read_ratings__cxc_of_another_split_is_refused(work: Path, tmp_path: Path) -> None:
    path = tmp_path / "sits_val.csv"
    path.write_text(
        "caption,image,agg_score,sampling_method\nCOCO:sentid:999999,COCO_val2014_000000000001.jpg,5.0,c2i_intrasim\n"
    )
    with pytest.raises(DataError, match=r"rates no pair of different items of the split 'val' \(1 of other images"):
        read_ratings(Split(work, "val"), path)


def test_digest__of_the_pairs_the_answers_and_what_the_rest_means() -> None:
    said = PairRatings(np.array([0, 1]), np.array([5, 2]), np.array([True, False]), complete=False, source="people")
    others = [
        replace(said, images=np.array([1, 1])),
        replace(said, captions=np.array([5, 3])),
        replace(said, match=np.array([True, True])),
        replace(said, complete=True),
    ]
    assert len({one.digest for one in (said, *others)}) == 5
    assert replace(said, source="others", caveat="Of a sample.").digest == said.digest
