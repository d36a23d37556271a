"""Case studies: the first answers of each run, marked by the pairs and the known matches."""

from pathlib import Path

import pyarrow as pa

from cusa.eval.report import cases, runs
from cusa.eval.report.pictures import Pictures
from cusa.manifests import schemas
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from tests.eval.report.test_stage import _evaluated, _work


def test_gather__answers_are_those_of_the_table_marked_by_what_is_known(tmp_path: Path) -> None:
    work = _work(tmp_path)
    split = Split(work, "test")
    known = {(split.image_keys[0], caption) for caption in split.caption_keys[:7]}
    rows = [{"image_key": image, "caption_key": caption} for image, caption in sorted(known)]
    store.write_table(split.folder / "truth.parquet", pa.Table.from_pylist(rows, schemas.TRUTH))
    names = ["run0", "run3"]
    read = [runs.read(_evaluated(tmp_path / name, work, seed=seed)) for name, seed in zip(names, (0, 3), strict=True)]
    gathered = cases.gather(read, split, Pictures(split))
    assert gathered.compared
    assert gathered.complete
    seen = set()
    for title, queries in gathered.groups:
        assert len(queries) == 6
        for query in queries:
            assert [column.run for column in query.columns] == names
            for run, column in zip(read, query.columns, strict=True):
                table = [row for row in run.per_query.to_pylist() if row["task"] == "cross-modal"]
                (row,) = [row for row in table if row["query_key"] == query.key]
                assert (column.rank, [answer.key for answer in column.answers]) == (row["rank"], row["top_keys"][:5])
                for answer in column.answers:
                    image, caption = (
                        (answer.key, query.key) if title == "Caption to images" else (query.key, answer.key)
                    )
                    own = caption.rpartition("#")[0] == image
                    assert answer.kind == ("good" if own else "missed" if (image, caption) in known else "bad")
                    seen.add(answer.kind)
    assert seen == {"good", "missed", "bad"}
