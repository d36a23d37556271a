"""Uni-modal soft-label alignment: what teachers find alike within a modality, the student's projectors find alike too.

Legend: B pairs in the batch; all matrices are image-image or text-text. Where several processes share a batch, the
matrices of one of them have its own rows only.
"""

from torch import Tensor

from cusa.train.losses.csa import Divergence, soft_divergence


def usa(
    image_similarity_BB: Tensor,
    text_similarity_BB: Tensor,
    teacher_image_BB: Tensor,
    teacher_text_BB: Tensor,
    *,
    image_temperature: Tensor | float,
    text_temperature: Tensor | float,
    teacher_image_temperature: Tensor | float = 1.0,
    teacher_text_temperature: Tensor | float = 1.0,
    divergence: Divergence = "kl",
) -> Tensor:
    """Return the divergence of the student's uni-modal distributions from the teachers'.

    `1/2 mean_i [ KL(softmax_j(a_ij / u_I) || softmax_j(r^I_ij / t_I))
    + KL(softmax_j(b_ij / u_T) || softmax_j(r^T_ij / t_T)) ]` with r the cosines of the uni-modal projections and a,
    b those of the teachers. The diagonal stays in.

    Args:
        image_similarity_BB: cosines of the student's uni-modal image embeddings.
        text_similarity_BB: cosines of its uni-modal text embeddings.
        teacher_image_BB: the image teacher's cosines; no gradient flows into them.
        teacher_text_BB: the text teacher's cosines; likewise.
        image_temperature: of the student's images; the paper learns it from 0.45.
        text_temperature: of the student's texts; likewise.
        teacher_image_temperature: of the image soft labels; the paper fixes 1.
        teacher_text_temperature: of the text soft labels.
        divergence: as in `csa`.

    Returns:
        A scalar; for `kl` at least 0, and 0 where student and teachers agree.

    Raises:
        ConfigError: for an unknown divergence.

    Source: Huang et al., AAAI 2024, doi 10.1609/aaai.v38i16.29789, section "Uni-modal Soft-label Alignment". Equal to
    the authors' release.
    """
    image = soft_divergence(
        teacher_image_BB.detach() / teacher_image_temperature, image_similarity_BB / image_temperature, divergence
    )
    text = soft_divergence(
        teacher_text_BB.detach() / teacher_text_temperature, text_similarity_BB / text_temperature, divergence
    )
    return (image + text) / 2
