"""Products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.execute.differentiable.registry import Attributes, operator


@operator("MatMul")
def matmul(attributes: Attributes, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@operator("FusedMatMul", domain="com.microsoft")
def fused_matmul(attributes: Attributes, a: Tensor, b: Tensor) -> Tensor:
    if attributes.integer("transA", 0):
        a = a.transpose(-1, -2)
    if attributes.integer("transB", 0):
        b = b.transpose(-1, -2)
    return attributes.number("alpha", 1.0) * torch.matmul(a, b)


@operator("Gemm")
def gemm(attributes: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if attributes.integer("transA", 0) else a
    b = b.T if attributes.integer("transB", 0) else b
    alpha, beta = attributes.number("alpha", 1.0), attributes.number("beta", 1.0)
    if c is None:
        return a @ b if alpha == 1 else alpha * (a @ b)
    return torch.addmm(c, a, b, alpha=alpha, beta=beta)


@operator("Einsum")
def einsum(attributes: Attributes, *inputs: Tensor) -> Tensor:
    return torch.einsum(attributes.text("equation", "").replace(" ", ""), *inputs)
