"""The audit: what it writes, what it says of known matches, and what it refuses."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError, StaleError
from cusa.manifests import schemas, tables
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.neighbours import read_neighbours
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import extract, index, readers, shard
from cusa.pipeline.audit import stage as audit
from cusa.pipeline.calibrate import calibration
from cusa.pipeline.calibrate.calibration import Calibration
from cusa.pipeline.config import AuditConfig, ExtractConfig, IndexConfig, ShardConfig
from cusa.pipeline.pairs.candidates import Candidates, Finder
from cusa.pipeline.pairs.neighbourhoods import Encoders, choose, open_neighbourhoods, stamps
from cusa.pipeline.sql.database import connect
from tests.manifests.judgements.test_verdicts import make
from tests.pipeline.audited import load, make_taught, teach
from tests.worlds import COLOURS, make_work, write_karpathy

CONFIG = AuditConfig(neighbours=4, gallery=5)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return make_taught(tmp_path)


def _table(work: Path) -> pa.Table:
    return pq.read_table(work / "train/audit/candidates.parquet")


def _truth_of_colours(split: Split) -> pa.Table:
    """Pair every image with every caption that names its colour."""
    colours = list(COLOURS)
    rows = [
        (image, caption)
        for row, image in enumerate(split.image_keys)
        for caption, text in zip(split.caption_keys, split.texts, strict=True)
        if colours[row % len(colours)] in text
    ]
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=schemas.TRUTH)


def test_run__text_blind_names_the_edit_between_a_candidate_and_an_own_caption(work: Path) -> None:
    split = Split(work, "train")
    audit.run(AuditConfig(neighbours=4, gallery=60), split=split)
    colours, image_row = list(COLOURS), {key: row for row, key in enumerate(split.image_keys)}
    kinds = []
    for row in _table(work).to_pylist():
        # Captions name a colour and numbers in digits, which are no words: another colour is the only difference.
        one, other = (image_row[row[name]] % len(colours) for name in ("image_key", "owner_image_key"))
        assert row["text_blind"] == (None if one == other else "colour")
        kinds.append(row["text_blind"])
    assert set(kinds) == {None, "colour"}
    page = (work / "train/audit/gallery.html").read_text()
    assert "only another colour" in page
    assert "one edit from an own caption" in page
    with connect(split.work, runs=()) as database:
        counted = database.run("SELECT count(*) FROM candidates WHERE text_blind = 'colour'", limit=60.0).rows
    assert counted[0][0] == kinds.count("colour")


def test_run__the_table_holds_exact_similarities_best_first(work: Path) -> None:
    split = Split(work, "train")
    outcome = audit.run(CONFIG, split=split)
    table = _table(work)
    assert table.schema.remove_metadata() == schemas.CANDIDATES
    assert outcome.counts == {"images": 12, "captions": 60, "candidates": table.num_rows}
    image_row = {key: row for row, key in enumerate(split.image_keys)}
    caption_row = {key: row for row, key in enumerate(split.caption_keys)}
    images, texts = (tables.read_teacher(split, name).embeddings.astype(np.float64) for name in ("colours", "words"))
    images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts))
    scores = []
    weights = open_neighbourhoods(split, choose(split, Encoders()), depth=4).finder.weights
    for row in table.to_pylist():
        i, c = image_row[row["image_key"]], caption_row[row["caption_key"]]
        j = split.caption_owner[c]
        assert row["owner_image_key"] == split.image_keys[j] != row["image_key"]
        assert row["image_similarity"] == pytest.approx(images[i] @ images[j], abs=1e-5)
        best = max(texts[c] @ texts[o] for o in np.flatnonzero(split.caption_owner == i))
        assert row["text_similarity"] == pytest.approx(best, abs=1e-5)
        mean = sum(w * row[f"{name}_similarity"] for w, name in zip(weights, ("image", "text"), strict=True))
        assert row["score"] == pytest.approx(np.clip(mean, 0, 1), abs=1e-5)
        assert row["cross_similarity"] is None
        scores.append(row["score"])
    assert scores == sorted(scores, reverse=True)
    summary = audit.read_summary(split)
    assert summary["open_pairs"] == 12 * 60 - 60
    assert summary["truth"] is None
    assert not any("batch" in note for note in outcome.notes), "without a truth nothing is claimed of batches"


def test_run__known_matches_are_ranked_and_counted(work: Path) -> None:
    split = Split(work, "train")
    truth = _truth_of_colours(split)
    store.write_table(split.folder / "truth.parquet", truth)
    outcome = audit.run(CONFIG, split=split)
    truth_figures = audit.read_summary(split)["truth"]
    assert truth_figures["complete"]
    assert truth_figures["false_negatives"] == 12 * 2 * 5, "three images share each colour"
    assert truth_figures["among_candidates"] == 120
    assert set(truth_figures["rankings"]) == {"score", "image_similarity", "text_similarity"}
    assert truth_figures["rankings"]["score"]["average_precision"] == pytest.approx(1, abs=1e-6)
    assert truth_figures["rankings"]["text_similarity"]["median_rank"] == 60.5
    # 60 captions drawn at random, no two the same: each of the 60 x 10 wrong negatives lies in the batch of all 60.
    assert truth_figures["batch"] == {"size": 60, "false_negatives": 600.0, "per_row": 10.0}
    assert any("10.00 a row" in note for note in outcome.notes)
    assert not (split.folder / "audit/truth.parquet").exists()


def test_run__a_given_truth_that_is_not_complete_gives_bounds(work: Path, tmp_path: Path) -> None:
    split = Split(work, "train")
    rows = [(split.image_keys[0], split.caption_keys[20]), (split.image_keys[0], split.caption_keys[6])]
    table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=schemas.TRUTH)
    store.write_table(tmp_path / "some.parquet", table.replace_schema_metadata({"complete": "false"}))
    outcome = audit.run(CONFIG, split=split, truth=tmp_path / "some.parquet")
    truth_figures = audit.read_summary(split)["truth"]
    assert (truth_figures["false_negatives"], truth_figures["among_candidates"]) == (2, 1)
    ranked = list(zip(*_table(work).select(["image_key", "caption_key"]).to_pydict().values(), strict=True))
    rank = ranked.index(rows[0]) + 1
    assert truth_figures["rankings"]["score"]["median_rank"] == (rank + 660) / 2, (
        "the other counts as last of all open pairs"
    )
    assert any("average precision at least" in note for note in outcome.notes)
    assert any("never judged" in note for note in outcome.notes)
    written = pq.read_table(split.folder / "audit/truth.parquet")
    assert sorted(zip(*written.to_pydict().values(), strict=True)) == sorted(rows)
    audit.run(CONFIG, split=split)
    assert not (split.folder / "audit/truth.parquet").exists(), "a truth that is no longer given does not stay"


def test_run__again_is_up_to_date_until_something_changes(work: Path) -> None:
    split = Split(work, "train")
    first = audit.run(CONFIG, split=split)
    again = audit.run(CONFIG, split=split)
    assert (first.why, again.fresh, again.notes) == ("never finished", False, first.notes)
    assert audit.run(CONFIG, split=split, force=True).why == "--force"
    assert audit.run(AuditConfig(neighbours=3, gallery=5), split=split).why == "neighbours was 4 and is now 3"
    store.write_table(split.folder / "truth.parquet", _truth_of_colours(split))
    assert audit.run(AuditConfig(neighbours=3, gallery=5), split=split).why == "truth changed"
    (split.folder / "audit/gallery.html").unlink()
    assert audit.run(AuditConfig(neighbours=3, gallery=5), split=split).why == "gallery.html is missing"


def test_run__the_same_inputs_give_the_same_bytes(work: Path) -> None:
    split = Split(work, "train")
    digests = []
    for _ in range(2):
        audit.run(CONFIG, split=split, force=True)
        files = ("candidates.parquet", "gallery.html", "summary.json")
        digests.append([store.sha256_file(split.folder / "audit" / file) for file in files])
    assert digests[0] == digests[1]


@pytest.mark.parametrize(("there", "missing"), [("text", "image"), ("image", "text")])
def test_run__without_one_modality_the_other_is_used_and_it_says_so(tmp_path: Path, there: str, missing: str) -> None:
    work = make_work(tmp_path, images=8, splits=("train",))
    teach(work, **{there: {"image": "colours", "text": "words"}[there]})
    outcome = audit.run(CONFIG, split=Split(work, "train"))
    table = _table(work)
    assert table[f"{missing}_similarity"].null_count == table.num_rows > 0
    assert table[f"{missing}_rank"].null_count == table.num_rows
    np.testing.assert_allclose(table["score"], np.clip(table[f"{there}_similarity"], 0, 1), rtol=1e-6)
    assert f"ranked by the score, {there}_similarity alone;" in outcome.notes[0]
    assert any(f"No {missing} teacher was used" in note for note in outcome.notes)


def test_run__none_leaves_a_teacher_out_on_purpose(work: Path) -> None:
    split = Split(work, "train")
    audit.run(CONFIG, split=split, encoders=Encoders(image="none"))
    assert audit.read_summary(split)["teachers"] == {"image": None, "text": "words"}
    with pytest.raises(DataError, match="has no teacher to audit with"):
        audit.run(CONFIG, split=split, encoders=Encoders("none", "none"))


def test_run__a_single_image_has_no_candidates(tmp_path: Path) -> None:
    work = make_taught(tmp_path, images=1)
    outcome = audit.run(AuditConfig(), split=Split(work, "train"))
    assert outcome.counts["candidates"] == 0
    assert "0 candidates among 0 pairs" in outcome.notes[0]
    assert "gallery.html" not in " ".join(outcome.notes)
    assert "No candidates" in (work / "train/audit/gallery.html").read_text()


def test_run__neighbours_beyond_the_data_are_all_pairs(tmp_path: Path) -> None:
    work = make_taught(tmp_path, images=4, neighbours=50)
    audit.run(AuditConfig(neighbours=50), split=Split(work, "train"))
    assert _table(work).num_rows == 4 * 20 - 20


def test_run__all_captions_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.worlds.COLOURS", {"red": (200, 40, 40)})
    monkeypatch.setattr("tests.worlds.Words.width", 2)
    work = make_work(tmp_path, images=6, splits=("train",), captions=1)
    split = Split(work, "train")
    equal = split.captions.set_column(4, "text", pa.array(["A red wall."] * 6))
    pq.write_table(equal, split.folder / "captions.parquet")
    teach(work, image="colours", text="words")
    outcome = audit.run(CONFIG, split=Split(work, "train"))
    table = _table(work)
    assert table["text_similarity"].to_pylist() == pytest.approx([1] * table.num_rows)
    assert all(table["duplicate_caption"].to_pylist())
    assert any(f"{table.num_rows} have a caption that the image has too" in note for note in outcome.notes)


def test_run__stale_or_missing_neighbours_are_refused(work: Path, tmp_path: Path) -> None:
    split = Split(work, "train")
    with pytest.raises(DataError, match=r"has 4 neighbours a row and 5 are asked for"):
        audit.run(AuditConfig(neighbours=5), split=split)
    path = split.folder / "index/neighbours-words.parquet"
    whole = path.read_bytes()
    other = make_taught(tmp_path / "other", images=11)
    shutil.copy(other / "train/index/neighbours-words.parquet", path)
    with pytest.raises(StaleError, match=r"neighbours-words\.parquet was made from another state of the split"):
        audit.run(CONFIG, split=split)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="no readable Parquet"):
        audit.run(CONFIG, split=split)
    path.unlink()
    with pytest.raises(DataError, match=r"does not exist\. Run `cusa index"):
        audit.run(CONFIG, split=split)
    index.run(IndexConfig(neighbours=4), split=split, teacher="words", force=True)
    extract.run(ExtractConfig(dtype="float32"), split=split, teacher="words", modality="text", load=load)
    with pytest.raises(StaleError, match="another table of teacher 'words'"):
        audit.run(CONFIG, split=split)
    with pytest.raises(DataError, match="does not exist. Run `cusa audit"):
        audit.read_summary(split)
    assert not store.files_below(split.folder / "audit"), "nothing half-written stays"


def test_run__several_teachers_ask_for_a_name(work: Path) -> None:
    split = Split(work, "train")
    shutil.copytree(split.folder / "teachers/words", split.folder / "teachers/words2")
    with pytest.raises(DataError, match="several text teachers: words, words2"):
        audit.run(CONFIG, split=split)
    audit.run(CONFIG, split=split, encoders=Encoders(text="words"))
    assert audit.read_summary(split)["teachers"]["text"] == "words"


def test_run__a_killed_audit_is_done_again(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = Split(work, "train")
    audit.run(CONFIG, split=split)

    def dies(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(audit.gallery, "write", dies)
        audit.run(AuditConfig(neighbours=2, gallery=5), split=split)
    assert audit.run(CONFIG, split=split).why == "never finished"


def test_run__another_neighbour_table_of_the_same_teacher_is_noticed(work: Path) -> None:
    split = Split(work, "train")
    audit.run(CONFIG, split=split)
    index.run(IndexConfig(neighbours=5), split=split, teacher="words")
    assert audit.run(CONFIG, split=split).why == "neighbours words changed"
    assert not audit.run(CONFIG, split=split).fresh


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_run__a_score_that_is_no_number_is_never_ranked(
    work: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    split = Split(work, "train")
    describe = Finder.describe

    def broken(self: Finder, image: np.ndarray, caption: np.ndarray, **options: Any) -> Candidates:
        candidates = describe(self, image, caption, **options)
        candidates.score[np.flatnonzero(image == 7)[:1]] = value
        return candidates

    monkeypatch.setattr(Finder, "describe", broken)
    with pytest.raises(DataError, match=rf"{split.image_keys[7]} with mini/\S+ has the score -?(nan|inf) .*cusa index"):
        audit.run(CONFIG, split=split)
    assert not (split.folder / "audit/candidates.parquet").exists()


def test_run__what_to_do_next_names_the_folder_as_it_was_given(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work.parent.parent)
    given = work.relative_to(Path.cwd())
    assert given.name != str(given)
    first = audit.run(CONFIG, split=Split(given, "train"))
    again = audit.run(CONFIG, split=Split(given, "train"))
    command = f"cusa review {given} --split train"
    for outcome in (first, again):
        assert any(f"Look at {given}/train/audit/gallery.html; judge with `{command}`" in n for n in outcome.notes)
    page = (given / "train/audit/gallery.html").read_text(encoding="utf-8")
    assert "<code>cusa review WORK --split train</code>" in page
    assert str(given) not in page, "the page is equal wherever the folder lies"


def test_run__every_column_says_what_the_tables_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks, worth, what is known and judged, copies, and the figures that count them: of a calibrated audit."""
    monkeypatch.setattr(audit, "_ROWS_A_GROUP", 64)
    source = write_karpathy(tmp_path / "raw", images=10, splits=("train", "val"), captions=3)
    content = store.read_json(source)
    content["images"][1]["sentences"][0]["raw"] = "Just these words"
    content["images"][2]["sentences"][1]["raw"] = "just THESE words."
    content["images"][15]["sentences"][2]["raw"] = "just these words"
    store.write_json(source, content)
    for copy in ("train/picture_0004", "val/picture_0013"):
        shutil.copy(tmp_path / "raw/train/picture_0000.jpg", tmp_path / f"raw/{copy}.jpg")
    shard.run(ShardConfig(workers=1), reading=readers.read("karpathy", source, source.parent), out=tmp_path / "work")
    work = teach(tmp_path / "work", neighbours=6, image="colours", text="words")
    split = Split(work, "train")
    rows = [(split.image_keys[0], split.caption_keys[13]), (split.image_keys[3], split.caption_keys[0])]
    table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=schemas.TRUTH)
    store.write_table(split.folder / "truth.parquet", table.replace_schema_metadata({"complete": "false"}))
    (split.folder / "audit").mkdir()
    said = {(0, 12): "match", (5, 3): "no match", (6, 1): "related"}
    with Journal(split.folder / "audit") as journal:
        for number, ((image, caption), word) in enumerate(said.items()):
            journal.append(
                make(number, word, image_key=split.image_keys[image], caption_key=split.caption_keys[caption])
            )
    chosen = choose(split, Encoders())
    model = Calibration(
        teachers=stamps(split, chosen),
        features=("text_similarity",),
        means=(0.5,),
        scales=(0.1,),
        products=False,
        coefficients=(0.4,),
        intercept=-1.0,
        decisions=(),
        probabilities=(),
        resampled=(),
        unselected=(),
        about={"fitted": {"pairs": 1, "caveat": ""}},
    )
    calibration.write(tmp_path / "p.json", model)
    config = AuditConfig(neighbours=5, gallery=3, floor=0.0, near_image=0.9, near_caption=0.99)
    done = audit.run(config, split=split, calibrated=tmp_path / "p.json")

    near = {name: read_neighbours(split, name, depth=5).ids.tolist() for name in ("colours", "words")}
    owner, found = split.caption_owner.tolist(), _table(work)
    assert found.num_rows == 10 * 30 - 30, "small splits are scored whole"
    order = []
    for row in found.to_pylist():
        image, caption = split.image_row[row["image_key"]], split.caption_row[row["caption_key"]]
        own = [c for c in range(30) if owner[c] == image]
        ranks = [near["words"][caption].index(c) + 1 for c in own if c in near["words"][caption]]
        here = near["colours"][image]
        p = 1 / (1 + np.exp(-(0.4 * (row["text_similarity"] - 0.5) / 0.1 - 1.0)))
        judged = (image, caption) in said
        known = (row["image_key"], row["caption_key"]) in rows
        assert row["image_rank"] == (here.index(owner[caption]) + 1 if owner[caption] in here else None)
        assert row["text_rank"] == min(ranks, default=None)
        assert row["p_positive"] == pytest.approx(p, abs=1e-5)
        assert row["worth"] == pytest.approx(0 if judged else p * (1 - p), abs=1e-5)
        assert row["known_match"] == (True if known else None), "the rest was never judged"
        assert row["duplicate_image"] == ({image, owner[caption]} == {0, 4})
        assert row["duplicate_caption"] == ((image, caption) in {(1, 7), (2, 3)})
        order.append((-row["p_positive"], -row["score"], image, caption))
    assert order == sorted(order)
    metadata = found.schema.metadata
    assert {key.decode(): value.decode() for key, value in metadata.items() if key != b"ARROW:schema"} == {
        "split": split.digest,
        "image_teacher": "colours",
        "text_teacher": "words",
        "student": "",
    }
    summary = audit.read_summary(split)
    assert done.counts == {"images": 10, "captions": 30, "candidates": 270}
    assert summary["judged_candidates"] == 3
    assert (summary["duplicate_image_candidates"], summary["duplicate_caption_candidates"]) == (6, 2)
    assert summary["calibration_choice"] == {"name": "p.json", "why": ""}
    grouped = pq.read_table(split.folder / "audit/duplicates.parquet").to_pylist()
    for name, modality in (("images", "image"), ("captions", "text")):
        of_kind = [row for row in grouped if row["modality"] == modality]
        assert summary["duplicates"][name] == {
            "groups": len({row["component"] for row in of_kind}),
            "rows": len(of_kind),
            "exact_groups": 1,
            "exact_rows": 2,
        }
    leaked = pq.read_table(split.folder / "audit/leaks.parquet").to_pylist()
    assert summary["leaks"] == {
        "exact_images": sum(row["exact"] and row["modality"] == "image" for row in leaked),
        "near_images": sum(not row["exact"] for row in leaked),
        "captions": sum(row["modality"] == "text" for row in leaked),
    }
    assert (summary["leaks"]["exact_images"], summary["leaks"]["captions"]) == (2, 2), "two copies, two of the words"
    # The page shows the best that nobody judged, one for any two images.
    best, couples = [], set()
    for row in found.to_pylist():
        image, caption = split.image_row[row["image_key"]], split.caption_row[row["caption_key"]]
        couple = frozenset((image, owner[caption]))
        if (image, caption) not in said and couple not in couples and len(best) < 3:
            couples.add(couple)
            best.append(row["caption_key"])
    page = (split.folder / "audit/gallery.html").read_text()
    assert all(key in page for key in best)


def test_run__with_other_ratings_a_verdict_still_counts_for_what_is_asked(work: Path, tmp_path: Path) -> None:
    """What is missing is estimated from the ratings that are given; the worth of a pair is 0 once it was judged."""
    split = Split(work, "train")
    given = tmp_path / "truth.parquet"
    store.write_table(given, _truth_of_colours(split))
    audit.run(CONFIG, split=split, ratings=given)
    first = _table(work).to_pylist()[0]
    with Journal(split.folder / "audit") as journal:
        journal.append(make(0, "match", image_key=first["image_key"], caption_key=first["caption_key"]))
    done = audit.run(CONFIG, split=split, ratings=given)
    assert done.why == "verdicts changed"
    assert audit.read_summary(split)["judged_candidates"] == 1
    store.write_table(given, _truth_of_colours(split).replace_schema_metadata({"complete": "false"}))
    assert audit.run(CONFIG, split=split, ratings=given).why == "judgements changed", "the rest is no longer known"
    assert not audit.run(CONFIG, split=split, ratings=given).fresh
