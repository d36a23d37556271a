"""COCO's four ground truths against the numbers of the eccv_caption package, and against plain loops on cut files."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cusa.errors import DataError
from cusa.eval.config import EvalConfig
from cusa.eval.scores import Cosines
from cusa.eval.tasks import coco
from cusa.manifests.judgements import eccv_truth

CONFIG = EvalConfig()


def _whole() -> eccv_truth.GroundTruths:
    folder = eccv_truth.official_folder()
    assert folder is not None
    return eccv_truth.read(folder)


def _embeddings(truths: eccv_truth.GroundTruths, told: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Build the embeddings as the golden recipe says, in float64."""
    own = truths.text_to_image["coco"]
    image_ids = list(dict.fromkeys(own[int(number)][0] for number in truths.caption_ids))
    row = {number: at for at, number in enumerate(image_ids)}
    caption_row = {int(number): at for at, number in enumerate(truths.caption_ids)}
    owner = np.array([row[own[int(number)][0]] for number in truths.caption_ids])
    generator = np.random.Generator(np.random.PCG64(told["seed"]))
    base = generator.standard_normal((len(image_ids), told["dim"]))
    noise = generator.standard_normal((len(owner), told["dim"]))
    images, texts = base.copy(), base[owner] + told["noise"] * noise
    if told["structured"]:
        for image, captions in truths.image_to_text["eccv"].items():
            there = [owner[caption_row[caption]] for caption in captions if caption in caption_row]
            images[row[image]] += base[there].mean(0)
        for caption, matches in truths.text_to_image["eccv"].items():
            if caption in caption_row:
                texts[caption_row[caption]] += 0.8 * base[[row[image] for image in matches]].mean(0)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, texts)]
    return unit[0], unit[1], image_ids


@pytest.mark.parametrize("case", ["plain", "structured"])
def test_score__equals_the_package_on_the_official_files(golden: Path, case: str) -> None:
    told = json.loads((golden / f"03_crossmodal/eccv_{case}.json").read_text())
    truths = _whole()
    images, texts, image_ids = _embeddings(truths, told)
    np.testing.assert_allclose(images[0, :3], told["embedding_checks"]["I_0_3"], atol=1e-9)
    gallery = coco.Gallery(truths, image_ids, truths.caption_ids.tolist())
    found = {scored.name: scored.numbers for scored in coco.score(Cosines(images, texts), gallery, truths, CONFIG)}
    expected = told["expected"]["topK_50"]
    names = {"i2t": "image-to-text", "t2i": "text-to-image"}
    compared = 0

    def check(task: str, metric: str, share: float) -> None:
        assert found[task][metric] == pytest.approx(100 * share, abs=1e-7)

    for short, direction in names.items():
        for k in (1, 5, 10):
            check("coco-5k", f"{direction}/r@{k}", expected[f"coco_5k_r{k}"][short])
            check("cxc", f"{direction}/r@{k}", expected[f"cxc_r{k}"][short])
            check("coco-1k", f"{direction}/r@{k}", told["expected"]["coco_1k"][f"coco_1k_r{k}"][short])
            compared += 3
        for ours, theirs in (("r@1", "eccv_r1"), ("r_precision", "eccv_rprecision"), ("map_at_r", "eccv_map_at_r")):
            check("eccv-caption", f"{direction}/{ours}", expected[theirs][short])
            compared += 1
    assert compared == 24


def test_read__the_official_files_have_their_published_sizes(golden: Path) -> None:
    counts = json.loads((golden / "03_crossmodal/eccv_plain.json").read_text())["ground_truth_counts"]
    truths = _whole()
    assert len(truths.caption_ids) == 25_000
    for name, sizes in counts.items():
        for direction, matches in (("i2t", truths.image_to_text[name]), ("t2i", truths.text_to_image[name])):
            assert len(matches) == sizes[direction]["queries"]
            assert sum(map(len, matches.values())) == sizes[direction]["positives"]


def test_score__cut_files_equal_plain_loops(shared: Path) -> None:
    truths = eccv_truth.read(shared / "data/coco-mini/eccv_caption")
    image_ids = sorted(truths.image_to_text["coco"])
    captions = truths.caption_ids.tolist()
    rng = np.random.default_rng(0)
    images, texts = rng.standard_normal((len(image_ids), 8)), rng.standard_normal((len(captions), 8))
    gallery = coco.Gallery(truths, image_ids, captions)
    found = {scored.name: scored for scored in coco.score(Cosines(images, texts), gallery, truths, CONFIG)}
    precisions, averages = [], []
    for image, right in truths.image_to_text["eccv"].items():
        scores = texts @ images[image_ids.index(image)]
        ranked = [captions[row] for row in np.argsort(-scores)]
        hits = [answer in right for answer in ranked[: len(right)]]
        precisions.append(sum(hits) / len(right))
        averages.append(sum(sum(hits[: at + 1]) / (at + 1) for at, hit in enumerate(hits) if hit) / len(right))
    numbers = found["eccv-caption"].numbers
    assert numbers["image-to-text/r_precision"] == pytest.approx(100 * np.mean(precisions))
    assert numbers["image-to-text/map_at_r"] == pytest.approx(100 * np.mean(averages))
    assert len(found["eccv-caption"].image_queries) == 51
    assert [image_ids[row] for row in found["cxc"].image_queries] == gallery.image_ids


def test_score__pmrp_equals_the_packages(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data/coco-mini/eccv_caption"
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    own, rng = eccv_truth.read(folder), np.random.default_rng(0)
    image_ids, captions = sorted(own.image_to_text["coco"]), own.caption_ids.tolist()
    shown = {number: int(rng.integers(12)) for number in image_ids}  # what each image shows, as a rule would say
    of_caption = {caption: shown[own.text_to_image["coco"][caption][0]] for caption in captions}
    to_text = {image: [one for one in captions if of_caption[one] == what] for image, what in shown.items()}
    to_image = {one: [image for image, what in shown.items() if what == of_caption[one]] for one in captions}
    (tmp_path / "pm_image_to_caption.json").write_text(json.dumps(to_text))
    (tmp_path / "pm_caption_to_image.json").write_text(json.dumps(to_image))
    truths = eccv_truth.read(tmp_path)
    images, texts = rng.standard_normal((len(image_ids), 8)), rng.standard_normal((len(captions), 8))
    gallery = coco.Gallery(truths, image_ids, captions)
    scored = {one.name: one for one in coco.score(Cosines(images, texts), gallery, truths, CONFIG)}
    numbers = scored["plausible-matches"].numbers
    assert numbers.keys() == {"image-to-text/pmrp", "text-to-image/pmrp"}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package warns of what it would like to have installed
        from eccv_caption import Metrics

        official = Metrics()
        official.set_pm_gts(str(tmp_path / "pm_image_to_caption.json"), str(tmp_path / "pm_caption_to_image.json"))
    scores = images @ texts.T
    ranked = {
        "i2t": {image: [captions[at] for at in np.argsort(-row)] for image, row in zip(image_ids, scores, strict=True)},
        "t2i": {one: [image_ids[at] for at in np.argsort(-row)] for one, row in zip(captions, scores.T, strict=True)},
    }
    expected = official.pmrp(ranked, "all")
    assert numbers["image-to-text/pmrp"] == pytest.approx(100 * expected["i2t"])
    assert numbers["text-to-image/pmrp"] == pytest.approx(100 * expected["t2i"])


def test_gallery__a_split_that_lacks_something_is_refused_with_what_it_has(shared: Path) -> None:
    truths = eccv_truth.read(shared / "data/coco-mini/eccv_caption")
    image_ids, captions = sorted(truths.image_to_text["coco"]), truths.caption_ids.tolist()
    with pytest.raises(DataError, match=r"199 of the 200 images and 1,000 of the 1,000 captions"):
        coco.Gallery(truths, image_ids[1:], captions)
    with pytest.raises(DataError, match=r"999 of the 1,000 captions"):
        coco.Gallery(truths, image_ids, [-1, *captions[1:]])


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("coco_test_ids.npy", b"no array", "cannot be read"),
        ("eccv_image_to_caption.json", b"[1, 2]", "ECCV Caption's layout"),
        ("cxc_caption_to_image.json", b'{"1": ["x"]}', "ECCV Caption's layout"),
        ("original_image_to_caption.json", b"{", "original_image_to_caption.json"),
    ],
)
def test_read__a_broken_file_is_named(shared: Path, tmp_path: Path, file: str, content: bytes, words: str) -> None:
    for path in (shared / "data/coco-mini/eccv_caption").iterdir():
        (tmp_path / path.name).write_bytes(content if path.name == file else path.read_bytes())
    with pytest.raises(DataError, match=words):
        eccv_truth.read(tmp_path)
    assert eccv_truth.is_ground_truth(tmp_path)
