"""Counting what makes the host wait for the device."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

READS = {
    *("aten._local_scalar_dense", "aten.item", "aten.is_nonzero", "aten.equal", "aten.nonzero", "aten.masked_select"),
    *("aten._unique2", "aten.unique_dim", "aten.unique_consecutive", "aten.repeat_interleave", "aten.bincount"),
}
"""Operations that read numbers on the host, or whose result's shape depends on them."""
WITH_MASKS = {"aten.index", "aten.index_put", "aten.index_put_", "aten._index_put_impl_", "aten._unsafe_index"}
"""Operations that look for a mask's true places, if an index is a mask."""


class HostReads(TorchDispatchMode):
    """Counts them by name, in forward and backward passes, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.operations = 0
        self._own: dict[str, Any] = {}

    def __enter__(self) -> "HostReads":
        for name in ("tolist", "numpy", "cpu"):  # on a CPU these read memory without any operation
            own = self._own[name] = getattr(Tensor, name)
            setattr(Tensor, name, self._counted(name, own))
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        for name, own in self._own.items():
            setattr(Tensor, name, own)

    def _counted(self, name: str, own: Any) -> Any:
        def count(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.counts[name] += 1
            return own(tensor, *args, **kwargs)

        return count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket)
        self.operations += 1
        masks = name in WITH_MASKS and any(isinstance(one, Tensor) and one.dtype == torch.bool for one in args[1] or ())
        if name in READS or masks:
            self.counts[name] += 1
        if name in ("aten._to_copy", "aten.copy_") and not (kwargs or {}).get("non_blocking"):
            devices = {one.device for one in args if isinstance(one, Tensor)}
            if len(devices | ({(kwargs or {}).get("device")} - {None})) > 1:
                self.counts[f"{name} between devices"] += 1
        return func(*args, **(kwargs or {}))
