"""The public part of E5's training data in the layout that Echo embeddings released, with the paper's instructions.

A folder with one jsonl file a data set, each line `{"query": ..., "positive": ..., "negative": ...}`. Instructions and
sides are those of the paper (Table 8 and the authors' first release): asymmetric sets have the instruction on queries
only; the second half of NLI and both halves of Quora are symmetric and have it on both sides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from unmask.data.pairs import PairSet, read_pairs
from unmask.errors import DataError

_FORM = "{}; "  # the form of the authors' training; their evaluation ends in a colon
_WIKIPEDIA = "Given a question, retrieve Wikipedia passages that answer the question"
_CHINESE = "Given a Chinese search query, retrieve web passages that answer the question"
_ANSWERS = "Retrieve Wikipedia passages that answer the question"
_WEB = "Given a web search query, retrieve relevant {} that answer the query"


@dataclass(frozen=True, slots=True)
class E5Part:
    """One data set: its file, its instruction, whether documents get it too.

    Attributes:
        name: of the set.
        file: stem of its file, or of the file it is a half of.
        instruction: without the mark at its end.
        symmetric: True if both sides get it.
        half: 0 or 1 where two sets lie in one file, in turns; None for a whole file.
    """

    name: str
    file: str
    instruction: str
    symmetric: bool = False
    half: int | None = None


_WHOLE = {
    "dureader": _CHINESE,
    "eli5_question_answer": "Provided a user question, retrieve the highest voted answers on Reddit ELI5 forum",
    "fever": "Given a claim, retrieve documents that support or refute the claim",
    "hotpot_qa": "Given a multi-hop question, retrieve documents that can help answer the question",
    "miracl": _WIKIPEDIA,
    "mrtydi": _WIKIPEDIA,
    "msmarco_passage": _WEB.format("passages"),
    "msmarco_document": _WEB.format("documents"),
    "nq": _WIKIPEDIA,
    "squad": _ANSWERS,
    "t2ranking": _CHINESE,
    "trivia_qa": _ANSWERS,
}
_HALVES = (
    ("allnli", "Given a premise, retrieve a hypothesis that is entailed by the premise", False),
    ("allnli", "Retrieve semantically similar text", True),
    (
        "quora_duplicates",
        "Given a question, retrieve questions that are semantically equivalent to the given question",
        True,
    ),
    ("quora_duplicates", "Find questions that have the same meaning as the input question", True),
)


def read_e5(
    folder: Path,
    *,
    instructions: Mapping[str, str] | None = None,
    weights: Mapping[str, float] | None = None,
    limit: int | None = None,
) -> list[PairSet]:
    """Every data set of the folder.

    Args:
        folder: with its jsonl files; NLI and Quora are one file each, read in turns as the authors do, or two
            (`allnli_split1`, `allnli_split2`).
        instructions: other instructions for some sets, without the `; ` at their end.
        weights: how often a set is drawn, relative to its size; 1 where nothing is said.
        limit: the first so many rows of each set only.

    Raises:
        DataError: a file that is missing or unknown; an instruction or weight for a set that is not there.
    """
    parts = e5_parts(folder)
    names = [part.name for part in parts]
    for what, given in (("instruction", instructions or {}), ("weight", weights or {})):
        for name in given:
            if name not in names:
                known = ", ".join(names)
                raise DataError(f"{folder} has no set {name!r}, whose {what} is given; the sets are {known}.")
    found = []
    for part in parts:
        pairs = read_pairs([str(folder / f"{part.file}.jsonl")])
        prompt = _FORM.format((instructions or {}).get(part.name, part.instruction))
        found.append(
            PairSet(
                part.name,
                islice(pairs if part.half is None else islice(pairs, part.half, None, 2), limit),
                query_prompt=prompt,
                document_prompt=prompt if part.symmetric else "",
                weight=(weights or {}).get(part.name, 1.0),
            )
        )
    return found


def e5_parts(folder: Path) -> list[E5Part]:
    """The data sets of a folder, whose files are not read.

    Raises:
        DataError: what is missing or unknown.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one jsonl file for each data set in it.")
    there = {path.stem for path in folder.glob("*.jsonl")}
    parts = [E5Part(name, name, instruction) for name, instruction in _WHOLE.items()]
    for number, (file, instruction, symmetric) in enumerate(_HALVES):
        half = number % 2
        split = f"{file}_split{half + 1}"
        whole = file in there or split not in there
        parts.append(E5Part(split, file if whole else split, instruction, symmetric, half if whole else None))
    files = {part.file for part in parts}
    missing, unknown = sorted(files - there), sorted(there - files)
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of the data sets are missing: {', '.join(f'{name}.jsonl' for name in missing)}."
        )
    if unknown:
        raise DataError(
            f"{folder}: {unknown[0]}.jsonl is no set of this layout; give it as a data source of kind pairs."
        )
    return sorted(parts, key=lambda part: part.name)
