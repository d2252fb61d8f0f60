"""Layers compiled for training against the same as they are written: losses, gradients, dropout, a stage's weights."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.exc import TorchDynamoException

from unmask.backbone.dropout import attention_dropout, hidden_dropout
from unmask.backbone.fast.compiling import CompiledTraining
from unmask.backbone.fast.operators import sizes_stay_apart
from unmask.backbone.forward import flat_states
from unmask.backbone.lora import add_lora
from unmask.backbone.truth.convert import convert
from unmask.errors import RecipeError
from unmask.objectives.mntp import MaskedNextToken
from unmask.runs.recipe import load_recipe
from unmask.runs.run import train

LENGTHS = (40, 38, 17, 3)


def prepared(tiny, dropout):
    model = tiny("llama", head=False)
    convert(model)
    torch.manual_seed(0)
    add_lora(model, rank=4, alpha=8, dropout=dropout)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn_like(parameter) * 0.05
    return model.train()


def loss_of(model, lengths=LENGTHS):
    ids = torch.arange(sum(lengths))[None] + 100
    with sizes_stay_apart():
        (states,) = flat_states(model, ids, lengths)
    return (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum()


def gradients(model, lengths=LENGTHS):
    model.zero_grad()
    loss = loss_of(model, lengths)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module")
def compiler_cache(tmp_path_factory):
    """A cache of its own: what an earlier version compiled must not be found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@pytest.mark.usefixtures("compiler_cache")
def test_loss_and_gradients_are_those_of_layers_as_written(tiny):
    """Without graph breaks, for other lengths too, and evaluation does not compile again."""
    model = prepared(tiny, dropout=0.0)
    expected = [gradients(model, lengths) for lengths in (LENGTHS, (64, 64), (9,) * 12)]
    compiled = CompiledTraining(model)
    compiled.attach(model)
    torch._dynamo.utils.counters.clear()
    for (loss, wanted), lengths in zip(expected, (LENGTHS, (64, 64), (9,) * 12), strict=True):
        found_loss, found = gradients(model, lengths)
        torch.testing.assert_close(found_loss, loss)
        for name, gradient in found.items():
            assert (gradient - wanted[name]).norm() <= 1e-4 * wanted[name].norm(), name
    assert not torch._dynamo.utils.counters["graph_break"]
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == 2  # a first layer, whose input has no gradient, and the others
    with torch.no_grad():
        model.eval()
        loss_of(model)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    compiled.detach(model)
    torch.testing.assert_close(gradients(model.train())[0], expected[0][0])


@pytest.mark.usefixtures("compiler_cache")
def test_every_mask_of_the_backward_pass_is_that_of_the_forward_pass(tiny):
    """The slope along a direction, by the gradient and by two steps to both sides, with all three kinds of dropout."""
    model = prepared(tiny, dropout=0.2).double()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    way = {name: torch.randn_like(p) for name, p in trained.items()}

    def moved(step):
        with torch.no_grad():
            for name, p in trained.items():
                p.add_(way[name], alpha=step)

    def loss_at(step):
        moved(step)
        torch.manual_seed(5)
        loss = float(loss_of(model))
        moved(-step)
        return loss

    with attention_dropout(model, 0.2), hidden_dropout(model, 0.2):
        CompiledTraining(model).attach(model)
        torch.manual_seed(5)
        loss, found = gradients(model)
        torch.manual_seed(6)
        assert float(loss_of(model)) != float(loss)
        slope = (loss_at(1e-3) - loss_at(-1e-3)) / 2e-3
        assert float(loss) == pytest.approx(loss_at(0.0), rel=1e-9)
    assert sum(float((found[name] * way[name]).sum()) for name in way) == pytest.approx(slope, rel=1e-3)


def test_where_compiling_fails_the_step_is_run_as_written(tiny, caplog, monkeypatch):
    model = prepared(tiny, dropout=0.0)
    _, wanted = gradients(model)

    def broken(graph, inputs):
        raise RuntimeError("no room on the disk")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    layers = CompiledTraining(model)
    layers.attach(model)
    found = layers.run(lambda: gradients(model)[1], model.zero_grad)
    assert "torch.compile failed" in caplog.text
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name])


def test_a_step_that_fails_in_its_second_part_is_repeated_from_nothing(tmp_path, articles, monkeypatch, caplog):
    (tmp_path / "texts.txt").write_text("\n".join(articles[:20]))
    sizes = {"batch_tokens": 768, "micro_batch_tokens": 256, "block_size": 64, "steps": 1, "tuning": "full"}
    stage = {"objective": "mntp", "data": "t", "lr": 1e-3, **sizes}
    recipe = {"name": "r", "precision": "fp32", "seed": 1, "model": {"name": "pocket", "dtype": "float32"}}
    recipe |= {"data": {"t": {"files": [str(tmp_path / "texts.txt")]}}}
    plain, calls = MaskedNextToken._loss, []

    def fails_once(*given):
        calls.append(1)
        if compiled and len(calls) == 2:
            raise TorchDynamoException("no room on the disk")
        return plain(*given)

    monkeypatch.setattr(MaskedNextToken, "_loss", fails_once)
    found = []
    for compiled in (False, True):
        calls.clear()
        asked = load_recipe({**recipe, "stages": [{**stage, "compile": compiled}]})
        encoder = train(asked, tmp_path / f"run-{compiled}").encoder
        found.append((len(calls), load_file(encoder / "model.safetensors")))
    (parts, wanted), (parts_in_all, weights) = found
    assert (parts, parts_in_all) == (3, 5)
    assert "torch.compile failed" in caplog.text
    for name, value in weights.items():
        torch.testing.assert_close(value, wanted[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("other", ["gradient_checkpointing: true", "grad_cache: true"])
def test_layers_that_run_twice_are_not_compiled(tmp_path, other):
    (tmp_path / "texts.txt").write_text("a\nb\n")
    stage = f"{{objective: simcse, data: t, steps: 1, batch_size: 2, lr: 0.001, compile: true, {other}}}"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: r\nmodel: {{name: pocket}}\ndata: {{t: {{files: [{tmp_path / 'texts.txt'}]}}}}\nstages: [{stage}]\n"
    )
    with pytest.raises(RecipeError, match="compile: layers that run twice"):
        load_recipe(recipe)
