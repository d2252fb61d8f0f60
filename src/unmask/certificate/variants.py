"""How runtimes go wrong, computed: texts as a runtime with some faults reads them, and the vectors that it gives."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import nn

from unmask.backbone.families.switches import attention_mode
from unmask.backbone.truth.opening import as_causal
from unmask.certificate.cases import Case
from unmask.encoder import Floats, TextEncoder
from unmask.encoder.runner import BatchEncoder
from unmask.errors import DataError
from unmask.pooling import POOLINGS
from unmask.pooling.modules import Plain, PlainPooling
from unmask.text.batching import PaddedBatch, PaddingSide, pad, pad_token
from unmask.text.control import spellings_as_tokens
from unmask.text.prompts import render
from unmask.text.spans import TokenizedText, special_affixes, tokenize

_CUTS = (128, 256, 384, 512, 1024)  # tokens that runtimes cut to
_POOLINGS: tuple[tuple[Plain, str], ...] = (
    ("mean", "pooled-by-mean"),
    ("weighted_mean", "pooled-by-weighted-mean"),
    ("eos", "pooled-by-last-token"),
    ("first", "pooled-by-first-token"),
)
_WHOLE = 16  # characters a token; what is longer than that many for each token of the limit is not read whole
_LONG = 2  # long texts that are cut elsewhere
_PROMPTS = 2  # saved prompts that are tried where none belongs


@dataclass(frozen=True, slots=True)
class Plan:
    """How a runtime with some faults computes the vectors of some cases.

    Attributes:
        faults: names in the table of faults; none for what is right.
        texts: by the number of the case, as it reads them.
        pooling: instead of the encoder's own.
        causal: attention sees no token behind.
        detail: which prompt, how many tokens.
    """

    faults: tuple[str, ...]
    texts: Mapping[int, TokenizedText]
    pooling: nn.Module | None = None
    causal: bool = False
    detail: str = ""


def vectors_of(encoder: TextEncoder, texts: Sequence[TokenizedText], pooling: nn.Module | None = None) -> Floats:
    """Vectors [texts, width] as they come out of the pooling, float32."""
    module = BatchEncoder(encoder.model, pooling or encoder.module.pooling)
    found = np.empty((len(texts), encoder.dimension), dtype=np.float32)
    with torch.inference_mode():
        for rows, batch in encoder.batches(texts):
            found[rows] = module(batch).cpu().numpy()
    return found


def planned_vectors(encoder: TextEncoder, plans: Sequence[Plan]) -> Iterator[tuple[Plan, dict[int, Floats]]]:
    """The vectors of each plan, by the numbers of the cases; those of causal attention last."""
    own = [plan for plan in plans if not plan.causal]
    causal = [plan for plan in plans if plan.causal]
    for plan in own:
        yield plan, _run(encoder, plan)
    if causal:
        with as_causal(encoder.model):
            found = [(plan, _run(encoder, plan)) for plan in causal]
        yield from found


def _run(encoder: TextEncoder, plan: Plan) -> dict[int, Floats]:
    return dict(zip(plan.texts, vectors_of(encoder, list(plan.texts.values()), plan.pooling), strict=True))


class Faulty:
    """What runtimes make of the cases of one encoder.

    Args:
        encoder: with its tokenizer and settings.
        cases: all of a certificate.
        probes: numbers of the plain ones that faults of all texts are shown on.
    """

    def __init__(self, encoder: TextEncoder, cases: Sequence[Case], probes: Sequence[int]) -> None:
        self._encoder, self._cases, self._settings = encoder, cases, encoder.settings
        self._tokenizer: Any = encoder.tokenizer
        plain = encoder.reader.chat is None  # a template writes its special tokens itself
        before, after = special_affixes(self._tokenizer) if plain else ([], [])
        self._before, self._after = before, after
        self._right = {number: self._read(cases[number]) for number in probes}

    def plans(self) -> list[Plan]:
        """Everything that is known to go wrong, simple things first."""
        found = [*self._spans_and_poolings(), *self._prompts(), *self._single_texts(), *self._cuts()]
        if self._encoder.reader.chat is None:
            found += self._special_tokens()
        else:
            found.append(Plan(("template-missing",), {n: self._bare(self._cases[n]) for n in self._right}))
        return sorted(found, key=lambda plan: len(plan.faults))

    def _read(self, case: Case, prompt: str | None = None, max_length: int | None = None) -> TokenizedText:
        asked = case.prompt if prompt is None else prompt
        return self._encoder.reader.tokenize([case.text], asked, max_length=max_length)[0]

    def _bare(self, case: Case) -> TokenizedText:
        """Without the chat template."""
        limit = self._settings.max_length
        (text,) = tokenize(self._tokenizer, render([case.text], case.prompt), max_length=limit, include_prompt=True)
        return text

    def _spans_and_poolings(self) -> Iterator[Plan]:
        """What is pooled and how, with two-sided attention and without."""
        two_way = attention_mode(self._encoder.model) == "bidirectional"
        for causal in (False, True) if two_way else (False,):
            seen = ("causal",) if causal else ()
            for faults, texts in self._spans():
                if seen + faults:
                    yield Plan(seen + faults, texts, causal=causal)
            everything = {n: replace(text, pooled=np.ones_like(text.pooled)) for n, text in self._right.items()}
            for how, name in _POOLINGS:
                own = self._settings.pooling
                if how != own:
                    name = "eos-pooled" if (own, how) == ("last", "eos") else name
                    yield Plan((*seen, name), everything, PlainPooling(how), causal)

    def _spans(self) -> Iterator[tuple[tuple[str, ...], dict[int, TokenizedText]]]:
        """Which tokens count: as it is right, then with BOS, EOS and prompt in or out."""
        yield (), self._right
        if not POOLINGS[self._settings.pooling].averages:
            return
        right = (*[self._settings.include_special_tokens] * 2, self._settings.include_prompt)
        for pooled in product((False, True), repeat=3):
            names = [
                f"{what}-{'pooled' if now else 'left-out'}"
                for what, now, then in zip(("bos", "eos", "prompt"), pooled, right, strict=True)
                if now != then
            ]
            if names:
                yield tuple(names), {n: self._pooled(text, *pooled) for n, text in self._right.items()}

    def _pooled(self, text: TokenizedText, bos: bool, eos: bool, prompt: bool) -> TokenizedText:
        if not text.in_text.any():
            return text
        front, back = np.zeros_like(text.pooled), np.zeros_like(text.pooled)
        front[: len(self._before)] = True
        back[len(text) - len(self._after) :] = True
        around = ~text.in_text & ~front & ~back
        pooled = text.in_text | (back if eos else False) | (around if prompt else False)
        # BOS in front of a prompt that is left out is left out with it, as sentence-transformers does.
        if bos and (prompt or not around[: text.in_text.argmax()].any()):
            pooled |= front
        return replace(text, pooled=pooled)

    def _prompts(self) -> Iterator[Plan]:
        """A prompt that is not there, or there unasked."""
        asked = {n: self._read(self._cases[n], "") for n in self._right if self._cases[n].prompt}
        if asked:
            yield Plan(("prompt-dropped",), asked)
        for name, prompt in list(self._settings.prompts.items())[:_PROMPTS]:
            silent = [n for n in self._right if prompt and self._cases[n].prompt_name is None]
            texts = {n: self._read(self._cases[n], prompt) for n in silent if self._cases[n].prompt != prompt}
            if texts:
                yield Plan(("prompt-added",), texts, detail=repr(name))

    def _special_tokens(self) -> Iterator[Plan]:
        """BOS and EOS that are missing, there twice, or there although the encoder reads none."""
        bos, eos = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        for what, own, token, front in (("bos", self._before, bos, True), ("eos", self._after, eos, False)):
            if own:
                place = slice(len(own), None) if front else slice(None, -len(own))
                cut = {n: _part(text, place) for n, text in self._right.items() if len(text) > len(own)}
                yield Plan((f"{what}-missing",), cut)
                yield Plan((f"{what}-doubled",), {n: _with(t, own[0], front) for n, t in self._right.items()})
            elif token is not None:
                yield Plan((f"{what}-added",), {n: _with(t, token, front) for n, t in self._right.items()})

    def _single_texts(self) -> Iterator[Plan]:
        """Faults that one kind of text shows."""
        for number, case in enumerate(self._cases):
            if case.kind == "spaces":
                yield Plan(("spaces-stripped",), {number: self._read(replace(case, text=case.text.strip()))})
            elif case.kind == "special" and self._tokenizer.split_special_tokens:
                with spellings_as_tokens(self._tokenizer):
                    parsed = self._read(case)
                yield Plan(("special-tokens-parsed",), {number: parsed})

    def _cuts(self) -> Iterator[Plan]:
        """Long texts, cut elsewhere."""
        limit = self._settings.max_length
        long = [n for n, case in enumerate(self._cases) if case.kind in ("long", "truncated")]
        shown = {n: self._cases[n] for n in [n for n in long if n in self._right] or long[:_LONG]}
        for tokens in _CUTS:
            longer = {n: self._cases[n] for n, text in self._right.items() if len(text) > tokens}
            if tokens < limit and (longer := longer | shown):
                cut = {n: self._read(case, max_length=tokens) for n, case in longer.items()}
                yield Plan(("cut-short",), cut, detail=f"to {tokens} tokens")
        whole = {n: text for n, case in shown.items() if case.kind == "truncated" and (text := self._whole(case))}
        if whole:
            yield Plan(("cut-late",), whole)
            yield Plan(("cut-at-the-start",), {n: _last(text, limit) for n, text in whole.items()})

    def _whole(self, case: Case) -> TokenizedText | None:
        """A text beyond the limit, uncut; None where that would be too long."""
        limit = self._settings.max_length
        if len(case.text) > _WHOLE * limit:
            return None
        try:
            return self._read(case, max_length=len(case.text) + limit)
        except DataError:  # the model has no positions for more
            return None


def skipped_masks(encoder: TextEncoder, short: TokenizedText, long: TokenizedText) -> list[Floats]:
    """Vectors of a short text beside a long one where padding is attended: on the right or left, pooled or not."""
    found = []
    module = BatchEncoder(encoder.model, encoder.module.pooling)
    sides: tuple[PaddingSide, ...] = ("right", "left")
    for side, pooled in product(sides, (False, True)):
        batch = pad([short, long], pad_id=pad_token(encoder.tokenizer), padding_side=side)
        counted = torch.ones_like(batch.pooled) if pooled else batch.pooled
        read = PaddedBatch(batch.input_ids, torch.ones_like(batch.attention_mask), counted).to(encoder.device)
        with torch.inference_mode():
            found.append(module(read)[0].cpu().numpy())
    return found


def _part(text: TokenizedText, kept: Any) -> TokenizedText:
    """Some tokens of a text; all of them are pooled if none of those is."""
    pooled = text.pooled[kept]
    pooled = pooled if pooled.any() else np.ones_like(pooled)
    return replace(text, ids=text.ids[kept], offsets=text.offsets[kept], pooled=pooled, in_text=text.in_text[kept])


def _last(text: TokenizedText, limit: int) -> TokenizedText:
    """The same without its first tokens, special ones and prompt aside."""
    own = np.flatnonzero(text.in_text)[: len(text) - limit]
    return _part(text, np.setdiff1d(np.arange(len(text)), own))


def _with(text: TokenizedText, token: int, front: bool) -> TokenizedText:
    """One more special token, which counts as the one that stands there does, or if none does."""
    end = 0 if front else len(text)
    twin = bool(text.ids[0 if front else -1] == token)
    counts = bool(text.pooled[0 if front else -1]) if twin else True
    return replace(
        text,
        ids=np.insert(text.ids, end, token),
        offsets=np.insert(text.offsets, end, 0, axis=0),
        pooled=np.insert(text.pooled, end, counts),
        in_text=np.insert(text.in_text, end, False),
    )


def units(vectors: Iterable[Floats]) -> Floats:
    """Vectors [texts, width] scaled to length 1; one of zeros stays so."""
    stacked = np.stack([np.asarray(vector, dtype=np.float32) for vector in vectors])
    scaled: Floats = stacked / np.linalg.norm(stacked, axis=1, keepdims=True).clip(min=1e-12)
    return scaled
