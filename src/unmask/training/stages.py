"""The stages of the recipe: each takes an encoder (or the base model), trains, merges, and leaves an encoder folder.

stage folder:  encoder/ (plain weights, opens anywhere)  adapter/ (LoRA, if any)  metrics.jsonl  checkpoints/  logs/
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from unmask.artifact import EncoderSettings, new_folder, write_json
from unmask.backbone.dropout import attention_dropout, hidden_dropout, views_differ
from unmask.backbone.head import LanguageModelHead
from unmask.backbone.loading import Dtype, load_model, load_tokenizer, saved_dtype
from unmask.backbone.lora import add_lora, merge_lora, save_lora
from unmask.backbone.opening import Sight, sight_of, turn
from unmask.backbone.packing import PackedStates, keeps_pieces_apart
from unmask.backbone.structure import body, family, replace_body
from unmask.data.blocks import Block, BlockBatch, collect, pack, stack
from unmask.data.sampling import EpochSampler
from unmask.encoder import TextEncoder
from unmask.errors import RecipeError
from unmask.objectives.contrastive import SimCSE, ViewBatch
from unmask.objectives.masking import build_masking
from unmask.objectives.mntp import MaskedNextToken
from unmask.text.batching import pad_token, token_budget
from unmask.text.words import append_eos
from unmask.training.config import MntpSettings, SimcseSettings, StageSettings
from unmask.training.loop import Job, fit, seed_step

Texts = Callable[[str], Sequence[str]]  # name of a data source -> its texts


@dataclass(frozen=True, slots=True)
class StageContext:
    """What a stage is given.

    Attributes:
        base: the model the run started from (its head predicts in MNTP).
        start: where this stage's weights come from: `base`, or the encoder folder of the stage before.
        sight: how the model looks at a text while it trains and after.
        dtype: of the weights, in memory and saved.
        attention_implementation: for example sdpa, or None for transformers' choice.
        encoder: settings saved with the encoder.
        texts: data sources by name.
        seed: of the run.
        lineage: where everything came from so far.
        accelerator: the one accelerate object of the run.
        progress: show bars.
    """

    base: str
    start: str
    sight: Sight
    dtype: Dtype
    attention_implementation: str | None
    encoder: EncoderSettings
    texts: Texts
    seed: int
    lineage: Mapping[str, Any]
    accelerator: Any
    progress: bool


def run_stage(settings: StageSettings, context: StageContext, folder: Path) -> Path:
    """Train one stage and return its encoder folder; a stage that is finished already is left alone."""
    finished = folder / "encoder"
    if finished.exists():
        return finished
    seed_step(context.seed, 0, 0)  # fresh LoRA weights are drawn before the loop seeds its steps
    if isinstance(settings, MntpSettings):
        model, adapter = _run_mntp(settings, context, folder)
    elif isinstance(settings, SimcseSettings):
        model, adapter = _run_simcse(settings, context, folder)
    else:
        raise RecipeError(f"No stage for {type(settings).__name__}.")
    if adapter is not None:
        shutil.rmtree(folder / "adapter", ignore_errors=True)  # of a try that was killed here
        with new_folder(folder / "adapter") as partial:
            save_lora(adapter, partial)
            seen = {key: value for key, value in asdict(sight_of(model)).items() if value}
            own = {**seen, "settings": asdict(context.encoder), "lineage": dict(context.lineage)}
            write_json(partial / "unmask.json", own)
        model = merge_lora(adapter)
    encoder = TextEncoder(
        model.to(saved_dtype(context.base, context.dtype)), load_tokenizer(context.base), context.encoder
    )
    encoder.lineage = dict(context.lineage)
    encoder.save(finished)
    return finished


def _run_mntp(settings: MntpSettings, context: StageContext, folder: Path) -> tuple[Any, Any]:
    """Masked next-token prediction on packed blocks."""
    causal_lm = _load(context.base, context, head=True)
    if context.start != context.base:
        replace_body(causal_lm, _load(context.start, context, head=False))
    turn(body(causal_lm), context.sight)
    head = LanguageModelHead(causal_lm)
    head.check(causal_lm)
    tokenizer = load_tokenizer(context.base)
    if context.encoder.pooling == "eos":
        append_eos(tokenizer)  # a piece looks like a text the encoder will read
    model = body(causal_lm)
    adapter = _make_trainable(model, settings)  # shares the head's weights where they are tied: those stay frozen
    for parameter in head.parameters():
        parameter.requires_grad_(False)
    masking = build_masking(tokenizer, token=settings.mask_token, rate=settings.mask_rate, style=settings.masking)
    alone = not keeps_pieces_apart(model)
    if alone:
        context.accelerator.print(f"{family(model)} cannot keep packed documents apart: one piece a block.")

    def blocks(source: str, count: int) -> list[Block]:
        texts = context.texts(source)
        order = np.random.default_rng(context.seed).permutation(len(texts))
        packed = pack((texts[i] for i in order), tokenizer, block_size=settings.block_size, one_piece_a_block=alone)
        return collect(packed, count)

    def micro_batches(chosen: Sequence[Block]) -> list[BlockBatch]:
        size = max(1, settings.micro_batch_tokens // settings.block_size)
        return [
            stack(chosen[i : i + size], pad_id=pad_token(tokenizer), never_mask=masking.mask_id).to(
                context.accelerator.device
            )
            for i in range(0, len(chosen), size)
        ]

    rows = blocks(settings.data, settings.steps * settings.batch_size)
    sampler = EpochSampler(len(rows), settings.batch_size, context.seed, "blocks")

    def batch(step: int) -> tuple[list[BlockBatch], int]:
        chosen = [rows[i] for i in sampler.rows(step)]
        return micro_batches(chosen), sum(len(block.ids) for block in chosen)

    objective = MaskedNextToken(context.accelerator.prepare_model(head, evaluation_mode=True), masking)
    held_out = settings.held_out
    evaluated = micro_batches(blocks(held_out, settings.held_out_blocks)) if held_out else []
    job = Job(
        name=settings.name or settings.objective,
        module=PackedStates(model),
        objective=objective,
        batch=batch,
        evaluate=(lambda module: objective.evaluate(module, evaluated)) if held_out else None,
        evaluate_every=settings.eval_every,
        seed=context.seed,
    )
    fit(job, settings, folder, context.accelerator, progress=context.progress)
    return model, adapter


def _run_simcse(settings: SimcseSettings, context: StageContext, folder: Path) -> tuple[Any, Any]:
    """Two dropout views of each text, in-batch negatives."""
    model = _load(context.start, context, head=False)
    turn(model, context.sight)
    adapter = _make_trainable(model, settings)
    encoder = TextEncoder(model, load_tokenizer(context.base), replace(context.encoder, max_length=settings.max_length))
    texts = context.texts(settings.data)
    sampler = EpochSampler(len(texts), settings.batch_size, context.seed, "texts")

    def batch(step: int) -> tuple[ViewBatch, int]:
        views = encoder.tokenize([texts[i] for i in sampler.rows(step)]) * 2
        groups = list(token_budget([len(view) for view in views], settings.micro_batch_tokens))
        order = torch.from_numpy(np.argsort(np.concatenate(groups)))
        parts = [encoder.pad([views[row] for row in group]) for group in groups]
        made = ViewBatch(parts, order.to(encoder.device))
        return made, made.num_tokens

    with ExitStack() as dropout:
        _set_dropout(model, settings, dropout)
        job = Job(
            name=settings.name or settings.objective,
            module=encoder.module,
            objective=SimCSE(settings.scale),
            batch=batch,
            evaluate=None,
            evaluate_every=1,
            seed=context.seed,
        )
        fit(job, settings, folder, context.accelerator, progress=context.progress)
    return model, adapter


def _load(name: str, context: StageContext, *, head: bool) -> Any:
    return load_model(
        name,
        head=head,
        dtype=context.dtype,
        attention_implementation=context.attention_implementation,
        device=context.accelerator.device,
    )


def _make_trainable(model: Any, settings: StageSettings) -> Any | None:
    """LoRA on a frozen model, or all of it; what is trained is kept in float32."""
    adapter = None
    if settings.tuning == "lora":
        lora = settings.lora
        adapter = add_lora(model, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets)
    else:
        model.requires_grad_(True)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return adapter


def _set_dropout(model: nn.Module, settings: SimcseSettings, stack: ExitStack) -> None:
    """Turn on the dropout that makes two views of one text differ, and see that it does.

    Raises:
        RecipeError: attention dropout was asked for and the family applies none.
    """
    if settings.attention_dropout:
        taken = stack.enter_context(attention_dropout(model, settings.attention_dropout))
        if not taken or not views_differ(model):
            raise RecipeError(
                f"{family(model)} applies no attention dropout, so attention_dropout={settings.attention_dropout} "
                "would do nothing. Set attention_dropout: 0 and hidden_dropout (for example 0.1) instead."
            )
    stack.enter_context(hidden_dropout(model, settings.hidden_dropout))
