"""What an evaluation judges by: its digests follow the content of every file, and of nothing else."""

from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.eval.evidence import Evidence
from cusa.manifests import languages
from cusa.manifests.judgements import flickr8k
from cusa.manifests.judgements.altered_captions import AlteredCaptions
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from tests.manifests.judgements.test_altered_captions import ROCOCO, SUGARCREPE, write
from tests.manifests.judgements.test_verdicts import make
from tests.worlds import make_work


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return Split(make_work(tmp_path / "w", images=2, captions=2, splits=("val",)), "val")


def test_digests__name_what_changed(split: Split, tmp_path: Path) -> None:
    files = {"sits_val.csv": b"caption,image,agg_score\n", "sis_val.csv": b"image,image,agg_score\n"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)

    def changed() -> set[str]:
        now = Evidence.open(split, ratings=tmp_path).digests
        names = {name for name in {*now, *before} if now.get(name) != before.get(name)}
        before.update(now)
        return names

    before: dict[str, str] = {}
    assert changed() == {"split", "truth", "ground truth", "verdicts", *files}
    assert changed() == set()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content[::-1])  # as many bytes as before
        assert changed() == {name}
    (split.folder / "truth.parquet").write_bytes(b"a table")
    assert changed() == {"truth"}
    (split.folder / "audit").mkdir()
    pair = {"image_key": split.image_keys[0], "caption_key": split.caption_keys[3]}
    for number, word in enumerate(("match", "no match")):
        with Journal(split.folder / "audit") as journal:
            journal.append(make(number, word, **pair))
        assert changed() == {"verdicts"}


def test_digests__of_everything_else_that_answers_are_judged_by(split: Split, tmp_path: Path) -> None:
    official, judged = tmp_path / "eccv", tmp_path / "f8k"
    for folder, name in ((official, "coco_test_ids.npy"), (judged, flickr8k.EXPERTS), (judged, flickr8k.TOKENS)):
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"ab")
    altered = [
        AlteredCaptions(write(tmp_path / "sugar", swap_att=SUGARCREPE), "sugarcrepe"),
        AlteredCaptions(write(tmp_path / "rococo", danger=ROCOCO), "rococo"),
    ]
    files = {
        "ground truth": official / "coco_test_ids.npy",
        **{name: judged / name for name in (flickr8k.EXPERTS, flickr8k.TOKENS)},
        **{path.name: path for one in altered for path in one.files.values()},
        "languages": split.folder / languages.TABLE,
    }
    files["languages"].write_bytes(b"ab")

    def now() -> dict[str, str]:
        return Evidence.open(split, ground_truth=official, flickr8k=judged, altered=altered).digests

    before = now()
    assert {"split", "truth", "verdicts", *files} == before.keys()
    for name, path in files.items():
        path.write_bytes(path.read_bytes()[::-1])
        after = now()
        assert {one for one in after if after[one] != before[one]} == {name}
        before = after
    without = Evidence.open(split).digests
    assert without.keys() == {"split", "truth", "verdicts", "ground truth", "languages"}
    assert (without["ground truth"], without["truth"], without["verdicts"]) == ("package", "none", "none")


def test_met_needs__what_the_split_and_the_folders_bring(split: Split, tmp_path: Path) -> None:
    plain = Evidence.open(split).met_needs
    assert {need for need, met in plain.items() if met} == {"captions"}
    (split.folder / "truth.parquet").write_bytes(b"a table")
    (tmp_path / "sits_val.csv").write_bytes(b"caption,image,agg_score\n")
    judged = tmp_path / "f8k"
    judged.mkdir()
    name = split.samples["source"][0].as_py().rpartition("/")[2]
    (judged / flickr8k.EXPERTS).write_text(f"{name}\t{name}#0\t1\t2\t3\n")
    (judged / flickr8k.TOKENS).write_text(f"{name}#0\t{split.texts[0]}\n")
    (split.folder / "audit").mkdir()
    with Journal(split.folder / "audit") as journal:
        journal.append(make(0, "match", image_key=split.image_keys[0], caption_key=split.caption_keys[3]))
    more = Evidence.open(split, ratings=tmp_path, flickr8k=judged, ground_truth=tmp_path)
    assert {need for need, met in more.met_needs.items() if met} == {
        *("captions", "truth", "verdicts", "CxC's ratings", "Flickr8k's judgements", "COCO's lists"),
    }
    (judged / flickr8k.EXPERTS).write_text("other.jpg\tother.jpg#0\t1\t2\t3\n")
    (judged / flickr8k.TOKENS).write_text("other.jpg#0\ta wall\n")
    assert not Evidence.open(split, flickr8k=judged).met_needs["Flickr8k's judgements"], "of other pictures"
    for captions, met in ((5, False), (6, True)):
        work = make_work(tmp_path / str(captions), images=2, captions=captions, splits=("val",))
        assert Evidence.open(Split(work, "val")).met_needs["more than five captions"] == met


def test_refuse_doubles__names_what_comes_twice(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    Evidence.open(split).refuse_doubles()
    for what, name in (("image", "image_keys"), ("caption", "caption_keys")):
        keys = list(getattr(split, name))
        with monkeypatch.context() as patched:
            patched.setitem(vars(split), name, [*keys[:-1], keys[0]])
            with pytest.raises(DataError, match=f"the {what} key '{keys[0]}' comes twice"):
                Evidence.open(split).refuse_doubles()
