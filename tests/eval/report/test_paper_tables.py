"""The paper's tables: our numbers stand first, and only where they compare."""

import shutil
from pathlib import Path

from cusa.eval.config import RETRIEVAL_PROTOCOL
from cusa.eval.report import paper_tables, runs
from cusa.eval.report import stage as report
from cusa.manifests.ledger import Clock
from cusa.manifests.storage import store
from tests.eval.report.test_stage import Tags


def test_paper__our_numbers_stand_first_and_other_protocols_are_left_out(
    evaluated: tuple[Path, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated[1], run)
    task = {"protocol": "p", "space": "uni", "queries": 3, "metrics": {"r@1": 61.23}}
    for name, protocol in (("cub", RETRIEVAL_PROTOCOL), ("sop", RETRIEVAL_PROTOCOL - 1)):
        result = {"dataset": name, "protocol": protocol, "tasks": {"image-to-image": task}}
        path = run / "eval" / name / "metrics.json"
        store.write_json(path, result)
        Clock().finish(path.with_name("ledger.json"), stage="eval", inputs={}, parameters={}, outputs=[path], counts={})
    read = runs.read(run)
    tables = {table.title: table for table in paper_tables.gather([read]).tables}
    table = tables["Image retrieval (uni-modal)"]
    assert table.num_ours == 1
    assert table.rows[0] == ["run (ours)", "61.2", "", "", "", ""]
    assert ["SGR, CUSA", "34.6", "60.7", "31.6", "41.9", "42.2"] in table.rows
    assert table.header[1:] == ["CUB R@1", "SOP R@1", "In-Shop R@1", "iNaturalist R@1", "average"]
    assert not tables["ECCV Caption"].num_ours
    assert [words.partition(" by")[0] for words in read.left_out] == ["sop"]
    page = Tags(report.run([run], out=tmp_path / "r.html", work=evaluated[0]).out.read_text())
    assert "Left out, for another protocol: run: sop by protocol" in page.text
    assert "cusa eval RUN --tasks all" in page.text
