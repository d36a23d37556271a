"""Cross-modal soft-label alignment: uni-modal teachers say how much an image and a foreign caption have in common.

Legend: B pairs in the batch. Image row i, text column i are a pair; teacher matrices are image-image and text-text.
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
) -> Tensor:
    """Return the divergence of the student's cross-modal distributions from the teachers' uni-modal ones.

    `1/2 mean_i [ KL(softmax_j(a_ij / u_I) || softmax_j(s_ij / t_I))
    + KL(softmax_j(b_ij / u_T) || softmax_j(s_ji / t_T)) ]` with a, b the image and the text teacher's cosines:
    image similarity teaches the image-to-text direction, text similarity the text-to-image direction. The diagonal
    stays in every softmax.

    Args:
        similarity_BB: the student's cosines of images (rows) and texts (columns).
        teacher_image_BB: the image teacher's cosines; no gradient flows into them.
        teacher_text_BB: the text teacher's cosines; likewise.
        image_temperature: of the student, image-to-text direction; the paper learns one for both from 0.45.
        text_temperature: of the student, text-to-image direction.
        teacher_image_temperature: of the image soft labels; the paper fixes 1. Learned ones get their gradient.
        teacher_text_temperature: of the text soft labels.
        fusion: `each` is the paper's; `add` teaches both directions by the mean of the two teachers, `dot` by the
            geometric mean of their clipped similarities (both in the authors' release).
        divergence: `kl` is the paper's; `cross_entropy` leaves the targets' entropy in (the same gradient for fixed
            teacher temperatures); `cross_entropy_release` divides that by B, as the release's `mean` does.

    Returns:
        A scalar; for `kl` at least 0, and 0 where student and teachers agree.

    Raises:
        ConfigError: for an unknown fusion or divergence.

    Source: Huang et al., AAAI 2024, equations 5 and 6. Equal to the authors' release in every mode, but for one
    thing: teacher similarities are detached here, so that only teacher temperatures can learn from this loss.
    """
    image_BB, text_BB = teacher_image_BB.detach(), teacher_text_BB.detach()
    if fusion == "add":
        image_BB = text_BB = (image_BB + text_BB) / 2
    elif fusion == "dot":
        image_BB = text_BB = (image_BB.clamp(min=0) * text_BB.clamp(min=0)).sqrt()
    elif fusion != "each":
        raise ConfigError(f"fusion is {fusion!r}; allowed: each, add, dot.", fusion=fusion)
    to_text = soft_divergence(image_BB / teacher_image_temperature, similarity_BB / image_temperature, divergence)
    to_image = soft_divergence(text_BB / teacher_text_temperature, similarity_BB.T / text_temperature, divergence)
    return (to_text + to_image) / 2


def soft_divergence(teacher_BB: Tensor, student_BB: Tensor, divergence: Divergence = "kl") -> Tensor:
    """Return how far softmax(student) is from softmax(teacher), row by row, averaged over rows.

    Args:
        teacher_BB: logits of the targets.
        student_BB: logits of the student.
        divergence: `kl`: KL(teacher || student). Both other kinds are described at `csa`.
    """
    log_target_BB = teacher_BB.log_softmax(1)
    target_BB = log_target_BB.exp()
    if divergence == "kl":
        return (target_BB * (log_target_BB - student_BB.log_softmax(1))).sum(1).mean()
    if divergence not in ("cross_entropy", "cross_entropy_release"):
        raise ConfigError(
            f"divergence is {divergence!r}; allowed: kl, cross_entropy, cross_entropy_release.", divergence=divergence
        )
    loss = cross_entropy(target_BB, student_BB)
    return loss / len(student_BB) if divergence == "cross_entropy_release" else loss
