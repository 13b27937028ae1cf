"""The activations that torch.nn has no module for; `interchange.to_torch` makes them.

It imports PyTorch, and is imported where that is there.

>>> from fastreg.torch_modules import KerasReLU
>>> KerasReLU(0.5, max_value=2.0, threshold=1.0)(torch.tensor([-1.0, 1.5, 3.0]))
tensor([-1.0000,  1.5000,  2.0000])
"""

from __future__ import annotations

import torch


class Exponential(torch.nn.Module):
    """`exp(z)`."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.exp(z)


class KerasReLU(torch.nn.Module):
    """`negative_slope (z - threshold)` up to the threshold; above it z, at most `max_value`."""

    def __init__(self, negative_slope: float, max_value: float | None, threshold: float) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.max_value = max_value
        self.threshold = threshold

    def extra_repr(self) -> str:
        return f"{self.negative_slope}, {self.max_value}, {self.threshold}"

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        below = self.negative_slope * (z - self.threshold)
        return torch.where(z > self.threshold, z.clamp(max=self.max_value), below)
