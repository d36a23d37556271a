"""The loss that a recipe describes."""

from cusa.train.config import LossConfig, TemperatureConfig
from cusa.train.losses import CUSALoss, Setting


def make_loss(config: LossConfig) -> CUSALoss:
    """Make the loss that a recipe describes."""

    def setting(temperature: TemperatureConfig) -> Setting:
        return Setting(temperature.initial, temperature.minimum, temperature.maximum, temperature.learned)

    csa = setting(config.csa_image_temperature)
    usa = setting(config.usa_image_temperature)
    teacher = setting(config.teacher_image_temperature)
    separate_usa = (usa, setting(config.usa_text_temperature))
    return CUSALoss(
        alpha=config.alpha,
        beta=config.beta,
        infonce_weight=config.infonce_weight,
        reduction=config.reduction,
        fusion=config.fusion,
        divergence=config.divergence,
        false_negatives=config.false_negatives,
        mask_image=config.mask_image,
        mask_text=config.mask_text,
        negatives=config.negatives,
        impl=config.impl,
        temperature=setting(config.temperature),
        csa_temperature=csa if config.csa_temperatures == "one" else (csa, setting(config.csa_text_temperature)),
        usa_temperature={"csa": "csa", "one": usa, "separate": separate_usa}[config.usa_temperatures],  # type: ignore[arg-type]
        teacher_temperature=(
            teacher if config.teacher_temperatures == "one" else (teacher, setting(config.teacher_text_temperature))
        ),
    )
