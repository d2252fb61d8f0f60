"""Files of words, running text split into words, and labels that mark spans: right, or named as not understood."""

import gzip

import numpy as np
import pytest
from seqeval.metrics import f1_score

from tests.public.test_files import write
from unmask.data.records import read_records
from unmask.data.words import ColumnFile, _look, split_words
from unmask.errors import DataError
from unmask.evaluation.spans import span_f1, span_scheme, spans

UNIVERSAL = "1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n1\tde\tde\tADP\t_\t_\t3\tcase\t_\t_\n2\tle\tle\tDET\t_\t_\t3\tdet\t_\t_\n"
UNIVERSAL += "3.1\tx\tx\tVERB\t_\t_\t_\t_\t_\t_\n\n1\t#\t#\tSYM\t_\t_\t0\troot\t_\t_\n"


# CoNLL-U is often called .conll, and read as plain columns its words are 1, 2, 3: accuracy 21.5 instead of 87.9.
@pytest.mark.parametrize("name", ["a.conllu", "A.CONLLU", "a.conll", "a.txt", "a"])
@pytest.mark.parametrize("comments", ["", "# sent_id = 1\n# text = du\n"])
def test_conll_u_under_any_name(tmp_path, name, comments):
    first, second = ColumnFile(write(tmp_path, name, comments + UNIVERSAL))
    assert first.words == ("de", "le")
    assert first.labels == {"upos": ("ADP", "DET")}
    assert second.words == ("#",)


def test_comments_and_headers_of_column_files_are_no_words(tmp_path):
    path = write(tmp_path, "a.conll", "# id 7f domain=train\nTOKEN\tPOS\nthe\tDET\n# SYM\n\n# id 8\n#\tSYM\n")
    with pytest.raises(DataError, match="columns"):
        list(ColumnFile(path))  # a comment inside a sentence is not one
    path = write(tmp_path, "a.conll", "# id 7f domain=train\nTOKEN\tPOS\nthe\tDET\n\n# id 8\n#\tSYM\n")
    assert [s.words for s in ColumnFile(path)] == [("the",), ("#",)]
    path = write(tmp_path, "b.conll", "#begin document (a); part 0\nThe DT\ncat NN\n\n#end of document\n")
    assert [s.words for s in ColumnFile(path)] == [("The", "cat")]


def test_a_word_column_that_only_counts_is_named(tmp_path):
    rows = "1 the DT\n2 cat NN\n\n1 a DT\n\n"
    path = write(tmp_path, "a.conll", rows)
    with pytest.raises(DataError, match=r"the words in column 0 only count"):
        list(ColumnFile(path))
    assert [s.words for s in ColumnFile(path, word_column=1)] == [("the", "cat"), ("a",)]
    with pytest.raises(DataError, match="only count"):
        next(iter(x for x in ColumnFile(write(tmp_path, "b.conll", rows * 40)) if x.words == ("never",)), None)
    with pytest.raises(DataError, match="only count"):
        list(ColumnFile(path, limit=1))
    assert next(iter(ColumnFile(write(tmp_path, "c.conll", "1 CD\n2 CD\n\nthe DT\n")))).words == ("1", "2")


@pytest.mark.parametrize(
    "rows",
    [
        "0 the DT\n1 cat NN\n\n0 a DT\n",
        "ID FORM TAG\n1 the DT\n2 cat NN\n\n1 a DT\n",
        "1-1 the DT\n1-2 cat NN\n\n2-1 a DT\n",
        "news/7 0 the DT\nnews/7 1 cat NN\n\nnews/7 0 a DT\n",
    ],
)
def test_numbers_of_words_and_of_sentences_are_no_words(tmp_path, rows):
    with pytest.raises(DataError, match="the words in column 0 only count"):
        list(ColumnFile(write(tmp_path, "a.conll", rows)))


@pytest.mark.parametrize("header", ["Token\tNER-Tag", "word\tentity_type", "Text\tLabel", "FORM\tXPOS"])
def test_headers_by_other_names(tmp_path, header, caplog):
    caplog.set_level("INFO", "unmask")
    corpus = ColumnFile(write(tmp_path, "a.conll", f"{header}\nthe\tO\n"))
    assert [[s.words for s in corpus] for _ in range(2)] == [[("the",)]] * 2  # read twice, and said once
    assert len(caplog.records) == 1


def test_documents_and_comments_with_any_number_of_columns_are_no_words(tmp_path):
    rows = "# sent_id = 1\nEU NNP B-NP B-ORG\n-DOCSTART- -X- -X- O\n# sent_id = 2\nx NN B-NP O\n"
    assert [s.words for s in ColumnFile(write(tmp_path, "a.conll", rows))] == [("EU",), ("x",)]


def test_rows_of_conll_u_are_not_passed_over(tmp_path):
    first = UNIVERSAL.splitlines()[1] + "\n"
    with pytest.raises(DataError, match=r"a.conllu:2: 'x' is no number of a word"):
        list(ColumnFile(write(tmp_path, "a.conllu", first + first.replace("1", "x", 1))))
    bare = write(tmp_path, "a.conllu", first.replace("ADP", "_"))
    with pytest.raises(DataError, match=r"a.conllu:1: the word has no UPOS"):
        list(ColumnFile(bare))
    assert next(iter(ColumnFile(bare, {}))).words == ("de",)


@pytest.mark.parametrize("name", ["a.jsonl", "a.data", "a.json", "a.csv"])
def test_rows_are_no_words(tmp_path, name):
    content = "the cat,pos\nthe dog,neg\n" if name == "a.csv" else '{"tokens": ["a", "b"]}\n'
    with pytest.raises(DataError, match=rf"{name} holds (csv|JSON); expected a word a line"):
        list(ColumnFile(write(tmp_path, name, content)))


@pytest.mark.parametrize("name", ["a.txt", "a.tsv", "a.json", "a"])
def test_words_are_no_rows(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name} holds a word a line"):
        list(read_records(write(tmp_path, name, "# c\n" + UNIVERSAL)))


# Hindi sentences of five words were tagged as seventeen.
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\u0926\u093f\u0932\u094d\u0932\u0940 \u092e\u0947\u0902 \u0930\u0939\u0924\u0940 \u0939\u0948", 4),
        ("cafe\u0301 in Rome", 3),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f family", 3),
        ("\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", 1),
        ("state-of-the-art O'Neil don\u2019t 3.14", 4),
        ("- a -b c- --", 8),
    ],
)
def test_a_mark_stays_with_its_word(text, words):
    found = split_words(text)
    assert len(found) == words, found
    assert "".join(found) == "".join(text.split())


def test_ignored_tokens_are_no_label_of_words(tmp_path):
    with pytest.raises(DataError, match=r"a.conll:2: label is '-100'"):
        list(ColumnFile(write(tmp_path, "a.conll", "the 3\ncat -100\n")))


# Labels without a kind, or written the other way round: F1 was a dash.
@pytest.mark.parametrize(
    ("labels", "scheme", "found"),
    [
        (["B", "I", "O", "B"], "BIO", [("_", 0, 1), ("_", 3, 3)]),
        (["B_PER", "I_PER", "O"], "BIO", [("PER", 0, 1)]),
        (["PER-B", "PER-I", "O"], "BIO", [("PER", 0, 1)]),
        (["PER_B", "PER_L", "O", "ORG_U"], "BILOU", [("PER", 0, 1), ("ORG", 3, 3)]),
        (["S-x", "O", "B-x", "E-x"], "IOBES", [("x", 0, 0), ("x", 2, 3)]),
    ],
)
def test_marks_of_spans_in_other_forms(labels, scheme, found):
    assert span_scheme(labels) == scheme
    assert spans(labels, labels) == found


def test_marks_that_follow_no_scheme_are_named():
    for labels in (["B_PER", "I_PER", "Other"], ["B-PER", "X-PER"], ["B", "L", "E", "O"]):
        with pytest.raises(DataError, match="Unknown label scheme"):
            span_scheme(labels)
    for labels in (["NN", "VB", "I"], ["WP-B", "NN"], ["DT", "IN", "O"]):
        assert span_scheme(labels) is None
    for labels in (
        ["b", "i", "o"],
        ["b_per", "i_per", "O"],
        ["B:PER", "I:PER", "O"],
        ["B-", "I-", "O"],
        ["PER:b", "o"],
    ):
        with pytest.raises(DataError, match="Unknown label scheme"):
            span_scheme(labels)
    for labels in (["BPER", "IPER", "O"], ["b-per", "i-per", "o"]):
        with pytest.raises(DataError, match="Unknown label scheme"):
            span_scheme(labels)
    for labels in (["LOC", "MISC", "O"], ["X-ray", "O"], ["m", "f", "o"]):
        assert span_scheme(labels) is None


@pytest.mark.parametrize(
    ("labels", "scheme", "found"),
    [
        (["S-x", "O"], "IOBES", [("x", 0, 0)]),
        (["U-x", "O", "L-x"], "BILOU", [("x", 0, 0), ("x", 2, 2)]),
        (["P-B", "P-I", "O"], "BIO", [("P", 0, 1)]),
        (["L-B", "L-I", "O", "S-B"], "BIO", [("L", 0, 1), ("S", 3, 3)]),
    ],
)
def test_the_form_of_marks_is_told_by_all_labels(labels, scheme, found):
    assert span_scheme(labels) == scheme
    assert spans(labels, labels) == found


def test_f1_is_that_of_seqeval_with_transitions_that_should_not_be():
    generator = np.random.default_rng(0)
    for names in (["O", "B-x", "I-x", "B-y", "I-y"], ["O", "B-x", "I-x", "E-x", "S-x", "S-y"]):
        truth, predicted = generator.integers(0, len(names), (2, 300)).astype(np.int32)
        as_labels = [[names[i] for i in ids] for ids in (truth, predicted)]
        expected = 100 * f1_score([as_labels[0]], [as_labels[1]])
        assert span_f1(np.array([300], dtype=np.int32), truth, predicted, names) == pytest.approx(expected)


def test_packed_conll_u_without_any_word_is_known_by_its_name(tmp_path):
    path = write(tmp_path, "a.conllu.gz", gzip.compress(b"# only a comment\n"))
    assert _look(path) == _look(write(tmp_path, "a.conllu", "# only a comment\n")) == (True, True, 0)
