"""What a run will do, before it does it: stages, trainable parameters, tokens, memory."""

from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from unmask.backbone.loading import empty_model, load_tokenizer
from unmask.backbone.lora import add_lora
from unmask.backbone.structure import body, text_config
from unmask.data.records import read_records
from unmask.errors import DataError
from unmask.ladder.recipe import Recipe, resolve_path, stage_name
from unmask.training.config import MntpSettings, SimcseSettings, StageSettings

_SAMPLED_TEXTS = 1000
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage in numbers; memory is an estimate for one process, in bytes."""

    name: str
    steps: int
    tokens: int
    parameters: int
    trainable: int
    memory: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A resolved recipe and its stages in numbers."""

    recipe: dict[str, Any]
    stages: list[StagePlan]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

    def text(self) -> str:
        """As a table under the resolved recipe."""
        import yaml

        lines = [yaml.safe_dump(self.recipe, sort_keys=False).rstrip(), ""]
        lines.append(f"{'stage':<12} {'steps':>7} {'tokens':>14} {'trainable parameters':>28} {'memory':>9}")
        for stage in self.stages:
            share = f"{stage.trainable:,} of {stage.parameters:,}"
            lines.append(
                f"{stage.name:<12} {stage.steps:>7,} {stage.tokens:>14,} {share:>28} {stage.memory / 2**30:>7.2f} G"
            )
        lines.append("(memory: weights, gradients, optimizer and activations of one process; an estimate)")
        return "\n".join(lines)


def make_plan(recipe: Recipe) -> Plan:
    """Work out the plan from the configs and a sample of the data; no weights are loaded.

    Raises:
        ArtifactError: the model's config or tokenizer cannot be read.
    """
    tokenizer = load_tokenizer(recipe.model.name)
    stages = [_plan_stage(recipe, stage, tokenizer) for stage in recipe.stages]
    return Plan(recipe.model_dump(mode="json"), stages)


def _plan_stage(recipe: Recipe, stage: StageSettings, tokenizer: Any) -> StagePlan:
    model = empty_model(recipe.model.name, head=True)
    parameters = sum(p.numel() for p in model.parameters())
    head = model.get_output_embeddings()
    if stage.tuning == "lora":
        lora = stage.lora
        add_lora(body(model), rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets)
    else:
        for parameter in head.parameters():  # frozen, or not part of the encoder at all
            parameter.requires_grad_(not isinstance(stage, MntpSettings) and ties_head(model))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    tokens_a_step, labels = _tokens_a_step(recipe, stage, tokenizer)
    width = _BYTES.get(recipe.model.dtype) or _BYTES.get(str(model.dtype).removeprefix("torch."), 4)
    frozen = parameters - trainable if stage.tuning == "full" else parameters
    memory = frozen * width + trainable * 16  # weight, gradient and two moments in float32
    memory += _activations(model, stage, tokens_a_step, labels)
    return StagePlan(stage_name(stage), stage.steps, tokens_a_step * stage.steps, parameters, trainable, memory)


def ties_head(model: Any) -> bool:
    """True if the head is the embedding, and so part of the encoder."""
    return bool(getattr(text_config(model), "tie_word_embeddings", False))


def _tokens_a_step(recipe: Recipe, stage: StageSettings, tokenizer: Any) -> tuple[int, int]:
    """Tokens of a step, and labels whose logits exist at a time; texts are sampled where lengths vary."""
    if isinstance(stage, MntpSettings):
        micro = min(stage.micro_batch_tokens, stage.batch_tokens)
        return stage.batch_size * stage.block_size, min(2048, int(micro * stage.mask_rate))
    assert isinstance(stage, SimcseSettings)
    source = recipe.data[stage.data]
    path = resolve_path(source.files[0])
    sample = [r.text for r in islice(read_records(path, field=source.field), _SAMPLED_TEXTS)]
    if not sample:
        raise DataError(f"{path}: no text found.")
    lengths = [min(len(ids), stage.max_length) for ids in tokenizer(sample, verbose=False)["input_ids"]]
    return round(2 * stage.batch_size * sum(lengths) / max(1, len(lengths))), 0


def _activations(model: Any, stage: StageSettings, tokens_a_step: int, labels: int) -> int:
    """Saved activations: about 17 widths and 3 feed-forward widths a token and layer, 4 bytes each."""
    config = text_config(model)
    tokens = min(stage.micro_batch_tokens, tokens_a_step) if isinstance(stage, MntpSettings) else tokens_a_step
    feed_forward = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    per_layer = 1 if stage.gradient_checkpointing else 17
    floats = tokens * config.num_hidden_layers * (per_layer * config.hidden_size)
    if not stage.gradient_checkpointing:
        floats += tokens * config.num_hidden_layers * 3 * feed_forward
    return 4 * (floats + 3 * labels * config.vocab_size)
