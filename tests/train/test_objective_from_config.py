from cusa.train.config import LossConfig, TemperatureConfig
from cusa.train.losses import CUSALoss
from cusa.train.terms import make_loss


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
    assert (loss.false_negatives, loss.nearness, loss.negatives) == ("mask", (0.9, "positive"), "local")
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
