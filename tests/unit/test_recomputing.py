"""Layers that compute again what they would keep: the same gradients, and less kept."""

import pytest
import torch
from pydantic import ValidationError
from torch.utils._python_dispatch import TorchDispatchMode

from unmask import convert
from unmask.backbone.forward import flat_states
from unmask.backbone.recomputing import compute_again
from unmask.training.config import MntpSettings

LENGTHS = (150, 20)
IDS = torch.randint(100, 300, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(1))


class CountProducts(TorchDispatchMode):
    """Those that are multiplied, not those that are found among what was kept."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["llama", "gpt2"])  # by aten.mm, and with a bias by aten.addmm
def test_gradients_are_the_same_and_products_are_not_multiplied_again(tiny, family):
    gradients, products = [], []
    for kept in (None, False, True):
        model = tiny(family, head=False, max_position_embeddings=256, n_positions=256).train()
        convert(model)
        if kept is not None:
            compute_again(model, keep_products=kept)
        with CountProducts() as counted:
            flat_states(model, IDS, LENGTHS)[0].square()[:, ::3].sum().backward()
        products.append(counted.number)
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert products[2] == products[0] < products[1]
    for name, gradient in gradients[0].items():
        for again in gradients[1:]:
            torch.testing.assert_close(again[name], gradient, msg=name)


def test_adapters_add_to_products_in_place_and_are_refused():
    with pytest.raises(ValidationError, match="products is for tuning: full"):
        MntpSettings(data="x", steps=1, gradient_checkpointing="products")
