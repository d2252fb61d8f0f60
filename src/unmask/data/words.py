"""Labelled words from CoNLL column files, CoNLL-U and hub data sets, one sentence at a time."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import regex

from unmask.data.formats import find_format, is_universal, plain_suffix, read_lines
from unmask.data.hub import HubSplit
from unmask.data.sources import label_name
from unmask.errors import DataError

logger = logging.getLogger(__name__)

# Short names of hub data sets that word-level work is measured on, and their tasks as the paper calls them.
NAMED = {"conll2003": "lhoestq/conll2003"}
_TASKS = {"conll2003": {"chunking": "chunk_tags", "ner": "ner_tags", "pos": "pos_tags"}}
Columns = Mapping[str, int | str]
_UNIVERSAL_ID = re.compile(r"[0-9]+(?P<other>[-.][0-9]+)?")
_COMMENT = re.compile(r"#( |begin\b|end\b)")
_SURE_COMMENT = re.compile(r"#\s*(\S+ = |(begin|end) document)")  # whatever its number of columns
_NUMBERED = re.compile(r"(?P<prefix>.*?)(?P<number>[0-9]{1,9})")
_COUNTED = 20  # sentences; where the words of all of them only count, they are the numbers of the words
# What people call the columns of a file with a header, which such files should not have.
_WORD_TITLES = {"word", "words", "token", "tokens", "form", "text"}
_LABEL_TITLE = re.compile(
    r"(.*[_\W])?(labels?|tags?|[ux]?pos(tags?)?|ner|netags?|chunks?|entity|entities|iob2?|bio|lemma|class)([_\W].*)?"
)
# Word boundaries of Unicode's standard annex 29. Between two letters of Thai, Lao, Khmer or Burmese, which are written
# without spaces and which it leaves to dictionaries, there is none.
_SEGMENTS = regex.compile(r"(?V1w)\b(?!(?<=\p{Line_Break=SA})(?=\p{Line_Break=SA}))")
_HYPHENS = ("-", "\u2010", "\u2011")


@dataclass(frozen=True, slots=True)
class LabelledSentence:
    """Words, and for each task one label a word."""

    words: tuple[str, ...]
    labels: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class ColumnFile:
    """Sentences of a file with one word a line and blank lines between sentences; read anew at every iteration.

    Attributes:
        path: CoNLL-U and CoNLL-X (ten columns between tabs, the first a number; whatever the file's name) take FORM
            and UPOS unless told otherwise; any other file is columns between tabs, or else between spaces. A header
            row is left out, and comments in front of a sentence.
        labels: task -> column, counted from 0, negative from the end; by default one task, `label`, from the last
            column (CoNLL-U: `upos`, 3). Empty for words alone.
        word_column: counted from 0; default 0 (CoNLL-U: 1).
        limit: the first so many sentences only.
    """

    path: Path
    labels: Mapping[str, int] | None = None
    word_column: int | None = None
    limit: int | None = None

    def __iter__(self) -> Iterator[LabelledSentence]:
        """The sentences.

        Raises:
            DataError: unequal column counts or an empty word or label (file and line), words that only count, or no
                sentence; a file of rows instead of words.
        """
        universal, tabs, width = _look(self.path)
        word_at = self.word_column if self.word_column is not None else (1 if universal else 0)
        labels = self.labels if self.labels is not None else ({"upos": 3} if universal else {"label": -1})
        count = counting = longest = 0
        rows: list[tuple[str, ...]] = []
        for number, columns in _rows(self.path, universal, tabs, width):
            if self.limit is not None and count >= self.limit:
                break
            if columns is not None and not rows and not count and _is_header(columns):
                _say_header(self.path, number, ", ".join(columns))
            elif columns is not None:
                if universal and self.labels is None and columns[3:4] == ["_"]:
                    raise DataError(
                        f"{self.path}:{number}: the word has no UPOS (column 3 holds _); choose a label column."
                    )
                rows.append(_pick(columns, word_at, labels, f"{self.path}:{number}"))
            elif rows:
                words, *others = zip(*rows, strict=True)
                counting += _are_numbers(words)
                count, longest, rows = count + 1, max(longest, len(words)), []
                if counting == count == _COUNTED and longest > 1:
                    raise DataError(self._counts(word_at))
                yield LabelledSentence(words, dict(zip(labels, others, strict=True)))
        if not count:
            raise DataError(f"{self.path}: no sentence found.")
        if counting == count and longest > 1:
            raise DataError(self._counts(word_at))

    def _counts(self, word_at: int) -> str:
        return f"{self.path}: the words in column {word_at} only count; say where the words are (word column)."


@dataclass(frozen=True, slots=True)
class HubWords:
    """Sentences of one split of a hub data set, or of a folder in its layout; read anew at every iteration.

    Attributes:
        split: where.
        labels: task -> column; by default every column that holds one label a word, named as the column.
        word_column: column of word lists.
        limit: the first so many sentences only.
    """

    split: HubSplit
    labels: Mapping[str, str] | None = None
    word_column: str = "tokens"
    limit: int | None = None

    def __iter__(self) -> Iterator[LabelledSentence]:
        """The sentences.

        Raises:
            DataError: no such data set, split or column; a row whose labels are not one a word.
        """
        labels = self.labels or {name: name for name in self.split.label_columns(self.word_column)}
        if not labels:
            raise DataError(f"{self.split}: no column holds one label a word; name it with --label-column.")
        for number, row in enumerate(self.split.rows(labelled=[*labels.values()], needed=[self.word_column])):
            if self.limit is not None and number >= self.limit:
                return
            place = f"{self.split} row {number}"
            for column in (self.word_column, *labels.values()):
                if not isinstance(row[column], list):
                    raise DataError(f"{place}: {column!r} holds {row[column]!r}, not a list with an entry a word.")
            words = tuple(_one_word(word, place) for word in row[self.word_column])
            found = {
                task: tuple(label_name(label, f"label of {task}", place) for label in row[column])
                for task, column in labels.items()
            }
            for task, own in found.items():
                if len(own) != len(words):
                    raise DataError(f"{place}: {len(words)} words, {len(own)} labels of {task}.")
            if words:
                yield LabelledSentence(words, found)


Corpus = Iterable[LabelledSentence]  # that can be iterated again


def open_corpus(
    source: str, *, columns: Columns | None = None, word_column: int | str | None = None, limit: int | None = None
) -> ColumnFile | HubWords:
    """Labelled sentences of a file, of a data set folder, or of a hub data set `name[:config]@split`.

    Raises:
        DataError: columns by name for a file, or by number for a data set.
    """
    path = Path(source)
    if path.is_file() or not (path.is_dir() or "@" in source or source in NAMED):
        if any(isinstance(at, str) for at in [*(columns or {}).values(), word_column]):
            raise DataError(f"{source} is read as a file of columns, which are counted from 0, not named.")
        return ColumnFile(path, columns, word_column, limit)  # type: ignore[arg-type]
    if any(isinstance(at, int) for at in [*(columns or {}).values(), word_column]):
        raise DataError(f"{source} is a data set; name its columns, for example --label-column ner=ner_tags.")
    split = HubSplit.parse(source, names=NAMED)
    columns = columns or _TASKS.get(source.partition("@")[0])
    return HubWords(split, columns, str(word_column or "tokens"), limit)  # type: ignore[arg-type]


def split_words(text: str) -> tuple[str, ...]:
    """Words and punctuation marks of running text, for a tagger whose training words were split so.

    Word boundaries are those of Unicode's standard annex 29 (a mark stays with its letter, joined emoji are one);
    words joined by hyphens are one word, as corpora of labelled words mostly have them. Between spaces (also those of
    no width), Thai, Lao, Khmer and Burmese stay whole, and every Chinese character is a word.
    """
    found: list[str] = []
    joining = beside = False  # behind a hyphen inside a word; right behind a segment
    for segment in _SEGMENTS.split(text.replace("\u200b", " ")):
        if not segment.strip():
            joining = beside = False
            continue
        word = any(map(str.isalnum, segment))
        if joining and word:
            found[-2:] = ["".join((*found[-2:], segment))]
            joining = False
        else:
            joining = segment in _HYPHENS and beside and any(map(str.isalnum, found[-1]))
            found.append(segment.strip())
        beside = True
    return tuple(found)


def _pick(columns: list[str], word_at: int, labels: Mapping[str, int], place: str) -> tuple[str, ...]:
    """The word and its labels."""
    count = len(columns)
    for name, at in [("word", word_at), *labels.items()]:
        if not -count <= at < count:
            raise DataError(f"{place}: {count} columns; asked for column {at} ({name}).")
        if name == "word" and not columns[at].strip():
            raise DataError(f"{place}: empty {name}.")
        if name != "word":
            label_name(columns[at], name, place)
    same = [name for name, at in labels.items() if at % count == word_at % count]
    if same:
        raise DataError(f"{place}: {same[0]} would be read from the column of the words; there are {count} columns.")
    return (_one_word(columns[word_at], place), *(columns[at].strip() for at in labels.values()))


def _one_word(word: object, place: str) -> str:
    if not isinstance(word, str) or not word.strip():
        raise DataError(f"{place}: empty word." if isinstance(word, str) else f"{place}: {word!r} is no word.")
    return word.strip().replace(" ", "\u00a0")  # a space inside a word would split it


def _columns(line: str, tabs: bool) -> list[str]:
    return line.split("\t") if tabs else re.split(" +", line.strip(" "))


def _look(path: Path) -> tuple[bool, bool, int]:
    """Whether a file is CoNLL-U or CoNLL-X, whether its columns lie between tabs, and how many its words have.

    Raises:
        DataError: a file of rows.
    """
    kind = find_format(path)
    if kind not in ("words", "text", "tsv"):
        what = {"csv": "csv", "parquet": "Parquet"}.get(kind, "JSON")
        raise DataError(f"{path} holds {what}; expected a word a line, columns between tabs or spaces.")
    named = plain_suffix(path) == ".conllu"
    for _, line in read_lines(path):
        if line.strip() and not line.startswith(("#", "-DOCSTART-")):
            return is_universal([line]) or named, "\t" in line, len(_columns(line, "\t" in line))
    return named, named, 0


def _is_header(columns: list[str]) -> bool:
    """True for a first row that names its columns."""
    names = [column.strip().lower() for column in columns]
    return any(name in _WORD_TITLES for name in names) and any(map(_LABEL_TITLE.fullmatch, names))


@cache  # a corpus is read several times
def _say_header(path: Path, line: int, names: str) -> None:
    logger.info("%s:%d is a header (%s) and left out.", path, line, names)


def _are_numbers(words: Sequence[str]) -> bool:
    """True for the numbers of words in their sentence (1, 2; 0, 1; 7-1, 7-2), and for that of the sentence repeated."""
    found = [_NUMBERED.fullmatch(word) for word in words]
    if len(set(words)) == 1:
        return found[0] is not None
    numbers = [int(one["number"]) for one in found if one and found[0] and one["prefix"] == found[0]["prefix"]]
    return numbers in ([*range(len(words))], [*range(1, len(words) + 1)])


def _rows(path: Path, universal: bool, tabs: bool, width: int) -> Iterator[tuple[int, list[str] | None]]:
    """Line numbers and columns; None between sentences and at the end. The words have so many columns."""
    begins = True  # a sentence begins here, so that comments may stand
    for number, line in read_lines(path):
        if not line.strip() or line.startswith("-DOCSTART-"):
            begins = True
            yield number, None
            continue
        if universal and line.startswith("#"):
            continue
        columns = _columns(line, tabs or (not width and "\t" in line))
        if begins and (_SURE_COMMENT.match(line) or (len(columns) != width and _COMMENT.match(line))):
            continue
        begins, width = False, width or len(columns)
        if len(columns) != width:
            raise DataError(f"{path}:{number}: {len(columns)} columns, the lines before it have {width}.")
        numbered = _UNIVERSAL_ID.fullmatch(columns[0]) if universal else None
        if universal and numbered is None:
            raise DataError(f"{path}:{number}: {columns[0]!r} is no number of a word.")
        if numbered is None or not numbered["other"]:  # ranges (3-4) and empty nodes (5.1) are no words of the text
            yield number, columns
    yield 0, None
