"""cusa: image-text retrieval that knows its negatives are not all negative."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cusa.integrations.teachers import teacher_rows
    from cusa.train.losses import CUSALoss

__version__ = "0.1.0"
__all__ = ["CUSALoss", "__version__", "teacher_rows"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: `import cusa` alone must not cost the import of torch.
    if name == "CUSALoss":
        from cusa.train.losses import CUSALoss

        return CUSALoss
    if name == "teacher_rows":
        from cusa.integrations.teachers import teacher_rows

        return teacher_rows
    raise AttributeError(f"module 'cusa' has no attribute {name!r}")
