import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import CLIPModel

from cusa.errors import ConfigError, DataError
from cusa.manifests.storage import store
from cusa.models import student as students
from cusa.models.config import StudentConfig
from cusa.models.naflex import NaFlex
from cusa.models.students import vocabulary
from cusa.models.students.dual_encoder import DualEncoder
from cusa.models.teachers import hub
from tests import towers

CAPTIONS = ["A red square.", "a blue circle, left of a red square", "Two green triangles!", "a yellow star on grass"]
SMALL = StudentConfig(
    image_size=16, patch_size=8, image_width=16, image_layers=1, text_width=16, text_layers=1, head_width=8, width=12
)


def _make(*, cross: bool = False, uni: bool = True, seed: int = 0) -> students.Student:
    return students.create(SMALL.model_copy(update={"cross_head": cross}), captions=CAPTIONS, uni=uni, seed=seed)


def _pictures(count: int = 4) -> list[Image.Image]:
    rng = np.random.default_rng(5)
    return [Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in range(count)]


def _pixels(student: students.Student) -> torch.Tensor:
    return torch.stack([student.image_transform(picture) for picture in _pictures()])


@pytest.mark.parametrize("cross", [False, True])
def test_forward_equals_each_tower_and_the_heads_by_hand(cross: bool) -> None:
    student = _make(cross=cross).eval()
    assert isinstance(student, DualEncoder)
    pixels, tokens = _pixels(student), student.tokenize(CAPTIONS)
    out = student(pixels, tokens)
    clip = student.backbone
    image = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
    # The text tower's vector is the one at the end mark, found here by counting instead of by its id.
    hidden = clip.text_model(**tokens).last_hidden_state
    last = tokens["attention_mask"].sum(1) - 1
    text = clip.text_projection(hidden[torch.arange(4), last])
    state = student.heads.state_dict()
    for modality, features in (("image", image), ("text", text)):
        for space in ("cross", "uni"):
            rows = features
            if space == "uni" or cross:
                name = f"{space}.{modality}"
                rows = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
                rows = rows @ state[f"{name}.linear.weight"].T + state[f"{name}.linear.bias"]
            rows = rows / rows.norm(dim=1, keepdim=True)
            got = out[modality if space == "cross" else f"{modality}_uni"]
            torch.testing.assert_close(got, rows, rtol=1e-4, atol=1e-5)
            alone = student.encode_image(pixels, space) if modality == "image" else student.encode_text(tokens, space)
            torch.testing.assert_close(alone, got, rtol=1e-5, atol=1e-6)


def test_each_tower_runs_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    student = _make(cross=True)
    assert isinstance(student, DualEncoder)
    calls = []
    for name in ("get_image_features", "get_text_features"):
        real = getattr(student.backbone, name)
        monkeypatch.setattr(
            student.backbone, name, lambda real=real, name=name, **kw: (calls.append(name), real(**kw))[1]
        )
    assert set(student(_pixels(student), student.tokenize(CAPTIONS))) == {"image", "text", "image_uni", "text_uni"}
    assert sorted(calls) == ["get_image_features", "get_text_features"]


def test_padding_does_not_change_a_caption() -> None:
    student = _make().eval()
    alone = student.encode_text(student.tokenize(CAPTIONS[:1]))
    together = student.encode_text(student.tokenize(CAPTIONS))
    torch.testing.assert_close(alone[0], together[0], rtol=1e-5, atol=1e-6)


def test_without_uni_heads_the_spaces_are_one() -> None:
    student = _make(uni=False).eval()
    assert not student.has_uni
    assert student.space_of("uni-modal") == ("cross", "cross (no uni-modal head)")
    pixels = _pixels(student)
    assert set(student(pixels, student.tokenize(CAPTIONS))) == {"image", "text"}
    torch.testing.assert_close(student.encode_image(pixels, "uni"), student.encode_image(pixels, "cross"))
    assert _make(uni=True).space_of("uni-modal") == ("uni", "uni")


def test_new_weights_depend_on_the_seed_alone_and_towers_not_on_heads() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    plain = _make(uni=False).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    headed = _make(uni=True, cross=True).state_dict()
    assert all(torch.equal(headed[name], value) for name, value in plain.items())
    again = _make(uni=True, cross=True).state_dict()
    assert all(torch.equal(again[name], value) for name, value in headed.items())
    other = _make(seed=9).state_dict()
    assert not torch.equal(other["backbone.visual_projection.weight"], plain["backbone.visual_projection.weight"])
    assert abs(float(headed["heads.uni.text.linear.weight"].std()) - 0.02) < 0.004


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("uni", [False, True])
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, cross: bool, uni: bool) -> None:
    student = _make(cross=cross, uni=uni).eval()
    student.save(tmp_path / "run" / "model")
    pixels, tokens = _pixels(student), student.tokenize(CAPTIONS)
    for name in (tmp_path / "run", str(tmp_path / "run" / "model")):
        read = students.load(name)
        assert not read.training
        assert (read.has_uni, read.width, read.name) == (uni, 12, "scratch")
        torch.testing.assert_close(_pixels(read), pixels, rtol=0, atol=0)
        assert {k: v.tolist() for k, v in read.tokenize(CAPTIONS).items()} == {k: v.tolist() for k, v in tokens.items()}
        for key, value in student(pixels, tokens).items():
            torch.testing.assert_close(read(pixels, tokens)[key], value, rtol=0, atol=0)


def test_the_folder_is_one_that_transformers_reads(tmp_path: Path) -> None:
    student = _make(uni=False).eval()
    student.save(tmp_path / "model")
    clip = CLIPModel.from_pretrained(tmp_path / "model").eval()
    pixels, tokens = _pixels(student), student.tokenize(CAPTIONS)
    theirs = F.normalize(clip(pixel_values=pixels, **tokens).text_embeds, dim=-1)
    torch.testing.assert_close(student.encode_text(tokens), theirs, rtol=1e-5, atol=1e-6)


def test_a_hugging_face_folder_is_a_student(tmp_path: Path) -> None:
    student = _make(uni=False).eval()
    student.save(tmp_path / "model")
    (tmp_path / "model" / students.CARD).unlink()
    read = students.load(tmp_path / "model")
    assert not read.has_uni
    tokens = student.tokenize(CAPTIONS)
    torch.testing.assert_close(read.encode_text(tokens), student.encode_text(tokens), rtol=0, atol=0)
    tuned = students.create(SMALL.model_copy(update={"name": str(tmp_path / "model")}), captions=[], uni=True, seed=0)
    assert tuned.has_uni
    assert tuned.training


def test_a_hub_model_s_revision_is_the_recipe_s(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _make(uni=False)
    asked: list[tuple[str, str | None]] = []

    def processor(name: str, where: dict[str, Any]) -> dict[str, Any]:
        asked.append((name, where.get("revision")))
        return {}

    monkeypatch.setattr(hub, "_unreachable", lambda: "")
    monkeypatch.setattr(hub, "image_processor", processor)
    for loader, loaded in (("AutoModel", made.backbone), ("AutoTokenizer", made.tokenizer)):

        def load(name: str, loaded: Any = loaded, **told: Any) -> Any:
            asked.append((name, told.get("revision")))
            return loaded

        monkeypatch.setattr(getattr(transformers, loader), "from_pretrained", load)
    for revision in ("v2", ""):
        config = SMALL.model_copy(update={"name": "some/clip", "revision": revision})
        students.create(config, captions=CAPTIONS, uni=False, seed=0)
    assert asked == [*[("some/clip", "v2")] * 3, *[("some/clip", None)] * 3]


@pytest.mark.parametrize("card", [True, False])
def test_a_folder_whose_weights_were_not_fetched_is_named(tmp_path: Path, card: bool) -> None:
    _make(uni=False).save(tmp_path / "model")
    if not card:
        (tmp_path / "model" / students.CARD).unlink()
    (tmp_path / "model/model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(DataError, match=r"model\.safetensors is a Git LFS pointer.*git lfs pull"):
        students.load(tmp_path / "model")


def test_frozen_temperature_of_the_tower() -> None:
    names = [name for name, parameter in _make().named_parameters() if not parameter.requires_grad]
    assert names == ["backbone.logit_scale"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("no heads", "does not hold the heads"),
        ("other heads", "does not hold the heads"),
        ("cut heads", "does not hold the heads"),
        ("cut weights", "cannot be loaded"),
        ("cut card", "no readable JSON"),
        ("future", "format 99"),
        ("kind", "kind 'sundial'"),
    ],
)
def test_broken_folders_are_refused(tmp_path: Path, damage: str, words: str) -> None:
    folder = tmp_path / "model"
    _make().save(folder)
    card, heads = folder / students.CARD, folder / "heads.safetensors"
    if damage == "no heads":
        heads.unlink()
    elif damage == "other heads":
        save_file({f"x.{name}": value for name, value in load_file(heads).items()}, heads)
    elif damage == "cut heads":
        heads.write_bytes(heads.read_bytes()[:100])
    elif damage == "cut weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    elif damage == "cut card":
        card.write_text(card.read_text()[:20])
    else:
        fields = json.loads(card.read_text())
        card.write_text(json.dumps({**fields, **({"format": 99} if damage == "future" else {"kind": "sundial"})}))
    with pytest.raises(DataError, match=words):
        students.load(folder)


def test_names_that_are_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no .*nowhere"):
        students.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="neither a run nor a model"):
        students.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(DataError, match="not yet saved a model"):
        students.load(tmp_path)


def test_usa_without_its_heads_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"student\.uni_head=auto or loss\.beta=0"):
        students.create(SMALL.model_copy(update={"uni_head": "never"}), captions=CAPTIONS, uni=True, seed=0)


def test_empty_captions_are_refused() -> None:
    with pytest.raises(DataError, match="Nothing is left"):
        _make().tokenize(["a word", "..."])


# Other families: small ones with random weights, saved in the official format. Features are compared with what
# transformers gives for the same folder, input by input.
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
}
FAMILIES = {
    "clip": ("CLIP", {"projection_dim": 12}, {}),
    "metaclip_2": ("MetaClip2", {"projection_dim": 12}, {}),
    "siglip": ("Siglip", {}, {"projection_size": 16}),
    "altclip": ("AltCLIP", {"projection_dim": 12}, {"project_dim": 16}),
    "chinese_clip": ("ChineseCLIP", {"projection_dim": 12}, {}),
}


def _save(family: str, folder: Path) -> Any:
    """Write a model as its authors would: weights, configuration, tokenizer, image processor."""
    name, fields, of_text = FAMILIES[family]
    tokenizer = vocabulary.build(CAPTIONS, size=60, context=20)
    marks = {f"{mark}_token_id": getattr(tokenizer, f"{mark}_token_id") for mark in ("pad", "bos", "eos")}
    config = getattr(transformers, f"{name}Config")(
        text_config={**TEXT, **of_text, "vocab_size": len(tokenizer), **marks}, vision_config=VISION, **fields
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model")(config).eval()
    for parameter in model.parameters():  # some families start nearly at zero, where every caption is the same
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    mean = [0.5, 0.5, 0.5] if family == "siglip" else [0.48, 0.46, 0.41]
    size = {"height": 16, "width": 16} if family == "siglip" else {"shortest_edge": 16}
    store.write_json(folder / "preprocessor_config.json", {"size": size, "image_mean": mean, "image_std": mean})
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_is_a_student_and_stays_itself(family: str, tmp_path: Path) -> None:
    model = _save(family, tmp_path / "official")
    student = students.load(tmp_path / "official")
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in CAPTIONS]
    pixels, tokens = torch.stack([student.image_transform(picture) for picture in pictures]), student.tokenize(CAPTIONS)
    with torch.no_grad():
        image = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        text = F.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
        torch.testing.assert_close(student.encode_image(pixels), image, rtol=0, atol=1e-6)
        torch.testing.assert_close(student.encode_text(tokens), text, rtol=0, atol=1e-6)
        alone = torch.cat([student.encode_text(student.tokenize([caption])) for caption in CAPTIONS])
        torch.testing.assert_close(alone, text, rtol=0, atol=1e-5)
    assert (text[0] - text[1]).abs().max() > 1e-3
    assert image.shape[1] == student.width
    tuned = students.create(
        StudentConfig(name=str(tmp_path / "official"), cross_head=True), captions=[], uni=True, seed=0
    )
    assert set(tuned(pixels, tokens)) == {"image", "text", "image_uni", "text_uni"}
    for modality in ("image", "text"):
        assert tuned.tower(modality)  # type: ignore[arg-type]
    tuned.eval().save(tmp_path / "tuned")
    again = students.load(tmp_path / "tuned")
    with torch.no_grad():
        torch.testing.assert_close(again.encode_text(tokens, "uni"), tuned.encode_text(tokens, "uni"), rtol=0, atol=0)


@pytest.mark.parametrize(("captions", "read"), [("clean", "a red"), ("none", "A Red, round dog!")])
def test_create__captions_are_prepared_as_the_recipe_says_whatever_it_starts_from(
    tmp_path: Path, captions: str, read: str
) -> None:
    _save("clip", tmp_path / "official")
    _make().save(tmp_path / "run/model")
    for name in ("scratch", str(tmp_path / "official"), str(tmp_path / "run")):
        config = SMALL.model_copy(update={"name": name, "captions": captions, "max_words": 2})
        student = students.create(config, captions=CAPTIONS, uni=True, seed=0)
        assert isinstance(student, DualEncoder)
        assert student.cleaned(["A Red, round dog!"]) == [read]
        student.save(tmp_path / "saved")
        again = students.load(tmp_path / "saved")
        assert again.tokenize(["A Red, round dog!"])["input_ids"].tolist() == (
            student.tokenize(["A Red, round dog!"])["input_ids"].tolist()
        )


def test_what_the_losses_have_of_their_own_does_not_learn_in_a_siglip(tmp_path: Path) -> None:
    _save("siglip", tmp_path / "official")
    student = students.load(tmp_path / "official")
    still = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
    assert still == {"backbone.logit_scale", "backbone.logit_bias"}


@pytest.fixture
def naflex(tmp_path: Path) -> Path:
    return towers.write_image("siglip2", tmp_path / "naflex")


@pytest.fixture(scope="module")
def photographs(shared: Path) -> list[Image.Image]:
    mini = shared / "data" / "coco-mini"
    rows = json.loads((mini / "dataset_coco.json").read_text())["images"][:3]
    whole = [Image.open(mini / row["filepath"] / row["filename"]).convert("RGB") for row in rows]
    return [*whole, whole[0].crop((0, 0, 600, 40)), whole[1].crop((10, 5, 50, 420)), whole[2].crop((0, 0, 5, 4))]


def test_naflex__embeddings_are_those_of_transformers_own_model_and_processor(
    naflex: Path, photographs: list[Image.Image]
) -> None:
    model = transformers.Siglip2Model.from_pretrained(naflex).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(naflex)
    assert type(processor).__name__ == "Siglip2ImageProcessorPil"
    student = students.load(naflex)
    pixels, tokens = torch.stack([student.image_transform(one) for one in photographs]), student.tokenize(CAPTIONS)
    with torch.no_grad():
        image = F.normalize(model.get_image_features(**processor(photographs, return_tensors="pt")).pooler_output)
        text = F.normalize(model.get_text_features(**tokens).pooler_output)
        torch.testing.assert_close(student.encode_image(pixels), image, rtol=0, atol=1e-6)
        torch.testing.assert_close(student.encode_text(tokens), text, rtol=0, atol=1e-6)
        alone = torch.cat([student.encode_image(one[None]) for one in pixels])
        torch.testing.assert_close(alone, image, rtol=0, atol=1e-6)  # whatever neighbours its batch has
        again = students.load(naflex)
        again.read_patches(40, key="eval.max_patches")
        processor.max_num_patches = 40
        finer = F.normalize(model.get_image_features(**processor(photographs, return_tensors="pt")).pooler_output)
        more = torch.stack([again.image_transform(one) for one in photographs])
        torch.testing.assert_close(again.encode_image(more), finer, rtol=0, atol=1e-6)
    assert (image[0] - image[1]).abs().max() > 1e-2
    assert (finer - image).abs().max() > 1e-3
    assert tokens["input_ids"].shape == (4, 12)


def test_naflex__a_student_of_other_patches_is_saved_and_tuned_further(
    naflex: Path, tmp_path: Path, photographs: list[Image.Image]
) -> None:
    wish = StudentConfig(name=str(naflex), cross_head=True, max_patches=40, max_tokens=9)
    tuned = students.create(wish, captions=[], uni=True, seed=0)
    pixels, tokens = torch.stack([tuned.image_transform(one) for one in photographs]), tuned.tokenize(CAPTIONS)
    assert pixels.shape == (6, 41, 192)
    assert tokens["input_ids"].shape == (4, 9)
    assert tuned.patches() is None
    out = tuned(pixels[:4], tokens)
    out["image"].sum().backward()
    assert all(one.grad is not None for name, one in tuned.named_parameters() if ".vision_model." in name)
    tuned.eval().save(tmp_path / "tuned")
    again = students.load(tmp_path / "tuned")
    with torch.no_grad():
        expected = tuned.encode_image(pixels, "uni")
        assert torch.equal(
            again.encode_image(torch.stack([again.image_transform(one) for one in photographs]), "uni"), expected
        )
    further = students.create(StudentConfig(name=str(tmp_path / "tuned")), captions=[], uni=True, seed=0)
    assert isinstance(further, DualEncoder)
    assert (further.card["preprocess"]["max_patches"], further.card["text"]["context"]) == (40, 9)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_patches": 257}, r"student\.max_patches is 257.*positions for 16 patches.*256 at most"),
        ({"max_tokens": 13}, r"student\.max_tokens is 13.*reads 12 at most"),
    ],
)
def test_naflex__more_than_it_has_positions_for(naflex: Path, settings: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        students.create(StudentConfig(name=str(naflex), **settings), captions=[], uni=False, seed=0)  # type: ignore[arg-type]


def test_naflex__a_chosen_number_is_refused_where_pictures_have_one_size(tmp_path: Path) -> None:
    _save("clip", tmp_path / "clip")
    with pytest.raises(ConfigError, match=r"student\.max_patches is 9.*reads squares of 16 pixels"):
        students.create(StudentConfig(name=str(tmp_path / "clip"), max_patches=9), captions=[], uni=False, seed=0)
    with pytest.raises(ConfigError, match=r"eval\.max_patches is 9.*reads squares of 16 pixels"):
        students.load(tmp_path / "clip").read_patches(9, key="eval.max_patches")
    sgraf = students.create(StudentConfig(kind="sgraf"), captions=CAPTIONS, uni=False, seed=0)
    with pytest.raises(ConfigError, match="a Sgraf does not read pictures as a chosen number of patches"):
        sgraf.read_patches(9, key="eval.max_patches")


def test_naflex__files_that_do_not_belong_together(naflex: Path) -> None:
    size = {"height": 16, "width": 16}
    fixed = {"image_processor_type": "SiglipImageProcessor", "size": size, "image_mean": [0.5] * 3}
    store.write_json(naflex / "preprocessor_config.json", fixed)
    with pytest.raises(DataError, match="reads any number of patches.*one of a fixed size"):
        students.load(naflex)
    # Where transformers 5 writes it for models of images and texts.
    (naflex / "preprocessor_config.json").unlink()
    store.write_json(naflex / "processor_config.json", {"image_processor": towers.naflex_processor(20).to_dict()})
    assert students.load(naflex).preprocess == NaFlex(20, 8)  # type: ignore[comparison-overlap]


def test_naflex__its_text_half_alone_is_no_student(tmp_path: Path, naflex: Path) -> None:
    transformers.Siglip2Model.from_pretrained(naflex).text_model.save_pretrained(tmp_path / "text")
    vocabulary.build(CAPTIONS, size=60, context=12).save_pretrained(tmp_path / "text")
    with pytest.raises(DataError, match="cannot be loaded as a Hugging Face model.*Siglip2TextConfig"):
        students.load(tmp_path / "text")


def test_long_captions_are_read_as_far_as_there_are_positions(tmp_path: Path) -> None:
    """A Long-CLIP in the layout of Hugging Face's CLIP: 248 positions, and a tokenizer that still says 77."""
    tokenizer = vocabulary.build(CAPTIONS, size=60, context=77)
    marks = {f"{mark}_token_id": getattr(tokenizer, f"{mark}_token_id") for mark in ("pad", "bos", "eos")}
    text = {**TEXT, "max_position_embeddings": 248, "vocab_size": len(tokenizer), **marks}
    torch.manual_seed(0)
    model = CLIPModel(transformers.CLIPConfig(projection_dim=12, text_config=text, vision_config=VISION)).eval()
    model.save_pretrained(tmp_path / "long")
    tokenizer.save_pretrained(tmp_path / "long")
    words = " ".join(["a red square left of a blue circle"] * 20)
    student = students.create(StudentConfig(name=str(tmp_path / "long"), max_words=300), captions=[], uni=False, seed=0)
    tokens = student.eval().tokenize([words, "a red square"])
    assert tokens["input_ids"].shape == (2, 162)
    own = tokenizer([words], truncation=True, max_length=248, return_tensors="pt")
    with torch.no_grad():
        expected = F.normalize(model.get_text_features(**own).pooler_output, dim=-1)
        torch.testing.assert_close(student.encode_text(tokens)[:1], expected, rtol=0, atol=1e-5)
    assert student.remarks() == ()
    with pytest.raises(ConfigError, match=r"student\.max_tokens is 249.*reads 248 at most"):
        students.create(StudentConfig(name=str(tmp_path / "long"), max_tokens=249), captions=[], uni=False, seed=0)
    shorter = students.create(
        StudentConfig(name=str(tmp_path / "long"), max_tokens=77, max_words=100), captions=[], uni=False, seed=0
    )
    assert shorter.tokenize([words, "a red square", "a", "b"])["input_ids"].shape == (4, 77)
    assert shorter.remarks() == (
        "Captions were cut: of 4 captions read (each time counted) 1 (25.0%) had more than 77 tokens and 1 (25.0%) had "
        "more than 100 words (student.max_words).",
    )


def test_a_model_that_is_no_dual_encoder_is_refused(tmp_path: Path) -> None:
    transformers.BertModel(
        transformers.BertConfig(
            vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        )
    ).save_pretrained(tmp_path / "bert")
    vocabulary.build(CAPTIONS, size=60, context=20).save_pretrained(tmp_path / "bert")
    with pytest.raises(DataError, match="is a BertModel, which embeds no pairs"):
        students.load(tmp_path / "bert")


def test_siglip_2_of_a_fixed_size_reads_with_its_own_tokenizer(tmp_path: Path) -> None:
    """Its checkpoints are of SigLIP's class; what is new is Gemma's tokenizer: no start mark, filled up to 64 words."""
    letters = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"abcdefghijklmnopqrstuvwxyz,"]
    tokenizer = transformers.GemmaTokenizer(vocab={letter: row for row, letter in enumerate(letters)}, merges=[])
    config = transformers.SiglipConfig(
        text_config={**TEXT, "projection_size": 16, "vocab_size": len(letters), "pad_token_id": 0, "eos_token_id": 1},
        vision_config=VISION,
    )
    torch.manual_seed(0)
    model = transformers.SiglipModel(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "official")
    tokenizer.save_pretrained(tmp_path / "official")
    size = {"height": 16, "width": 16}
    fields = {"size": size, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    store.write_json(tmp_path / "official/preprocessor_config.json", fields)
    student = students.load(tmp_path / "official")
    texts = ["a red square", "two dogs"]
    own = tokenizer(texts, padding="max_length", truncation=True, max_length=24, return_tensors="pt")
    tokens = student.tokenize(texts)
    assert torch.equal(tokens["input_ids"], own["input_ids"])
    assert tokens["input_ids"].shape == (2, 24)
    with torch.no_grad():
        expected = F.normalize(model.get_text_features(input_ids=own["input_ids"]).pooler_output, dim=-1)
        torch.testing.assert_close(student.encode_text(tokens), expected, rtol=0, atol=1e-6)
    assert (expected[0] - expected[1]).abs().max() > 1e-3


@pytest.mark.parametrize("place", ["run", "run/model"])
def test_a_student_goes_on_with_heads_and_preprocessing_of_a_run(place: str, tmp_path: Path) -> None:
    before = _make(cross=True)
    assert isinstance(before, DualEncoder)
    before.card["preprocess"]["mean"] = [0.5, 0.4, 0.3]
    before.save(tmp_path / "run" / "model")
    wanted = SMALL.model_copy(update={"name": str(tmp_path / place), "cross_head": True})
    after = students.create(wanted, captions=CAPTIONS, uni=True, seed=9)
    assert isinstance(after, DualEncoder)
    assert after.preprocess.mean == (0.5, 0.4, 0.3)
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())
    bare = students.create(wanted.model_copy(update={"cross_head": False}), captions=CAPTIONS, uni=False, seed=9)
    assert isinstance(bare, DualEncoder)
    assert not len(bare.heads)
