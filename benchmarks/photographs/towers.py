"""EfficientNet-Lite (ImageNet-1k) as the image tower of a student: `benchmarks.photographs.towers:Lite0`.

The torch network, which can learn; as a teacher, which need not, `benchmarks.photographs.lite` runs it in ONNX Runtime.
"""

from torch import Tensor

from benchmarks.photographs.lite import PooledLite
from cusa.models.preprocess import Preprocess


class Tower(PooledLite):
    """The network's features before its classifier, averaged over the picture; the classifier is taken away.

    Args:
        size: 0, 1 or 2.
        pixels: S.
    """

    width = 1280
    licence = "apache-2.0"

    def __init__(self, size: int, pixels: int) -> None:
        super().__init__(size)
        del self.network._fc
        # (x - 127) / 128 of pixels from 0 to 255; the whole picture squashed, as Flickr8k's copy holds them already.
        self.preprocess = Preprocess(pixels, fit="squash", mean=(127 / 255,) * 3, std=(128 / 255,) * 3)

    def hidden_states(self, pixels_BCSS: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the pooled features and those of each place of the map, row by row, for late interaction."""
        features_BWhw: Tensor = self.network.extract_features(pixels_BCSS)
        return features_BWhw.mean((2, 3)), features_BWhw.flatten(2).mT, None


class Lite0(Tower):
    """3.4 million parameters, 224 pixels."""

    def __init__(self) -> None:
        super().__init__(0, 224)


class Lite2(Tower):
    """4.8 million parameters, 260 pixels."""

    def __init__(self) -> None:
        super().__init__(2, 260)
