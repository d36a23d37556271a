"""All sections together: hostile words are words everywhere."""

from pathlib import Path

import pyarrow as pa

from cusa.eval import evaluate
from cusa.eval.config import EvalConfig
from cusa.eval.report import stage as report
from cusa.manifests import schemas
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from tests.eval.report.test_stage import HOSTILE, Tags, _work
from tests.eval.seers import Seer


def test_page__hostile_captions_are_words_in_every_section(tmp_path: Path) -> None:
    work = _work(tmp_path, before=HOSTILE)
    split = Split(work, "test")
    pairs = [{"image_key": image, "caption_key": key} for image in split.image_keys for key in split.caption_keys]
    store.write_table(split.folder / "truth.parquet", pa.Table.from_pylist(pairs, schemas.TRUTH))
    run = tmp_path / "run"
    evaluate.run(EvalConfig(bootstrap=0), load=Seer, student_digest="1", split=split, out=run / "eval")
    page = Tags(report.run([run], out=tmp_path / "r.html", work=work).out.read_text())
    assert "Verdicts that differ" in page.text
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "link")]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
