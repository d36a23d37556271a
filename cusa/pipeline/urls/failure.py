"""Why a URL gave no picture."""


class Failure(Exception):
    """A URL that gave no picture.

    Args:
        reason: one of `cusa.manifests.records.REASONS`.
        detail: the particulars, the same at every try.
        again: whether another try may help.
        after: seconds the server asked to wait.
    """

    def __init__(self, reason: str, detail: str, *, again: bool = False, after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail
        self.again = again
        self.after = after
