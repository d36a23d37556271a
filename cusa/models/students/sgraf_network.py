"""The similarity networks SGR and SAF: regions of an image against words of a caption, one number for every pair.

Diao, Zhang, Ma, Lu, "Similarity Reasoning and Filtration for Image-Text Matching", AAAI 2021, arXiv 2101.01368. Values,
gradients and BatchNorm buffers equal the reference's; captions of one length are computed together instead of one by
one, and images may have different numbers of regions.

Legend: I images, R regions, F width of a region's features, C captions, G captions of one length, L words, D width of
the embedding, S width of a similarity vector.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Module = Literal["sgr", "saf"]

SHARPNESS = 9.0
"""What word-to-region attention is multiplied with before its softmax, as in the reference."""

BLOCK = 1 << 21
"""Numbers in the largest tensor of one block without gradients, (I, G, L, D): 8 MiB of float32, which a cache holds."""
IMAGES = 16
"""Images in such a block: few, against many captions, so that the matrix products are nearly square."""


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """Divide by the length, to which the reference adds 1e-8."""
    length: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / (length + 1e-8)


@dataclass(frozen=True)
class SgrafSizes:
    """The numbers that decide shapes; the defaults are the reference's."""

    region_width: int
    """F."""
    vocabulary: int
    """Words, the special ones included."""
    regions: int = 36
    """R; images with fewer are masked."""
    word_width: int = 300
    """Width of a word's vector."""
    width: int = 1024
    """D."""
    similarity_width: int = 256
    """S."""
    steps: int = 3
    """Steps of SGR's reasoning."""
    dropout: float = 0.4
    """Of word vectors and of the two attentions that pool."""


class SgrafNetwork(nn.Module):
    """One of the two networks, parameters named as the reference's.

    Args:
        module: `sgr` (reasoning over a graph of similarity vectors) or `saf` (filtration by attention).
        sizes: the numbers.
    """

    def __init__(self, module: Module, sizes: SgrafSizes) -> None:
        super().__init__()
        self.img_enc = nn.ModuleDict({"fc": nn.Linear(sizes.region_width, sizes.width)})
        self.txt_enc = _Words(sizes)
        self.sim_enc = _Similarity(module, sizes)
        for layer in (self.img_enc["fc"], *self.sim_enc.modules()):
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def encode_regions(self, features_IRF: Tensor) -> Tensor:
        """Embed regions: (I, R, D) of unit length."""
        return unit(self.img_enc["fc"](features_IRF))

    def encode_words(self, ids_CL: Tensor, lengths_C: Tensor) -> Tensor:
        """Embed the words of captions in context: (C, L, D) of unit length, zeros behind a caption's end."""
        words_CLD: Tensor = self.txt_enc(ids_CL, lengths_C)
        return words_CLD

    def pool_regions(self, regions_IRD: Tensor, mask_IR: Tensor | None = None) -> Tensor:
        """Pool an image's regions: (I, D) of unit length.

        Args:
            regions_IRD: what `encode_regions` gave.
            mask_IR: which regions there are; None = all.
        """
        pooled_ID: Tensor = self.sim_enc.v_global_w(regions_IRD, mask_IR)
        return pooled_ID

    def pool_words(self, words_CLD: Tensor, lengths_C: Tensor) -> Tensor:
        """Pool a caption's words: (C, D) of unit length."""
        out = words_CLD.new_empty(len(words_CLD), words_CLD.shape[-1])
        for length, rows in _by_length(lengths_C):
            out = out.index_copy(0, rows, self.sim_enc.t_global_w(words_CLD[rows, :length]))
        return out

    def similarity(
        self,
        regions_IRD: Tensor,
        words_CLD: Tensor,
        lengths_C: Tensor,
        *,
        image_global_ID: Tensor,
        text_global_CD: Tensor,
        mask_IR: Tensor | None = None,
    ) -> Tensor:
        """Score every pair: (I, C) in (0, 1).

        Without gradients the work is cut into blocks of about `BLOCK` numbers, whatever I and C are.

        Args:
            regions_IRD: what `encode_regions` gave.
            words_CLD: what `encode_words` gave.
            lengths_C: words of each caption.
            image_global_ID: what `pool_regions` gave.
            text_global_CD: what `pool_words` gave.
            mask_IR: which regions there are; None = all.
        """
        whole = torch.is_grad_enabled() or self.training
        columns, order, statistics = [], [], []
        for length, rows in _by_length(lengths_C):
            images = max(1, len(regions_IRD) if whole else min(IMAGES, len(regions_IRD)))
            captions = len(rows) if whole else max(1, BLOCK // max(images * length * words_CLD.shape[-1], 1))
            for some in torch.split(rows, captions):
                words, pooled = words_CLD[some, :length], text_global_CD[some]
                parts = []
                for start in range(0, len(regions_IRD), images):
                    block = slice(start, start + images)
                    mask = None if mask_IR is None else mask_IR[block]
                    vectors = self.sim_enc.vectors(regions_IRD[block], words, image_global_ID[block], pooled, mask)
                    scores, moments = self.sim_enc.score(vectors)
                    parts.append(scores)
                    statistics.append(moments)
                columns.append(torch.cat(parts))
                order.append(some)
        place = torch.cat(order)
        if self.training and statistics[0] is not None:
            # The same statistics as caption by caption, in the order of the batch.
            means, variances = (torch.cat([pair[k] for pair in statistics if pair is not None]) for k in (0, 1))
            back = place.argsort()
            self.sim_enc.SAF_module.follow(means[back], variances[back])
        return torch.cat(columns, 1).index_select(1, place.argsort())


class _Words(nn.Module):
    """Word vectors and a bidirectional GRU whose two directions are averaged."""

    def __init__(self, sizes: SgrafSizes) -> None:
        super().__init__()
        self.embed = nn.Embedding(sizes.vocabulary, sizes.word_width)
        self.dropout = nn.Dropout(sizes.dropout)
        self.cap_rnn = nn.GRU(sizes.word_width, sizes.width, batch_first=True, bidirectional=True)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)

    def forward(self, ids_CL: Tensor, lengths_C: Tensor) -> Tensor:
        vectors = self.dropout(self.embed(ids_CL))
        packed = nn.utils.rnn.pack_padded_sequence(vectors, lengths_C.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(
            self.cap_rnn(packed)[0], batch_first=True, total_length=ids_CL.shape[1]
        )
        half = states.shape[-1] // 2
        return unit((states[..., :half] + states[..., half:]) / 2)


class _PoolRegions(nn.Module):
    """Attention over regions, with their mean as query."""

    def __init__(self, regions: int, width: int, dropout: float) -> None:
        super().__init__()
        self.embedding_local = nn.Sequential(
            nn.Linear(width, width), nn.BatchNorm1d(regions), nn.Tanh(), nn.Dropout(dropout)
        )
        self.embedding_global = nn.Sequential(
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Dropout(dropout)
        )
        self.embedding_common = nn.Sequential(nn.Linear(width, 1))

    def forward(self, regions_IRD: Tensor, mask_IR: Tensor | None) -> Tensor:
        if mask_IR is None:
            local = self.embedding_local(regions_IRD)
            mean = regions_IRD.mean(1)
        else:
            linear, norm, tanh, dropout = self.embedding_local
            local = dropout(tanh(_masked_norm(norm, linear(regions_IRD), mask_IR)))
            there = mask_IR[..., None].to(regions_IRD.dtype)
            mean = (regions_IRD * there).sum(1) / there.sum(1)
        scores = self.embedding_common(local * self.embedding_global(mean)[:, None]).squeeze(2)
        if mask_IR is not None:
            scores = scores.masked_fill(~mask_IR, float("-inf"))
        return unit((scores.softmax(1)[..., None] * regions_IRD).sum(1))


def _masked_norm(norm: nn.Module, x_IRD: Tensor, mask_IR: Tensor) -> Tensor:
    """Normalise each place of the region list over the images that have a region there."""
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    if not norm.training:
        normed: Tensor = norm(x_IRD)
        return normed
    there = mask_IR[..., None].to(x_IRD.dtype)
    count_R = there.sum((0, 2)) * x_IRD.shape[2]
    mean_R = (x_IRD * there).sum((0, 2)) / count_R.clamp(min=1)
    variance_R = ((x_IRD - mean_R[:, None]).pow(2) * there).sum((0, 2)) / count_R.clamp(min=1)
    with torch.no_grad():
        several = count_R > 1
        momentum = norm.momentum if norm.momentum is not None else 0.1
        unbiased = variance_R * count_R / (count_R - 1).clamp(min=1)
        norm.running_mean[several] += momentum * (mean_R - norm.running_mean)[several]
        norm.running_var[several] += momentum * (unbiased - norm.running_var)[several]
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked += 1
    scaled = (x_IRD - mean_R[:, None]) / (variance_R[:, None] + norm.eps).sqrt()
    return scaled * norm.weight[:, None] + norm.bias[:, None]


class _PoolWords(nn.Module):
    """Attention over the words of captions of one length, with their mean as query."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.embedding_local = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Dropout(dropout))
        self.embedding_global = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Dropout(dropout))
        self.embedding_common = nn.Sequential(nn.Linear(width, 1))

    def forward(self, words_GLD: Tensor) -> Tensor:
        together = self.embedding_local(words_GLD) * self.embedding_global(words_GLD.mean(1))[:, None]
        weights = self.embedding_common(together).squeeze(2).softmax(1)
        return unit((weights[..., None] * words_GLD).sum(1))


class _Similarity(nn.Module):
    """Similarity vectors of a pair (one global, one for each word), and the score made of them."""

    def __init__(self, module: Module, sizes: SgrafSizes) -> None:
        super().__init__()
        width, size = sizes.width, sizes.similarity_width
        self.v_global_w = _PoolRegions(sizes.regions, width, sizes.dropout)
        self.t_global_w = _PoolWords(width, sizes.dropout)
        self.sim_tranloc_w = nn.Linear(width, size)
        self.sim_tranglo_w = nn.Linear(width, size)
        self.sim_eval_w = nn.Linear(size, 1)
        if module == "sgr":
            self.SGR_module = nn.ModuleList([_Reasoning(size) for _ in range(sizes.steps)])
        else:
            self.SAF_module = _Filtration(size)

    def vectors(
        self, regions_IRD: Tensor, words_GLD: Tensor, image_ID: Tensor, text_GD: Tensor, mask_IR: Tensor | None
    ) -> Tensor:
        """Return (I, G, 1 + L, S): the global vector, then one for each word."""
        images, (captions, length, width) = len(regions_IRD), words_GLD.shape
        flat = words_GLD.reshape(captions * length, width)
        attention = F.leaky_relu(regions_IRD @ flat.T, 0.1).view(images, -1, captions, length)
        attention = SHARPNESS * unit(attention)
        if mask_IR is not None:
            attention = attention.masked_fill(~mask_IR[:, :, None, None], float("-inf"))
        weights = attention.softmax(1).flatten(2).transpose(1, 2)
        local = unit(self.sim_tranloc_w((unit(weights @ regions_IRD) - flat).pow(2)))
        whole = unit(self.sim_tranglo_w((image_ID[:, None] - text_GD).pow(2)))
        return torch.cat([whole[:, :, None], local.view(images, captions, length, -1)], 2)

    def score(self, vectors_IGLS: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return (I, G) scores and, for SAF in training, each caption's mean and variance of the attention."""
        statistics = None
        if hasattr(self, "SGR_module"):
            nodes = vectors_IGLS.flatten(0, 1)
            for number, step in enumerate(self.SGR_module):
                nodes = step(nodes, only_first=number + 1 == len(self.SGR_module))
            pooled = nodes[:, 0].view(*vectors_IGLS.shape[:2], -1)
        else:
            pooled, statistics = self.SAF_module(vectors_IGLS)
        logits: Tensor = self.sim_eval_w(pooled)
        return logits.squeeze(2).sigmoid(), statistics


class _Reasoning(nn.Module):
    """One step over the complete graph of similarity vectors."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.graph_query_w = nn.Linear(size, size)
        self.graph_key_w = nn.Linear(size, size)
        self.sim_graph_w = nn.Linear(size, size)

    def forward(self, nodes_PNS: Tensor, *, only_first: bool = False) -> Tensor:
        # Of the last step only the global node is read.
        updated = nodes_PNS[:, :1] if only_first else nodes_PNS
        query, key = self.graph_query_w, self.graph_key_w
        if torch.is_grad_enabled():
            edges = query(updated) @ key(nodes_PNS).transpose(1, 2)
        else:
            # Equal up to a constant over the keys of a query, which softmax ignores; one product for each node less.
            edges = F.linear(updated, key.weight.T @ query.weight, key.weight.T @ query.bias) @ nodes_PNS.transpose(
                1, 2
            )
        nodes: Tensor = self.sim_graph_w(edges.softmax(2) @ nodes_PNS)
        return nodes.relu()


class _Filtration(nn.Module):
    """Attention over similarity vectors; its BatchNorm runs over one caption against all images."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.attn_sim_w = nn.Linear(size, 1)
        self.bn = nn.BatchNorm1d(1)

    def forward(self, vectors_IGLS: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        raw = self.attn_sim_w(vectors_IGLS).squeeze(3)
        statistics = None
        if self.training:
            variance, mean = torch.var_mean(raw, (0, 2), correction=0, keepdim=True)
            count = raw.shape[0] * raw.shape[2]
            statistics = (mean.detach().flatten(), (variance * count / max(count - 1, 1)).detach().flatten())
            raw = (raw - mean) / (variance + self.bn.eps).sqrt() * self.bn.weight + self.bn.bias
        else:
            raw = self.bn(raw.reshape(-1, 1)).view(raw.shape)
        weights = raw.sigmoid()
        weights = weights / (weights.sum(2, keepdim=True) + 1e-8)
        return unit((weights[..., None] * vectors_IGLS).sum(2)), statistics

    @torch.no_grad()
    def follow(self, means_C: Tensor, variances_C: Tensor) -> None:
        """Move the running statistics once a caption."""
        assert self.bn.running_mean is not None
        assert self.bn.running_var is not None
        momentum = self.bn.momentum if self.bn.momentum is not None else 0.1
        for mean, variance in zip(means_C, variances_C, strict=True):
            self.bn.running_mean.lerp_(mean, momentum)
            self.bn.running_var.lerp_(variance, momentum)
        if self.bn.num_batches_tracked is not None:
            self.bn.num_batches_tracked += len(means_C)


def _by_length(lengths_C: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield each length and the captions that have it."""
    for length in sorted(set(lengths_C.tolist())):
        yield int(length), (lengths_C == length).nonzero().squeeze(1)


def hinge(
    similarity_BB: Tensor,
    *,
    margin: float = 0.2,
    hardest: bool = True,
    image_ids: Tensor | None = None,
) -> Tensor:
    """Compute the triplet loss of VSE++: a pair must score a margin above its negatives, in both directions.

    Args:
        similarity_BB: row i and column i belong together.
        margin: in units of the similarity.
        hardest: only the highest negative of each row and column, or the sum over all.
        image_ids: (B,); captions of the same image are no negatives of each other. The reference leaves out the
            diagonal only, which is what None gives.

    Returns:
        The sum over the batch, as the reference has it; not the mean.

    Source: Faghri et al., "VSE++", BMVC 2018, arXiv 1707.05612, equation 6.
    """
    own = similarity_BB.diagonal()
    same_image = torch.eye(len(own), dtype=torch.bool, device=own.device)
    if image_ids is not None:
        same_image = image_ids[:, None] == image_ids
    by_image = (margin + similarity_BB - own[:, None]).clamp(min=0).masked_fill(same_image, 0)
    by_text = (margin + similarity_BB - own).clamp(min=0).masked_fill(same_image, 0)
    if hardest:
        return by_image.max(1).values.sum() + by_text.max(0).values.sum()
    return by_image.sum() + by_text.sum()
