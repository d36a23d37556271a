"""Students that score pairs and students that re-rank, against plain loops over one image and one caption at a time."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cusa.errors import ConfigError
from cusa.eval import evaluate, pairs
from cusa.eval.config import EvalConfig
from cusa.eval.encode import PartsCache, encode, picture
from cusa.eval.scores import Cosines
from cusa.manifests.samples import Split
from cusa.models import student as students
from cusa.models.config import SgrafConfig, StudentConfig
from tests import towers, worlds
from tests.eval import evaluating

SMALL = StudentConfig(
    image_size=16,
    patch_size=8,
    image_width=16,
    image_layers=1,
    text_width=16,
    text_layers=1,
    head_width=8,
    width=12,
    sgraf=SgrafConfig(regions_from="patches", regions=4, patch=6, word_width=8, width=12, similarity_width=6),
)
CONFIG = EvalConfig(batch_size=5, rerank=3, block=4)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    work = worlds.make_work(tmp_path_factory.mktemp("pairs"), images=7, captions=2, splits=("test",))
    return Split(work, "test")


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a student of late interaction, of a vision transformer and somebody's letters."""
    vit = str(towers.write_image("vit", tmp_path_factory.mktemp("towers") / "vit"))
    names = {"image": {"name": vit}, "text": {"name": "tests.towers:Spelling"}}
    config = {"kind": "late-interaction", "towers": names, "late": {"width": 6, "average": "both"}}
    return students.create(StudentConfig.model_validate(config), captions=[], uni=False, seed=0).eval()


def _student(kind: str, split: Split) -> Any:
    return students.create(SMALL.model_copy(update={"kind": kind}), captions=split.texts, uni=False, seed=0).eval()


def _parts(student: Any, split: Split, image: int, caption: int) -> tuple[Any, Any]:
    array = torch.from_numpy(student.image_array(picture(split, image))[None])
    return student.image_parts(student.pixels(array)), student.text_parts(student.tokenize([split.texts[caption]]))


def test_all_pairs_are_scored_as_one_by_one(split: Split) -> None:
    student = _student("sgraf", split)
    table = pairs.all_pairs(student, split, CONFIG).scores_IC
    with torch.no_grad():
        for image in range(split.num_images):
            for caption in range(split.num_captions):
                alone = student.pair_scores(*_parts(student, split, image, caption))
                assert table[image, caption] == pytest.approx(float(alone), abs=1e-6)


@pytest.mark.parametrize("table_bytes", [0, 1 << 30])
def test_late_interaction__all_pairs_are_scored_as_one_by_one(
    split: Split, late: Any, table_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "_TABLE_BYTES", table_bytes)
    table = pairs.all_pairs(late, split, CONFIG).scores_IC
    assert isinstance(table, np.memmap) == (table_bytes == 0)
    with torch.no_grad():
        for image in range(split.num_images):
            for caption in range(split.num_captions):
                images, texts = _parts(late, split, image, caption)
                sims = (images["vectors"][0] @ texts["vectors"][0].T).tolist()  # patches, tokens
                of_tokens = np.mean([max(row[token] for row in sims) for token in range(len(sims[0]))])
                of_patches = np.mean([max(row) for row in sims])
                assert table[image, caption] == pytest.approx((of_tokens + of_patches) / 2, abs=1e-6)


def test_late_interaction__reranking_every_candidate_is_ranking_all_pairs(split: Split, late: Any) -> None:
    everything = CONFIG.model_copy(update={"pairs": "candidates", "rerank": 1000})
    embeddings = encode(late, split, everything)
    first = Cosines(embeddings.image["cross"], embeddings.text["cross"])
    again = pairs.rerank(late, split, first, everything)
    table = pairs.all_pairs(late, split, CONFIG).scores_IC
    np.testing.assert_allclose(np.concatenate(list(again.of_images(3))), table, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(list(again.of_captions(3))), table.T, atol=1e-6)
    whole, found = (evaluate.validate(late, split, one) for one in (CONFIG, everything))
    assert whole == pytest.approx(found)


def test_late_interaction__a_few_candidates_stand_first_by_their_pair_score(split: Split, late: Any) -> None:
    few = CONFIG.model_copy(update={"pairs": "candidates"})
    embeddings = encode(late, split, few)
    first = Cosines(embeddings.image["cross"], embeddings.text["cross"])
    again = pairs.rerank(late, split, first, few)
    table = pairs.all_pairs(late, split, few).scores_IC
    for image, candidates in enumerate(again.captions_IK):
        cosines = embeddings.image["cross"][image] @ embeddings.text["cross"].T
        assert set(candidates.tolist()) == set(np.argsort(-cosines, kind="stable")[:3].tolist())
        np.testing.assert_allclose(again.caption_scores_IK[image], table[image, candidates], atol=1e-6)


def test_candidates__of_embeddings_that_find_none_are_refused(split: Split, late: Any) -> None:
    few = CONFIG.model_copy(update={"pairs": "candidates"})
    with pytest.raises(ConfigError, match=r"eval\.pairs is 'candidates'.*Set eval\.pairs=all"):
        evaluate.validate(_student("sgraf", split), split, few)
    with pytest.raises(ConfigError, match=r"and eval\.rerank is 0"):
        evaluate.validate(late, split, few.model_copy(update={"rerank": 0}))


def test_equal_captions_get_equal_scores(split: Split) -> None:
    student = _student("sgraf", split)
    split.texts[5] = split.texts[0]
    table = pairs.all_pairs(student, split, CONFIG).scores_IC
    np.testing.assert_array_equal(table[:, 5], table[:, 0])


@pytest.mark.parametrize("kind", ["x2vlm", "blip"])
def test_reranking_matches_the_candidates_once_each(split: Split, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    student = _student(kind, split)
    counts: Counter[str] = Counter()
    for name in ("image_parts", "text_parts", "match"):
        real = getattr(student, name)

        def counted(*args: Any, real: Any = real, name: str = name) -> Any:
            found = real(*args)
            counts[name] += len(next(iter(found.values()))) if isinstance(found, dict) else len(found)
            return found

        monkeypatch.setattr(student, name, counted)
    kept = PartsCache()
    embeddings = encode(student, split, CONFIG, kept=kept)
    first = Cosines(embeddings.image["cross"], embeddings.text["cross"])
    found = pairs.rerank(student, split, first, CONFIG, kept=kept)
    # Both rankings together read each item once, and nothing stays behind.
    assert counts["image_parts"] == split.num_images
    assert counts["text_parts"] == len(set(split.texts))
    assert not any(kept.of.values())
    wanted = {(i, c) for i, row in enumerate(found.captions_IK.tolist()) for c in row}
    wanted |= {(i, c) for c, row in enumerate(found.images_CK.tolist()) for i in row}
    assert counts["match"] == len(wanted)
    monkeypatch.undo()
    with torch.no_grad():
        for image, row in enumerate(found.captions_IK.tolist()):
            best = np.argsort(-(embeddings.image["cross"] @ embeddings.text["cross"].T)[image], kind="stable")[:3]
            assert set(row) == set(best.tolist())
            for caption, score in zip(row, found.caption_scores_IK[image], strict=True):
                alone = student.match(*_parts(student, split, image, caption))[0, 1]
                assert score == pytest.approx(float(alone), abs=1e-5)
        for caption, row in enumerate(found.images_CK.tolist()):
            for image, score in zip(row, found.image_scores_CK[caption], strict=True):
                alone = student.match(*_parts(student, split, image, caption))[0, 1]
                assert score == pytest.approx(float(alone), abs=1e-5)


@pytest.mark.parametrize("kind", ["x2vlm", "blip"])
def test_what_was_not_kept_is_encoded_again(split: Split, kind: str) -> None:
    student = _student(kind, split)
    kept = PartsCache()
    embeddings = encode(student, split, CONFIG, kept=kept)
    first = Cosines(embeddings.image["cross"], embeddings.text["cross"])
    for end in ("image", "text"):
        for content in list(kept.of[end])[::2]:
            del kept.of[end][content]
    some, none = (pairs.rerank(student, split, first, CONFIG, kept=one) for one in (kept, None))
    np.testing.assert_allclose(some.caption_scores_IK, none.caption_scores_IK, atol=1e-5)
    np.testing.assert_allclose(some.image_scores_CK, none.image_scores_CK, atol=1e-5)


@pytest.mark.parametrize("kind", ["dual-encoder", "sgraf", "x2vlm", "blip"])
def test_a_tower_runs_once_for_both_spaces(split: Split, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SMALL.model_copy(update={"kind": kind, "name": "scratch"})
    student = students.create(config, captions=split.texts, uni=True, seed=0).eval()
    with torch.no_grad():
        array = torch.from_numpy(student.image_array(picture(split, 0))[None])
        alone = {space: student.encode_image(student.pixels(array), space)[0] for space in student.spaces}
    counts: Counter[str] = Counter()
    for name in ("image_parts", "text_parts"):
        real = getattr(student, name)

        def counted(given: Any, real: Any = real, name: str = name) -> Any:
            counts[name] += len(given) if name == "image_parts" else len(next(iter(given.values())))
            return real(given)

        monkeypatch.setattr(student, name, counted)
    found = encode(student, split, CONFIG)
    assert counts == {"image_parts": split.num_images, "text_parts": len(set(split.texts))}
    assert set(found.image) == set(found.text) == {"cross", "uni"}
    for space, row in alone.items():
        np.testing.assert_allclose(found.image[space][0], row.numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", ["sgraf", "x2vlm", "blip"])
def test_evaluated_with_its_own_score_and_told_so(split: Split, kind: str, tmp_path: Path) -> None:
    student = _student(kind, split)
    student.save(tmp_path / "model")
    config = CONFIG.model_copy(update={"bootstrap": 0})
    result = evaluating.run(
        config,
        load=lambda: students.load(tmp_path / "model"),
        student_digest="x",
        split=split,
        out=tmp_path / "eval",
    )
    task = result["tasks"]["cross-modal"]
    assert task["space"] == {"sgraf": "pairs"}.get(kind, "cross, top 3 re-ranked")
    assert evaluate.validate(student, split, config)["rsum"] == pytest.approx(task["metrics"]["rsum"], abs=1e-3)
    if kind != "sgraf":
        plain = evaluating.run(
            config.model_copy(update={"rerank": 0}),
            load=lambda: students.load(tmp_path / "model"),
            student_digest="x",
            split=split,
            out=tmp_path / "plain",
        )
        assert plain["tasks"]["cross-modal"]["space"] == "cross"


@pytest.mark.parametrize("kind", ["sgraf", "blip", "x2vlm"])
def test_judged_pairs_alone_are_scored_as_one_by_one(split: Split, kind: str) -> None:
    """Pairs in any order, some twice."""
    student = _student(kind, split)
    images, captions = np.array([4, 0, 4, 6, 4, 0]), np.array([3, 3, 0, 13, 3, 1])
    of_pairs = pairs.scored if kind == "sgraf" else pairs.matched
    scores = of_pairs(student, split, images, captions, config=CONFIG)
    with torch.no_grad():
        for score, image, caption in zip(scores, images, captions, strict=True):
            parts = _parts(student, split, image, caption)
            if kind == "sgraf":
                alone = float(student.pair_scores(*parts))
            else:
                logits = student.match(*parts)[0]
                alone = float(logits[1] - logits[0])
            assert score == pytest.approx(alone, abs=1e-5)
