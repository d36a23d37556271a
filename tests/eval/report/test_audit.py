"""The audit in the report: the summary's figures, one card for two images, what is known and what is not."""

from pathlib import Path

import pyarrow as pa
import pytest

from cusa.errors import DataError
from cusa.eval.report import audit as report_audit
from cusa.manifests import pages, schemas
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import audit
from cusa.pipeline.config import AuditConfig
from tests.eval.report.test_stage import Tags
from tests.pipeline.audited import make_taught


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return Split(make_taught(tmp_path), "train")


def _audited(split: Split, **options: Path) -> str:
    audit.run(AuditConfig(neighbours=4, batch_size=8), split=split, **options)
    return _html(split)


def _html(split: Split) -> str:
    return pages.render("eval/report/audit.html.j2", report={"audit": report_audit.gather(split)})


def test_gather__without_an_audit_there_is_none(split: Split) -> None:
    assert report_audit.gather(split) is None


def test_gather__without_known_matches_nothing_is_called_true_or_false(split: Split) -> None:
    page = Tags(_audited(split))
    assert f"{audit.read_summary(split)['candidates']:,}" in page.words
    assert "average precision" not in page.words
    assert not [tag for tag, attributes in page.tags if "badge" in (attributes.get("class") or "")]


def test_gather__one_card_for_two_images(split: Split) -> None:
    page = Tags(_audited(split))
    pictures = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    couples = [frozenset(pictures[at : at + 2]) for at in range(0, len(pictures), 2)]
    assert len(couples) > 2
    assert len(set(couples)) == len(couples)
    assert all(len(couple) == 2 for couple in couples)


def test_gather__known_matches_that_are_not_complete_call_nothing_false(split: Split, tmp_path: Path) -> None:
    audit.run(AuditConfig(neighbours=4), split=split)
    best = store.read_table(split.folder / "audit/candidates.parquet").slice(0, 1).select(schemas.TRUTH.names)
    given = best.replace_schema_metadata({"complete": "false"})
    store.write_table(tmp_path / "given.parquet", given)
    page = Tags(_audited(split, truth=tmp_path / "given.parquet"))
    badges = [attributes["class"] for tag, attributes in page.tags if "badge" in (attributes.get("class") or "")]
    assert badges == ["badge missed"]
    figures = audit.read_summary(split)["truth"]["rankings"]["score"]
    assert figures["median_rank"] == 1
    assert f"average precision {100 * figures['average_precision']:.1f} %" in page.text
    assert "lower bounds" in page.text


def test_gather__a_summary_that_was_changed_after_the_audit_is_refused(split: Split) -> None:
    _audited(split)
    path = split.folder / "audit/summary.json"
    path.write_text(path.read_text().replace('"candidates": ', '"candidates": 9'))
    with pytest.raises(DataError, match=r"summary\.json was changed after `cusa audit` wrote it"):
        report_audit.gather(split)


def test_known_matches__those_of_the_data_set_are_complete(split: Split) -> None:
    assert report_audit.known_matches(split) == (set(), False)
    pair = {"image_key": split.image_keys[0], "caption_key": split.caption_keys[0]}
    store.write_table(split.folder / "truth.parquet", pa.Table.from_pylist([pair], schemas.TRUTH))
    assert report_audit.known_matches(split) == ({(split.image_keys[0], split.caption_keys[0])}, True)
