"""The shape of an encoder's vectors: anisotropy, alignment, uniformity."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unmask.encoder import TextEncoder
from unmask.errors import DataError


@dataclass(frozen=True, slots=True)
class Geometry:
    """Figures of a set of vectors scaled to length 1.

    Attributes:
        anisotropy: mean cosine of two different texts (Ethayarajh 2019); 0 where vectors point everywhere.
        alignment: mean squared distance of two texts that mean the same (Wang and Isola 2020); lower is better.
        uniformity: log of the mean of exp(-2 d^2) over different texts (same source); lower is more even.
        dimensions: how many directions carry the variance: (sum of eigenvalues)^2 / sum of their squares.
        texts: how many.
        pairs: how many.
    """

    anisotropy: float
    alignment: float
    uniformity: float
    dimensions: float
    texts: int
    pairs: int


def geometry(encoder: TextEncoder, pairs: Sequence[tuple[str, str]]) -> Geometry:
    """Measure an encoder on pairs of texts that mean the same; all texts together are the set.

    Raises:
        DataError: fewer than two pairs of different texts.
    """
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    if len(pairs) < 2 or len(texts) < 3:
        raise DataError(f"{len(pairs)} pairs of texts are too few to measure the shape of their vectors.")
    vectors = encoder.encode(texts, normalize=True).astype(np.float64)
    number = {text: i for i, text in enumerate(texts)}
    first, second = (vectors[[number[pair[i]] for pair in pairs]] for i in (0, 1))
    cosines = (vectors @ vectors.T)[np.triu_indices(len(texts), k=1)]
    eigenvalues = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False) ** 2
    return Geometry(
        anisotropy=float(cosines.mean()),
        alignment=float(((first - second) ** 2).sum(axis=1).mean()),
        uniformity=float(np.log(np.exp(-2 * (2 - 2 * cosines)).mean())),
        dimensions=float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum()),
        texts=len(texts),
        pairs=len(pairs),
    )
