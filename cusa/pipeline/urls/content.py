"""What the first bytes of an answer are, whatever its headers call them."""

import re

_PAGE = re.compile(
    rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|script|\?xml[^>]*>\s*<!doctype html)", re.IGNORECASE
)
_OTHER_PICTURES = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"<svg", "SVG"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\x01\0", "ICO"),
)
_SHORTEST = 12  # bytes in which all kept formats show themselves


def what_instead(start: bytes) -> tuple[str, str] | None:
    """Say what an answer is if it is no JPEG, PNG or WebP; None if it may be one.

    Args:
        start: its first bytes, as many as came at once.

    Returns:
        The reason of the drop and its particulars, so that the rest needs not come.
    """
    if start[:3] == b"\xff\xd8\xff" or start[:4] == b"\x89PNG" or (start[:4] == b"RIFF" and start[8:12] == b"WEBP"):
        return None
    if len(start) < _SHORTEST:
        return None
    if _PAGE.match(start):
        return "web-page", ""
    for magic, name in _OTHER_PICTURES:
        if start.startswith(magic):
            return "unsupported-format", f"{name}; JPEG, PNG and WebP are kept"
    if start[4:8] == b"ftyp":
        return "unsupported-format", f"{start[8:12].decode('latin-1').strip()}; JPEG, PNG and WebP are kept"
    return "not-an-image", f"begins with {start[:16]!r}"
