"""From the names of tags to their rows: what a tag would be like that no image has yet.

The row of a new tag is a weighted sum of rows of tags with images. The weights are those of kernel ridge
regression from text vectors of names to rows, with an intercept:

    c = g (G + ridge I)^-1 (I - 1 m^T) + m^T        G_st = exp((v_s . v_t - 1) / width), g: of new names

m are the weights of the generalised least-squares mean. Width and ridge are those with which rows of known
tags follow best from all others, by the cosine; what the regression says of one of its own tags without that
tag has a closed form (Allen, 1974, see ``decision/kernel.py``).

Shapes: S tags with images, n new names, d size of text vectors, E embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

MOST_TAGS = 4096
"""Tags that the map is fitted to, the most frequent ones: one factor of so many rows takes seconds."""
_CHOOSING = 1024  # tags that width and ridge are chosen by
_WIDTHS = (0.1, 0.15, 0.2, 0.3, 0.5)
_RIDGES = (0.03, 0.1, 0.3, 1.0)
LEAST_TAGS = 8
"""With fewer there is nothing to learn from names."""


@dataclass(frozen=True)
class NameMap:
    """A fitted map.

    Args:
        text_Sd: float64 text vectors of tags with images, of length 1.
        row_SE: float64, what is mapped to.
        width, ridge: see the head of this file.
        length: of the rows that it gives; None: as they come out.
    """

    text_Sd: Tensor
    row_SE: Tensor
    width: float
    ridge: float
    length: float | None

    @staticmethod
    def fit(text_Sd: Tensor, row_SE: Tensor, direction: bool) -> NameMap:
        """The map of tags that have images.

        Args:
            text_Sd: float ``[S, d]``, S at least ``LEAST_TAGS``; the most frequent tags first.
            row_SE: their rows of the table.
            direction: only the directions of rows count for scores (latents are normalised and there is no
                tag network): unit rows are averaged, and what is given has the mean length of the rows.
        """
        text_Sd, row_SE = text_Sd[:MOST_TAGS].double(), row_SE[:MOST_TAGS].double()
        length = None
        if direction:
            length = float(row_SE.norm(dim=1).mean())
            row_SE = normalize(row_SE)
        some = NameMap(text_Sd[:_CHOOSING], row_SE[:_CHOOSING], 1.0, 1.0, length)
        tried = [
            (some._agreement(width, ridge), width, ridge) for width in _WIDTHS for ridge in _RIDGES
        ]
        _, width, ridge = max(tried)
        return NameMap(text_Sd, row_SE, width, ridge, length)

    def rows(self, text_nd: Tensor) -> Tensor:
        """float32 ``[n, E]`` of new names' text vectors."""
        return self._scaled(self._mapped(text_nd))

    def expected(self, text_nd: Tensor) -> Tensor:
        """float32 ``[n, E]``: as ``rows``, but only as long as the regression makes them. Names explain a
        small part of rows, so that these are short: the rest is left to images."""
        return (self._mapped(text_nd) * (self.length or 1.0)).float()

    def left_out(self) -> Tensor:
        """float32 ``[S, E]``: what the map would give each of its own tags without that tag."""
        return self._scaled(self._left_out(self.width, self.ridge))

    def _mapped(self, text_nd: Tensor) -> Tensor:
        near_nS = ((text_nd.double() @ self.text_Sd.T - 1) / self.width).exp()
        inverse_SS, mean_S = self._system(self.width, self.ridge)
        return _through(near_nS, inverse_SS, mean_S) @ self.row_SE

    def _scaled(self, row_nE: Tensor) -> Tensor:
        if self.length is not None:
            row_nE = normalize(row_nE) * self.length
        return row_nE.float()

    def _near(self, width: float) -> Tensor:
        return ((self.text_Sd @ self.text_Sd.T - 1) / width).exp()

    def _system(self, width: float, ridge: float) -> tuple[Tensor, Tensor]:
        """``(G + ridge I)^-1`` and m."""
        system_SS = self._near(width)
        system_SS.diagonal().add_(ridge)
        inverse_SS = torch.cholesky_inverse(torch.linalg.cholesky(system_SS))
        sum_S = inverse_SS.sum(1)
        return inverse_SS, sum_S / sum_S.sum()

    def _left_out(self, width: float, ridge: float) -> Tensor:
        inverse_SS, mean_S = self._system(width, ridge)
        hat_SS = _through(self._near(width), inverse_SS, mean_S)
        own_S1 = hat_SS.diagonal()[:, None]
        return (hat_SS @ self.row_SE - own_S1 * self.row_SE) / (1 - own_S1)

    def _agreement(self, width: float, ridge: float) -> float:
        """Mean cosine of rows and what the others say of them."""
        said_SE = normalize(self._left_out(width, ridge))
        return float((said_SE * normalize(self.row_SE)).sum(1).mean())


def _through(near_nS: Tensor, inverse_SS: Tensor, mean_S: Tensor) -> Tensor:
    """The weights c ``[n, S]`` of tags with images."""
    weight_nS = near_nS @ inverse_SS
    return weight_nS + (1 - weight_nS.sum(1, keepdim=True)) * mean_S
