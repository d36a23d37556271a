"""The columns of every table, in one place."""

import pyarrow as pa

SAMPLES = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("image_offset", pa.int64()),  # of the image's first byte in the tar
        ("image_bytes", pa.int64()),
        ("ext", pa.string()),
        ("width", pa.int32()),  # pixels, as stored (before any EXIF rotation)
        ("height", pa.int32()),
        ("sha256", pa.string()),  # of the image's bytes
        ("source", pa.string()),
        ("label", pa.string()),
        ("role", pa.string()),
    ]
)

CAPTIONS = pa.schema(
    [
        ("caption_key", pa.string()),
        ("key", pa.string()),
        ("position", pa.int32()),
        ("caption_id", pa.string()),
        ("text", pa.string()),
    ]
)

CAPTION_SOURCE = pa.field("source", pa.string())
"""What made a caption, empty where nobody says; a split of which no caption has one lacks the column."""

LANGUAGES = pa.schema(
    [
        ("caption_key", pa.string()),
        ("language", pa.string()),  # ISO 639-1; `und` where the guess is too unsure
        ("guess", pa.string()),  # the likeliest
        ("probability", pa.float32()),  # of the guess
    ]
)
"""The language of every caption, in the order of the split's captions."""

DROPS = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("kind", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)

SHARDS = pa.schema(
    [
        ("shard", pa.string()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("images", pa.int64()),
        ("captions", pa.int64()),
    ]
)

DUPLICATES = pa.schema([("sha256", pa.string()), ("split", pa.string()), ("key", pa.string())])
"""Every image whose bytes another image of the work folder has too."""

SOURCES = pa.schema(
    [
        ("path", pa.string()),  # in the data set's folder
        ("url", pa.string()),  # where it came from; empty if by hand
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("status", pa.string()),  # `there`, `failed`, or `by-hand` where a person has to bring it
        ("error", pa.string()),
    ]
)

CONTENTS = pa.schema([("path", pa.string()), ("bytes", pa.int64()), ("sha256", pa.string())])
"""What an archive was unpacked to; its own SHA-256 stands in the metadata."""

URLS = pa.schema(
    [
        ("unit", pa.int32()),  # the tar it goes to; a row group a unit
        ("place", pa.int32()),  # its order there
        ("key", pa.string()),  # of the URL and the digests that are asked of it
        ("url", pa.string()),
        ("sha256", pa.string()),  # that the table has; empty otherwise
        ("md5", pa.string()),
        ("live", pa.bool_()),  # false: the table has it no more
        ("split", pa.string()),
        ("label", pa.string()),
        ("item", pa.string()),  # the table's own name of the image; empty without one
        ("captions", pa.list_(pa.string())),
        ("caption_sources", pa.list_(pa.string())),  # one a caption; empty texts where nobody says
    ]
)
"""The URLs of a table, each once, with what the table says of them."""

FETCHED = pa.schema(
    [
        ("key", pa.string()),
        ("url", pa.string()),
        ("host", pa.string()),
        ("status", pa.string()),  # `kept` or `dropped`
        ("reason", pa.string()),  # why it was dropped
        ("detail", pa.string()),
        ("http_status", pa.int32()),  # of the last answer; 0 without one
        ("received", pa.int64()),  # bytes of the last answer, where it came whole
        ("file", pa.string()),  # the tar, relative to the folder; empty without a picture
        ("offset", pa.int64()),
        ("bytes", pa.int64()),  # as stored
        ("ext", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),  # as stored
    ]
)
"""What came of each URL of a unit."""

FETCH_LOG = pa.schema(
    [("key", pa.string()), ("seconds", pa.float32()), ("tries", pa.int32()), ("received", pa.int64())]
)
"""How long each URL took, and the bytes that came before it was given up or whole: another time they are others."""

URL_SUMMARY = pa.schema(
    [
        ("host", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("http_status", pa.int32()),
        ("rows", pa.int64()),
        ("received", pa.int64()),
    ]
)

GONE_URLS = pa.schema([("key", pa.string()), ("url", pa.string()), ("unit", pa.int32())])
"""URLs that were fetched and that the table has no more: their bytes stay, and nobody reads them."""

TRUTH = pa.schema([("image_key", pa.string()), ("caption_key", pa.string())])
"""Every pair known to match, the data set's own pairs included."""

CANDIDATES = pa.schema(
    [
        ("image_key", pa.string()),
        ("caption_key", pa.string()),
        ("owner_image_key", pa.string()),
        ("image_similarity", pa.float32()),  # cosine of the image and the caption's own image
        ("text_similarity", pa.float32()),  # best cosine of the caption and the image's own captions
        ("cross_similarity", pa.float32()),  # cosine of image and caption by a student; null without one
        ("image_rank", pa.int32()),  # of the owner among the image's neighbours, 1 = nearest; null if not among them
        (
            "text_rank",
            pa.int32(),
        ),  # best of one of the image's captions among the caption's neighbours; null likewise
        ("score", pa.float32()),  # mean of image and text similarity, weighted as the summary says, 0 to 1
        ("p_positive", pa.float32()),  # calibrated probability that a person calls it a match; null without one
        ("worth", pa.float32()),  # of a verdict: p (1 - p); 0 where people settled it before the audit; else null
        ("duplicate_image", pa.bool_()),  # the image and the caption's own image have the same bytes
        ("duplicate_caption", pa.bool_()),  # the caption's words are also a caption of the image
        ("known_match", pa.bool_()),  # by the truth that the audit was given; null where nobody has judged
        # colour, number, place, negation, gender or swap: the one edit between the caption and one of the image's own,
        # which text teachers hardly see; null where there is none
        ("text_blind", pa.string()),
    ]
)

VERDICTS = pa.schema(
    [
        ("id", pa.string()),  # one a verdict, made by the page
        ("image_key", pa.string()),
        ("caption_key", pa.string()),
        ("verdict", pa.string()),  # match, related, no match, duplicate, skip; or undo, which takes one back
        ("reviewer", pa.string()),
        ("judged_at", pa.timestamp("ms")),  # UTC
        ("undoes", pa.string()),  # id of the verdict that was taken back; null otherwise
        ("score", pa.float32()),  # what was shown; null where there was no such number
        ("image_similarity", pa.float32()),
        ("text_similarity", pa.float32()),
        ("image_rank", pa.int32()),
        ("text_rank", pa.int32()),
        ("p_positive", pa.float32()),
        ("candidates_sha256", pa.string()),  # of the candidate table
    ]
)
"""What people said of candidates, a row a verdict; see `cusa.manifests.judgements.verdicts`."""

PAIRS = pa.schema(
    [
        ("image_key", pa.string()),
        ("caption_key", pa.string()),
        ("p_wrong", pa.float32()),  # probability that the caption does not belong to its image; null in a tiny split
        ("reasons", pa.list_(pa.string())),  # what speaks against it, by the columns' names, and the faults of both
        ("sibling_mean", pa.float32()),  # mean cosine to the image's other captions; null where there is none
        ("sibling_best", pa.float32()),
        ("caption_neighbours", pa.float32()),  # the image's similarity to those whose captions read alike; or null
        ("image_neighbours", pa.float32()),  # the caption's similarity to the captions of images that look alike
        ("cross_modal", pa.float32()),  # its similarity to what is predicted of the image, in spreads of each
        ("images_with_words", pa.int64()),  # images that have a caption of the very same words
        ("better_caption_keys", pa.list_(pa.string())),  # captions of other images that fit better, the best first
    ]
)
"""The data set's own pairs, the most probably wrong first."""

ISSUES = pa.schema(
    [
        ("modality", pa.string()),  # image or text
        ("key", pa.string()),  # of the image or caption
        ("issue", pa.string()),
        ("value", pa.float64()),  # what was measured
        ("detail", pa.string()),
    ]
)
"""Faults of single pictures and captions."""

DUPLICATE_GROUPS = pa.schema(
    [
        ("modality", pa.string()),  # image or text
        ("component", pa.int64()),  # equal numbers: one group; from 0 in each modality
        ("key", pa.string()),  # of the image or caption
        ("size", pa.int64()),  # rows of the group
        ("exact", pa.bool_()),  # another row has the same content
        ("similarity", pa.float32()),  # to the row's nearest neighbour; 1 where the content is the same
    ]
)

LEAKS = pa.schema(
    [
        ("modality", pa.string()),
        ("key", pa.string()),  # here
        ("other_split", pa.string()),
        ("other_key", pa.string()),  # there
        ("similarity", pa.float32()),
        ("exact", pa.bool_()),  # the same bytes or words, not only near
    ]
)

AUDIT_SAMPLE = pa.schema(
    [
        ("image_key", pa.string()),
        ("caption_key", pa.string()),
        ("stratum", pa.string()),
        ("weight", pa.float64()),  # open pairs that this one stands for
    ]
)
"""Pairs drawn at random within strata, to be judged by people."""


def teacher_table(key: str, width: int, dtype: str) -> pa.Schema:
    """Return the columns of a teacher table.

    Args:
        key: `key` for images or `caption_key` for captions.
        width: numbers an embedding.
        dtype: `float16` or `float32`.
    """
    number = {"float16": pa.float16(), "float32": pa.float32()}[dtype]
    # `content`: SHA-256 of the image's bytes or of the text as the teacher read it. Equal content, equal row.
    return pa.schema([(key, pa.string()), ("embedding", pa.list_(number, width)), ("content", pa.binary(32))])


def neighbour_table(key: str) -> pa.Schema:
    """Return the columns of a neighbour table, also in the `{ids, distances}` form that embedding viewers read.

    Args:
        key: `key` for images or `caption_key` for captions.
    """
    neighbours = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float32()))])
    return pa.schema(
        [
            (key, pa.string()),
            ("neighbour_keys", pa.list_(pa.string())),  # nearest first, the row itself left out
            ("similarities", pa.list_(pa.float32())),  # cosines
            ("neighbours", neighbours),  # row numbers, and 1 - cosine
        ]
    )


METRICS = pa.schema(
    [
        ("step", pa.int64()),
        ("name", pa.string()),
        ("value", pa.float64()),
    ]
)

PER_QUERY = pa.schema(
    [
        ("task", pa.string()),
        ("direction", pa.string()),  # image-to-text, text-to-image, image-to-image, text-to-text
        ("query_key", pa.string()),
        ("rank", pa.int64()),  # of the best positive, 1 = first
        ("positives", pa.int64()),
        ("r_precision", pa.float64()),  # null where it was not asked for, or the query has no right item
        ("average_precision", pa.float64()),  # at R; likewise
        ("top_keys", pa.list_(pa.string())),
        ("top_similarities", pa.list_(pa.float32())),
    ]
)

STS_PAIRS = pa.schema(
    [
        ("set", pa.string()),  # as papers print it: STS12, STS-B
        ("subset", pa.string()),
        ("line", pa.int64()),  # of the subset's file, from 1
        ("gold", pa.float64()),
        ("cosine", pa.float32()),
    ]
)

JUDGED_POOL = pa.schema(
    [
        ("image_key", pa.string()),
        ("caption_key", pa.string()),
        ("known_match", pa.bool_()),  # at the draw; null where nobody had judged the pair
        ("judge", pa.float64()),  # the machine's probability that the pair matches
    ]
)
"""The pairs whose truth decides the scores of two runs; see `cusa.eval.judged`."""

JUDGED_SAMPLE = pa.schema(
    [
        ("ask", pa.int64()),  # people are asked in this order, from 1
        ("scores", pa.string()),  # `r@1`, or `at-r` for R-Precision and mAP@R
        ("unit", pa.int64()),  # pairs of one unit count together
        ("image_key", pa.string()),
        ("caption_key", pa.string()),
        ("size", pa.float64()),  # of the unit: the chance to be asked is min(1, size x threshold)
        ("priority", pa.float64()),  # of the unit; the first one not asked is the threshold
    ]
)
"""Every open pair that decides a score of two runs, in the random order in which people are asked."""

PROBE = pa.schema(
    [
        ("kind", pa.string()),  # of edit, see `cusa.models.edits.rules`
        ("caption_key", pa.string()),
        ("caption", pa.string()),
        ("edited", pa.string()),  # no longer true of the picture
        ("edit_similarity", pa.float32()),  # of the caption and its edit, by the text teacher
        ("sibling_similarity", pa.float32()),  # of the caption and the nearest other caption of its picture
        ("sibling", pa.string()),  # that one
        ("nearer", pa.bool_()),  # whether the edit is nearer than every sibling
    ]
)
"""Minimal edits of a split's own captions, and what a text teacher thinks of them."""
