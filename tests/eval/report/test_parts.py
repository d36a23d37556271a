"""The report's newer sections: score card by counted verdicts, maps, a sweep's frontier, the paper's tables."""

import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa.errors import DataError
from cusa.eval import evaluate
from cusa.eval.config import EMBEDDINGS, EvalConfig
from cusa.eval.report import (
    card as report_card,
)
from cusa.eval.report import (
    paper_tables as report_paper,
)
from cusa.eval.report import (
    runs,
)
from cusa.eval.report import (
    stage as report,
)
from cusa.eval.report import (
    sweep as report_sweep,
)
from cusa.manifests import schemas
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from tests import worlds
from tests.eval.report.test_stage import HOSTILE, Tags, _work
from tests.eval.seers import Seer


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a work folder whose pictures are true of all captions of their colour, and an evaluated run."""
    folder = tmp_path_factory.mktemp("told")
    work = worlds.make_work(folder, images=16, captions=2)
    split = Split(work, "test")
    colour = [int(key.rpartition("_")[2]) % 4 for key in split.image_keys]
    pairs = [
        {"image_key": image, "caption_key": caption}
        for row, image in enumerate(split.image_keys)
        for caption, owner in zip(split.caption_keys, split.caption_owner, strict=True)
        if colour[owner] == colour[row]
    ]
    store.write_table(split.folder / "truth.parquet", pa.Table.from_pylist(pairs, schemas.TRUTH))
    config = EvalConfig(bootstrap=0, ks=(1, 5))
    run = folder / "run"
    evaluate.run(
        config,
        load=lambda: Seer(noise=0.6),
        student_digest="1",
        split=split,
        out=run / "eval",
        cache=run / EMBEDDINGS,
    )
    return work, run


def test_card__counts_the_verdicts_that_turn(told: tuple[Path, Path]) -> None:
    read = runs.read(told[1])
    rows = read.per_query.to_pylist()
    ranks = {
        task: {(row["direction"], row["query_key"]): row["rank"] for row in rows if row["task"] == task}
        for task in ("cross-modal", "cross-modal-truth")
    }
    turned = [key for key, rank in ranks["cross-modal"].items() if rank != 1 and ranks["cross-modal-truth"][key] == 1]
    found = report_card.flips(read)
    assert turned
    assert sorted((flip.direction, flip.query) for flip in found) == sorted(turned)
    assert all((flip.right, flip.wrong) == (("cross-modal-truth",), ("cross-modal",)) for flip in found)
    header, card = report_card.table(read)
    assert len(card) == 2
    assert card[1][header.index("turned right")].startswith(f"{len(turned)} of ")
    assert card[1][header.index("turned wrong")] == "0", "a truth that holds the own pairs takes nothing back"


def test_maps__every_point_has_its_picture_and_words_without_a_script(told: tuple[Path, Path], tmp_path: Path) -> None:
    work, run = told
    path, _ = report.run([run], out=tmp_path / "r.html", work=work)
    page = path.read_text()
    tags = Tags(page)
    points = [attributes for tag, attributes in tags.tags if tag == "b" and "pt" in (attributes.get("class") or "")]
    assert len(points) == 2 * 16
    for point in points:
        places = [float(value) for value in re.findall(r":([\d.]+)%", point["style"] or "")]
        assert all(0 <= place <= 100 for place in places)
        assert point["tabindex"] == "0"
    assert len(re.findall(r"\.p\d+\{background-image:url\(data:image/jpeg;base64,", page)) == 16
    assert not [tag for tag, _ in tags.tags if tag == "script"]
    assert "Maps of the embeddings" in tags.words
    # Without the kept embeddings there is nothing to draw, and the page says nothing of it.
    alone = tmp_path / "alone"
    shutil.copytree(run, alone)
    shutil.rmtree(alone / EMBEDDINGS)
    again, _ = report.run([alone], out=tmp_path / "s.html", work=work)
    assert "Maps of the embeddings" not in again.read_text()


def test_page__hostile_captions_are_words_in_every_section(tmp_path: Path) -> None:
    work = _work(tmp_path, before=HOSTILE)
    split = Split(work, "test")
    pairs = [{"image_key": image, "caption_key": key} for image in split.image_keys for key in split.caption_keys]
    store.write_table(split.folder / "truth.parquet", pa.Table.from_pylist(pairs, schemas.TRUTH))
    run = tmp_path / "run"
    evaluate.run(EvalConfig(bootstrap=0), load=Seer, student_digest="1", split=split, out=run / "eval")
    page = Tags(report.run([run], out=tmp_path / "r.html", work=work)[0].read_text())
    assert "Verdicts that differ" in page.words
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "link")]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_frontier__is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    front = {points[number] for number in report_sweep.frontier(points)}
    plain = {
        one for one in points if not any(other != one and other[0] >= one[0] and other[1] >= one[1] for other in points)
    }
    assert front == plain
    across = [points[number][0] for number in report_sweep.frontier(points)]
    assert across == sorted(across)


def _sweep(folder: Path) -> Path:
    rows = [
        {
            "run": f"a{alpha}",
            "loss.alpha": alpha,
            "seed": seed,
            "set.loss.beta": 0.5,
            "error": "",
            "seconds": 1.0,
            "cross-modal/rsum": 100 + 10 * alpha + seed,
            "image-to-image/r@1": 50 - 5 * alpha,
            "text-to-text/r@1": None,
        }
        for alpha, seed in itertools.product((0.1, 0.5, 1.0), (0, 1))
    ]
    rows.append({**rows[0], "run": "broken", "loss.alpha": 9.0, "cross-modal/rsum": None, "error": "diverged"})
    store.write_table(folder / "results.parquet", pa.Table.from_pylist(rows))
    return folder


def test_sweep__settings_are_means_over_seeds_and_the_frontier_is_drawn(
    told: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = report_sweep.read(_sweep(tmp_path / "sweep"))
    assert [one.name for one in settings] == ["alpha 0.1, beta 0.5", "alpha 0.5, beta 0.5", "alpha 1.0, beta 0.5"]
    assert [one.seeds for one in settings] == [2, 2, 2]
    assert settings[0].values["cross-modal/rsum"] == pytest.approx(101.5)
    work, run = told
    path, _ = report.run([run], out=tmp_path / "r.html", work=work, sweep=tmp_path / "sweep")
    page = path.read_text()
    assert page.count('<circle class="dot') == 3
    assert "alpha 1.0, beta 0.5: 110.5, 45" in page
    assert "| alpha 1.0, beta 0.5 | 2 | 110.50 | 45.00* |" in path.with_suffix(".md").read_text()
    broken = pa.Table.from_pylist([{"run": "a", "error": "diverged", "cross-modal/rsum": None}])
    store.write_table(tmp_path / "none/results.parquet", broken)
    with pytest.raises(DataError, match="no cell with"):
        report_sweep.read(tmp_path / "none")


def test_paper__our_numbers_stand_first_and_other_protocols_are_left_out(
    told: tuple[Path, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(told[1], run)
    task = {"protocol": "p", "space": "uni", "queries": 3, "metrics": {"r@1": 61.23}}
    for name, protocol in (("cub", evaluate.PROTOCOL), ("sop", evaluate.PROTOCOL - 1)):
        result = {"dataset": name, "protocol": protocol, "tasks": {"image-to-image": task}}
        store.write_json(run / "eval" / name / "metrics.json", result)
        shutil.copy(run / "eval/ledger.json", run / "eval" / name / "ledger.json")
    read = runs.read(run)
    tables = {title: (has, header, rows) for title, has, header, rows in report_paper.tables([read])}
    has, header, rows = tables["Image retrieval (uni-modal)"]
    assert has
    assert rows[0] == ["run (ours)", "61.2", "", "", "", ""]
    assert ["SGR, CUSA", "34.6", "60.7", "31.6", "41.9", "42.2"] in rows
    assert header[1:] == ["CUB R@1", "SOP R@1", "In-Shop R@1", "iNaturalist R@1", "average"]
    assert not tables["ECCV Caption"][0]
    assert [words.partition(" by")[0] for words in read.left_out] == ["sop"]
    page = Tags(report.run([run], out=tmp_path / "r.html", work=told[0])[0].read_text())
    assert "Left out, for another protocol: run: sop by protocol" in page.words
    assert "cusa eval RUN --tasks all" in page.words


def test_layout__the_same_rows_give_the_same_map() -> None:
    from cusa.eval.report.map import _layout

    rows = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    np.testing.assert_array_equal(_layout(rows), _layout(rows))
