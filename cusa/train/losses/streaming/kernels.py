"""The two passes of `tiles` as Triton kernels: products, exponentials and sums in one, for CUDA.

The first kernel goes over all columns for a block of rows and keeps running sums in registers; no cosine is ever
written. The second writes the slopes of one large tile, in the type of its inputs, for two matrix products: every
number is written by one program, so that neither needs atomics and both give the same bits every time. Inputs are read
as float32, TF32 or bfloat16, as `torch.set_float32_matmul_precision` says (highest, high, medium); sums are float32.

Checked with Triton's interpreter, which runs them on a CPU without compiling (`TRITON_INTERPRET=1`); not yet compiled
for or timed on a GPU. `impl="triton"` takes them, `impl="auto"` where they were measured faster (see `preferred`).

Legend: B pairs, M rows and N columns of a block, K numbers of an embedding read at a time.
"""

# ruff: noqa: N803 (constants of a kernel are upper case)

import os

import triton
import triton.language as tl

if os.environ.get("TRITON_INTERPRET") == "1":  # so small that tests meet their edges; nothing to choose from
    CONFIGS = [triton.Config({"M": 16, "N": 16, "K": 16})]
else:
    CONFIGS = [
        triton.Config({"M": rows, "N": columns, "K": numbers}, num_warps=warps, num_stages=stages)
        for rows, columns, numbers, warps, stages in (
            (64, 64, 64, 4, 3),
            (64, 128, 64, 4, 3),
            (128, 64, 64, 4, 3),
            (128, 128, 64, 8, 3),
            (128, 128, 32, 8, 4),
            (64, 64, 32, 4, 4),
        )
    ]
"""Rows, columns and numbers of an embedding that one program holds at a time. Triton times them on the device at the
first call of a size, a width and the terms, and keeps the fastest; what does not fit it passes over."""
_TUNED_BY = ["size", "width", "a_width", "b_width", "HARD", "SOFT", "FUSION", "READ"]


@triton.jit
def _product(x, y, rows, columns, size, width, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, READ: tl.constexpr):
    """Return a block of X Y^T, (M, N) in float32."""
    made = tl.zeros((M, N), dtype=tl.float32)
    # Rows times the width of a teacher may pass 2^31.
    x_M, y_N = rows.to(tl.int64) * width, columns.to(tl.int64) * width
    for start in range(0, width, K):
        numbers = start + tl.arange(0, K)
        x_MK = tl.load(
            x + x_M[:, None] + numbers[None, :],
            mask=(rows[:, None] < size) & (numbers[None, :] < width),
            other=0.0,
        )
        y_KN = tl.load(
            y + y_N[None, :] + numbers[:, None],
            mask=(columns[None, :] < size) & (numbers[:, None] < width),
            other=0.0,
        )
        if READ == "upcast":  # the interpreter multiplies bfloat16 as if its bits were integers
            made += tl.dot(x_MK.to(tl.float32), y_KN.to(tl.float32), input_precision="ieee")
        elif READ == "tf32":
            made += tl.dot(x_MK, y_KN, input_precision="tf32")
        else:
            made += tl.dot(x_MK, y_KN, input_precision="ieee")
    return made


@triton.jit
def _taught(
    a,
    b,
    rows,
    columns,
    size,
    a_width,
    b_width,
    FUSION: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    READ: tl.constexpr,
):
    """Return a block of the teacher's cosines, or of two teachers joined."""
    a_MN = _product(a, a, rows, columns, size, a_width, M, N, K, READ)
    if FUSION != "each":
        b_MN = _product(b, b, rows, columns, size, b_width, M, N, K, READ)
        if FUSION == "add":  # noqa: SIM108 (a branch at compile time)
            a_MN = (a_MN + b_MN) / 2
        else:
            a_MN = tl.sqrt(tl.maximum(a_MN, 0.0) * tl.maximum(b_MN, 0.0))
    return a_MN


@triton.jit
def _into(most_M, sum_M, drawn_M, s_MN, there_MN, per_t):
    """Take a block into a running log-sum-exp, and into the sum of what it weighs."""
    logits_MN = tl.where(there_MN, s_MN * per_t, -1e30)
    new_M = tl.maximum(most_M, tl.max(logits_MN, 1))
    e_MN = tl.where(there_MN, tl.exp(logits_MN - new_M[:, None]), 0.0)
    shrink_M = tl.exp(most_M - new_M)
    return new_M, sum_M * shrink_M + tl.sum(e_MN, 1), drawn_M * shrink_M + tl.sum(e_MN * s_MN, 1)


@triton.autotune(configs=CONFIGS, key=_TUNED_BY)
@triton.jit
def statistics(
    x,
    y,
    a,
    b,
    out,
    size,
    width,
    a_width,
    b_width,
    pers,
    HARD: tl.constexpr,
    SOFT: tl.constexpr,
    FUSION: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    READ: tl.constexpr,
):
    """Write what every row's softmaxes sum to, into `out` (9, B).

    Rows of `out`: InfoNCE's largest logit, sum of exponentials and their cosines; the same of the softmax that is
    taught; of the label `exp((a - 1) / u)` its sum, that of the teacher's cosines under it and of the student's. `pers`
    (3): the inverse temperatures of InfoNCE, of the softmax that is taught, and of the label.
    """
    per_hard, per_soft, per_label = tl.load(pers), tl.load(pers + 1), tl.load(pers + 2)
    rows = tl.program_id(0) * M + tl.arange(0, M)
    zero = tl.zeros((M,), dtype=tl.float32)
    hard_most, hard_sum, hard_drawn = zero - 1e30, zero, zero
    soft_most, soft_sum, soft_drawn = zero - 1e30, zero, zero
    norm, weighted, crossed = zero, zero, zero
    for start in range(0, size, N):
        columns = start + tl.arange(0, N)
        there_MN = (rows[:, None] < size) & (columns[None, :] < size)
        s_MN = _product(x, y, rows, columns, size, width, M, N, K, READ)
        if HARD:
            hard_most, hard_sum, hard_drawn = _into(hard_most, hard_sum, hard_drawn, s_MN, there_MN, per_hard)
        if SOFT:
            soft_most, soft_sum, soft_drawn = _into(soft_most, soft_sum, soft_drawn, s_MN, there_MN, per_soft)
            a_MN = _taught(a, b, rows, columns, size, a_width, b_width, FUSION, M, N, K, READ)
            e_MN = tl.where(there_MN, tl.exp((a_MN - 1) * per_label), 0.0)
            norm += tl.sum(e_MN, 1)
            weighted += tl.sum(e_MN * a_MN, 1)
            crossed += tl.sum(e_MN * s_MN, 1)
    inside = rows < size
    tl.store(out + rows, hard_most, mask=inside)
    tl.store(out + size + rows, hard_sum, mask=inside)
    tl.store(out + 2 * size + rows, hard_drawn, mask=inside)
    tl.store(out + 3 * size + rows, soft_most, mask=inside)
    tl.store(out + 4 * size + rows, soft_sum, mask=inside)
    tl.store(out + 5 * size + rows, soft_drawn, mask=inside)
    tl.store(out + 6 * size + rows, norm, mask=inside)
    tl.store(out + 7 * size + rows, weighted, mask=inside)
    tl.store(out + 8 * size + rows, crossed, mask=inside)


@triton.autotune(configs=CONFIGS, key=[*_TUNED_BY, "num_rows", "num_columns", "TWO_LABELS"])
@triton.jit
def slopes(
    x,
    y,
    a,
    b,
    norms,
    weights,
    out,
    size,
    width,
    a_width,
    b_width,
    first_row,
    first_column,
    num_rows,
    num_columns,
    pers,
    HARD: tl.constexpr,
    SOFT: tl.constexpr,
    FUSION: tl.constexpr,
    TWO_LABELS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    READ: tl.constexpr,
):
    """Write the gradient of a tile's cosines, (num_rows, num_columns).

    `norms` (6, B) holds log-normalisers: InfoNCE's of rows and of columns, the taught softmaxes' of rows and of
    columns, the labels' (of `exp(a / u)`) of rows and of columns. `weights` (3): InfoNCE's, the taught rows' and
    columns'. `pers` (5): the inverse temperatures of InfoNCE, the taught rows and columns, their labels.
    """
    per_hard, per_soft_rows, per_soft_columns = tl.load(pers), tl.load(pers + 1), tl.load(pers + 2)
    per_label_rows, per_label_columns = tl.load(pers + 3), tl.load(pers + 4)
    row = tl.program_id(0) * M + tl.arange(0, M)
    column = tl.program_id(1) * N + tl.arange(0, N)
    rows, columns = first_row + row, first_column + column
    there_MN = (row[:, None] < num_rows) & (column[None, :] < num_columns)
    inside_M, inside_N = row < num_rows, column < num_columns
    s_MN = _product(x, y, rows, columns, size, width, M, N, K, READ)
    slope_MN = tl.zeros((M, N), dtype=tl.float32)
    if HARD:
        row_norm = tl.load(norms + rows, mask=inside_M, other=0.0)
        column_norm = tl.load(norms + size + columns, mask=inside_N, other=0.0)
        logits_MN = tl.where(there_MN, s_MN * per_hard, -1e30)
        both_MN = tl.exp(logits_MN - row_norm[:, None]) + tl.exp(logits_MN - column_norm[None, :])
        slope_MN += tl.load(weights) * both_MN
    if SOFT:
        row_norm = tl.load(norms + 2 * size + rows, mask=inside_M, other=0.0)
        column_norm = tl.load(norms + 3 * size + columns, mask=inside_N, other=0.0)
        row_label = tl.load(norms + 4 * size + rows, mask=inside_M, other=0.0)
        column_label = tl.load(norms + 5 * size + columns, mask=inside_N, other=0.0)
        a_MN = _taught(a, b, rows, columns, size, a_width, b_width, FUSION, M, N, K, READ)
        b_MN = a_MN
        if TWO_LABELS:
            b_MN = _product(b, b, rows, columns, size, b_width, M, N, K, READ)
        to_rows = tl.exp(tl.where(there_MN, s_MN * per_soft_rows, -1e30) - row_norm[:, None])
        to_rows -= tl.exp(tl.where(there_MN, a_MN * per_label_rows, -1e30) - row_label[:, None])
        to_columns = tl.exp(tl.where(there_MN, s_MN * per_soft_columns, -1e30) - column_norm[None, :])
        to_columns -= tl.exp(tl.where(there_MN, b_MN * per_label_columns, -1e30) - column_label[None, :])
        slope_MN += tl.load(weights + 1) * to_rows + tl.load(weights + 2) * to_columns
    places = row[:, None] * num_columns + column[None, :]
    tl.store(out + places, slope_MN.to(out.dtype.element_ty), mask=there_MN)
