"""The check of a target: vectors against the certificate, ways of asking, fingerprints; what `unmask check` reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from unmask.certificate.asking import RequestTest, ask, findings, request_tests
from unmask.certificate.cases import own_cases
from unmask.certificate.diagnosis import Diagnosis, Finding, compare_fingerprint, compared, diagnose
from unmask.certificate.golden import Certificate, certify
from unmask.certificate.server import Server
from unmask.certificate.targets import Target, read_vectors, said_fingerprint
from unmask.encoder import Floats, TextEncoder
from unmask.encoder.saved import read_fingerprint
from unmask.errors import DataError

_SAMPLE = 64  # rows of a file that an encoder reads again


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a check found.

    Attributes:
        target: what was checked.
        texts: how many were compared.
        smallest: cosine to the right vectors; None where nothing could be compared.
        mean: cosine to the right vectors.
        worst: the text of the smallest.
        fingerprint: found, right, apart, same; None where vectors of its texts are missing.
        faults: by name, with what to do; empty if all is right.
        requests: the ways of asking; empty for files.
        refused: texts that the target does not encode, and what it says.
        notes: what is no fault and worth knowing.
    """

    target: str
    texts: int
    smallest: float | None
    mean: float | None
    worst: str | None
    fingerprint: dict[str, str | float | bool] | None
    faults: list[Finding]
    requests: list[RequestTest] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """No fault was found."""
        return not self.faults


def check(target: Target, certificate: Certificate, *, folder: Path | None = None, progress: bool = False) -> Report:
    """Ask a target for the certificate's texts, in several ways, and name what is wrong.

    Args:
        target: a server, or an encoder that somebody opened.
        certificate: of the encoder that it should be.
        folder: of the target, whose unmask.json says what its fingerprint was.
        progress: show a bar.

    Raises:
        ServerError: no embeddings server, one that answers late or half.
    """
    alone, refused = ask(target, certificate, progress=progress)
    tests = request_tests(target, certificate, alone)
    diagnosis = diagnose(certificate, alone)
    fingerprint = compare_fingerprint(certificate, alone)
    faults, notes = [*diagnosis.faults, *findings(tests)], list(diagnosis.notes)
    said = target.fingerprint if isinstance(target, Server) else read_fingerprint(folder) if folder else None
    if said and fingerprint and not compared(str(fingerprint["found"]), said)["same"]:
        if diagnosis.faults and folder:
            faults.append(Finding.of("changed-since-saved"))
        else:  # vectors that are right settle it
            notes.append(f"It says that its fingerprint is {said}; its vectors have {fingerprint['found']}.")
    return _report(
        target.name,
        certificate,
        diagnosis,
        fingerprint=fingerprint,
        faults=faults,
        requests=tests,
        refused={certificate.cases[number].text[:80]: says for number, says in refused.items()},
        notes=notes,
    )


def check_file(
    path: Path,
    *,
    certificate: Certificate | None = None,
    encoder: TextEncoder | None = None,
    prompt_name: str | None = None,
    field: str = "text",
    vector_field: str | None = None,
) -> Report:
    """Compare vectors that somebody else made, in a Parquet file, and name what is wrong with them.

    Args:
        path: of the file.
        certificate: of the encoder that they should be of; the file then holds its texts.
        encoder: that they should be of, instead; a sample of the file's own texts is compared.
        prompt_name: the saved prompt that they were made with.
        field: column of the texts.
        vector_field: column of the vectors; by default the one called vector, embedding or embeddings.

    Raises:
        DataError: no such file or columns; none of the certificate's texts in it.
    """
    most = _SAMPLE if certificate is None else None
    vectors = read_vectors(path, field=field, vector_field=vector_field, most=most)
    if certificate is None:
        if encoder is None:
            raise DataError("A file of vectors is compared with an encoder (--encoder) or a certificate (--golden).")
        certificate = certify(encoder, own_cases(encoder, list(vectors), prompt_name))
    found = _by_case(certificate, vectors, prompt_name)
    if not found:
        raise DataError(f"{path} holds none of the certificate's {len(certificate.cases)} texts in column {field!r}.")
    diagnosis = diagnose(certificate, found)
    fingerprint = compare_fingerprint(certificate, found)
    if fingerprint is None and (said := said_fingerprint(path)):
        fingerprint = compared(said, certificate.fingerprint)
    return _report(str(path), certificate, diagnosis, fingerprint=fingerprint, faults=diagnosis.faults)


def _by_case(certificate: Certificate, vectors: Mapping[str, Floats], prompt_name: str | None) -> dict[int, Floats]:
    """The vectors of a file by the numbers of the cases that have its prompt."""
    cases = enumerate(certificate.cases)
    return {n: vectors[case.text] for n, case in cases if case.prompt_name == prompt_name and case.text in vectors}


def _report(
    name: str,
    certificate: Certificate,
    diagnosis: Diagnosis,
    *,
    fingerprint: dict[str, str | float | bool] | None,
    faults: list[Finding],
    requests: list[RequestTest] | None = None,
    refused: dict[str, str] | None = None,
    notes: list[str] | None = None,
) -> Report:
    cosines = diagnosis.cosines
    worst = min(cosines, key=cosines.__getitem__) if cosines else None
    return Report(
        target=name,
        texts=len(cosines),
        smallest=None if worst is None else round(cosines[worst], 7),
        mean=round(sum(cosines.values()) / len(cosines), 7) if cosines else None,
        worst=None if worst is None else certificate.cases[worst].text[:80],
        fingerprint=fingerprint,
        faults=faults,
        requests=requests or [],
        refused=refused or {},
        notes=diagnosis.notes if notes is None else notes,
    )
