"""What metrics mean: each that has a definition is found by its link, and two never share an anchor."""

from cusa.eval.tasks import definitions, metrics


def test_of__every_metric_of_the_table_once_under_an_anchor_of_its_own() -> None:
    names = [metric.name.replace("{k}", "7") for metric in metrics.METRICS]
    listed = definitions.of([*names, *(f"image-to-text/{name}" for name in names)])
    anchors = [one.anchor for one in listed]
    assert len(anchors) == len(set(anchors)) >= len(metrics.METRICS)
    for name in names:
        term = definitions.term(name, "words")
        (entry,) = [one for one in listed if one.anchor == term.anchor]
        assert entry.definition == term.definition
        assert term.definition.startswith(metrics.named(name).metric.definition)


def test_of__only_what_is_shown_in_the_table_s_order_and_k_for_any_k() -> None:
    listed = definitions.of(["text-to-image/r@10", "cross-modal/rsum", "r@1"])
    assert [one.title for one in listed][:2] == ["RSUM", "R@K"]
    assert "median rank" not in [one.title for one in listed]
    assert {"chance", "interval"} <= {one.anchor for one in listed}


def test_term__a_number_that_the_table_does_not_have_is_plain_words() -> None:
    assert definitions.term("ndcg", "nDCG") == definitions.term("x/ndcg", "nDCG")
    assert not definitions.term("ndcg", "nDCG").anchor
