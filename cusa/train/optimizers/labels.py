"""What the optimisers are called and which of the recipe's options each reads; nothing heavy is imported."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """One optimiser, for a person."""

    name: str
    """`train.optimizer`."""
    torch_class: str
    """In `torch.optim`."""
    title: str
    """With its source."""
    reads: tuple[str, ...]
    """Options of `train` that are its own; all have `lr`, `weight_decay` and `decay`."""
    decays: str
    """How weights decay."""
    keeps: str
    """What it keeps of each parameter besides the weight: memory, and part of a checkpoint."""
    about: str


LABELS = (
    Label(
        "adamw",
        "AdamW",
        "AdamW (Loshchilov and Hutter, ICLR 2019, arXiv:1711.05101)",
        ("beta1", "beta2", "eps"),
        "apart from the gradient",
        "2 numbers a weight",
        "what CLIP, the paper and its release use",
    ),
    Label(
        "nadamw",
        "NAdam",
        "NAdam with decoupled weight decay (Dozat, ICLR workshop 2016)",
        ("beta1", "beta2", "eps"),
        "apart from the gradient",
        "2 numbers a weight",
        "AdamW that looks one step ahead; the same rates",
    ),
    Label(
        "adafactor",
        "Adafactor",
        "Adafactor (Shazeer and Stern, ICML 2018, arXiv:1804.04235)",
        (),
        "apart from the gradient",
        "1 number a row and a column of a matrix",
        "for little memory; `lr` is relative to a parameter's size (root mean square, at least 0.001) and falls as "
        "1 / sqrt(step) once that is lower, so 1e-3 to 1e-2 are usual",
    ),
    Label(
        "muon",
        "Muon",
        "Muon (Jordan et al. 2024) for the matrices of linear layers, AdamW for all else",
        ("momentum", "beta1", "beta2", "eps"),
        "apart from the gradient",
        "1 number a weight of a linear layer, 2 of any other",
        "steps of equal size in all directions of a matrix, scaled such that AdamW's rates fit (Liu et al. 2025, "
        "arXiv:2502.16982); fifteen products with each matrix a step, which a small student on a CPU feels",
    ),
    Label(
        "sgd",
        "SGD",
        "stochastic gradient descent with Nesterov's momentum (Sutskever et al., ICML 2013)",
        ("momentum",),
        "as part of the gradient",
        "1 number a weight; none with momentum 0",
        "usual rates are a hundred to a thousand times AdamW's",
    ),
)
"""The optimisers of `train.optimizer`, all of them torch's own."""
