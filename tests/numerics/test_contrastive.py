"""The contrastive loss against the plain formula; GradCache, processes and length groups against one big batch."""

import copy
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.engine import LocalEngine
from torch import nn

from unmask.backbone.dropout import hidden_dropout
from unmask.errors import DataError
from unmask.objectives.contrastive import Contrastive
from unmask.objectives.losses import (
    NO_DOCUMENT,
    TEACHER,
    ContrastiveBatch,
    Distillation,
    InfoNce,
    Matryoshka,
    Part,
    Sum,
)
from unmask.text.batching import deal, token_budget
from unmask.training.config import SupervisedSettings
from unmask.training.stages.contrastive import Rows, make_batch

QUERIES = ["how tall is it", "what is a module", "who wrote the book", "one word"]
POSITIVES = [
    "It is ninety metres tall.",
    "A module is a file of definitions and statements that another file can import by its name.",
    "The book was written by two sisters.",
    "word",
]
NEGATIVES = ["It is blue.", "An island in the north is known for its long winters.", "A book.", "Words are many."]


def numbers(values):
    known = {None: NO_DOCUMENT}
    return torch.tensor([known.setdefault(value, len(known)) for value in values])


def table(anchors, positives, negatives=(), texts=None, documents=None):
    """Vectors given, not computed: a batch whose one part is looked up."""
    rows = torch.cat([anchors, positives, *([negatives] if len(negatives) else [])])
    n = len(anchors)
    texts = numbers(texts) if texts else torch.arange(len(rows))
    documents = numbers(documents) if documents else torch.full((len(rows),), NO_DOCUMENT)
    owners = torch.cat([torch.arange(n), torch.arange(n), torch.arange(len(rows) - 2 * n) % n])
    weights = rows.clone().requires_grad_()
    every = torch.arange(len(rows))
    batch = ContrastiveBatch([Part(0, slice(None), every)], n, texts, documents, owners, every)
    return batch, weights


def run(batch, weights, loss=None, **options):
    out = Contrastive(loss or InfoNce(), **options).step(lambda part: weights[part], batch, LocalEngine())
    return out, weights.grad


def plain(anchors, candidates, scale=20.0, hidden=None):
    cosines = nn.functional.cosine_similarity(anchors[:, None], candidates[None], dim=-1) * scale
    if hidden is not None:
        cosines = cosines.masked_fill(hidden, -torch.inf)
    return nn.functional.cross_entropy(cosines, torch.arange(len(anchors)))


def random(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 8, generator=generator) for size in sizes]


def test_the_loss_is_cross_entropy_over_scaled_cosines():
    first, second, third = random(5, 5, 7)
    batch, weights = table(first, second, third)
    out, gradient = run(batch, weights, InfoNce(scale=20))
    leaves = [part.clone().requires_grad_() for part in (first, second, third)]
    expected = plain(leaves[0], torch.cat(leaves[1:]))
    expected.backward()
    assert out.loss == pytest.approx(float(expected), rel=1e-5)
    torch.testing.assert_close(gradient, torch.cat([leaf.grad for leaf in leaves]), rtol=1e-4, atol=1e-6)
    cosines = nn.functional.cosine_similarity(first[:, None], torch.cat([second, third])[None], dim=-1)
    assert out.metrics["accuracy"] == pytest.approx(float((cosines.argmax(1) == torch.arange(5)).float().mean()))


def test_chunks_of_anchors_give_the_same_gradients(monkeypatch):
    found = []
    for chunk in (1024, 2):
        monkeypatch.setattr("unmask.objectives.losses.ANCHORS_AT_ONCE", chunk)
        batch, weights = table(*random(5, 5, 3))
        found.append(run(batch, weights, Matryoshka(InfoNce(both_directions=True), (4,))))
    assert found[0][0].loss == pytest.approx(found[1][0].loss, rel=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-7)


def test_both_directions_average_the_two_losses():
    first, second = random(5, 5)
    batch, weights = table(first, second)
    out, _ = run(batch, weights, InfoNce(both_directions=True))
    assert out.loss == pytest.approx(float(plain(first, second) + plain(second, first)) / 2, rel=1e-5)


def test_matryoshka_averages_over_the_widths():
    first, second = random(5, 5)
    batch, weights = table(first, second)
    out, gradient = run(batch, weights, Matryoshka(InfoNce(), (2, 4)))
    expected = [float(plain(first[:, :width], second[:, :width])) for width in (2, 4, 8)]
    assert out.loss == pytest.approx(sum(expected) / 3, rel=1e-5)
    assert (gradient.abs() > 0).all()


def test_duplicates_documents_and_close_candidates_do_not_count():
    first, second, third = random(3, 3, 1)
    hidden = torch.zeros(3, 4, dtype=torch.bool)
    texts = ["q0", "q1", "q2", "same", "same", "p2", "q2"]  # positives 0 and 1 are one text; the negative is query 2
    hidden[0, 1] = hidden[1, 0] = hidden[2, 3] = True
    batch, weights = table(first, second, third, texts)
    out, gradient = run(batch, weights)
    assert out.loss == pytest.approx(float(plain(first, torch.cat([second, third]), hidden=hidden)), rel=1e-5)
    assert torch.isfinite(gradient).all()
    assert run(*table(first, second, third, texts), InfoNce(mask_duplicates=False))[0].loss != pytest.approx(out.loss)

    hidden = torch.zeros(3, 4, dtype=torch.bool)
    hidden[0, 2] = hidden[2, 0] = True
    documents = ["d", None, "d", "d", None, "d", None]  # the unknown ones are not alike
    batch, weights = table(first, second, third, documents=documents)
    expected = float(plain(first, torch.cat([second, third]), hidden=hidden))
    assert run(batch, weights)[0].loss == pytest.approx(expected, rel=1e-5)

    cosines = nn.functional.cosine_similarity(first[:, None], torch.cat([second, third])[None], dim=-1)
    hidden = cosines > cosines[torch.arange(3), torch.arange(3)][:, None] - 0.5
    hidden[torch.arange(3), torch.arange(3)] = False
    assert hidden[0, 3]
    assert hidden[1:, 3].any()
    hidden[0, 3] = False  # its own hard negative
    batch, weights = table(first, second, third)
    out, _ = run(batch, weights, InfoNce(false_negative_margin=-0.5))
    assert out.loss == pytest.approx(float(plain(first, torch.cat([second, third]), hidden=hidden)), rel=1e-5)


def test_a_known_positive_is_no_negative_wherever_its_text_stands():
    first, second, third = random(3, 3, 2)
    texts = ["q", "q", "other", "p0", "p1", "p1", "p1", "p0"]  # p0 and p1 answer q; "other" has both as hard negatives
    hidden = torch.zeros(3, 5, dtype=torch.bool)
    hidden[0, [1, 2, 3, 4]] = hidden[1, [0, 2, 3, 4]] = True
    hidden[2, [1, 3]] = True  # its own positive, p1, in other rows
    batch, weights = table(first, second, third, texts)
    out, _ = run(batch, weights)
    assert out.loss == pytest.approx(float(plain(first, torch.cat([second, third]), hidden=hidden)), rel=1e-5)

    texts = ["q", "q", "r", "p0", "p1", "p0"]  # and back: p1 looks for q, p0 for q and r
    hidden = torch.zeros(3, 3, dtype=torch.bool)
    hidden[0, [1, 2]] = hidden[1, 0] = hidden[2, [0, 1]] = True
    batch, weights = table(first, second, (), texts)
    backward = plain(second, first, hidden=hidden)
    hidden = torch.zeros(3, 3, dtype=torch.bool)
    hidden[0, [1, 2]] = hidden[1, [0, 2]] = hidden[2, 0] = True
    forward = plain(first, second, hidden=hidden)
    out, _ = run(batch, weights, InfoNce(both_directions=True))
    assert out.loss == pytest.approx(float(forward + backward) / 2, rel=1e-5)


def test_the_positives_of_equal_queries_and_documents_do_not_count_in_either_direction():
    first, second = random(4, 4)
    hidden = torch.zeros(4, 4, dtype=torch.bool)
    hidden[0, 1] = hidden[1, 0] = True  # one query, two positives
    texts = ["q", "q", "q2", "q3", "p0", "p1", "p2", "p3"]
    hidden[2, 3] = hidden[3, 2] = True  # two queries of one document
    documents = [None, None, "d", "d"] * 2
    batch, weights = table(first, second, texts=texts, documents=documents)
    out, _ = run(batch, weights, InfoNce(both_directions=True))
    expected = plain(first, second, hidden=hidden) + plain(second, first, hidden=hidden)
    assert out.loss == pytest.approx(float(expected) / 2, rel=1e-5)


def test_a_teacher_of_another_width_is_followed():
    first, second = random(5, 5)
    teacher = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
    batch, weights = table(first, second)
    batch = replace(batch, extra={TEACHER: teacher})
    out, _ = run(batch, weights, Sum(((InfoNce(), 1.0), (Distillation(teacher_scale=10.0), 0.5))))
    student = (20 * nn.functional.cosine_similarity(first[:, None], second[None], dim=-1)).log_softmax(1)
    wanted = (10 * nn.functional.cosine_similarity(teacher[:5, None], teacher[None, 5:], dim=-1)).softmax(1)
    distance = float((wanted * (wanted.log() - student)).sum(1).mean())
    assert out.metrics["teacher_distance"] == pytest.approx(distance, rel=1e-4)
    assert out.loss == pytest.approx(float(plain(first, second)) + 0.5 * distance, rel=1e-5)


def test_the_distance_to_a_teacher_is_a_mean_over_widths():
    first, second = random(5, 5)
    teacher = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
    loss = Sum(((InfoNce(), 1.0), (Distillation(teacher_scale=10.0), 0.5)))
    found = []
    for width, own in ((4, loss), (8, loss), (8, Matryoshka(loss, (4,)))):
        batch, weights = table(first[:, :width], second[:, :width])
        found.append(run(replace(batch, extra={TEACHER: teacher}), weights, own)[0])
    for key in ("loss", "distance"):
        values = [out.loss if key == "loss" else out.metrics["teacher_distance"] for out in found]
        assert values[2] == pytest.approx((values[0] + values[1]) / 2, rel=1e-5)


def test_the_loss_is_float32_under_autocast():
    first = random(4)[0]
    batch, weights = table(first, first + 0.01 * torch.randn(4, 8, generator=torch.Generator().manual_seed(1)))
    out, gradient = run(batch, weights, InfoNce(scale=50))
    batch, weights = table(*weights.detach().chunk(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, mixed_gradient = run(batch, weights, InfoNce(scale=50))
    assert mixed.loss == out.loss
    assert torch.equal(mixed_gradient, gradient)


def tokenized_step(encoder):
    return [*encoder.tokenize(QUERIES, "Find: "), *encoder.tokenize(POSITIVES + NEGATIVES)]


def whole_step(encoder, groups, processes=1, index=0):
    tokenized = tokenized_step(encoder)
    parts = [
        Part(number, encoder.pad([tokenized[i] for i in rows]), torch.tensor(rows))
        for number, rows in deal(groups, processes)[index]
    ]
    texts = numbers(QUERIES + POSITIVES + NEGATIVES)
    return ContrastiveBatch(
        parts, 4, texts, torch.full_like(texts, NO_DOCUMENT), torch.arange(12) % 4, torch.arange(12)
    )


@pytest.fixture
def module(bidirectional):
    copied = copy.copy(bidirectional)
    copied.module = copy.deepcopy(bidirectional.module)
    return copied


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_alike(first, second, tolerance):
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(second[name], gradient, rtol=tolerance, atol=tolerance * scale)


def test_length_groups_do_not_change_the_gradients(module):
    found = []
    for groups in ([list(range(12))], [[2, 6, 9], [0, 4, 3, 7], [1, 5, 8, 10, 11]]):
        module.module.zero_grad()
        Contrastive().step(module.module, whole_step(module, groups), LocalEngine())
        found.append(gradients(module.module))
    assert_alike(*found, 2e-4)


@pytest.mark.parametrize("cached", [False, True])
def test_what_is_equal_is_read_once_with_the_same_gradients(module, cached):
    """A query that comes twice, a positive that is another's negative; a query that equals a positive is read apart."""
    queries, others = [*QUERIES, QUERIES[0]], [*POSITIVES, "word", *NEGATIVES, POSITIVES[1], QUERIES[3]]
    rows = Rows(
        [*module.tokenize(queries), *module.tokenize(others)],
        queries + others,
        anchors=5,
        negatives_of=[0, 1, 2, 3, 3, 4],
    )
    here = SimpleNamespace(accelerator=SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu")))
    settings = SupervisedSettings(objective="supervised", data=["x"], steps=1, micro_batch_tokens=60)
    found, outs = [], []
    for views in (True, False):
        module.module.zero_grad()
        batch, tokens = make_batch(module, replace(rows, views=views), settings, here)
        assert sum(len(part.rows) for part in batch.parts) == (16 if views else 13)
        assert tokens == sum(part.batch.num_tokens for part in batch.parts)
        outs.append(Contrastive(grad_cache=cached).step(module.module, batch, LocalEngine()))
        found.append(gradients(module.module))
    assert outs[0].loss == pytest.approx(outs[1].loss, rel=1e-5)
    assert outs[0].metrics == pytest.approx(outs[1].metrics, rel=1e-4)
    assert_alike(*found, 2e-4)


@pytest.mark.parametrize("loss", [InfoNce(), Matryoshka(InfoNce(both_directions=True, scale=50), (64,))])
def test_grad_cache_gives_the_plain_gradients_with_dropout_on(module, loss):
    groups = [[5, 1], [2, 6, 9, 0], [4, 3, 7, 8, 10, 11]]
    found, outs = [], []
    with hidden_dropout(module.module.model, 0.3):
        module.module.train()
        for cached, kept in ((False, 0), (True, 0), (True, 1), (True, 2), (True, 9)):
            module.module.zero_grad()
            objective = Contrastive(loss, grad_cache=cached, kept_graphs=kept)
            outs.append(objective.step(module.module, whole_step(module, groups), LocalEngine(4)))
            found.append(gradients(module.module))
        module.module.zero_grad()
        Contrastive(loss).step(module.module, whole_step(module, groups), LocalEngine(5))
        other = gradients(module.module)
    for out, gradient in zip(outs[1:], found[1:], strict=True):
        assert out == outs[0]
        assert_alike(found[0], gradient, 1e-5)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.allclose(other[name], found[0][name], rtol=1e-2)  # another seed: dropout was really on


def test_grad_cache_keeps_no_graph_of_the_whole_batch(module):
    groups = [[i] for i in range(12)]
    module.module.train()

    class Watching(LocalEngine):
        graphs = 0

        def backward(self, loss):
            nodes, seen = [loss.grad_fn], set()
            while nodes:
                node = nodes.pop()
                if node is not None and node not in seen:
                    seen.add(node)
                    nodes += [parent for parent, _ in node.next_functions]
            self.graphs = max(self.graphs, sum("Embedding" in node.name() for node in seen))
            super().backward(loss)

    def watched(**options):
        engine, passes = Watching(), []
        run = lambda batch: passes.append(1) or module.module(batch)  # noqa: E731
        Contrastive(**options).step(run, whole_step(module, groups), engine)
        return engine.graphs, len(passes)

    assert watched() == (12, 12)
    assert watched(grad_cache=True, kept_graphs=0) == (1, 24)
    assert watched(grad_cache=True) == (1, 23)  # the last graph is used before another is made
    assert watched(grad_cache=True, kept_graphs=4) == (4, 20)


def test_processes_together_leave_the_gradients_of_one(module):
    """What two processes leave, added up as the loop's averaging does, is what one leaves; dropout is on."""
    groups = [[5, 1], [2, 6, 9, 0], [4, 3, 7, 8], [10, 11]]

    class Share(LocalEngine):
        processes = 2

        def __init__(self, others):
            super().__init__(4)
            self.others = others

        def total(self, values):
            self.sent = values.detach()
            return values.detach() + self.others

    with hidden_dropout(module.module.model, 0.3):
        module.module.train()
        module.module.zero_grad()
        expected = Contrastive().step(module.module, whole_step(module, groups), LocalEngine(4))
        alone = gradients(module.module)
        sent = []
        for index in range(2):
            engine = Share(torch.zeros(()))
            Contrastive(grad_cache=True).step(module.module, whole_step(module, groups, 2, index), engine)
            sent.append(engine.sent)
        module.module.zero_grad()
        for index in range(2):
            batch = whole_step(module, groups, 2, index)
            assert Contrastive().step(module.module, batch, Share(sent[1 - index])).loss == pytest.approx(expected.loss)
        together = {name: gradient / 2 for name, gradient in gradients(module.module).items()}
    assert_alike(alone, together, 2e-4)


def test_groups_are_dealt_evenly_and_cut_only_where_they_must():
    lengths = np.random.default_rng(0).integers(3, 60, 40).tolist()
    groups = list(token_budget(lengths, 128, padded=True))
    for processes in (1, 2, 3, 7):
        dealt = deal(groups, processes)
        assert len({len(own) for own in dealt}) == 1
        numbered = sorted((number, rows) for own in dealt for number, rows in own)
        assert sorted(row for _, rows in numbered for row in rows) == list(range(40))
        assert all(a[0] + 1 == b[0] for a, b in pairwise(numbered))
        if len(groups) % processes == 0:
            assert [rows for _, rows in numbered] == groups
    for count, processes in ((3, 2), (32, 3), (5, 4), (4, 4)):  # single rows: nothing can be cut
        dealt = deal([[row] for row in range(count)], processes)
        assert len({len(own) for own in dealt}) == 1
        assert sorted(row for own in dealt for _, rows in own for row in rows) == list(range(count))
        assert all(rows for own in dealt for _, rows in own)
    with pytest.raises(DataError, match="2 rows cannot be shared by 3 processes"):
        deal([[0], [1]], 3)
