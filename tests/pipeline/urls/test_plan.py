"""The plan of a table of URLs: what its rows say is in it, each URL once."""

from pathlib import Path

from cusa.pipeline.config import ReadConfig
from cusa.pipeline.urls import plan as plans


def test_plan__sources_of_captions_stay_beside_them(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(
        "url,caption,caption_source\nhttps://a.org/1.jpg,a dog,alt text\nhttps://a.org/1.jpg,a hound,\n"
        "https://a.org/2.jpg,a cat,human\n"
    )
    (tmp_path / "out").mkdir()
    config = ReadConfig(caption_sources={"caption": "synthetic"})
    with plans.make(table, tmp_path / "out", config, rows_a_unit=10, on_event=lambda *_: None) as plan:
        plan.write(tmp_path / "out", 0)
    rows = {row["url"]: (row["captions"], row["caption_sources"]) for row in plans.read(tmp_path / "out")}
    assert rows == {
        "https://a.org/1.jpg": (["a dog", "a hound"], ["alt text", "synthetic"]),
        "https://a.org/2.jpg": (["a cat"], ["human"]),
    }
