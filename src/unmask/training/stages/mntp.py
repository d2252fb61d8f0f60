"""The MNTP stage: the body of a causal language model on packed blocks, its head frozen."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from torch import nn

from unmask.backbone.families.switches import attention_mode
from unmask.backbone.forward import TokenStates
from unmask.backbone.head import LanguageModelHead
from unmask.backbone.locate import load_tokenizer
from unmask.backbone.structure import body, family, replace_body
from unmask.backbone.truth.flat import reads_flat
from unmask.backbone.truth.opening import apply_attention
from unmask.data.blocks import Block, BlockBatch, pack, stack
from unmask.data.sampling import EpochSampler
from unmask.errors import RecipeError
from unmask.objectives.mntp import MaskedNextToken, build_masking, mask_token_id
from unmask.text.batching import deal, pad_token
from unmask.text.words import append_eos
from unmask.training.building import Data, StageContext, load_for_training, make_trainable
from unmask.training.config import MntpSettings
from unmask.training.loop import Job


@contextmanager
def mntp_job(settings: MntpSettings, context: StageContext) -> Iterator[Job]:
    """Load what the stage needs and say what it does."""
    origin, accelerator = context.origin, context.accelerator
    another_body = origin.start != origin.base or settings.tuning == "qlora"
    # Where only its head is needed, the base model's body never comes to the device.
    causal_lm = origin.load(head=True, name=origin.base, device="cpu" if another_body else context.device)
    if another_body:
        replace_body(causal_lm, load_for_training(settings, context))
    apply_attention(body(causal_lm), origin.attention)
    head = LanguageModelHead(causal_lm).to(context.device)
    head.check(causal_lm)
    tokenizer = load_tokenizer(origin.base)
    if context.encoder.pooling == "eos":
        append_eos(tokenizer)  # a piece looks like a text the encoder will read
    model = body(causal_lm)
    make_trainable(model, settings, origin.adapter)  # shares the head's weights where they are tied: those stay frozen
    for parameter in head.parameters():
        parameter.requires_grad_(False)
    masking = build_masking(tokenizer, token=settings.mask_token, rate=settings.mask_rate, style=settings.masking)
    flat = reads_flat(model)
    if not flat:
        accelerator.print(f"Batches of documents are padded: {flat.reason}.")
    check_future(settings, model)
    if settings.future_steps:
        accelerator.print(f"Attention is torch's, with a bias against later tokens, for {settings.future_steps} steps.")
    padded_tokens = None if flat else settings.micro_batch_tokens

    def blocks(source: str, count: int) -> list[Block]:
        texts = context.data.texts(source)
        order = np.random.default_rng(context.draw("packing")).permutation(len(texts))
        packed = pack((texts[i] for i in order), tokenizer, block_size=settings.block_size)
        return list(islice(packed, count))

    def micro_batch(chosen: Sequence[Block], future: float = 1.0) -> BlockBatch:
        batch = stack(chosen, pad_id=pad_token(tokenizer), never_mask=masking.mask_id, padded_tokens=padded_tokens)
        return replace(batch.to(accelerator.device), future=future)

    size = max(1, settings.micro_batch_tokens // settings.block_size)
    rows = blocks(settings.data, settings.steps * settings.batch_size)
    sampler = EpochSampler(len(rows), settings.batch_size, context.draw("rows"), "blocks")

    def batch(step: int) -> tuple[list[tuple[int, BlockBatch]], int]:
        chosen = [rows[i] for i in sampler.rows(step)]
        groups = [list(range(len(chosen)))[i : i + size] for i in range(0, len(chosen), size)]
        own = deal(groups, accelerator.num_processes)[accelerator.process_index]
        future = settings.future(step)
        made = [(number, micro_batch([chosen[i] for i in group], future)) for number, group in own]
        return made, sum(len(block.ids) for block in chosen)

    prepared: Any = accelerator.prepare_model(head.to(accelerator.device), evaluation_mode=True)
    objective = MaskedNextToken(prepared, masking)
    held_out = blocks(settings.held_out, settings.held_out_blocks) if settings.held_out else []
    evaluated = [micro_batch(held_out[i : i + size]) for i in range(0, len(held_out), size)]
    yield Job(
        module=TokenStates(model),
        objective=objective,
        batch=batch,
        evaluate=(lambda module: objective.evaluate(module, evaluated)) if held_out else None,
        evaluate_every=settings.eval_every,
    )


def check_mntp(settings: MntpSettings, data: Data, tokenizer: Any, twin: nn.Module | None) -> None:
    """A mask token that the tokenizer has, blocks for a step, attention that can be opened by and by.

    Raises:
        UnmaskError: one of them is not so.
    """
    mask_token_id(tokenizer, settings.mask_token)
    blocks = pack(iter(data.texts(settings.data)), tokenizer, block_size=settings.block_size)
    EpochSampler(sum(1 for _ in islice(blocks, settings.batch_size)), settings.batch_size, seed=0, what="blocks")
    if twin is not None:
        check_future(settings, twin)


def check_future(settings: MntpSettings, model: nn.Module) -> None:
    """Where tokens are to see later ones by and by, their attention must be two-sided and take a bias.

    Raises:
        RecipeError: it is not so.
    """
    if not settings.future_steps:
        return
    place = f"stages.{settings.label}.future_steps={settings.future_steps}"
    if attention_mode(model) == "causal":
        raise RecipeError(f"{place}: attention stays causal in this recipe, so no future opens; leave it out.")
    if not (flat := reads_flat(model)):
        raise RecipeError(
            f"{place}: the attention of {family(model)} takes no bias here ({flat.reason}); leave it out."
        )
