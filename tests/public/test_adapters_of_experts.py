"""LoRA folders of mixtures of experts: the router, the fused weights, the experts as older transformers named them."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from tests.public.test_adapters_of_peft import IDS, build_base, by_peft, by_us, trained, without
from unmask import ArtifactError

EXPERTS = {
    "attention": {"target_modules": ["q_proj", "v_proj"]},
    "router": {"target_modules": ["q_proj", "gate"]},
    "parameters": {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    "parameters alone": {"target_modules": [], "target_parameters": ["mlp.experts.gate_up_proj"]},
    "all linear": {"target_modules": "all-linear"},
}


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("kind", EXPERTS)
def test_adapters_of_experts(tokenizer, tmp_path, family, kind):
    if (family, kind) == ("gpt_oss", "router"):
        pytest.skip("peft adapts no router of this family")
    base = build_base(tmp_path / "base", tokenizer, family)
    folder = trained(base, tmp_path / "adapter", **EXPERTS[kind])
    expected = by_peft(base, folder, IDS)
    for merge in (True, False):
        torch.testing.assert_close(by_us(base, [folder], IDS, merge), expected, atol=1e-5, rtol=0)


OLD_EXPERTS = {
    "mixtral": ("block_sparse_moe", "w1", "w3", "w2"),
    "qwen3_moe": ("mlp", "gate_proj", "up_proj", "down_proj"),
}


def of_older_transformers(base, folder, family, targets):
    """An adapter of a time when each expert was a module, and the states of the model with it folded in by hand."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    place, *names = OLD_EXPERTS[family]
    weights, chance = {}, torch.Generator().manual_seed(0)

    def adapt(name, weight):
        if name.rpartition(".")[2] in targets:
            a, b = (0.1 * torch.randn(size, generator=chance) for size in ((4, weight.shape[1]), (weight.shape[0], 4)))
            weights.update(
                {f"base_model.model.model.layers.{name}.lora_{k}.weight": w for k, w in (("A", a), ("B", b))}
            )
            weight += 2 * b @ a

    for number, layer in enumerate(model.model.layers):
        adapt(f"{number}.self_attn.q_proj", layer.self_attn.q_proj.weight)
        adapt(f"{number}.{place}.gate", layer.mlp.gate.weight)
        experts = layer.mlp.experts
        for one in range(len(experts.down_proj)):
            fused = (*experts.gate_up_proj[one].chunk(2), experts.down_proj[one])
            for name, weight in zip(names, fused, strict=True):
                adapt(f"{number}.{place}.experts.{one}.{name}", weight)
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return model(input_ids=IDS, output_hidden_states=True).hidden_states[-1]


@torch.no_grad()
@pytest.mark.parametrize("family", OLD_EXPERTS)
def test_adapters_of_experts_that_older_transformers_named(tokenizer, tmp_path, family):
    base = build_base(tmp_path / "base", tokenizer, family)
    first, second, third = OLD_EXPERTS[family][1:]
    for number, targets in enumerate((["q_proj", "gate"], ["q_proj", first, second, third], ["gate", third])):
        folder = tmp_path / f"adapter-{number}"
        expected = of_older_transformers(base, folder, family, targets)
        torch.testing.assert_close(by_peft(base, folder, IDS), expected, atol=1e-5, rtol=0)
        for merge in (True, False):
            torch.testing.assert_close(by_us(base, [folder], IDS, merge), expected, atol=1e-5, rtol=0)
    of_older_transformers(base, tmp_path / "half", family, ["q_proj", first])
    with pytest.raises(ArtifactError, match=f"does not fit this model .*{first} without also targeting {second}"):
        by_us(base, [tmp_path / "half"], IDS, merge=True)
    of_older_transformers(base, tmp_path / "torn", family, ["q_proj", third])
    without(tmp_path / "torn", "experts.0.")
    with pytest.raises(ArtifactError, match="does not fit this model"):
        by_us(base, [tmp_path / "torn"], IDS, merge=True)
