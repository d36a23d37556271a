import numpy as np
import torch

from cusa.models import pixels
from cusa.models.preprocess import Preprocess


def test_the_same_on_every_device() -> None:
    preprocess = Preprocess(16, mean=(0.1, 0.5, 0.4), std=(0.2, 0.3, 1.0))
    squares = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), dtype=np.uint8))
    looked_up = pixels.normalise(squares, preprocess)
    assert np.array_equal(looked_up.numpy(), preprocess.normalise(squares.numpy()))
    torch.testing.assert_close(pixels.on_device(squares, preprocess), looked_up, rtol=0, atol=1e-6)
