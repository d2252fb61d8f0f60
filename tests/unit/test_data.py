"""Readers: what they read, and the one clear sentence when they cannot."""

import numpy as np
import pytest

from unmask.data.blocks import pack, stack
from unmask.data.records import read_records
from unmask.data.sampling import EpochSampler
from unmask.data.sources import read_labelled_texts, read_texts
from unmask.data.words import ColumnFile, HubWords, open_corpus, split_words
from unmask.errors import DataError
from unmask.evaluation.tasks.similarity import read_pairs


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_texts_of_every_format_are_read_alike(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [
        write(tmp_path, "a.txt", "one\n\ntwo\n"),
        write(tmp_path, "a.csv", 'id,text\n1,one\n2,"two"\n'),
        write(tmp_path, "a.tsv", "text\tid\none\t1\ntwo\t2\n"),
        write(tmp_path, "a.jsonl", '{"text": "one", "id": 1}\n\n{"text": "two", "id": 2}\n'),
    ]
    pq.write_table(pa.table({"text": ["one", "two"], "id": ["1", "2"]}), tmp_path / "a.parquet")
    for path in [*files, tmp_path / "a.parquet"]:
        assert [r.text for r in read_records(path)] == ["one", "two"], path
    assert [r.id for r in read_records(files[3], id_field="id")] == ["1", "2"]
    assert [r.id for r in read_records(files[3])] == [f"{files[3]}:1", f"{files[3]}:3"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "is empty"),
        ("a.txt", b"\x00\x01binary", "binary file"),
        ("a.txt", b"fine\n\xff\xfe\n", "a.txt:2: not UTF-8"),
        ("a.jsonl", '{"text": "ok"}\n{"text": \n', "a.jsonl:2: broken JSON"),
        ("a.jsonl", '["a"]\n', "a.jsonl:1: expected a JSON object"),
        ("a.jsonl", '{"text": 3}\n', "a.jsonl:1: 'text' is a int"),
        ("a.jsonl", '{"body": "x"}\n', "no 'text' here; found 'body'"),
        ("a.csv", "text,id\none\n", "a.csv:2: 1 columns, the header has 2"),
        ("a.parquet", b"not parquet", "not a readable Parquet"),
        ("a.txt", "\n \n", "no text found"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read_texts([write(tmp_path, name, content)])


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_texts([tmp_path / "none.txt"])
    with pytest.raises(DataError, match="is a folder"):
        read_texts([tmp_path])


def test_blocks_keep_document_borders(tokenizer, articles):
    blocks = list(pack(articles, tokenizer, block_size=64))
    assert all(len(block.ids) <= 64 for block in blocks)
    assert np.mean([len(block.ids) for block in blocks[:-1]]) > 56  # packed, not padded
    for block in blocks:
        starts = np.flatnonzero(np.diff(block.pieces, prepend=0))
        assert (block.ids[starts] == tokenizer.bos_token_id).all()
        assert block.special.sum() == len(starts)
    text = " ".join(articles)
    for block in blocks[:20]:
        for piece in np.unique(block.pieces):
            assert tokenizer.decode(block.ids[(block.pieces == piece) & ~block.special]) in text


def test_batches_of_blocks_know_what_may_be_masked(tokenizer, articles):
    underscore = tokenizer.convert_tokens_to_ids("_")
    blocks = list(pack([*articles, "snake_case_name " * 20], tokenizer, block_size=64))
    batch = stack(blocks, pad_id=0, never_mask=underscore)
    assert not batch.maskable[batch.pieces == 0].any()
    assert not batch.maskable[batch.input_ids == tokenizer.bos_token_id].any()
    assert not batch.maskable[batch.input_ids == underscore].any()
    assert not batch.maskable[batch.position_ids == 0].any()
    for row, block in enumerate(blocks):
        for piece in np.unique(block.pieces):
            inside = batch.pieces[row].numpy() == piece
            assert batch.position_ids[row].numpy()[inside].tolist() == list(range(inside.sum()))


def test_steps_are_a_pure_function_of_seed_and_number():
    sampler, again = EpochSampler(10, 3, seed=1), EpochSampler(10, 3, seed=1)
    later = [again.rows(step) for step in reversed(range(9))][::-1]
    assert [sampler.rows(step) for step in range(9)] == later
    epoch = [row for step in range(3) for row in sampler.rows(step)]
    assert len(set(epoch)) == 9
    assert epoch != sorted(epoch)
    assert EpochSampler(10, 3, seed=2).rows(0) != sampler.rows(0)
    with pytest.raises(DataError, match="2 rows are fewer than one batch of 3"):
        EpochSampler(2, 3, seed=0)


def test_labelled_words_from_columns_and_conllu(tmp_path):
    conll = write(tmp_path, "a.txt", "The DT B-NP\ncat NN I-NP\n\n#tag NN O\n")
    sentences = list(ColumnFile(conll))
    assert [s.words for s in sentences] == [("The", "cat"), ("#tag",)]
    assert sentences[0].labels == {"label": ("B-NP", "I-NP")}
    both = next(iter(ColumnFile(conll, {"pos": 1, "chunk": -1})))
    assert both.labels == {"pos": ("DT", "NN"), "chunk": ("B-NP", "I-NP")}
    assert len(list(ColumnFile(conll, limit=1))) == 1
    line = "{}\t{}\t_\t{}\t_\t_\t_\t_\t_\t_\n"
    universal = write(
        tmp_path,
        "a.conllu",
        "# text = don't\n"
        + line.format("1-2", "don't", "_")
        + line.format(1, "do", "AUX")
        + line.format(2, "n't", "PART"),
    )
    (sentence,) = ColumnFile(universal)
    assert sentence.words == ("do", "n't")
    assert sentence.labels == {"upos": ("AUX", "PART")}


def test_unequal_columns_are_named_with_their_line(tmp_path):
    for content, labels, message in [
        ("The DT B-NP\ncat NN\n", None, r"a.txt:2: 2 columns, the lines before it have 3"),
        ("\n\n", None, "no sentence found"),
        ("The\tDT\ncat\t \n", None, r"a.txt:2: empty label"),
        ("The DT\n", {"pos": 4}, r"a.txt:1: 2 columns; asked for column 4 \(pos\)"),
    ]:
        with pytest.raises(DataError, match=message):
            list(ColumnFile(write(tmp_path, "a.txt", content), labels))


@pytest.fixture
def words_folder(tmp_path):
    """A data set folder as the hub has them: Parquet with the names of its classes."""
    from datasets import ClassLabel, Dataset, Features, List, Value

    features = Features(
        {
            "id": Value("string"),
            "tokens": List(Value("string")),
            "pos_tags": List(ClassLabel(names=["DT", "NN"])),
            "ner_tags": List(ClassLabel(names=["O", "B-PER"])),
        }
    )
    rows = {
        "id": ["0", "1"],
        "tokens": [["The", "cat"], ["Anna"]],
        "pos_tags": [[0, 1], [1]],
        "ner_tags": [[0, 0], [1]],
    }
    folder = tmp_path / "people"
    folder.mkdir()
    Dataset.from_dict(rows, features).to_parquet(folder / "train.parquet")
    return folder


def test_labelled_words_from_a_data_set_folder(words_folder):
    corpus = open_corpus(f"{words_folder}@train")
    assert isinstance(corpus, HubWords)
    for _ in range(2):  # it can be read again
        first, second = corpus
        assert first.words == ("The", "cat")
        assert first.labels == {"pos_tags": ("DT", "NN"), "ner_tags": ("O", "O")}
        assert second.labels["ner_tags"] == ("B-PER",)
    (only,) = open_corpus(f"{words_folder}@train", columns={"ner": "ner_tags"}, limit=1)
    assert only.labels == {"ner": ("O", "O")}
    for source, columns, message in [
        (str(words_folder), None, "say which split"),
        (f"{words_folder}@train", {"x": "id"}, "'id' holds '0', not a list"),
        (f"{words_folder}@test", None, "cannot be read"),
        (f"{words_folder}@train", {"x": "nothing"}, "no column 'nothing'; found id, tokens"),
        (f"{words_folder}@train", {"x": 2}, "name its columns"),
        (f"{words_folder}/none.txt", {"x": "ner_tags"}, "counted from 0, not named"),
    ]:
        with pytest.raises(DataError, match=message):
            list(open_corpus(source, columns=columns))


def test_labels_that_are_kept_back_are_not_the_last_class(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    for label in (-1, None):
        folder = tmp_path / str(label)
        folder.mkdir()
        Dataset.from_dict({"text": ["a", "b"], "label": [0, label]}, features).to_parquet(folder / "test.parquet")
        with pytest.raises(DataError, match=f"row 1: label is {label}, which is no label"):
            read_labelled_texts(f"{folder}@test")


def test_words_with_other_spaces_stay_whole(tmp_path):
    path = write(tmp_path, "a.txt", "the DT\n10\u00a0000 CD\n")
    (sentence,) = ColumnFile(path)
    assert sentence.words == ("the", "10\u00a0000")


def test_running_text_is_split_into_words_and_marks():
    assert split_words("Dr. Smith-Jones didn't go (again).") == (
        *("Dr", ".", "Smith-Jones", "didn't", "go", "(", "again", ")", "."),
    )


def test_pairs_with_and_without_header(tmp_path):
    rows = "A man, walking,5\n".replace("A man, walking", '"A man, walking",A man walks') + "x,y,0.5\n"
    plain = read_pairs(write(tmp_path, "a.csv", rows))
    headed = read_pairs(write(tmp_path, "b.csv", "sentence1,sentence2,score\n" + rows))
    named = read_pairs(write(tmp_path, "c.csv", "l,r,gold\n" + rows), columns=("l", "r", "gold"))
    assert plain == headed == named
    assert plain.first[0] == "A man, walking"
    assert plain.scores == [5.0, 0.5]
    for content, message in [
        ("a,b,c\na,b,1\n", "score 'c' is not a number"),
        ("a,b\n", "2 columns, expected 3"),
    ]:
        with pytest.raises(DataError, match=message):
            read_pairs(write(tmp_path, "d.csv", content))
