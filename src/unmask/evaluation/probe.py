"""Linear probes on word vectors: one trained to convergence, and the paper's, which stops after so many steps."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unmask.encoder import Floats

logger = logging.getLogger(__name__)
ProbeName = Literal["converged", "paper"]
# Section 3.1 of the paper; its released configuration stops at 4,000 steps and tests step 3,000.
PAPER_STEPS = 1500
_PAPER_RATE = 5e-4
_PAPER_BATCH = 8
_PAPER_DROPOUT = 0.1
_PAPER_EPOCHS = 10  # over which the released configuration lets the learning rate fall to 0
_INVERSE_STRENGTH = 0.1  # of the converged probe's penalty, as C of scikit-learn's LogisticRegression
_MAX_ITERATIONS = 300
_TOLERANCE = 2e-4  # on the gradient; beyond it accuracies change by 0.02 points at most
_FEW_BYTES = 8 << 20


class Rows:
    """Vectors [rows, width] that come in pieces, or any of them at once; these are in memory and come as one."""

    def __init__(self, array: Floats) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def chunks(self) -> Iterator[tuple[int, Floats]]:
        """First row and rows of one piece after the other."""
        yield 0, self.array

    def release(self) -> None:
        """What was read is not needed for now."""


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """label = argmax(weight @ ((vector - mean) / scale) + bias): float32, [labels, width], [labels], [width] twice."""

    weight: Floats
    bias: Floats
    mean: Floats
    scale: Floats

    def predict(self, vectors: Floats) -> NDArray[np.int32]:
        """Label numbers [rows] of vectors [rows, width]."""
        logits = ((vectors - self.mean) / self.scale) @ self.weight.T + self.bias
        return logits.argmax(axis=1).astype(np.int32)

    def predict_all(self, vectors: Rows) -> NDArray[np.int32]:
        """Label numbers of rows that come in pieces."""
        found = np.empty(len(vectors), dtype=np.int32)
        for start, rows in vectors.chunks():
            found[start : start + len(rows)] = self.predict(rows)
        return found


def standardise(vectors: Rows) -> tuple[Floats, Floats]:
    """Give each column mean 0 and standard deviation 1, in place; what is returned was subtracted and divided by."""
    mean, scale = _moments(vectors)
    for _, rows in vectors.chunks():
        rows -= mean
        rows /= scale
    return mean, scale


def fit_converged(vectors: Rows, labels: NDArray[np.int32], num_labels: int) -> tuple[Floats, Floats]:
    """Multinomial logistic regression on standardised vectors, by L-BFGS over all rows; convex, so without a seed.

    The optimum of scikit-learn's LogisticRegression (C = 0.1), but rows are read in pieces. A first search over few
    rows gives the search over all a good start.

    Returns:
        Weights [labels, width] and biases [labels].
    """
    every = max(1, vectors.array.nbytes // _FEW_BYTES)
    sample = Rows(np.concatenate([rows[-first % every :: every].copy() for first, rows in vectors.chunks()]))
    parameters = np.zeros((num_labels, vectors.array.shape[1] + 1))
    if len(sample) < len(vectors):
        parameters = _minimise(sample, np.ascontiguousarray(labels[::every]), parameters)
    parameters = _minimise(vectors, labels, parameters)
    weight: Floats = parameters[:, :-1].astype(np.float32)
    bias: Floats = parameters[:, -1].astype(np.float32)
    return weight, bias


def _minimise(vectors: Rows, labels: NDArray[np.int32], start: NDArray[np.float64]) -> NDArray[np.float64]:
    """Penalised mean cross-entropy to its minimum; parameters [labels, width + 1], the bias last."""
    from scipy.optimize import minimize

    targets = torch.from_numpy(labels.astype(np.int64))
    penalty = 1 / (_INVERSE_STRENGTH * len(labels))

    def loss_and_gradient(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        parameters = flat.reshape(start.shape)
        weight, bias = (torch.from_numpy(p.astype(np.float32)) for p in (parameters[:, :-1], parameters[:, -1]))
        loss = 0.5 * penalty * float((parameters[:, :-1] ** 2).sum())
        gradient = np.zeros_like(parameters)
        gradient[:, :-1] = penalty * parameters[:, :-1]
        for first, rows in vectors.chunks():
            inputs = torch.from_numpy(rows)
            wanted = targets[first : first + len(rows)]
            log_probabilities = torch.addmm(bias, inputs, weight.T).log_softmax(dim=1)
            picked = torch.arange(len(rows))
            loss -= float(log_probabilities[picked, wanted].double().sum()) / len(labels)
            error = log_probabilities.exp_()
            error[picked, wanted] -= 1
            error /= len(labels)
            gradient[:, :-1] += (error.T @ inputs).double().numpy()
            gradient[:, -1] += error.sum(dim=0).double().numpy()
        return loss, gradient.ravel()

    options = {"maxiter": _MAX_ITERATIONS, "gtol": _TOLERANCE, "ftol": 0.0, "maxcor": 20}
    found: Any = minimize(loss_and_gradient, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    if found.nit >= _MAX_ITERATIONS:
        steepest = float(np.abs(found.jac).max())
        logger.warning("A probe stopped after %d steps short of its optimum (gradient %.1e).", found.nit, steepest)
    parameters: NDArray[np.float64] = found.x.reshape(start.shape)
    return parameters


def fit_paper(
    vectors: Rows,
    labels: NDArray[np.int32],
    lengths: NDArray[np.int32],
    num_labels: int,
    *,
    steps: int = PAPER_STEPS,
    seed: int = 0,
) -> LinearProbe:
    """The paper's probe: dropout 0.1 and one linear layer, AdamW at 5e-4, eight sentences a step, a fixed step count.

    Args:
        vectors: of words; they are not standardised.
        labels: [words].
        lengths: words of each sentence, [sentences].
        num_labels: classes.
        steps: 1,500 in the paper.
        seed: of initial weights, sentence order and dropout.
    """
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    generator = np.random.default_rng(seed)
    horizon = max(steps, _PAPER_EPOCHS * -(-len(lengths) // _PAPER_BATCH))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(vectors.array.shape[1], num_labels)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=_PAPER_RATE, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / horizon)
        order: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        for step in range(steps):
            if step % 100 == 0:
                vectors.release()
            if not len(order):
                order = generator.permutation(len(lengths))
            chosen, order = order[:_PAPER_BATCH], order[_PAPER_BATCH:]
            rows = [slice(starts[i], starts[i + 1]) for i in chosen]
            inputs = torch.from_numpy(np.concatenate([vectors.array[r] for r in rows]))
            targets = torch.from_numpy(np.concatenate([labels[r] for r in rows]).astype(np.int64))
            logits = layer(nn.functional.dropout(inputs, _PAPER_DROPOUT))
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, targets).backward()
            nn.utils.clip_grad_norm_(layer.parameters(), 1.0)  # as the Trainer does unless told otherwise
            optimizer.step()
            schedule.step()
    zeros: Floats = np.zeros(vectors.array.shape[1], dtype=np.float32)
    return LinearProbe(layer.weight.detach().numpy(), layer.bias.detach().numpy(), zeros, zeros + 1)


def _moments(vectors: Rows) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each column, summed in float64 around the first piece's mean."""
    shift = total = squares = np.zeros(vectors.array.shape[1])
    for start, rows in vectors.chunks():
        if not start:
            shift = rows.mean(axis=0, dtype=np.float64)
        centred = rows - shift
        total = total + centred.sum(axis=0)
        squares = squares + (centred**2).sum(axis=0)
    mean = total / len(vectors)
    variance = np.maximum(squares / len(vectors) - mean**2, 0)
    return (mean + shift).astype(np.float32), (np.sqrt(variance) + 1e-6).astype(np.float32)
