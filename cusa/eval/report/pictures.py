"""A split's pictures and captions by key, as the report shows them."""

from cusa.manifests import pages
from cusa.manifests.samples import Split


class Pictures:
    """A split's pictures as data URIs, and its captions, by key.

    Attributes:
        words: caption key -> text.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        self._row = {key: row for row, key in enumerate(split.image_keys)}
        self.words = dict(zip(split.caption_keys, split.texts, strict=True))

    def __contains__(self, image_key: str) -> bool:
        return image_key in self._row

    def uri(self, image_key: str) -> str:
        """Return an image's thumbnail."""
        from cusa.models.preprocess import decode_rgb

        return pages.thumbnail(decode_rgb(self._split.image_bytes(self._row[image_key])))
