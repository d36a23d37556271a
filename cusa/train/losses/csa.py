"""Cross-modal soft-label alignment: uni-modal teachers say how much an image and a foreign caption have in common.

Legend: B pairs in the batch. Image row i, text column i are a pair; teacher matrices are image-image and text-text.
Where several processes share a batch, R are the rows of one of them, and its matrices are (R, B).
"""

from typing import Literal

from torch import Tensor

from cusa.errors import ConfigError
from cusa.train.losses.infonce import cross_entropy

Fusion = Literal["each", "add", "dot"]
Divergence = Literal["kl", "cross_entropy", "cross_entropy_release"]


def csa(
    similarity_BB: Tensor,
    teacher_image_BB: Tensor,
    teacher_text_BB: Tensor,
    *,
    image_temperature: Tensor | float,
    text_temperature: Tensor | float,
    teacher_image_temperature: Tensor | float = 1.0,
    teacher_text_temperature: Tensor | float = 1.0,
    fusion: Fusion = "each",
    divergence: Divergence = "kl",
    text_similarity_BB: Tensor | None = None,
) -> Tensor:
    """Return the divergence of the student's cross-modal distributions from the teachers' uni-modal ones.

    `1/2 mean_i [ KL(softmax_j(a_ij / u_I) || softmax_j(s_ij / t_I))
    + KL(softmax_j(b_ij / u_T) || softmax_j(s_ji / t_T)) ]` with a, b the image and the text teacher's cosines:
    image similarity teaches the image-to-text direction, text similarity the text-to-image direction. The diagonal
    stays in every softmax. There is no factor of temperature squared, as other distillation losses have.

    Args:
        similarity_BB: the student's cosines of images (rows) and texts (columns); or (R, B), as the teachers' then are.
        teacher_image_BB: the image teacher's cosines; no gradient flows into them.
        teacher_text_BB: the text teacher's cosines; likewise.
        image_temperature: of the student, image-to-text direction; the paper learns one for both from 0.45.
        text_temperature: of the student, text-to-image direction.
        teacher_image_temperature: of the image soft labels; the paper fixes 1. A learned one gets its gradient.
        teacher_text_temperature: of the text soft labels.
        fusion: `each` is the paper's; `add` and `dot` are described at `fuse`.
        divergence: `kl` is the paper's; the others are described at `soft_divergence`.
        text_similarity_BB: the student's cosines of texts (rows) and images (columns); None: the transpose. Needed for
            (R, B).

    Returns:
        A scalar; for `kl` at least 0, and 0 where student and teachers agree.

    Raises:
        ConfigError: for an unknown fusion or divergence.

    Source: Huang et al., AAAI 2024, doi 10.1609/aaai.v38i16.29789, section "Cross-modal Soft-label Alignment". Equal
    to the authors' release in every mode; `add`, `dot` and the cross-entropies exist in the release only.
    """
    image_BB, text_BB = fuse(teacher_image_BB, teacher_text_BB, fusion)
    to_text = soft_divergence(image_BB / teacher_image_temperature, similarity_BB / image_temperature, divergence)
    back_BB = similarity_BB.T if text_similarity_BB is None else text_similarity_BB
    to_image = soft_divergence(text_BB / teacher_text_temperature, back_BB / text_temperature, divergence)
    return (to_text + to_image) / 2


def fuse(teacher_image_BB: Tensor, teacher_text_BB: Tensor, fusion: Fusion) -> tuple[Tensor, Tensor]:
    """Return the similarities that teach the image-to-text and the text-to-image direction, detached.

    Args:
        teacher_image_BB: the image teacher's cosines.
        teacher_text_BB: the text teacher's cosines.
        fusion: `each`: each teacher its own direction. `add`: the mean of the two teaches both. `dot`: the geometric
            mean of the two, negative ones counted as 0, teaches both.

    Returns:
        Two matrices of the arguments' shape.

    Raises:
        ConfigError: for an unknown fusion.
    """
    image_BB, text_BB = teacher_image_BB.detach(), teacher_text_BB.detach()
    if fusion == "each":
        return image_BB, text_BB
    if fusion == "add":
        fused_BB = (image_BB + text_BB) / 2
    elif fusion == "dot":
        fused_BB = (image_BB.clamp(min=0) * text_BB.clamp(min=0)).sqrt()
    else:
        raise ConfigError(f"fusion is {fusion!r}; allowed: each, add, dot.", fusion=fusion)
    return fused_BB, fused_BB


def soft_divergence(teacher_BB: Tensor, student_BB: Tensor, divergence: Divergence = "kl") -> Tensor:
    """Return how far softmax(student) is from softmax(teacher), row by row, averaged over rows.

    Args:
        teacher_BB: logits of the targets, temperature applied.
        student_BB: logits of the student, temperature applied.
        divergence: `kl`: KL(teacher || student), summed over columns. `cross_entropy`: leaves the targets' own entropy
            in, which changes the value, and the gradient of teacher temperatures only. `cross_entropy_release`:
            that divided by B, the columns, which is what a mean over all elements amounts to.

    Returns:
        A scalar.

    Raises:
        ConfigError: for an unknown divergence.
    """
    log_target_BB = teacher_BB.log_softmax(1)
    target_BB = log_target_BB.exp()
    if divergence == "kl":
        return (target_BB * (log_target_BB - student_BB.log_softmax(1))).sum() / max(len(student_BB), 1)
    if divergence not in ("cross_entropy", "cross_entropy_release"):
        raise ConfigError(
            f"divergence is {divergence!r}; allowed: kl, cross_entropy, cross_entropy_release.", divergence=divergence
        )
    loss = cross_entropy(target_BB, student_BB)
    return loss / student_BB.shape[1] if divergence == "cross_entropy_release" else loss
