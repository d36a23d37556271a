import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

from cusa.errors import ConfigError, DataError
from cusa.models import student as students
from cusa.models.config import SgrafConfig, StudentConfig
from cusa.models.students.regions import GridFeatures, patches
from cusa.models.students.sgraf import Sgraf

CAPTIONS = ["A red square.", "a blue circle, left of a red square", "Two green triangles!", "a yellow star on grass"]
SETTINGS = SgrafConfig(regions=9, region_width=5, word_width=6, width=8, similarity_width=4, steps=2, min_count=1)


def _make(uni: bool = True, seed: int = 0, **settings: Any) -> Sgraf:
    config = StudentConfig(kind="sgraf", sgraf=SETTINGS.model_copy(update=settings))
    student = students.create(config, captions=CAPTIONS, uni=uni, seed=seed)
    assert isinstance(student, Sgraf)
    return student


def _picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8))


def _regions(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 5)).astype(np.float32)


def test_regions_of_a_shard_may_be_fewer() -> None:
    student = _make().eval()
    arrays = torch.from_numpy(np.stack([student.image_array(_regions(n, n)) for n in (9, 4)]))
    tokens = student.tokenize(CAPTIONS[:3])
    with torch.no_grad():
        both = student.pair_scores(student.image_parts(student.pixels(arrays)), student.text_parts(tokens))
        for row in range(2):
            alone = student.pair_scores(student.image_parts(arrays[row : row + 1]), student.text_parts(tokens))
            torch.testing.assert_close(alone[0], both[row], rtol=1e-5, atol=1e-6)
    assert both.shape == (2, 3)


@pytest.mark.parametrize("shape", [(9, 6), (10, 5), (0, 5), (9, 5, 1)])
def test_regions_of_the_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="expected 1 to 9 rows of 5 numbers"):
        _make().image_array(np.zeros(shape, np.float32))


def test_pictures_where_regions_are_expected_and_the_other_way_round() -> None:
    with pytest.raises(DataError, match="Set it to 'patches'"):
        _make().image_array(_picture())
    with pytest.raises(DataError, match="reads pictures"):
        _make(regions_from="patches").image_array(_regions(9))


def test_patches_are_cut_row_by_row() -> None:
    pixels = torch.randn(2, 3, 6, 6)
    cut = patches(pixels, 2)
    assert cut.shape == (2, 9, 12)
    torch.testing.assert_close(cut[1, 5], pixels[1, :, 2:4, 4:6].flatten())


@pytest.mark.parametrize("kind", ["dino", "clip"])
def test_grid_features_of_a_vision_model_are_regions(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 24,
        "patch_size": 4,
    }
    model: Any
    if kind == "dino":
        model = Dinov2Model(Dinov2Config(**sizes))
    else:
        model = CLIPVisionModel(CLIPVisionConfig(**sizes, intermediate_size=32))
    model.eval().save_pretrained(tmp_path / "vision")
    student = _make(regions_from=str(tmp_path / "vision"))
    assert isinstance(student.extractor, GridFeatures)
    pixels = student.pixels(torch.from_numpy(student.image_array(_picture())[None]))
    assert pixels.shape == (1, 3, 24, 24)
    features = student.extractor(pixels)
    with torch.no_grad():
        hidden = model(pixel_values=pixels).last_hidden_state[:, 1:]
    grid = hidden.reshape(1, 3, 2, 3, 2, 16).mean((2, 4)).reshape(1, 9, 16)  # 6 x 6 patches in cells of 2 x 2
    torch.testing.assert_close(features, grid, rtol=1e-5, atol=1e-5)
    # Frozen, saved with the student, and the same after loading.
    assert not any(p.requires_grad for p in student.extractor.parameters())
    student.train()
    assert not student.extractor.model.training
    student.eval().save(tmp_path / "model")
    again = students.load(tmp_path / "model")
    torch.testing.assert_close(
        again.encode_image(again.pixels(torch.from_numpy(again.image_array(_picture())[None]))),
        student.encode_image(pixels),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("module", ["sgr", "saf"])
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, module: str) -> None:
    student = _make(module=module, regions_from="patches").eval()
    student.save(tmp_path / "model")
    again = students.load(tmp_path / "model")
    arrays = torch.from_numpy(np.stack([student.image_array(_picture(n)) for n in range(3)]))
    with torch.no_grad():
        out, other = (s(s.pixels(arrays), s.tokenize(CAPTIONS[:3])) for s in (student, again))
    assert set(out) == {"similarity", "image_uni", "text_uni"}
    for name, value in out.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=0)


def test_an_ensemble_averages_its_members(tmp_path: Path) -> None:
    sgr, saf = _make(module="sgr").eval(), _make(module="saf", seed=1).eval()
    both = Sgraf.ensemble(sgr, saf)
    arrays = torch.from_numpy(np.stack([sgr.image_array(_regions(9, n)) for n in range(3)]))
    tokens = sgr.tokenize(CAPTIONS[:3])
    with torch.no_grad():
        outputs = [student(arrays, tokens) for student in (sgr, saf, both)]
    torch.testing.assert_close(outputs[2]["similarity"], (outputs[0]["similarity"] + outputs[1]["similarity"]) / 2)
    uni = [item["image_uni"] @ item["image_uni"].T for item in outputs]
    torch.testing.assert_close(uni[2], (uni[0] + uni[1]) / 2, rtol=1e-5, atol=1e-6)
    both.save(tmp_path / "both")
    with torch.no_grad():
        again = students.load(tmp_path / "both")(arrays, tokens)
    torch.testing.assert_close(again["similarity"], outputs[2]["similarity"], rtol=0, atol=0)
    with pytest.raises(ConfigError, match="one SGR and one SAF"):
        Sgraf.ensemble(sgr, _make(module="sgr"))
    with pytest.raises(ConfigError, match="differ in network"):
        Sgraf.ensemble(sgr, _make(module="saf", width=12))


@pytest.mark.parametrize("key", ["network", "regions_from", "preprocess", "text", "uni"])
def test_an_ensemble_is_of_students_of_the_same_data_and_sizes(key: str) -> None:
    sgr, saf = _make(module="sgr"), _make(module="saf")
    saf.card[key] = "other"
    with pytest.raises(ConfigError, match=f"The two students differ in {key}: .* and other"):
        Sgraf.ensemble(sgr, saf)
    config = StudentConfig(kind="sgraf", sgraf=SETTINGS.model_copy(update={"module": "saf"}))
    words = [caption.replace("star", "moon") for caption in CAPTIONS]
    other = students.create(config, captions=words, uni=True, seed=0)
    assert isinstance(other, Sgraf)
    assert other.card["network"] == sgr.card["network"]
    for first, second in ((sgr, other), (other, _make(module="sgr"))):
        with pytest.raises(ConfigError, match="different vocabularies"):
            Sgraf.ensemble(first, second)


@pytest.mark.parametrize("kind", ["sgraf", "x2vlm", "blip"])
def test_new_uni_modal_layers_are_drawn_as_wide_as_the_recipe_says(kind: str) -> None:
    sizes = {"image_size": 16, "patch_size": 8, "image_width": 64, "text_width": 64, "head_width": 32, "width": 64}
    small = SETTINGS.model_copy(update={"width": 64})
    config = StudentConfig.model_validate({"kind": kind, "sgraf": small, "head_std": 0.5, **sizes})
    student: Any = students.create(config, captions=CAPTIONS, uni=True, seed=0)
    for layer in student.uni.modules():
        if isinstance(layer, torch.nn.Linear):
            assert float(layer.weight.detach().std()) == pytest.approx(0.5, rel=0.05)


def test_the_references_vocabulary_keeps_its_ids(tmp_path: Path) -> None:
    words = ["<pad>", "<start>", "<end>", "<unk>", "a", "red", "square"]
    content = {
        "word2idx": {word: number for number, word in enumerate(words)},
        "idx2word": {str(number): word for number, word in enumerate(words)},
        "idx": len(words),
    }
    path = tmp_path / "coco_precomp_vocab.json"
    path.write_text(json.dumps(content))
    student = _make(vocabulary=str(path))
    tokens = student.tokenize(["A red, red circle"])
    assert tokens["input_ids"].tolist() == [[1, 4, 5, 5, 3, 2]]
    assert len(student.networks["sgr"].txt_enc.embed.weight) == 7  # type: ignore[union-attr, arg-type]
    assert student._tokenizer.get_vocab() == content["word2idx"]
    for broken in ("no json", '{"words": 1}', '{"word2idx": {"<pad>": 0, "a": 5}}'):
        path.write_text(broken)
        with pytest.raises(DataError, match="vocabulary|the ids must be"):
            _make(vocabulary=str(path))


def test_rare_words_are_unknown_and_too_many_are_remarked() -> None:
    student = _make(min_count=2)
    assert student.remarks() == ()
    student.tokenize(["a red square", "two zebras drink"])
    (said,) = student.remarks()
    assert "50.0% of the words read (3 of 6)" in said
    assert "student.sgraf.min_count" in said
    at_the_bound = _make(min_count=2, max_unknown=0.5)
    at_the_bound.tokenize(["a red square", "two zebras drink"])
    assert at_the_bound.remarks() == ()


def test_captions_that_are_cut_are_counted() -> None:
    student = _make()
    student.tokenize(["red " * 60, "red"])
    student.tokenize(["blue"])
    assert student.truncated == 1, "of all calls"
    assert "of 3 captions read (each time counted) 1 (33.3%) had more than" in student.remarks()[0]


@pytest.mark.parametrize("negatives", ["hardest", "all"])
def test_the_hinge_loss_is_the_recipe_s(negatives: str) -> None:
    student = _make(margin=0.35, negatives=negatives)
    scores = torch.rand(4, 4, generator=torch.Generator().manual_seed(2))
    ids, rows = [0, 1, 0, 2], scores.tolist()
    total = 0.0
    for i in range(4):
        others = [j for j in range(4) if ids[j] != ids[i]]
        of_image = [max(0.0, 0.35 + rows[i][j] - rows[i][i]) for j in others]
        of_text = [max(0.0, 0.35 + rows[j][i] - rows[i][i]) for j in others]
        total += (max(of_image) + max(of_text)) if negatives == "hardest" else sum(of_image) + sum(of_text)
    found = student.base_loss({"similarity": scores}, image_ids=torch.tensor(ids))
    assert {name: float(term) for name, term in found.items()} == {"hinge": pytest.approx(total, rel=1e-6)}


def test_the_networks_sizes_are_the_recipe_s() -> None:
    student = _make(module="sgr", width=12, word_width=7, similarity_width=5, steps=3, dropout=0.3, region_width=6)
    network: Any = student.networks["sgr"]
    assert tuple(network.img_enc["fc"].weight.shape) == (12, 6)
    assert tuple(network.txt_enc.embed.weight.shape) == (len(student._tokenizer), 7)
    assert len(network.sim_enc.SGR_module) == 3
    assert network.sim_enc.sim_tranloc_w.out_features == 5
    dropouts = {module.p for module in network.modules() if isinstance(module, torch.nn.Dropout)}
    assert dropouts == {0.3}
    assert network.sim_enc.v_global_w.embedding_local[1].num_features == 9
    assert student.width == 12
    patches_of = _make(regions_from="patches", regions=16, patch=3)
    assert patches_of.preprocess is not None
    assert (patches_of.preprocess.size, patches_of.preprocess.fit) == (12, "squash")
    assert patches_of.networks["sgr"].img_enc["fc"].in_features == 27  # type: ignore[union-attr, index]


def test_embed__is_the_pooled_vector_and_in_uni_its_layer() -> None:
    for uni in (True, False):
        student = _make(uni=uni).eval()
        arrays = torch.from_numpy(np.stack([student.image_array(_regions(9, n)) for n in range(3)]))
        tokens = student.tokenize(CAPTIONS[:3])
        with torch.no_grad():
            for modality, parts in (("image", student.image_parts(arrays)), ("text", student.text_parts(tokens))):
                pooled = parts["global.sgr"]
                assert torch.equal(student.embed(parts, "cross", modality), torch.nn.functional.normalize(pooled))  # type: ignore[arg-type]
                if uni:
                    layer: Any = student.uni["sgr"][modality]  # type: ignore[index]
                    pooled = pooled @ layer.weight.T + layer.bias
                expected = pooled / pooled.norm(dim=1, keepdim=True)
                torch.testing.assert_close(student.embed(parts, "uni", modality), expected)  # type: ignore[arg-type]


def test_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="square number"):
        _make(regions_from="patches", regions=10)
    with pytest.raises(ConfigError, match=r"student\.name=scratch"):
        students.create(StudentConfig(kind="sgraf", name="openai/clip"), captions=CAPTIONS, uni=False, seed=0)
    with pytest.raises(DataError, match="there is no such folder"):
        _make(regions_from=str(tmp_path / "nowhere"))
