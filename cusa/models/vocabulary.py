"""A word-level tokenizer from the training captions, for students that start from nothing."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<start>", "<end>"
SPECIAL = (PAD, UNKNOWN, START, END)
"""Ids 0 to 3. The end mark must not be 2: there Hugging Face's CLIP pools at the largest id, for old checkpoints."""


def build(captions: Iterable[str], *, size: int, context: int) -> "PreTrainedTokenizerFast":
    """Make a tokenizer that knows the most frequent words; the same captions give the same one.

    Args:
        captions: as the student reads them, already cleaned.
        size: ids at most, the four special ones included; frequent words first, equal ones by the alphabet.
        context: tokens a caption at most; longer ones are cut, the end mark kept.

    Returns:
        A Hugging Face tokenizer: `<start> words <end>`, padded with `<pad>`.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    assert size > len(SPECIAL), size
    split = pre_tokenizers.Whitespace()  # runs of letters and digits, and runs of anything else but white space
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(word for word, _ in split.pre_tokenize_str(caption))
    frequent = sorted(counts, key=lambda word: (-counts[word], word))
    kept = [word for word in frequent if word not in SPECIAL][: size - len(SPECIAL)]
    ids = {word: number for number, word in enumerate([*SPECIAL, *kept])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
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
