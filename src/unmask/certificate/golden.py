"""The certificate: golden texts, their right vectors, and those of the usual faults; `golden.json` in a folder."""

import base64
import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unmask.backbone.devices import cast_weights
from unmask.certificate.cases import Case, golden_cases
from unmask.certificate.variants import Faulty, Plan, planned_vectors, skipped_masks, units
from unmask.encoder import Floats, TextEncoder
from unmask.encoder.runner import BatchEncoder, Runner
from unmask.errors import ArtifactError
from unmask.files import read_json, write_json

NAME = "golden.json"
_FORMAT = 1
_PROBES = 4  # plain texts that faults of all texts are shown on, evenly spread by length
_SEEN = 1e-3  # how far a fault must take a vector (1 - cosine) to be told from rounding


@dataclass(frozen=True, slots=True)
class Variant:
    """What a runtime with some faults gives.

    Attributes:
        faults: names in the table of faults.
        vectors: of length 1, float32 [width], of the cases that show it; those of other cases are right.
        detail: which prompt, how many tokens.
    """

    faults: tuple[str, ...]
    vectors: dict[int, Floats]
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What an encoder computes, and what those who compute it wrongly do.

    Attributes:
        cases: the texts.
        tokens: how many the model reads of each.
        vectors: the right ones, float32 [cases, width], scaled as the encoder scales them.
        variants: of the usual faults, simple ones first.
        probes: the cases that faults of all texts are shown on.
        beside: numbers of a short and a long case whose batch shows `skipped`, vectors of the short one where padding
            is attended, of length 1, float32 [ways, width].
        skipped: see there.
        rounding: how far bfloat16 takes a vector (1 - cosine) at most; 0 where the encoder itself runs in it.
        normalized: vectors have length 1.
        fingerprint: of the encoder.
        made: settings, precision and versions that it was made with.
    """

    cases: tuple[Case, ...]
    tokens: tuple[int, ...]
    vectors: Floats
    variants: tuple[Variant, ...]
    probes: tuple[int, ...]
    beside: tuple[int, int]
    skipped: Floats
    rounding: float
    normalized: bool
    fingerprint: str
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Of the vectors."""
        return int(self.vectors.shape[1])

    @property
    def tolerance(self) -> float:
        """How far from right (1 - cosine) rounding may take a vector."""
        return max(_SEEN, 2 * self.rounding)

    def equals(self) -> tuple[int, int] | None:
        """Two plain cases of equal length in tokens; None where no two are."""
        plain = [n for n, case in enumerate(self.cases) if case.kind == "plain" and case.prompt_name is None]
        return next(((a, b) for a, b in combinations(plain, 2) if self.tokens[a] == self.tokens[b]), None)


def write_certificate(encoder: TextEncoder, folder: str | Path) -> Certificate:
    """Compute an encoder's certificate and write it into its folder as `golden.json`.

    It takes about as long as encoding ten thousand tokens, and a copy of the weights in bfloat16 where they run in
    float32, so saving does not write one.

    Raises:
        EncodingError: vectors that are not finite.
    """
    certificate = certify(encoder)
    write_json(Path(folder) / NAME, _to_json(certificate))
    return certificate


def certify(encoder: TextEncoder, cases: Sequence[Case] | None = None) -> Certificate:
    """Compute the certificate of an encoder that is right; do not encode with it meanwhile.

    Args:
        encoder: as it should be served, best in float32.
        cases: other texts than the golden ones.

    Raises:
        EncodingError: vectors that are not finite.
    """
    cases = tuple(golden_cases(encoder) if cases is None else cases)
    tokenized = [encoder.reader.tokenize([case.text], case.prompt)[0] for case in cases]
    tokens = tuple(len(text) for text in tokenized)
    right = np.stack([encoder.encode(case.text, prompt=case.prompt, compile=False) for case in cases])
    encoder.runner.begin_anew()  # what is compiled is compiled for one way to attend
    probes = _probes(cases, tokens)
    rounding = _bfloat16(encoder, [tokenized[n] for n in probes], right[list(probes)])
    short, long = min(probes, key=tokens.__getitem__), max(probes, key=tokens.__getitem__)
    return Certificate(
        cases=cases,
        tokens=tokens,
        vectors=right,
        variants=tuple(_variants(encoder, Faulty(encoder, cases, probes).plans(), units(right), rounding)),
        probes=probes,
        beside=(short, long),
        skipped=units(skipped_masks(encoder, tokenized[short], tokenized[long])),
        rounding=rounding,
        normalized=encoder.settings.normalize,
        fingerprint=encoder.fingerprint(),
        made={
            "settings": encoder.settings.model_dump(),
            "dtype": str(encoder.model.dtype).removeprefix("torch."),
            "versions": {name: version(name) for name in ("unmask", "torch", "transformers")},
        },
    )


def _probes(cases: Sequence[Case], tokens: Sequence[int]) -> tuple[int, ...]:
    """Some plain cases, from the shortest to the longest, and those of one saved prompt."""
    plain = [n for n, case in enumerate(cases) if case.kind == "plain"] or list(range(len(cases)))
    plain.sort(key=tokens.__getitem__)
    spread = {plain[round(step * (len(plain) - 1) / (_PROBES - 1))] for step in range(_PROBES)}
    named = [n for n, case in enumerate(cases) if case.kind == "prompt"]
    return tuple(sorted({*spread, *(n for n in named if cases[n].prompt_name == cases[named[0]].prompt_name)}))


def _variants(encoder: TextEncoder, plans: Sequence[Plan], right: Floats, rounding: float) -> Iterator[Variant]:
    """What differs from what is right and from the variants before it."""
    seen = max(_SEEN, 2 * rounding)
    known: list[Variant] = []
    found = {id(plan): vectors for plan, vectors in planned_vectors(encoder, plans)}
    for plan in plans:
        numbers = [n for n, vector in found[id(plan)].items() if np.isfinite(vector).all()]
        if not numbers:
            continue
        scaled = units(found[id(plan)][n] for n in numbers)
        apart = 1 - (scaled * right[numbers]).sum(axis=1)
        kept = {n: vector for n, vector, far in zip(numbers, scaled, apart, strict=True) if far > seen}
        variant = Variant(plan.faults, kept, plan.detail)
        if kept and not any(_alike(variant, other, seen) for other in known):
            known.append(variant)
            yield variant


def _alike(one: Variant, other: Variant, seen: float) -> bool:
    """Whether two variants cannot be told from each other."""
    if one.vectors.keys() != other.vectors.keys():
        return False
    return all(float(1 - vector @ other.vectors[n]) < seen for n, vector in one.vectors.items())


def _bfloat16(encoder: TextEncoder, texts: Sequence[Any], right: Floats) -> float:
    """How far bfloat16 takes the vectors of some texts, 1 - cosine; 0 where they are in less than float32 already."""
    if encoder.model.dtype != torch.float32 or encoder.quantized:
        return 0.0
    model = copy.deepcopy(encoder.model)
    cast_weights(model, torch.bfloat16)
    runner = Runner(model, encoder.settings.pooling, fast=False)
    module = BatchEncoder(model, encoder.module.pooling)
    found = np.empty_like(right)
    with torch.inference_mode():
        for rows, batch in encoder.reader.batches(texts, runner.budget(None), runner.device, padded=True):
            found[rows] = module(batch).cpu().numpy()
    return float((1 - (units(found) * units(right)).sum(axis=1)).max())


def _packed(vectors: Floats, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(vectors, dtype=dtype).tobytes()).decode()


def _unpacked(text: str, dtype: str, width: int) -> Floats:
    found: Floats = np.frombuffer(base64.b64decode(text), dtype=dtype).astype(np.float32).reshape(-1, width)
    return found


def _to_json(certificate: Certificate) -> dict[str, Any]:
    cases = zip(certificate.cases, certificate.tokens, certificate.vectors, strict=True)
    return {
        "format": _FORMAT,
        "about": "golden texts, their vectors (base64, float32) and those of faults (float16, length 1): unmask check",
        "fingerprint": certificate.fingerprint,
        "width": certificate.width,
        "normalized": certificate.normalized,
        "rounding": certificate.rounding,
        "made": certificate.made,
        "probes": certificate.probes,
        "beside": certificate.beside,
        "skipped": _packed(certificate.skipped, "<f2"),
        "cases": [{**asdict(case), "tokens": n, "vector": _packed(vector, "<f4")} for case, n, vector in cases],
        "variants": [
            {
                "faults": one.faults,
                "detail": one.detail,
                "vectors": {str(n): _packed(vector, "<f2") for n, vector in one.vectors.items()},
            }
            for one in certificate.variants
        ],
    }


def read_certificate(path: str | Path) -> Certificate:
    """Read a `golden.json`, or that of a folder.

    Raises:
        ArtifactError: there is none, or it is not what this version writes.
    """
    file = Path(path) / NAME if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ArtifactError(f"No {file}; `unmask export` writes one, or give an encoder that is right by --encoder.")
    said = read_json(file)
    try:
        if said["format"] != _FORMAT:
            raise ValueError(f"format {said['format']}, and this version reads {_FORMAT}")
        return _from_json(said)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{file} is not a certificate that this version reads ({error}).") from error


def _from_json(said: dict[str, Any]) -> Certificate:
    width, cases = int(said["width"]), said["cases"]
    names = ("text", "kind", "prompt_name", "prompt")
    return Certificate(
        cases=tuple(Case(**{name: case[name] for name in names}) for case in cases),
        tokens=tuple(int(case["tokens"]) for case in cases),
        vectors=np.concatenate([_unpacked(case["vector"], "<f4", width) for case in cases]),
        variants=tuple(
            Variant(
                tuple(one["faults"]),
                {int(n): _unpacked(vector, "<f2", width)[0] for n, vector in one["vectors"].items()},
                one["detail"],
            )
            for one in said["variants"]
        ),
        probes=tuple(said["probes"]),
        beside=(int(said["beside"][0]), int(said["beside"][1])),
        skipped=_unpacked(said["skipped"], "<f2", width),
        rounding=float(said["rounding"]),
        normalized=bool(said["normalized"]),
        fingerprint=str(said["fingerprint"]),
        made=dict(said["made"]),
    )
