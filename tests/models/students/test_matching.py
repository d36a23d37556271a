"""X2-VLM and BLIP as students: saved and loaded, from checkpoints, and BLIP against Hugging Face's own forward."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from cusa.errors import DataError
from cusa.models import student as students
from cusa.models.config import MatchingConfig, StudentConfig
from cusa.models.students.blip import Blip
from cusa.models.students.matching import take
from cusa.models.students.x2vlm import X2vlm

CAPTIONS = ["A red square.", "a blue circle, left of a red square", "Two green triangles!", "a yellow star on grass"]
SMALL = StudentConfig(
    kind="x2vlm",
    image_size=16,
    patch_size=8,
    image_width=16,
    image_layers=1,
    text_width=16,
    text_layers=1,
    head_width=8,
    width=12,
)


def _make(kind: str, *, uni: bool = True, seed: int = 0, **settings: Any) -> Any:
    config = SMALL.model_copy(update={"kind": kind, **settings})
    return students.create(config, captions=CAPTIONS, uni=uni, seed=seed).eval()


def _inputs(student: students.Student) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in CAPTIONS]
    return torch.stack([student.image_transform(picture) for picture in pictures]), student.tokenize(CAPTIONS)


@pytest.mark.parametrize("kind", ["x2vlm", "blip"])
@pytest.mark.parametrize("uni", [False, True])
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, kind: str, uni: bool) -> None:
    student = _make(kind, uni=uni)
    student.save(tmp_path / "model")
    again = students.load(tmp_path / "model")
    assert type(again) is type(student)
    pixels, tokens = _inputs(student)
    with torch.no_grad():
        out, other = student(pixels, tokens), again(pixels, tokens)
        for name in ("image", "text", *(("image_uni", "text_uni") if uni else ())):
            torch.testing.assert_close(other[name], out[name], rtol=0, atol=0)
            modality, _, space = name.partition("_")
            alone = getattr(student, f"encode_{modality}")(pixels if modality == "image" else tokens, space or "cross")
            torch.testing.assert_close(alone, out[name], rtol=1e-5, atol=1e-6)
        matched = student.match(out["image_parts"], out["text_parts"])
        torch.testing.assert_close(again.match(other["image_parts"], other["text_parts"]), matched, rtol=0, atol=0)
    assert matched.shape == (4, 2)
    assert student.space_of("uni-modal")[0] == ("uni" if uni else "cross")


@pytest.mark.parametrize("kind", ["x2vlm", "blip"])
def test_padding_changes_nothing(kind: str) -> None:
    student = _make(kind)
    pixels, tokens = _inputs(student)
    alone = student.tokenize(CAPTIONS[:1])
    with torch.no_grad():
        torch.testing.assert_close(student.encode_text(alone)[0], student.encode_text(tokens)[0], rtol=1e-5, atol=1e-6)
        images = student.image_parts(pixels)
        first = student.match(take(images, torch.tensor([0])), student.text_parts(alone))
        whole = student.match(images, student.text_parts(tokens))
    torch.testing.assert_close(first[0], whole[0], rtol=1e-5, atol=1e-5)


def test_blip_equals_hugging_face(tmp_path: Path) -> None:
    student = _make("blip", uni=False)
    assert isinstance(student, Blip)
    pixels, tokens = _inputs(student)
    with torch.no_grad():
        cosine = student.model(pixel_values=pixels, use_itm_head=False, **tokens).itm_score
        torch.testing.assert_close(
            student.encode_image(pixels) @ student.encode_text(tokens).T, cosine, rtol=1e-5, atol=1e-5
        )
        matched = student.model(pixel_values=pixels, use_itm_head=True, **tokens).itm_score
        torch.testing.assert_close(
            student.match(student.image_parts(pixels), student.text_parts(tokens)), matched, rtol=1e-5, atol=1e-5
        )
    # And from a folder that Hugging Face wrote.
    student.model.save_pretrained(tmp_path / "hf")
    student._tokenizer.save_pretrained(tmp_path / "hf")
    read = _make("blip", name=str(tmp_path / "hf"))
    with torch.no_grad():
        torch.testing.assert_close(read.encode_image(pixels), student.encode_image(pixels))
    with pytest.raises(DataError, match="cannot be loaded as BLIP"):
        _make("blip", name=str(tmp_path))


@pytest.mark.parametrize("kind", ["x2vlm", "blip"])
def test_image_array__is_the_whole_picture_scaled_to_a_square(kind: str) -> None:
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 60, 3), dtype=np.uint8))
    squashed = np.asarray(picture.resize((16, 16), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    np.testing.assert_array_equal(_make(kind).image_array(picture), squashed)


def test_blip_s_revision_is_the_recipe_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    from cusa.models.teachers import hub

    made = _make("blip", uni=False)
    asked: list[tuple[str, Any]] = []
    monkeypatch.setattr(hub, "_unreachable", lambda: "")
    for loader, loaded in (("BlipForImageTextRetrieval", made.model), ("AutoTokenizer", made._tokenizer)):

        def load(name: str, loaded: Any = loaded, **told: Any) -> Any:
            asked.append((name, told.get("revision")))
            return loaded

        monkeypatch.setattr(getattr(transformers, loader), "from_pretrained", load)
    _make("blip", name="some/blip", revision="v2")
    _make("blip", name="some/blip")
    _make("blip", name=str(tmp_path), revision="v2")
    assert asked == [*[("some/blip", "v2")] * 2, *[("some/blip", None)] * 2, *[(str(tmp_path), None)] * 2]


def test_itc_by_hand() -> None:
    """InfoNCE both ways over all texts of an image, at the learned temperature; ids decide who belongs together."""
    for kind in ("x2vlm", "blip"):
        student = _make(kind, uni=False)
        with torch.no_grad():
            (student.temp if kind == "blip" else student.network.temp).fill_(0.2)
        out = student(*_inputs(student))
        cosine, ids = (out["image"] @ out["text"].T).tolist(), [0, 1, 0, 2]
        total = 0.0
        for matrix in (cosine, [list(column) for column in zip(*cosine, strict=True)]):
            for i, row in enumerate(matrix):
                norm = math.log(sum(math.exp(s / 0.2) for s in row))
                own = [row[j] / 0.2 - norm for j in range(4) if ids[j] == ids[i]]
                total -= sum(own) / len(own)
        got = student.base_loss(out, image_ids=torch.tensor(ids))["itc"]
        assert float(got.detach()) == pytest.approx(total / 8, rel=1e-5)


@pytest.mark.parametrize("kind", ["x2vlm", "blip"])
@pytest.mark.parametrize(("value", "kept"), [(0.0, 0.001), (-1.0, 0.001), (0.07, 0.07), (3.0, 0.5)])
def test_the_temperature_stays_within_its_bounds(kind: str, value: float, kept: float) -> None:
    student = _make(kind, uni=False)
    with torch.no_grad():
        (student.temp if kind == "blip" else student.network.temp).fill_(value)
    assert float(student.temperature().detach()) == pytest.approx(kept)
    student.base_loss(student(*_inputs(student)), image_ids=torch.arange(4))["itc"].backward()
    assert (student.temp if kind == "blip" else student.network.temp).grad is not None


def test_scratch__has_the_sizes_of_the_recipe() -> None:
    sizes = {"image_layers": 2, "text_layers": 3, "image_width": 24, "text_width": 16, "context": 9, "vocabulary": 12}
    blip = _make("blip", **sizes).model.config
    vision, text = blip.vision_config, blip.text_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (24, 2, 3)
    assert (text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (16, 3, 2)
    assert (vision.intermediate_size, text.intermediate_size, text.encoder_hidden_size) == (96, 64, 24)
    assert (vision.image_size, vision.patch_size, blip.image_text_hidden_size) == (16, 8, 12)
    assert (text.vocab_size, text.max_position_embeddings) == (12, 9)
    assert (text.pad_token_id, text.bos_token_id, text.eos_token_id, text.sep_token_id) == (0, 2, 3, 3)
    own = MatchingConfig(fusion_layers=3, dropout=0.25)
    x2vlm = _make("x2vlm", x2vlm=own, **sizes).network.sizes
    assert asdict(x2vlm) == {
        **{"image_size": 16, "patch_size": 8, "vision_width": 24, "vision_layers": 2, "vision_heads": 3},
        **{"text_width": 16, "text_heads": 2, "text_inner": 64, "text_layers": 3, "fusion_layers": 3},
        **{"vocabulary": 12, "positions": 9, "width": 12, "dropout": 0.25, "temperature": 0.07},
    }


def test_an_x2vlm_checkpoint_loads_by_its_names_at_another_resolution(tmp_path: Path) -> None:
    student = _make("x2vlm", uni=False, image_size=32)
    assert isinstance(student, X2vlm)
    torch.manual_seed(1)
    for block in student.network.vision_encoder.blocks:  # type: ignore[union-attr]
        torch.nn.init.normal_(block.attn.relative_position_bias_table)  # type: ignore[union-attr, arg-type]
    state = student.network.state_dict()
    # As pre-training wrote it: BERT under a name of its own, and heads that retrieval has no use for.
    written = {name.replace("text_encoder.", "text_encoder.bert."): value for name, value in state.items()}
    others = ("bbox_head.0.weight", "text_encoder.cls.predictions.bias", "vision_encoder.norm.weight")
    pretraining = dict.fromkeys((*others, "vision_encoder.head.bias"), torch.zeros(2))
    torch.save({"model": {**written, **pretraining}}, tmp_path / "x2vlm.th")
    same_image = _make("x2vlm", uni=False, image_size=32, name=str(tmp_path / "x2vlm.th"))
    pixels, tokens = _inputs(student)
    with torch.no_grad():
        for name, value in student(pixels, tokens).items():
            if name in ("image", "text"):
                torch.testing.assert_close(same_image(pixels, tokens)[name], value, rtol=0, atol=0)
    larger = _make("x2vlm", uni=False, image_size=48, name=str(tmp_path / "x2vlm.th"))
    assert larger.image_parts(torch.zeros(1, 3, 48, 48))["tokens"].shape == (1, 37, 16)


@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape", "kind"])
def test_a_checkpoint_that_does_not_fit_is_explained(golden: Path, tmp_path: Path, damage: str) -> None:
    state = {k: v.clone() for k, v in _make("x2vlm", uni=False).network.state_dict().items()}
    path, words = tmp_path / "x.safetensors", ""
    if damage == "missing":
        del state["vision_proj.bias"]
        words = "1 keys are missing, the first 'vision_proj.bias'"
    elif damage == "unexpected":
        state["vision_projj.bias"] = torch.zeros(2)
        words = "Did you mean 'vision_proj.bias'"
    elif damage == "shape":
        state["text_proj.weight"] = torch.zeros(3, 3)
        words = r"text_proj.weight is \(3, 3\), expected \(12, 16\)"
    else:
        state = load_file(golden / "06_clip" / "clip_tiny_a.safetensors")
        words = "Check student.kind"
    save_file(state, path)
    with pytest.raises(DataError, match=words):
        _make("x2vlm", name=str(path))


@pytest.mark.parametrize("soft", [False, True])
def test_the_matching_loss_by_hand(soft: bool) -> None:
    student = _make("x2vlm", uni=False)
    pixels, tokens = _inputs(student)
    out = student(pixels, tokens)
    ids = torch.tensor([0, 1, 0, 2])
    torch.manual_seed(3)
    # Labels of image i with text j, and of text i with image j; not symmetric, and not each other's transpose.
    of_text, of_image = (
        torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(9)) if soft else torch.zeros(2, 4, 4)
    )
    got = student.base_loss(out, image_ids=ids, match_labels=(of_text, of_image) if soft else None)
    torch.manual_seed(3)
    similarity = (out["image"] @ out["text"].T / student.network.temp).detach()
    negatives = []
    for table in (similarity, similarity.T):
        weights = (table.softmax(1) + 1e-5) * (ids[:, None] != ids)
        negatives.append(torch.multinomial(weights, 1).squeeze(1))
    texts, images = negatives
    total = 0.0
    for i, c, label in [
        *((k, k, 1.0) for k in range(4)),
        *((int(images[k]), k, float(of_image[k, images[k]])) for k in range(4)),
        *((k, int(texts[k]), float(of_text[k, texts[k]])) for k in range(4)),
    ]:
        rows = torch.tensor([i]), torch.tensor([c])
        logits = student.match(take(out["image_parts"], rows[0]), take(out["text_parts"], rows[1]))
        total += float(F.cross_entropy(logits, torch.tensor([[1 - label, label]])).detach())
    assert float(got["itm"].detach()) == pytest.approx(total / 12, rel=1e-5)


@pytest.mark.parametrize("kind", ["x2vlm", "blip"])
def test_captions_that_are_cut_are_counted_over_all_calls(kind: str) -> None:
    student = _make(kind, context=8)
    for texts, cut in ((["red " * 20, "red"], 1), (["red"], 1), (["a " * 30, "red " * 9], 3)):
        student.tokenize(texts)
        assert student.truncated == cut
    assert "of 5 captions read (each time counted) 3 (60.0%) had more than 8 tokens" in student.remarks()[-1]
    raw = _make(kind, captions="none", max_words=1)
    short = _make(kind, max_words=1)
    assert raw.tokenize(["a red square"])["input_ids"].shape == (1, 5)
    assert short.tokenize(["a red square"])["input_ids"].shape == (1, 3)


def test_hub_tokenizers_that_are_not_there(tmp_path: Path) -> None:
    settings = MatchingConfig(size="base", tokenizer=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"student\.x2vlm\.tokenizer is '.*nowhere': there is no such folder"):
        _make("x2vlm", x2vlm=settings)
