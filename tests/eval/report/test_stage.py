"""The report from evaluated runs: what compares and what does not, hostile words, missing pieces."""

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest

from cusa.errors import ConfigError, DataError, StaleError
from cusa.eval.config import EvalConfig
from cusa.eval.report import stage as report
from cusa.manifests import schemas
from cusa.manifests.ledger import Clock
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import readers, shard
from cusa.pipeline.config import ShardConfig
from tests import worlds
from tests.eval import evaluating
from tests.eval.seers import Seer

HOSTILE = '<script>alert("1")</script><img src=x onerror=alert(2)> red & "blue" '


def _work(folder: Path, *, before: str = "", images: int = 6) -> Path:
    """Shard a small world whose captions begin with `before`."""
    source = worlds.write_karpathy(folder / "raw", images=images, captions=2)
    if before:
        told = json.loads(source.read_text())
        for image in told["images"]:
            for sentence in image["sentences"]:
                sentence["raw"] = before + sentence["raw"]
        source.write_text(json.dumps(told))
    shard.run(ShardConfig(workers=1), reading=readers.read("karpathy", source, source.parent), out=folder / "work")
    return folder / "work"


def _evaluated(folder: Path, work: Path, *, seed: int = 0, ks: tuple[int, ...] = (1, 5, 10)) -> Path:
    config = EvalConfig(ks=ks, bootstrap=20)
    student = Seer(noise=0.5, seed=seed)
    evaluating.run(
        config, load=lambda: student, student_digest=str(seed), split=Split(work, "test"), out=folder / "eval"
    )
    return folder


class Tags(HTMLParser):
    """Collects what a browser would build."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(page)

    @property
    def text(self) -> str:
        """The words as a person reads them: a space between any two."""
        return " ".join(self.words.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def test_run__captions_are_words_and_nothing_else(tmp_path: Path) -> None:
    work = _work(tmp_path, before=HOSTILE)
    page = Tags(report.run([_evaluated(tmp_path / "run", work)], out=tmp_path / "r.html", work=work).out.read_text())
    assert HOSTILE.strip() in page.words
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "link")]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert sources
    assert all(source and source.startswith("data:image/jpeg;base64,") for source in sources)


@pytest.mark.parametrize("with_work", [True, False])
def test_run__one_run_without_recipe_curves_audit_or_truth_is_a_page(tmp_path: Path, with_work: bool) -> None:
    work = _work(tmp_path)
    run = _evaluated(tmp_path / "run", work)
    outcome = report.run([run], out=tmp_path / "r.html", work=work if with_work else None)
    path = outcome.out
    assert outcome.fresh
    page = Tags(path.read_text())
    rsum = store.read_json(run / "eval/metrics.json")["tasks"]["cross-modal"]["metrics"]["rsum"]
    assert f"{rsum:.2f}" in page.words
    assert f"| {rsum:.2f} |" in path.with_suffix(".md").read_text()
    assert bool([tag for tag, _ in page.tags if tag == "img"]) == with_work
    assert "nan" not in page.words.lower().split()


def test_run__marks_what_is_true_though_not_paired(tmp_path: Path) -> None:
    work = _work(tmp_path)
    split = Split(work, "test")
    everything = [
        {"image_key": image, "caption_key": caption} for image in split.image_keys for caption in split.caption_keys
    ]
    store.write_table(split.folder / "truth.parquet", pa.Table.from_pylist(everything, schemas.TRUTH))
    path = report.run([_evaluated(tmp_path / "run", work)], out=tmp_path / "r.html", work=work).out
    marks = [attributes.get("class") for tag, attributes in Tags(path.read_text()).tags if tag in ("li", "div")]
    assert "missed" in marks
    assert "good" in marks
    assert "bad" not in marks  # every caption is true of every image


@pytest.mark.parametrize("ks", [(1, 5, 10), (1, 3)])
def test_run__the_difference_is_that_of_the_values_beside_it(tmp_path: Path, ks: tuple[int, ...]) -> None:
    work = _work(tmp_path)
    runs = [_evaluated(tmp_path / f"run{seed}", work, seed=seed, ks=ks) for seed in (0, 3)]
    path = report.run(runs, out=tmp_path / "r.html", work=work).out
    compared = 0
    for line in path.with_suffix(".md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 5 or not re.fullmatch(r"\d+\.\d\d", cells[1]) or "median" in cells[0]:
            continue
        first, second = float(cells[1]), float(cells[2])
        assert float(cells[4].partition(" ")[0]) == pytest.approx(second - first, abs=0.011), line
        compared += 1
    assert compared >= 2 * len(ks) + 1


def test_run__other_data_of_the_same_name_and_size_does_not_compare(tmp_path: Path) -> None:
    first, other = _work(tmp_path / "a"), _work(tmp_path / "b", before="Quite another sentence. ")
    runs = [_evaluated(tmp_path / "run0", first), _evaluated(tmp_path / "run1", other)]
    with pytest.raises(DataError, match="content of the split [0-9a-f]{12}.*do not compare"):
        report.run(runs, out=tmp_path / "r.html", work=first)
    assert not (tmp_path / "r.html").exists()


def test_run__other_k_does_not_compare(tmp_path: Path) -> None:
    work = _work(tmp_path)
    runs = [_evaluated(tmp_path / "run0", work), _evaluated(tmp_path / "run1", work, ks=(1, 3))]
    with pytest.raises(DataError, match=r"K \(1, 3\).*K \(1, 5, 10\)"):
        report.run(runs, out=tmp_path / "r.html", work=work)


def test_run__a_work_folder_made_again_since_is_refused(tmp_path: Path) -> None:
    run = _evaluated(tmp_path / "run", _work(tmp_path / "a"))
    with pytest.raises(StaleError, match="is not what .* was evaluated on"):
        report.run([run], out=tmp_path / "r.html", work=_work(tmp_path / "b", before="Other words. "))


def test_run__an_unfinished_evaluation_is_named(tmp_path: Path) -> None:
    work = _work(tmp_path)
    run = _evaluated(tmp_path / "run", work)
    (run / "eval/ledger.json").unlink()
    with pytest.raises(DataError, match="did not finish. Run `cusa eval"):
        report.run([run], out=tmp_path / "r.html", work=work)


def test_run__says_with_which_versions(tmp_path: Path) -> None:
    work = _work(tmp_path)
    run = _evaluated(tmp_path / "run", work)
    versions = store.read_json(run / "eval/ledger.json")["versions"]
    path = report.run([run], out=tmp_path / "r.html", work=work).out
    assert html.escape(f"torch {versions['torch']}") in path.read_text()
    assert f"torch {versions['torch']}" in path.with_suffix(".md").read_text()


@pytest.mark.parametrize("file", ["recipe.json", "eval/metrics.json", "eval/per_query.parquet"])
def test_run__a_file_that_was_changed_after_it_was_written_is_refused(tmp_path: Path, file: str) -> None:
    work = _work(tmp_path)
    run = _evaluated(tmp_path / "run", work)
    store.write_json(run / "recipe.json", {"description": "as trained"})
    Clock().finish(
        run / "ledger.json", stage="train", inputs={}, parameters={}, outputs=[run / "recipe.json"], counts={}
    )
    page = report.run([run], out=tmp_path / "r.html", work=work).out
    before = page.read_text()
    assert "as trained" in before
    content = (run / file).read_bytes()
    changed = content.replace(b"as trained", b"as claimed").replace(b'"rsum": ', b'"rsum": 1')
    (run / file).write_bytes(changed if changed != content else content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(DataError, match=rf"{re.escape(file)} was changed after `cusa (train|eval)` wrote it"):
        report.run([run], out=tmp_path / "r.html", work=work)
    assert page.read_text() == before
    (run / file).write_bytes(content)
    assert not report.run([run], out=tmp_path / "r.html", work=work).fresh


@pytest.mark.parametrize("content", [[1], {"changes": "all"}, {"changes": [{"key": "loss.alpha"}]}])
def test_run__a_run_json_that_training_did_not_write_is_named(tmp_path: Path, content: object) -> None:
    run = _evaluated(tmp_path / "run", _work(tmp_path))
    store.write_json(run / "run.json", content)
    with pytest.raises(DataError, match=r"run\.json is not what `cusa train` writes"):
        report.run([run], out=tmp_path / "r.html")


@pytest.mark.parametrize("name", ["report", "report.v1", "report.pdf"])
def test_run__a_file_that_is_no_page_is_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"names no HTML file. Write .*{name}\.html"):
        report.run([tmp_path / "no-run"], out=tmp_path / name)
    assert not list(tmp_path.iterdir())
