"""The registry of tasks, and that each number they give stands in the table of metrics."""

from pathlib import Path

from cusa.eval.tasks import metrics, registry
from tests.eval import evaluating
from tests.eval.seers import Seer
from tests.eval.test_evaluate import CONFIG, _world


def test_tasks__are_named_titled_and_described() -> None:
    for name, task in registry.TASKS.items():
        assert task.name == name
        assert task.title
        assert task.about
    assert registry.COCO == ("coco-5k", "coco-1k", "cxc", "eccv-caption", "plausible-matches")
    assert registry.CXC == ("cxc-uni-modal", "cxc-ratings")
    assert registry.JUDGED == ("flickr8k-judgements",)


def test_results__every_number_has_a_row_in_the_table_of_metrics(tmp_path: Path) -> None:
    split = _world(tmp_path, truth=True, images=6, captions=3)
    result = evaluating.run(CONFIG, load=Seer, student_digest="1", split=split, out=tmp_path / "eval")
    names = {name for task in result["tasks"].values() for name in task["metrics"]}
    assert len(names) > 10
    for name in names:
        assert metrics.named(name).metric in metrics.METRICS, name
    for headline in registry.HEADLINES:
        task, _, name = headline.partition("/")
        assert name in result["tasks"][task]["metrics"]


def test_label__says_metric_direction_and_what_counts_as_right() -> None:
    assert [registry.label(path) for path in registry.HEADLINES] == [
        "RSUM",
        "R-Precision, image to text, every known match",
        "R-Precision, text to image, every known match",
        "R-Precision, image to image",
        "R-Precision, text to text",
    ]
    judged = registry.label("flickr8k-judgements/experts-foreign/tau_c")
    assert judged == "Kendall's tau-c, experts, foreign pairs, Flickr8k's judges"
    assert registry.label("of-later/ndcg") == "ndcg, of-later"
    assert registry.title("of-later") == "of-later"
