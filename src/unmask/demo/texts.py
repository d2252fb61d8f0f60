"""Real text that is on every machine with Python: the language reference of pydoc and the library's docstrings.

A docstring's first paragraph and the rest of it make a retrieval task that nobody had to label. What this cannot
give, labels of words, comes from `chunks.txt`: 320 sentences written and bracketed by hand for this package, in the
manner of CoNLL-2000.
"""

import ast
import re
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from unmask.data.words import LabelledSentence

_SKIPPED = {
    "test",
    "tests",
    "idlelib",
    "idle_test",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "turtledemo",
}
_HELD_OUT_SHARE = 7  # one module in so many is held out
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_MARKUP = re.compile(r"``|:\w+:`|`|\*\*|^\s*(>>>|\.\.\. ).*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class DemoTexts:
    """What the demo trains and scores on; held-out text comes from other modules than training text.

    Attributes:
        documents: prose for MNTP.
        sentences: sentences of the same prose for SimCSE.
        held_out: documents for masked-token accuracy.
        queries: first paragraphs of held-out docstrings.
        answers: what follows each of them.
    """

    documents: list[str]
    sentences: list[str]
    held_out: list[str]
    queries: list[str]
    answers: list[str]


def collect_texts(*, num_queries: int) -> DemoTexts:
    """Gather the texts; the same Python gives the same texts in the same order."""
    documents = reference_texts()
    held_out: list[str] = []
    pairs: dict[str, str] = {}
    for module, docstring in _docstrings(Path(sysconfig.get_paths()["stdlib"])):
        text = _clean(docstring)
        if len(text) < 80:
            continue
        if zlib.crc32(module.encode()) % _HELD_OUT_SHARE:
            documents.append(text)
            continue
        held_out.append(text)
        first, _, rest = text.partition("\n\n")
        if 20 <= len(first) <= 200 and len(rest) >= 100 and rest not in pairs.values():
            pairs.setdefault(first, rest)
    documents = list(dict.fromkeys(documents))
    seen = set(documents)  # a docstring repeated in a training module is no test
    held_out = [text for text in dict.fromkeys(held_out) if text not in seen]
    queries = [first for first, rest in pairs.items() if f"{first}\n\n{rest}" not in seen][:num_queries]
    return DemoTexts(documents, _sentences(documents), held_out, queries, [pairs[query] for query in queries])


def reference_texts() -> list[str]:
    """The language reference alone, a text a topic."""
    from pydoc_data.topics import topics

    return [_clean(topics[name]) for name in sorted(topics)]


def chunk_sentences() -> list[LabelledSentence]:
    """The hand-labelled sentences with B-/I-/O chunk labels, read from their brackets."""
    lines = (files("unmask") / "demo" / "chunks.txt").read_text(encoding="utf-8").splitlines()
    return [_parse_chunks(line) for line in lines]


def _parse_chunks(line: str) -> LabelledSentence:
    """`[NP The cat] [VP sat] .` to words and labels."""
    words: list[str] = []
    labels: list[str] = []
    kind, opening = "", False
    for part in line.split():
        if part.startswith("[") and len(part) > 1:
            kind, opening = part[1:], True
            continue
        closing = part.endswith("]") and bool(kind)
        words.append(part.removesuffix("]") if closing else part)
        labels.append(f"{'B' if opening else 'I'}-{kind}" if kind else "O")
        opening = False
        if closing:
            kind = ""
    return LabelledSentence(tuple(words), {"chunk": tuple(labels)})


def _docstrings(library: Path) -> Iterator[tuple[str, str]]:
    """(module file, docstring) of every module, class and function of the standard library, by parsing its source."""
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if _SKIPPED & set(relative.parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node)
                if docstring:
                    yield str(relative), docstring


def _clean(text: str) -> str:
    """Prose with one paragraph a block: markup marks, doctests, rulers and code-like paragraphs go."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", _MARKUP.sub("", text)):
        joined = " ".join(line for line in paragraph.split("\n") if not re.fullmatch(r"\s*[*=~^+|-]+\s*", line))
        joined = " ".join(joined.split())
        letters = sum(c.isalpha() or c == " " for c in joined)
        if len(joined) >= 20 and letters >= 0.85 * len(joined):
            paragraphs.append(joined)
    return "\n\n".join(paragraphs)


def _sentences(documents: list[str]) -> list[str]:
    found = (s for text in documents for p in text.split("\n\n") for s in _SENTENCE_END.split(p))
    return list(dict.fromkeys(s for s in found if 6 <= len(s.split()) <= 60))
