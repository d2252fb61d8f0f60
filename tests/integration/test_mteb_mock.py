"""mteb's own check of models, on made-up data of all its kinds of tasks: an encoder in memory, and a served one."""

import numpy as np
import pytest

from tests.server_process import served
from unmask.evaluation.mteb import MtebEncoder

pytestmark = pytest.mark.slow


class Remote:
    """What mteb's bridge asks of an encoder, asked of a server."""

    def __init__(self, server):
        self.client, self.dimension = server.client(), server.facts["dimension"]

    def encode(self, texts, *, prompt):
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        answer = self.client.embeddings.create(model="pocket", input=[prompt + text for text in texts])
        return np.array([item.embedding for item in answer.data], dtype=np.float32)


def check(encoder):
    import mteb
    from mteb.models.model_meta import ModelMeta
    from mteb.results import TaskResult

    meta = ModelMeta.create_empty(overwrites={"name": "unmask/pocket", "revision": "1"})
    found = mteb.mock_run(MtebEncoder(encoder, meta, {}))
    assert found.all_passed, found.to_markdown()
    assert sum(isinstance(status, TaskResult) for status in found.task_results.values()) > 20


def test_an_encoder_passes(bidirectional):
    check(bidirectional)


def test_a_served_encoder_passes():
    with served("pocket", "--attention", "bidirectional") as server:
        check(Remote(server))
