"""A written folder opened again, by its files alone, as its runtime reads it: what vectors come out."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmask.backbone.opened import plain_model, plain_tokenizer
from unmask.certificate.graphs import Run, open_graph
from unmask.encoder import Floats
from unmask.export.samples import Sample
from unmask.export.targets import TARGETS
from unmask.files import read_json

_ROWS = 8  # texts of a padded batch


def read_back(runtime: str, folder: Path, samples: Sequence[Sample], *, graph: Path | None = None) -> dict[str, Floats]:
    """Vectors [samples, width] by how they were read: one text at a time, and in padded batches.

    Args:
        runtime: name in the table of targets.
        folder: as written for it.
        samples: texts and prompts.
        graph: the file of a runtime that runs one.
    """
    if runtime == "sentence-transformers":
        return _with_sentence_transformers(folder, samples)
    run = open_graph(graph) if graph else _states_pooled(folder, halved=TARGETS[runtime].flag)
    rows = _tokens(folder, samples, alone=runtime == "tei")
    ones = [run(*batch) for _, batch in _batches(rows, 1)]
    found = {"one by one": np.concatenate(ones)}
    padded = np.empty_like(found["one by one"])
    for numbers, batch in _batches(rows, _ROWS):
        padded[numbers] = run(*batch)
    return found | {"in padded batches": padded}


def reader_of(runtime: str) -> str:
    """The library that `read_back` opens a folder with, and its version; empty where it is not installed."""
    target = TARGETS[runtime]
    library = runtime if runtime in ("sentence-transformers", "openvino") else "transformers"
    library = "onnxruntime" if runtime == "onnx" else library
    if find_spec(library.replace("-", "_")) is None:
        return ""
    itself = runtime in ("sentence-transformers", "transformers") or target.graph
    return f"{library} {version(library)}{'' if itself else f' in the place of {target.title}'}"


def _with_sentence_transformers(folder: Path, samples: Sequence[Sample]) -> dict[str, Floats]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"}, local_files_only=True)
    found = {}
    for name, rows in (("one by one", 1), ("in padded batches", _ROWS)):
        vectors: dict[int, Floats] = {}
        for prompt in dict.fromkeys(sample.prompt for sample in samples):
            numbers = [number for number, sample in enumerate(samples) if sample.prompt == prompt]
            texts = [samples[number].text for number in numbers]
            given = model.encode(texts, prompt=prompt, batch_size=rows, show_progress_bar=False)
            vectors |= zip(numbers, given, strict=True)
        found[name] = np.stack([vectors[number] for number in range(len(samples))])
    return found


def _tokens(folder: Path, samples: Sequence[Sample], *, alone: bool) -> list[list[int]]:
    """Token ids of prompts and texts, cut where the folder says; `alone`: by tokenizer.json and nothing else."""
    length = int(read_json(folder / "sentence_bert_config.json")["max_seq_length"])
    texts = [sample.prompt + sample.text for sample in samples]
    if alone:
        from tokenizers import Tokenizer

        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        backend.no_padding()
        backend.enable_truncation(length)
        return [encoding.ids for encoding in backend.encode_batch(texts)]
    ids: list[list[int]] = plain_tokenizer(folder)(texts, truncation=True, max_length=length)["input_ids"]
    return ids


def _batches(
    rows: list[list[int]], size: int
) -> Iterator[tuple[list[int], tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """Padded ids and mask of some rows at a time, with their numbers."""
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        batch = np.zeros((2, len(some), max(map(len, some))), dtype=np.int64)
        for row, ids in enumerate(some):
            batch[0, row, : len(ids)], batch[1, row, : len(ids)] = ids, 1
        yield list(range(start, start + len(some))), (batch[0], batch[1])


def _states_pooled(folder: Path, *, halved: bool) -> Run:
    """Plain transformers, and the pooling that the folder names, over the mask: all that most runtimes do.

    Args:
        folder: as written.
        halved: windows are written from end to end, as the runtime counts them.
    """
    import torch

    model: Any = plain_model(folder, halved=halved)
    pooling = read_json(folder / "1_Pooling" / "config.json")["pooling_mode"]
    normalize = (folder / "2_Normalize").is_dir()

    def run(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Floats:
        with torch.inference_mode():
            states = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))[0].float().numpy()
        counts = mask.cumsum(1)
        weights = {
            "mean": mask,
            "weightedmean": mask * counts,
            "lasttoken": mask * (counts == mask.sum(1, keepdims=True)),
            "cls": mask * (counts == 1),
        }[pooling].astype(np.float32)
        vectors: Floats = (states * weights[..., None]).sum(1) / weights.sum(1, keepdims=True)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if normalize else vectors

    return run
