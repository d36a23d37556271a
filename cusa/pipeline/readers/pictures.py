"""Which files are meant as pictures: by their extension, or by their first bytes where they have another one."""

_KEPT = (".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".png", ".apng", ".webp")
_OTHERS = (".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif", ".avifs", ".heic", ".heif", ".hif", ".jp2", ".jpx", ".j2k")
_RARE = (".jxl", ".ico", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".svg")
EXTENSIONS = frozenset((*_KEPT, *_OTHERS, *_RARE))
"""Extensions of pictures, in lower case. What can be kept is decided by the content: JPEG, PNG and WebP."""

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1", b"heif")
START = 16
"""First bytes of a file that `looks_like_picture` needs."""


def looks_like_picture(start: bytes) -> bool:
    """Tell whether a file's first 16 bytes are those of a JPEG, PNG, WebP, GIF, TIFF, AVIF or HEIC picture."""
    return (
        start.startswith(_MAGIC)
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (start[4:8] == b"ftyp" and start[8:12] in _BRANDS)
    )
