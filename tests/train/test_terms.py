from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from cusa.errors import ConfigError
from cusa.manifests.samples import Split
from cusa.models import student as students
from cusa.models.config import SgrafConfig, StudentConfig
from cusa.train.config import LossConfig, TemperatureConfig
from cusa.train.losses import CUSALoss, Setting, infonce
from cusa.train.losses.pair_probability import PairProbability, Slope
from cusa.train.terms import cosines, make_loss, match_labels, terms
from tests.towers import write_sentences
from tests.train.conftest import STUDENT, Train
from tests.train.losses import reference

SGRAF = SgrafConfig(
    regions_from="patches", regions=4, patch=6, word_width=8, width=12, similarity_width=6, steps=2, min_count=1
)
KINDS = {
    "sgr": STUDENT.model_copy(update={"kind": "sgraf", "sgraf": SGRAF}),
    "saf": STUDENT.model_copy(update={"kind": "sgraf", "sgraf": SGRAF.model_copy(update={"module": "saf"})}),
    "x2vlm": STUDENT.model_copy(update={"kind": "x2vlm"}),
    "blip": STUDENT.model_copy(update={"kind": "blip"}),
}
OWN = {"sgr": {"hinge"}, "saf": {"hinge"}, "x2vlm": {"itc", "itm"}, "blip": {"itc", "itm"}}


def _first_and_last(out: Path, name: str) -> tuple[float, float]:
    rows = [row for row in pq.read_table(out / "metrics.parquet").to_pylist() if row["name"] == name]
    return rows[0]["value"], rows[-1]["value"]


@pytest.mark.parametrize("weights", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_and_resumes_to_the_same_bits(
    world: Path, train: Train, tmp_path: Path, kind: str, weights: tuple[float, float]
) -> None:
    split = Split(world, "train")
    alpha, beta = weights
    loss = LossConfig(alpha=alpha, beta=beta)

    def fresh() -> students.Student:
        return students.create(KINDS[kind], captions=split.texts, uni=beta > 0, seed=0)

    done = train(tmp_path / "whole", student=fresh(), loss=loss, train={"steps": 6})
    own, csa = OWN[kind], {"csa"} if alpha and kind not in ("x2vlm", "blip") else set()
    assert {"loss", *own, *csa, *({"usa"} if beta else set())} <= set(done.last)
    assert "infonce" not in done.last
    if weights == (0.5, 0.5):
        stops = iter([False, False, False, True])
        with pytest.raises(Exception, match="stopped"):
            train(
                tmp_path / "cut", student=fresh(), loss=loss, train={"steps": 6}, should_stop=lambda: next(stops, False)
            )
        train(tmp_path / "cut", student=fresh(), loss=loss, train={"steps": 6})
        states = [
            torch.load(tmp_path / name / "checkpoints" / "step-000000006" / "state.pt", weights_only=True)["student"]
            for name in ("whole", "cut")
        ]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls(world: Path, train: Train, tmp_path: Path, kind: str) -> None:
    split = Split(world, "train")
    student = students.create(KINDS[kind], captions=split.texts, uni=True, seed=0)
    steps = 80 if kind == "blip" else 40  # it stays on a plateau first
    train(tmp_path / "run", student=student, train={"steps": steps, "log_every": 1, "validate_every": steps})
    first, last = _first_and_last(tmp_path / "run", "loss")
    assert last < 0.97 * first


def test_infonce_may_stand_where_the_own_loss_would(world: Path, train: Train, tmp_path: Path) -> None:
    split = Split(world, "train")
    for kind in ("sgr", "x2vlm"):
        config = KINDS[kind].model_copy(update={"base_loss": "infonce"})
        student = students.create(config, captions=split.texts, uni=True, seed=0)
        done = train(tmp_path / kind, student=student, train={"steps": 3})
        assert {"infonce", "csa", "usa"} <= set(done.last)
        assert not {"hinge", "itm"} & set(done.last)


@pytest.mark.parametrize("ends", [("image",), ("text",), ("image", "text")])
@pytest.mark.parametrize("kind", ["dual", "sgr", "x2vlm", "blip"])
def test_frozen_towers_do_not_move(world: Path, train: Train, tmp_path: Path, kind: str, ends: Any) -> None:
    student = students.create(KINDS.get(kind, STUDENT), captions=Split(world, "train").texts, uni=True, seed=0)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    train(tmp_path / kind, student=student, train={"steps": 3, "freeze": ends})
    moved = {key for key, value in student.state_dict().items() if not torch.equal(value, before[key])}
    for end in ("image", "text"):
        of_tower = [key for key in moved if key.startswith(student.tower(end))]
        assert bool(of_tower) == (end not in ends), of_tower
    assert moved  # heads learn


def test_a_dual_encoders_terms_are_the_losss(world: Path) -> None:
    split = Split(world, "train")
    student = students.create(STUDENT, captions=split.texts, uni=True, seed=0).eval()
    loss = CUSALoss(alpha=0.3, beta=0.2).eval()
    tokens = student.tokenize(split.texts[:6])
    out = student(torch.randn(6, 3, 16, 16), tokens)
    given: dict[str, Any] = {
        "teacher_image": torch.randn(6, 4),
        "teacher_text": torch.randn(6, 3),
        "image_ids": torch.arange(6) // 2,
    }
    for name, value in loss(**out, **given).items():
        torch.testing.assert_close(terms(student, loss, out, **given)[name], value, rtol=0, atol=0)
    # The long way, over similarities, comes to the same.
    similarity = {**out, "similarity": cosines(out["image"], out["text"])}
    for name, value in terms(student, loss, similarity, **given).items():
        torch.testing.assert_close(value, loss(**out, **given)[name], rtol=1e-6, atol=1e-7)


def _late(folder: Path, *, uni: bool, **late: Any) -> students.Student:
    names = {"image": {"name": "tests.towers:Patchwork"}, "text": {"name": str(folder)}}
    config = {"kind": "late-interaction", "towers": names, "late": {"width": 6, **late}, "heads": {"width": 8}}
    return students.create(StudentConfig.model_validate(config), captions=[], uni=uni, seed=0)


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentences(tmp_path_factory.mktemp("sentences"))


def test_late_interaction__trains_and_resumes_to_the_same_bits(
    world: Path, train: Train, tmp_path: Path, sentences: Path
) -> None:
    loss = LossConfig(alpha=0.5, beta=0.5)
    settings = {"steps": 40, "log_every": 1, "validate_every": 40, "lr": 0.02}
    train(tmp_path / "whole", student=_late(sentences, uni=True), loss=loss, train=settings)
    for name in ("loss", "infonce", "infonce_pooled", "csa", "usa"):
        first, last = _first_and_last(tmp_path / "whole", name)
        assert last < first, name
    stops = iter([False] * 3 + [True])
    with pytest.raises(Exception, match="stopped"):
        student = _late(sentences, uni=True)
        train(tmp_path / "cut", student=student, loss=loss, train=settings, should_stop=lambda: next(stops, False))
    train(tmp_path / "cut", student=_late(sentences, uni=True), loss=loss, train=settings)
    states = [
        torch.load(tmp_path / name / "checkpoints" / "step-000000040" / "state.pt", weights_only=True)["student"]
        for name in ("whole", "cut")
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_late_interaction__its_terms_are_the_losss_of_its_scores_and_of_its_embeddings(
    world: Path, sentences: Path
) -> None:
    texts = Split(world, "train").texts[:6]
    student = _late(sentences, uni=True, pooled_weight=0.5).eval()
    out = student(torch.randn(6, 3, 8, 8), student.tokenize(texts))
    given: dict[str, Any] = {"teacher_image": torch.randn(6, 4), "teacher_text": torch.randn(6, 3)}
    ids = torch.arange(6) // 2
    loss = CUSALoss(alpha=0.3, beta=0.2, infonce_weight=0.7).eval()
    named = terms(student, loss, out, **given, image_ids=ids)
    assert set(named) == {"loss", "infonce", "infonce_pooled", "csa", "usa"}
    tau = loss.temperature_values().infonce
    torch.testing.assert_close(named["infonce"], 0.7 * infonce(out["similarity"], ids, temperature=tau))
    pooled = infonce(out["image"] @ out["text"].T, ids, temperature=tau)
    torch.testing.assert_close(named["infonce_pooled"], 0.7 * 0.5 * pooled)
    # Of scores that are the cosines of its embeddings, CSA and USA are those of a dual encoder.
    same = terms(student, loss, {**out, "similarity": cosines(out["image"], out["text"])}, **given, image_ids=ids)
    whole = loss(**{name: out[name] for name in ("image", "text", "image_uni", "text_uni")}, **given, image_ids=ids)
    for name in ("csa", "usa"):
        torch.testing.assert_close(same[name], whole[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "settings", "words"),
    [
        ({"impl": "streamed"}, {}, "loss.impl is 'streamed', which streams cosines of embeddings; LateInteraction"),
        ({"contrast": "sigmoid"}, {}, "loss.contrast is 'sigmoid'"),
        ({}, {"chunk": 4}, "train.chunk is 4, which needs embeddings that do not depend on the rest of the batch"),
    ],
)
def test_late_interaction__what_scores_of_pairs_cannot(
    train: Train, tmp_path: Path, sentences: Path, loss: dict[str, Any], settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        train(tmp_path, student=_late(sentences, uni=True), loss=LossConfig(**loss), train=settings)


def test_late_interaction__negatives_of_other_ranks_are_refused(
    train: Train, tmp_path: Path, sentences: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="loss.negatives is 'global', which gathers the embeddings of all ranks"):
        train(tmp_path, student=_late(sentences, uni=False), loss=LossConfig(alpha=0, beta=0))


def test_match_labels_and_their_limits() -> None:
    teacher = torch.nn.functional.normalize(torch.randn(5, 7), dim=1)
    teacher[1] = teacher[0]
    cosine = cosines(teacher, teacher)
    one, other = match_labels(CUSALoss(alpha=0.3), cosine, cosine * 0 + 1)
    soft = torch.softmax(cosine, 1)
    torch.testing.assert_close(one, 0.3 * soft / soft.diagonal()[:, None])  # CSA's soft label, over that of the pair
    assert float(one[0, 1]) == pytest.approx(0.3, rel=1e-5)  # equal to the teacher
    torch.testing.assert_close(other, torch.full((5, 5), 0.3))
    sharp = CUSALoss(alpha=0.3, teacher_temperature=Setting(0.001, 0.0001, 1.0, False))
    almost, _ = match_labels(sharp, cosine, cosine)
    apart = cosine < 0.9
    assert float(almost[apart].max()) < 1e-6  # one-hot: the hard labels
    assert float(match_labels(CUSALoss(alpha=0.0), cosine, cosine)[0].abs().max()) == 0


def test_soft_labels_enter_the_matching_loss_alone(world: Path) -> None:
    split = Split(world, "train")
    student = students.create(KINDS["x2vlm"], captions=split.texts, uni=False, seed=0).eval()
    out = student(torch.randn(6, 3, 16, 16), student.tokenize(split.texts[:6]))
    teacher = torch.nn.functional.normalize(torch.rand(6, 3), dim=1)
    found = {}
    for alpha in (0.0, 0.3, 1.0):
        torch.manual_seed(4)  # the same negatives
        found[alpha] = terms(
            student,
            CUSALoss(alpha=alpha, beta=0.0),
            out,
            image_ids=torch.arange(6),
            teacher_image=teacher,
            teacher_text=teacher,
        )
    assert {"loss", "itc", "itm"} == set(found[0.3])
    torch.testing.assert_close(found[0.3]["itc"], found[0.0]["itc"], rtol=0, atol=0)
    mixed = 0.7 * found[0.0]["itm"] + 0.3 * found[1.0]["itm"]
    torch.testing.assert_close(found[0.3]["itm"], mixed, rtol=1e-5, atol=1e-6)
    assert float((found[0.3]["itm"] - found[0.0]["itm"]).detach().abs()) > 1e-4


def test_student_config_knows_its_kinds() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'sgraf'"):
        students.create(StudentConfig(kind="sgraff"), captions=["a"], uni=False, seed=0)


def _settings(loss: CUSALoss) -> dict[str, tuple[float, float, float, bool]]:
    return {
        name: (round(float(t.value.detach()), 6), t.minimum, t.maximum, t.value.requires_grad)
        for name, t in loss.temperatures().items()
    }


def test_make_loss_gives_every_setting_its_place() -> None:
    def temperature(initial: float) -> TemperatureConfig:
        return TemperatureConfig(initial=initial, minimum=initial / 2, maximum=initial * 2, learned=initial < 0.5)

    config = LossConfig(
        alpha=0.2,
        beta=0.3,
        infonce_weight=0.4,
        reduction="release",
        fusion="dot",
        divergence="cross_entropy",
        impl="streamed",
        false_negatives="mask",
        mask_image=0.9,
        mask_text="positive",
        mask_margin=0.15,
        mask_margin_kind="relative",
        negatives="local",
        temperature=temperature(0.01),
        csa_temperatures="separate",
        csa_image_temperature=temperature(0.02),
        csa_text_temperature=temperature(0.03),
        usa_image_temperature=temperature(0.04),
        usa_text_temperature=temperature(0.05),
        teacher_temperatures="separate",
        teacher_image_temperature=temperature(0.6),
        teacher_text_temperature=temperature(0.7),
    )
    loss = make_loss(config)
    assert (loss.alpha, loss.beta, loss.infonce_weight) == (0.2, 0.3, 0.4)
    assert (loss.reduction, loss.fusion) == ("release", "dot")
    assert (loss.false_negatives, loss.negatives) == ("mask", "local")
    assert loss.nearness == (0.9, "positive", 0.15, "relative")
    assert (loss.divergence, loss.impl) == ("cross_entropy", "streamed")
    assert _settings(loss) == {
        "infonce": (0.01, 0.005, 0.02, True),
        "csa.image": (0.02, 0.01, 0.04, True),
        "csa.text": (0.03, 0.015, 0.06, True),
        "usa.image": (0.04, 0.02, 0.08, True),
        "usa.text": (0.05, 0.025, 0.1, True),
        "teacher.image": (0.6, 0.3, 1.2, False),
        "teacher.text": (0.7, 0.35, 1.4, False),
    }
    shared = make_loss(LossConfig(usa_temperatures="csa"))
    assert list(shared.temperatures()) == ["infonce", "csa", "teacher"]
    assert list(make_loss(LossConfig(usa_temperatures="one")).temperatures()) == [
        "infonce",
        "csa",
        "usa",
        "teacher",
    ]
    assert _settings(make_loss(LossConfig())) == _settings(CUSALoss())
    other = make_loss(LossConfig(contrast="sigmoid", sigmoid_bias=-4.0))
    assert (other.contrast, float(other.sigmoid_bias.detach())) == ("sigmoid", -4.0)
    assert make_loss(LossConfig(label_smoothing=0.3)).label_smoothing == 0.3


def test_make_loss_gives_what_false_negatives_are_treated_by() -> None:
    hard = make_loss(LossConfig(false_negatives="hardness", hardness=0.6, hardness_prior=0.03))
    assert (hard.hardness.concentration, hard.hardness.prior) == (0.6, 0.03)
    told: dict[str, Any] = {"threshold_share": 0.2, "threshold_rate": 0.03, "threshold_after": 7}
    learned = make_loss(LossConfig(false_negatives="thresholds", **told), rows=(3, 8)).thresholds
    assert learned is not None
    assert (learned.share, learned.rate, learned.after) == (0.2, 0.03, 7)
    assert (len(learned.image), len(learned.text)) == (3, 8)
    assert make_loss(LossConfig(), rows=(3, 8)).thresholds is None
    probable = PairProbability(intercept=-1.0, text=Slope(2.0), text_mean=torch.zeros(3))
    for config in (LossConfig(soft_labels="calibrated"), LossConfig(false_negatives="debiased")):
        made = make_loss(config, probable)
        assert made.pair_probability is probable
        assert made.soft_labels == config.soft_labels
        assert made.false_negatives == config.false_negatives


@pytest.mark.parametrize("reduction", ["standard", "release"])
@pytest.mark.parametrize("infonce", [True, False])
def test_terms_of_a_student_that_scores_pairs_equal_loops(world: Path, reduction: Any, infonce: bool) -> None:
    """InfoNCE in the place of its own loss, CSA over its scores, USA over its global vectors; all weights apart."""
    split = Split(world, "train")
    student = students.create(KINDS["sgr"], captions=split.texts, uni=True, seed=0)
    student.has_own_loss = not infonce
    random = torch.Generator().manual_seed(3)
    widths = {"image_uni": 4, "text_uni": 3, "teacher_image": 5, "teacher_text": 6}
    rows = {name: torch.randn(5, width, generator=random).double() for name, width in widths.items()}
    out = {"similarity": torch.rand(5, 5, generator=random).double()}
    out |= {name: rows.pop(name) for name in ("image_uni", "text_uni")}
    ids = [0, 1, 0, 2, 3]
    temperatures: dict[str, Any] = {
        "temperature": Setting(0.25, 0.1, 1),
        "csa_temperature": (Setting(0.5, 0.1, 1), Setting(0.125, 0.1, 1)),
        "usa_temperature": (Setting(0.75, 0.1, 1), Setting(0.375, 0.1, 1)),
        "teacher_temperature": (Setting(0.625, 0.1, 1), Setting(0.875, 0.1, 1)),
    }
    loss = CUSALoss(alpha=0.3, beta=0.7, infonce_weight=0.4, reduction=reduction, **temperatures).double()
    found = terms(student, loss, out, image_ids=torch.tensor(ids), **rows)
    scores = out["similarity"].tolist()
    own, between = ({name: one.tolist() for name, one in each.items()} for each in (out, rows))
    images, texts = (reference.cosines(*[between[f"teacher_{one}"]] * 2) for one in ("image", "text"))
    labels = reference.divided(images, 0.625), reference.divided(texts, 0.875)
    scored = reference.divided(scores, 0.5), reference.divided(reference.transpose(scores), 0.125)
    unis = [
        reference.divided(reference.cosines(*[own[f"{one}_uni"]] * 2), tau)
        for one, tau in (("image", 0.75), ("text", 0.375))
    ]
    expected = {
        "csa": 0.3 * sum(reference.kl(q, p) for q, p in zip(labels, scored, strict=True)) / 2,
        "usa": 0.7 * sum(reference.kl(q, p) for q, p in zip(labels, unis, strict=True)) / 2,
    }
    if infonce:
        whole = 0.4 * reference.infonce(scores, ids, 0.25)
        expected["infonce"] = whole / 5 if reduction == "release" else whole
    else:
        hinge = student.base_loss(out, image_ids=torch.tensor(ids))["hinge"]
        expected["hinge"] = 0.4 * float(hinge)
    observed = {name: float(term.detach()) for name, term in found.items()}
    assert observed == pytest.approx({"loss": sum(expected.values()), **expected}, rel=1e-9)


def test_temperatures_of_a_student_that_scores_pairs_stay_within_their_bounds(world: Path) -> None:
    split = Split(world, "train")
    student = students.create(KINDS["sgr"], captions=split.texts, uni=True, seed=0)
    random = torch.Generator().manual_seed(0)
    rows = {name: torch.rand(4, 5, generator=random) for name in ("image_uni", "text_uni")}
    out = {"similarity": torch.rand(4, 4, generator=random), **rows}
    teachers = {name: torch.rand(4, 3, generator=random) for name in ("teacher_image", "teacher_text")}
    loss = make_loss(LossConfig(alpha=0.5, beta=0.5)).train()
    with torch.no_grad():
        for temperature in loss.temperatures().values():
            temperature.value.fill_(7.0)
    terms(student, loss, out, image_ids=torch.arange(4), **teachers)
    for name, temperature in loss.temperatures().items():
        assert float(temperature.value.detach()) == pytest.approx(temperature.maximum), name


@pytest.mark.parametrize("kind", ["sgr", "x2vlm"])
def test_infonce_s_weight_is_that_of_a_student_s_own_loss(world: Path, kind: str) -> None:
    split = Split(world, "train")
    student = students.create(KINDS[kind], captions=split.texts, uni=False, seed=0).eval()
    out = student(torch.randn(6, 3, 16, 16), student.tokenize(split.texts[:6]))
    found = {}
    for weight in (1.0, 0.25):
        torch.manual_seed(4)  # the same negatives
        found[weight] = terms(
            student, CUSALoss(alpha=0.0, beta=0.0, infonce_weight=weight), out, image_ids=torch.arange(6)
        )
    assert set(found[0.25]) == {"loss", *OWN[kind]}
    for name, term in found[1.0].items():
        torch.testing.assert_close(found[0.25][name], 0.25 * term, rtol=1e-5, atol=1e-6)
