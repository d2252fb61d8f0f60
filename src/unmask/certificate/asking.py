"""Every case on its own, then the ways in which requests are made: twice, among others, of one length, turned round."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from tqdm import tqdm

from unmask.certificate.diagnosis import Finding
from unmask.certificate.golden import Certificate
from unmask.certificate.server import Server
from unmask.certificate.targets import Refused, Target
from unmask.certificate.variants import units
from unmask.encoder import Floats
from unmask.errors import ServerError

_MOST_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class RequestTest:
    """One way of asking.

    Attributes:
        name: what was done.
        result: right; wrong; or refused, where the target does not take such a request.
        says: how far off, or how it was refused.
        fault: its name in the table of faults, where it is wrong.
    """

    name: str
    result: Literal["right", "wrong", "refused"]
    says: str = ""
    fault: str = ""


def ask(target: Target, certificate: Certificate, *, progress: bool) -> tuple[dict[int, Floats], dict[int, str]]:
    """The target's vectors of all cases, each asked for alone, and what it refused.

    Raises:
        ServerError: every plain text was refused.
    """
    found, refused = {}, {}
    for number, case in enumerate(tqdm(certificate.cases, unit="text", desc="checking", disable=not progress)):
        try:
            found[number] = target.embed([case])[0]
        except Refused as error:
            refused[number] = str(error)
    plain = {number for number, case in enumerate(certificate.cases) if case.kind == "plain"}
    if plain and plain <= refused.keys():
        raise ServerError(f"{target.name} refuses every text ({refused[min(plain)]}).")
    return found, refused


def request_tests(target: Target, certificate: Certificate, alone: Mapping[int, Floats]) -> list[RequestTest]:
    """Ask in several ways, and compare with what the same target answers when each text is asked for alone."""
    plain = [n for n, case in enumerate(certificate.cases) if case.kind == "plain" and n in alone]
    short, long = certificate.beside
    tester = _Tester(target, certificate, alone)
    found = []
    if long in alone:
        found.append(tester.compare("the same text again", [long], "unsteady"))
    if len(plain) > 1:
        found.append(tester.compare("among others", plain[:_MOST_AT_ONCE]))
        found.append(tester.turned(plain[:_MOST_AT_ONCE]))
    equal = certificate.equals()
    if equal and set(equal) <= alone.keys():
        found.append(tester.compare("two of equal length", equal))
    if short != long and {short, long} <= alone.keys():
        found.append(tester.compare("a short one beside a long one", (short, long)))
    if isinstance(target, Server) and plain:
        found.append(
            tester.compare("base64", plain[:1], "base64-differs", lambda c: target.embed(c, encoding="base64"))
        )
    return found


class _Tester:
    """Compares answers to several texts with those to one."""

    def __init__(self, target: Target, certificate: Certificate, alone: Mapping[int, Floats]) -> None:
        self._target, self._certificate, self._alone = target, certificate, alone

    def compare(
        self,
        name: str,
        numbers: Sequence[int],
        fault: str = "batch-dependent",
        embed: Callable[..., Floats] | None = None,
    ) -> RequestTest:
        """One request of these cases."""
        try:
            found = units((embed or self._target.embed)([self._certificate.cases[n] for n in numbers]))
        except Refused as error:
            return RequestTest(name, "refused", str(error))
        apart = self._apart(found, numbers)
        if apart <= self._certificate.tolerance:
            return RequestTest(name, "right")
        if fault == "batch-dependent" and self._order_lost(found, numbers):
            fault = "order-lost"
        elif tuple(numbers) == self._certificate.beside and self._mask_skipped(found[0]):
            fault = "mask-skipped"
        return RequestTest(name, "wrong", f"smallest cosine to the text alone {1 - apart:.4f}", fault)

    def turned(self, numbers: Sequence[int]) -> RequestTest:
        """The same texts the other way round."""
        return self.compare("order turned round", list(reversed(numbers)))

    def _apart(self, found: Floats, numbers: Sequence[int]) -> float:
        own = units(self._alone[n] for n in numbers)
        return float(np.nan_to_num(1 - (found * own).sum(axis=1), nan=2.0).max())

    def _order_lost(self, found: Floats, numbers: Sequence[int]) -> bool:
        """The right vectors, in another order."""
        own = units(self._alone[n] for n in numbers)
        nearest = (found @ own.T).argmax(axis=1)
        moved = sorted(nearest.tolist()) == list(range(len(numbers)))
        return moved and self._apart(found, [numbers[n] for n in nearest]) <= self._certificate.tolerance

    def _mask_skipped(self, short: Floats) -> bool:
        near = float((self._certificate.skipped @ short).max())
        return 1 - near <= self._certificate.tolerance


def findings(tests: Sequence[RequestTest]) -> list[Finding]:
    """The faults of the ways of asking; a mask that is skipped explains what else depends on the batch."""
    wrong: dict[str, list[str]] = {}
    for test in tests:
        if test.result == "wrong":
            wrong.setdefault(test.fault, []).append(test.name)
    if "mask-skipped" in wrong:
        wrong["mask-skipped"] += wrong.pop("batch-dependent", [])
    return [Finding.of(fault, ", ".join(names)) for fault, names in wrong.items()]
