"""An encoder written for a runtime: refused where it cannot be served, read back and compared before it appears."""

import copy
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from unmask.backbone.devices import weights_in
from unmask.certificate.golden import write_certificate
from unmask.encoder import Floats, TextEncoder
from unmask.encoder.fingerprint import TEXTS
from unmask.encoder.opening import reader_for
from unmask.encoder.runner import Runner
from unmask.errors import ArtifactError, ExportError
from unmask.export.eight_bits import write_int8
from unmask.export.fitness import pools_prompt, pools_special_tokens, require_served
from unmask.export.graph import require_writers, write_onnx, write_openvino
from unmask.export.reading import read_back, reader_of
from unmask.export.samples import Sample, cosines, pools_prompts, samples_for, vectors_of
from unmask.export.targets import TARGETS, Target
from unmask.export.writing import cautions, serving, tell_compared, write_folder
from unmask.files import new_folder, require_new_folder

Precision = Literal["fp32", "int8"]
LEAST = 0.9999  # cosine of an export in float32 to its encoder
_LEAST_IN_EIGHT_BITS = 0.95  # pocket has 0.9996; SmolLM2 0.998 trained, 0.93 converted alone
_MOST_BY_BATCH = 1e-3  # by which the cosine of a text alone and in a batch may differ from 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was written and how near it is.

    Attributes:
        runtime: it was written for.
        folder: of it.
        read_with: the library that opened it again; empty where none is installed.
        samples: texts that were compared.
        cosine: the smallest to the encoder's own vectors; None where nothing was compared.
        text: for which it is the smallest.
        cost: the smallest cosine to the vectors of before, where special tokens or prompts are pooled that were not.
        serve: commands.
        known: what is known to go wrong.
    """

    runtime: str
    folder: str
    read_with: str
    samples: int
    cosine: float | None
    text: str
    cost: float | None
    serve: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)


def export_encoder(
    encoder: TextEncoder,
    folder: str | Path,
    runtime: str,
    *,
    precision: Precision = "fp32",
    pool_special_tokens: bool = False,
    pool_prompts: bool = False,
    gpu: bool = False,
) -> ExportReport:
    """Write an encoder for a runtime, open it again as that runtime does, and compare vectors on sample texts.

    Args:
        encoder: any; its weights are as they were when this returns.
        folder: new; it appears only if the vectors are right.
        runtime: sentence-transformers, transformers, vllm, tei, llama.cpp, onnx or openvino.
        precision: of the graph for onnx; int8 is written only if no vector depends on the texts beside it.
        pool_special_tokens: pool BOS and EOS where the runtime cannot leave them out.
        pool_prompts: pool prompts where the runtime cannot leave them out.
        gpu: the runtime has a CUDA GPU, on which some serve more families.

    Raises:
        ArtifactError: an unknown runtime; what it cannot serve, with the reason; a folder that is not new.
        MissingExtraError: a package that writes the graph is missing.
        ExportError: the vectors are not those of the encoder; nothing is left behind.
    """
    place, target = Path(folder), _target(runtime, precision)
    require_new_folder(place)
    if target.graph:
        require_writers(runtime)
    require_served(encoder, target, gpu=gpu)
    stored = encoder.stored or encoder.model.dtype
    with weights_in(encoder.model, torch.float32):
        served = _with(encoder)
        served.stored = stored
        changes = _changes(served, target, pool_special_tokens=pool_special_tokens, pool_prompts=pool_prompts)
        before, served = served, _with(served, **changes)
        samples = samples_for(served, prompts=not target.graph or pools_prompts(served))
        expected = vectors_of(served, samples)
        cost = float(cosines(expected, vectors_of(before, samples)).min()) if changes else None
        with new_folder(place) as partial:
            graph = _write(partial, served, runtime, precision)
            with_library = reader_of(runtime)
            found = read_back(runtime, partial, samples, graph=graph) if with_library else {}
            cosine, text = _compare(found, expected, samples, target, precision)
            write_certificate(served, partial)
            if found:
                told = f"smallest cosine {cosine:.6f} of {len(samples)} texts, read by {with_library}"
                tell_compared(partial, told, cost)
    return ExportReport(
        runtime=runtime,
        folder=str(place),
        read_with=with_library,
        samples=len(samples) if found else 0,
        cosine=cosine,
        text=text,
        cost=cost,
        serve=serving(served, runtime, place),
        known=cautions(served, runtime),
    )


def _target(runtime: str, precision: str) -> Target:
    if runtime not in TARGETS:
        raise ArtifactError(f"There is no export for {runtime!r}; choose one of {', '.join(TARGETS)}.")
    if precision != "fp32" and runtime != "onnx":
        raise ArtifactError(f"precision {precision!r} is written for onnx only, not for {runtime}.")
    return TARGETS[runtime]


def _with(encoder: TextEncoder, **changes: Any) -> TextEncoder:
    """The same model under changed settings, on no fast path."""
    other = copy.copy(encoder)
    settings = encoder.settings.changed(**changes)
    encoder.runner.begin_anew()
    other.reader = reader_for(encoder.model, encoder.tokenizer, settings, encoder.reader.chat)
    other.runner = Runner(encoder.model, settings.pooling, fast=False)
    other.module = other.runner.module
    return other


def _changes(encoder: TextEncoder, target: Target, *, pool_special_tokens: bool, pool_prompts: bool) -> dict[str, bool]:
    """The settings that must change so that the runtime can serve the encoder.

    Raises:
        ArtifactError: nobody asked for them; says what they cost.
    """
    needed = {
        "include_special_tokens": (pools_special_tokens(encoder, target), pool_special_tokens, "special tokens"),
        "include_prompt": (pools_prompt(encoder, target), pool_prompts, "prompts"),
    }
    changes = {}
    for key, (must, asked, what) in needed.items():
        if not must:
            continue
        changes[key] = True
        if asked:
            continue
        samples = samples_for(encoder, prompts=True)
        found = cosines(vectors_of(encoder, samples), vectors_of(_with(encoder, **changes), samples))
        raise ArtifactError(
            f"{target.title} averages {what} with the text, which this encoder does not: its vectors would be at "
            f"cosine {found.min():.4f} to the encoder's own at worst, {found.mean():.4f} on average ({len(samples)} "
            f"texts). --pool-{what.replace(' ', '-')} exports it so."
        )
    return changes


def _write(folder: Path, served: TextEncoder, runtime: str, precision: str) -> Path | None:
    """Write the folder, and the graph where there is one; returns its file."""
    write_folder(folder, served, runtime)
    if not TARGETS[runtime].graph:
        return None
    whole = folder / "float32" / "model.onnx"
    write_onnx(served, whole)
    path = folder / ("onnx/model.onnx" if runtime == "onnx" else "openvino/openvino_model.xml")
    if runtime == "openvino":
        write_openvino(whole, path)
    elif precision == "int8":
        write_int8(whole, path, [text.ids for text in served.tokenize(TEXTS)])
    else:
        whole.parent.rename(path.parent)
        return path
    shutil.rmtree(whole.parent)
    return path


def _compare(
    found: dict[str, Floats], expected: Floats, samples: list[Sample], target: Target, precision: Precision
) -> tuple[float | None, str]:
    """The smallest cosine to the encoder's own vectors, and its text.

    Raises:
        ExportError: it is too small; in eight bits, much too small, or a vector depends on the texts beside it.
    """
    if not found:
        return None, ""
    near = {how: cosines(vectors, expected) for how, vectors in found.items()}
    how = min(near, key=lambda name: float(near[name].min()))
    worst = int(near[how].argmin())
    smallest = float(near[how][worst])
    if precision == "int8":
        alone, padded = found.values()
        moved = cosines(alone, padded)
        if 1 - moved.min() > _MOST_BY_BATCH:
            raise ExportError(
                f"In eight bits a vector depends on the texts beside it: {samples[int(moved.argmin())]} alone and "
                f"among others is at cosine {moved.min():.4f}. Nothing was written; export with --precision fp32."
            )
        if smallest < _LEAST_IN_EIGHT_BITS:
            raise ExportError(
                f"In eight bits {samples[worst]} is at cosine {smallest:.4f} to the encoder's own vector, "
                f"{near[how].mean():.4f} in the mean of {len(samples)}: some channels of this model are too "
                "different in size. Nothing was written; export with --precision fp32."
            )
    elif smallest < LEAST:
        low = int((near[how] < LEAST).sum())
        raise ExportError(
            f"Read {how} by {target.title}, {samples[worst]} is at cosine {smallest:.4f} to the encoder's own vector, "
            f"and {low} of {len(samples)} texts below {LEAST}. Nothing was written."
        )
    return smallest, str(samples[worst])
