"""The base of every configuration that a person writes; no heavy import, so that `cusa --help` answers at once."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen; an unknown key is an error, and so is a number that is infinite or none (`inf`, `nan`, `1e999`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
