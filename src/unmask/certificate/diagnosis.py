"""From vectors that somebody made to the name of what went wrong: the stored variant that they match."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from unmask.certificate.faults import FAULTS
from unmask.certificate.golden import Certificate, Variant
from unmask.certificate.variants import units
from unmask.encoder import Floats
from unmask.encoder.fingerprint import TEXTS, apart, fingerprint_of, same

_CLEARLY = 4  # times nearer to a wrong variant than to what is right
_COARSE = 0.03  # 1 - cosine that eight bits and fewer may cost
_EXACT = 1e-5  # 1 - cosine in float32
_LENGTH = 0.02  # by which a length may differ from 1


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault that was found.

    Attributes:
        fault: its name in the table of faults.
        says: what it means, with what this one shows.
        remedy: what to do.
        cosine: the smallest to the variant that was matched; None where none was.
    """

    fault: str
    says: str
    remedy: str
    cosine: float | None = None

    @classmethod
    def of(cls, fault: str, detail: str = "", cosine: float | None = None) -> "Finding":
        """A finding by the name of its fault."""
        known = FAULTS[fault]
        return cls(fault, known.says + (f" ({detail})" if detail else ""), known.remedy, cosine)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What vectors say of whoever made them.

    Attributes:
        cosines: to the right ones, by the number of the case.
        faults: that were found; empty if all is right.
        notes: what is no fault and worth knowing.
    """

    cosines: dict[int, float] = field(default_factory=dict)
    faults: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def diagnose(certificate: Certificate, found: Mapping[int, Floats]) -> Diagnosis:
    """Compare vectors with the right ones, and where they differ find the fault.

    Args:
        certificate: of the encoder.
        found: vectors [width], by the number of the case; at least one.
    """
    widths = sorted({len(vector) for vector in found.values()})
    if widths != [certificate.width]:
        return Diagnosis(faults=[_other_width(certificate, found, widths)])
    broken = sorted(n for n, vector in found.items() if not np.isfinite(vector).all() or not np.any(vector))
    whole = {n: vector for n, vector in found.items() if n not in broken}
    faults = [Finding.of("not-finite", _kinds(certificate, broken))] if broken else []
    if not whole:
        return Diagnosis(faults=faults)
    numbers = list(whole)
    scaled = dict(zip(numbers, units(whole.values()), strict=True))
    right = dict(zip(numbers, units(certificate.vectors[numbers]), strict=True))
    cosines = {n: float(scaled[n] @ right[n]) for n in numbers}
    notes: list[str] = []
    off = [n for n in numbers if 1 - cosines[n] > certificate.tolerance]
    if off:
        faults += _named(certificate, scaled, right, off)
    elif max(1 - cosine for cosine in cosines.values()) > _EXACT:
        notes.append("Rounded as in bfloat16 or 16 bits.")
    faults += _lengths(certificate, whole, notes)
    return Diagnosis(cosines, faults, notes)


def compare_fingerprint(certificate: Certificate, found: Mapping[int, Floats]) -> dict[str, str | float | bool] | None:
    """The fingerprint of vectors beside that of the certificate; None where vectors of its texts are missing."""
    if [case.text for case in certificate.cases[: len(TEXTS)]] != list(TEXTS):
        return None
    numbers = range(len(TEXTS))
    if not all(n in found and np.isfinite(found[n]).all() for n in numbers):
        return None
    made = fingerprint_of(np.stack([found[n] for n in numbers]))
    return compared(made, certificate.fingerprint)


def compared(found: str, right: str) -> dict[str, str | float | bool]:
    """Two fingerprints beside each other."""
    return {"found": found, "right": right, "apart": round(apart(found, right), 4), "same": same(found, right)}


def _other_width(certificate: Certificate, found: Mapping[int, Floats], widths: Sequence[int]) -> Finding:
    """Vectors of another width, perhaps the first numbers of the right ones."""
    detail = f"{' and '.join(map(str, widths))} instead of {certificate.width}"
    if len(widths) == 1 and widths[0] < certificate.width:
        numbers = list(found)
        cut = units(certificate.vectors[numbers, : widths[0]])
        if ((1 - (units(found.values()) * cut).sum(axis=1)) < certificate.tolerance).all():
            detail += ", the first numbers of the right ones"
    return Finding.of("other-width", detail)


def _named(
    certificate: Certificate, found: Mapping[int, Floats], right: Mapping[int, Floats], off: Sequence[int]
) -> Iterator[Finding]:
    """The faults of vectors that are off: those of all texts, and only if there are none those of single kinds."""
    probes = [n for n in certificate.probes if n in found]
    common = [n for n in found if certificate.cases[n].kind in ("plain", "prompt")]
    if set(off) & {*common, *probes}:
        yield from _matched(certificate, found, right, probes or common) or [_unnamed(found, right, off)]
        return
    groups: dict[str, list[int]] = {}
    for number in off:
        kind = certificate.cases[number].kind
        groups.setdefault("long" if kind == "truncated" else kind, []).append(number)
    stored = {number for variant in certificate.variants for number in variant.vectors}
    unknown = []
    for numbers in groups.values():
        findings = _matched(certificate, found, right, [n for n in numbers if n in stored])
        yield from findings
        unknown += [] if findings else numbers
    if unknown:
        yield Finding.of("some-texts", _kinds(certificate, unknown))


def _matched(
    certificate: Certificate, found: Mapping[int, Floats], right: Mapping[int, Floats], numbers: Collection[int]
) -> list[Finding]:
    """The faults of the variant that is clearly nearer than what is right; none if there is no such."""

    def error(variant: Variant | None) -> float:
        vectors = variant.vectors if variant else {}
        return float(np.mean([1 - found[n] @ vectors.get(n, right[n]) for n in numbers]))

    shown = [one for one in certificate.variants if one.vectors.keys() & set(numbers)]
    if not shown:
        return []
    nearest = min(shown, key=error)
    if error(nearest) * _CLEARLY > error(None):
        return []
    cosine = min(float(found[n] @ nearest.vectors.get(n, right[n])) for n in numbers)
    details = [nearest.detail] if nearest.detail else []
    if 1 - cosine > certificate.tolerance:
        details.append("and something else beside it")
    return [Finding.of(fault, ", ".join(details), round(cosine, 6)) for fault in nearest.faults]


def _unnamed(found: Mapping[int, Floats], right: Mapping[int, Floats], off: Sequence[int]) -> Finding:
    coarse = all(1 - float(found[n] @ right[n]) < _COARSE for n in off)
    return Finding.of("coarse" if coarse else "another-encoder")


def _lengths(certificate: Certificate, found: Mapping[int, Floats], notes: list[str]) -> list[Finding]:
    """Lengths that are not 1 where they should be; the other way round cosines stay, and a note will do."""
    lengths = np.array([np.linalg.norm(vector) for vector in found.values()])
    scaled = bool((np.abs(lengths - 1) < _LENGTH).all())
    if certificate.normalized and not scaled:
        return [Finding.of("not-normalised", f"they have lengths from {lengths.min():.3g} to {lengths.max():.3g}")]
    if scaled and not certificate.normalized:
        notes.append("Vectors were scaled to length 1, which the encoder does not do unasked; cosines stay.")
    return []


def _kinds(certificate: Certificate, numbers: Sequence[int]) -> str:
    """What kinds of texts these are, with one of each."""
    first = {certificate.cases[n].kind: certificate.cases[n].text for n in reversed(numbers)}
    return "; ".join(f"{kind}: {text[:40]!r}" for kind, text in first.items())
