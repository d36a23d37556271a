"""What people and audits say of several data sets' pairs, as of those of one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cusa.errors import ConfigError
from cusa.manifests.judgements import pair_judgements
from cusa.manifests.samples import Split
from cusa.train.config import LossConfig
from cusa.train.data.doubts import read_pair_weights
from cusa.train.data.judged import JudgedPairs, read_judged
from cusa.train.data.mixture.joined import AnyPairs, JoinedPairs
from cusa.train.data.training import Training, of_set


@dataclass(frozen=True)
class Opinions:
    """What people and audits say of the pairs, as far as a loss asks."""

    judged: JudgedPairs | None
    pair_weights: Tensor | None
    digests: Mapping[str, str]
    """Name of an input -> digest."""
    notes: tuple[str, ...]


def read_opinions(loss: LossConfig, training: Training, pairs: AnyPairs, device: torch.device) -> Opinions:
    """Read verdicts and own-pair weights where the loss uses them, of one split or of several.

    Raises:
        ConfigError: if nobody has judged a pair, and the loss needs it.
        DataError, StaleError: if the verdicts or the audit are broken, missing or of another state.
    """
    splits = [one.split for one in training.sets]
    judged, pair_weights = None, None
    digests: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    if loss.false_negatives == "positive":
        if isinstance(pairs, JoinedPairs):
            judged, of_verdicts = join_judged(splits, training.names, pairs, device)
        else:
            judged, digest = read_judged(splits[0], device)
            of_verdicts = [digest]
        notes += judged.notes
        digests |= {of_set("the verdicts", number, len(splits)): one for number, one in enumerate(of_verdicts)}
    if loss.pair_weights == "audit":
        read = [read_pair_weights(split, device) for split in splits]
        pair_weights = torch.cat([weights for weights, _, _ in read])
        for number, (name, (_, digest, note)) in enumerate(zip(training.names, read, strict=True)):
            digests[of_set("the audit of the pairs", number, len(splits))] = digest
            notes += (f"{name}: {note}" if len(splits) > 1 else note,)
    return Opinions(judged, pair_weights, digests, notes)


def join_judged(
    splits: Sequence[Split], names: Sequence[str], pairs: JoinedPairs, device: torch.device
) -> tuple[JudgedPairs, list[str]]:
    """Read the verdicts of several splits; some may have none.

    Images are one where people called them duplicates or their bytes are equal, over sets too.

    Args:
        splits: in the order of the recipe.
        names: of the sets, for notes.
        pairs: their rows.
        device: where the tensors go.

    Returns:
        The pairs, and for each set the digest of its judgements.

    Raises:
        ConfigError: if no split has a judgement.
        DataError: if verdicts are broken.
    """
    read = [pair_judgements.read(split) for split in splits]
    if not any(one.judgements for one in read):
        where = " or ".join(str(split.folder) for split in splits)
        raise ConfigError(
            f"loss.false_negatives is 'positive', but nobody has judged a pair of {where}. Run `cusa review` on one, "
            "or set soft or mask.",
            key="loss.false_negatives",
        )
    image = caption = 0
    couples: list[tuple[int, int]] = []
    positive, ignored = [np.zeros((0, 2), np.int64)], [np.zeros((0, 2), np.int64)]
    notes: list[str] = []
    for split, name, judgements in zip(splits, names, read, strict=True):
        if judgements.judgements:
            own, _ = read_judged(split, torch.device("cpu"))
            first = own.first_N.numpy()
            couples += [
                (image + int(row), image + int(first[row])) for row in np.flatnonzero(first != np.arange(len(first)))
            ]
            positive.append(own.positive.numpy() + [image, caption])
            ignored.append(own.ignored.numpy() + [image, caption])
            notes += [f"{name}: {note}" for note in own.notes]
        image, caption = image + split.num_images, caption + split.num_captions
    couples += [(int(row), int(pairs.first[row])) for row in np.flatnonzero(pairs.first != np.arange(image))]
    first_N = pair_judgements.group_first(image, couples)
    matches, left_out = np.concatenate(positive), np.concatenate(ignored)
    for listed in (matches, left_out):
        listed[:, 0] = first_N[listed[:, 0]]
    # As within a set: what is true of one of two duplicates is true of the other.
    left_out = left_out[~np.isin(left_out @ [caption, 1], matches @ [caption, 1])]
    shown, positives, ignored_pairs = (torch.from_numpy(each).to(device) for each in (first_N, matches, left_out))
    return JudgedPairs(shown, positives, ignored_pairs, tuple(notes)), [one.digest for one in read]
