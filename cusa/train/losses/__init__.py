"""The losses: functions of similarities hold the maths, `CUSALoss` holds temperatures and weights."""

from cusa.train.losses.csa import csa
from cusa.train.losses.infonce import infonce
from cusa.train.losses.objective import CUSALoss
from cusa.train.losses.sigmoid import sigmoid
from cusa.train.losses.temperature import Setting, Temperature
from cusa.train.losses.usa import usa

__all__ = ["CUSALoss", "Setting", "Temperature", "csa", "infonce", "sigmoid", "usa"]
