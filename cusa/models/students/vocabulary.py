"""A word-level tokenizer from the training captions, for students that start from nothing."""

import json
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from cusa.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<start>", "<end>"
SPECIAL = (PAD, UNKNOWN, START, END)
"""Ids 0 to 3. The end mark must not be 2: there Hugging Face's CLIP pools at the largest id, for old checkpoints."""


_TOKENIZING = threading.Lock()  # a fast tokenizer that two threads set up at once raises "Already borrowed"


class Encoded(NamedTuple):
    """Captions as ids."""

    ids: Tensor
    """(B, L)"""
    mask: Tensor
    """(B, L), 1 where there is a token."""
    cut: int
    """Captions that were longer."""


def encode(tokenizer: Any, texts: Sequence[str], *, context: int) -> Encoded:
    """Tokenise and pad captions, from any thread.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        texts: cleaned captions.
        context: tokens at most.
    """
    with _TOKENIZING:
        tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=context, return_tensors="pt")
        cut = sum(bool(encoding.overflowing) for encoding in tokens.encodings or ())
    return Encoded(tokens["input_ids"], tokens["attention_mask"], cut)


def build(captions: Iterable[str], *, size: int, context: int, min_count: int = 1) -> "PreTrainedTokenizerFast":
    """Make a tokenizer of the most frequent words; equal captions give an equal tokenizer.

    Args:
        captions: already cleaned.
        size: number of ids at most, the four special ones included; words by frequency, ties by the alphabet.
        context: tokens a caption at most; longer ones are cut, the end mark kept.
        min_count: words seen less often are left out.

    Returns:
        A Hugging Face tokenizer: `<start> words <end>`, padded with `<pad>`.
    """
    from tokenizers import pre_tokenizers

    assert size > len(SPECIAL), size
    split = pre_tokenizers.Whitespace()  # runs of letters and digits, and runs of anything else but white space
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(word for word, _ in split.pre_tokenize_str(caption))
    frequent = sorted(counts, key=lambda word: (-counts[word], word))
    kept = [word for word in frequent if word not in SPECIAL and counts[word] >= min_count][: size - len(SPECIAL)]
    return _word_level({word: number for number, word in enumerate([*SPECIAL, *kept])}, context)


def from_reference(path: Path, *, context: int) -> "PreTrainedTokenizerFast":
    """Read a vocabulary as SCAN, SGRAF and VSE++ write it: JSON with `word2idx`, `idx2word` and `idx`.

    Args:
        path: for example `coco_precomp_vocab.json`.
        context: tokens a caption at most.

    Raises:
        DataError: if the file is no such vocabulary, or its ids are not 0 to n - 1 with the special words among them.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ids = {str(word): int(number) for word, number in content["word2idx"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is no vocabulary: JSON with word2idx is expected ({error!r}). Give the authors' file, "
            "or leave student.sgraf.vocabulary empty.",
            path=path,
        ) from error
    if sorted(ids.values()) != list(range(len(ids))) or ids.get(PAD) != 0 or any(word not in ids for word in SPECIAL):
        raise DataError(
            f"{path}: the ids must be 0 to {len(ids) - 1}, each once, with {PAD} as 0 and {', '.join(SPECIAL[1:])}.",
            path=path,
        )
    return _word_level(ids, context)


def _word_level(ids: Mapping[str, int], context: int) -> "PreTrainedTokenizerFast":
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Whitespace()
    tokenizer = Tokenizer(models.WordLevel(dict(ids), unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, ids[START]), (END, ids[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        model_max_length=context,
        padding_side="right",
        truncation_side="right",
        clean_up_tokenization_spaces=False,
    )
