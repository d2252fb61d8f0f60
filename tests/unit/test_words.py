"""Word-level evaluation: vectors that are laid down once, probes that are right, labels that are read right."""

import numpy as np
import pytest
import torch

from unmask import TextEncoder
from unmask.data.words import LabelledSentence
from unmask.encoder import word_states
from unmask.errors import ArtifactError, DataError
from unmask.evaluation import features as features_module
from unmask.evaluation.features import MappedRows, extract, look_over
from unmask.evaluation.probe import LinearProbe, Rows, fit_converged, fit_paper, standardise
from unmask.evaluation.spans import span_f1, span_scheme
from unmask.evaluation.tagger import Tagger, weights_fingerprint
from unmask.evaluation.words import ProbeSettings, WordsData, evaluate_words

TEXTS = [("The", "unbelievable", "cat"), ("sat",), ("on", "the", "mat", "yesterday", "afternoon", ".")]
CORPUS = [
    LabelledSentence(words, {"length": tuple("long" if len(w) > 3 else "short" for w in words)}) for words in TEXTS
]


def test_one_pass_gives_what_many_passes_give(bidirectional, tmp_path):
    names = {}
    shape = look_over(CORPUS, names)
    found = extract(bidirectional, CORPUS, shape, names, tmp_path, positions=("same", "previous"), layers=(0, 3, 6))
    assert shape.words == 10
    assert [list(names["length"])[i] for i in found.labels["length"]] == [
        label for sentence in CORPUS for label in sentence.labels["length"]
    ]
    for position in ("same", "previous"):
        alone = np.concatenate([bidirectional.encode_words([words], position=position)[0] for words in TEXTS])
        np.testing.assert_allclose(found.vectors[position, 6].array, alone, atol=2e-5)
    (embedded,) = bidirectional.tokenize_words([("sat",)])
    table = bidirectional.model.get_input_embeddings().weight.detach()
    np.testing.assert_allclose(
        found.vectors["same", 0].array[3], table[embedded.ids[embedded.in_text]].mean(0), atol=1e-6
    )


@pytest.mark.parametrize("side", ["flat", "left", "right"])
def test_the_position_before_at_the_borders_of_a_text(bidirectional, tiny, tokenizer, side):
    """The first word's `previous` is the state of BOS; without a BOS the first token keeps its own."""
    bidirectional.padding_free, bidirectional.padding_side = side == "flat", side
    try:
        rows = dict(word_states(bidirectional, TEXTS, positions=("same", "previous")))
        batch = bidirectional.pad(bidirectional.tokenize_words([TEXTS[1]]))
        with torch.no_grad():
            states = bidirectional.model(batch.input_ids)[0][0]
        np.testing.assert_allclose(rows[1][1, 0, 0], states[:-1].mean(0), atol=2e-5)
        np.testing.assert_allclose(rows[1][0, 0, 0], states[1:].mean(0), atol=2e-5)
    finally:
        bidirectional.padding_free, bidirectional.padding_side = True, "right"


def test_the_first_token_keeps_its_own_state_where_nothing_stands_before_it(tiny, tokenizer):
    from copy import deepcopy

    bare = deepcopy(tokenizer)
    bare.backend_tokenizer.post_processor = None  # as GPT-2 and Qwen: no BOS
    encoder = TextEncoder(tiny("llama", head=False), bare)
    ((_, found),) = word_states(encoder, [("a", "b")], positions=("same", "previous"))
    assert len(encoder.tokenize_words([("a",)])[0]) == 1
    np.testing.assert_allclose(found[0, 0, 0], found[1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found[1, 0, 1], found[0, 0, 0], atol=1e-6)


def blobs(rows=600, width=12, classes=4, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows).astype(np.int32)
    centres = 2 * generator.normal(size=(classes, width))
    vectors = (centres[labels] + 2 * generator.normal(size=(rows, width)) + 5).astype(np.float32)
    return vectors, labels


def test_the_converged_probe_is_scikit_learns_optimum_whatever_the_pieces(tmp_path, monkeypatch):
    from sklearn.linear_model import LogisticRegression

    vectors, labels = blobs()
    monkeypatch.setattr(features_module, "_CHUNK_BYTES", 1000)
    rows = MappedRows(tmp_path / "v", *vectors.shape)
    rows.array[:] = vectors
    mean, scale = standardise(rows)
    np.testing.assert_allclose(mean, vectors.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(scale, vectors.std(axis=0), rtol=1e-4)
    probe = LinearProbe(*fit_converged(rows, labels, 4), mean, scale)
    reference = LogisticRegression(C=0.1, tol=1e-8, max_iter=1000).fit((vectors - mean) / scale, labels)
    np.testing.assert_allclose(probe.weight, reference.coef_, atol=5e-3)
    assert (probe.predict(vectors) == reference.predict((vectors - mean) / scale)).mean() > 0.995
    again = MappedRows(tmp_path / "w", *vectors.shape)
    again.array[:] = vectors
    np.testing.assert_array_equal(probe.predict_all(again), probe.predict(vectors))


def test_the_papers_probe_follows_its_seed_and_leaves_the_random_state_alone():
    vectors, labels = blobs()
    lengths = np.full(60, 10, dtype=np.int32)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, again, other = (fit_paper(Rows(vectors), labels, lengths, 4, steps=1500, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(first.weight, again.weight)
    assert np.abs(first.weight - other.weight).max() > 1e-3
    assert (first.predict(vectors) == labels).mean() > 0.5


def test_schemes_are_told_apart_and_unknown_ones_named():
    assert span_scheme(["O", "B-PER", "I-PER"]) == "BIO"
    assert span_scheme(["O", "I-PER"]) == "BIO"
    assert span_scheme(["O", "B-PER", "I-PER", "E-PER", "S-LOC"]) == "IOBES"
    assert span_scheme(["O", "B-PER", "I-PER", "L-PER", "U-LOC"]) == "BILOU"
    assert span_scheme(["NN", "-LRB-", "NN|SYM"]) is None
    for labels in (["O", "B-PER", "Q-PER"], ["O", "B-PER", "person"], ["O", "B-PER", "E-PER", "U-PER"]):
        with pytest.raises(DataError, match="Unknown label scheme"):
            span_scheme(labels)


def test_span_f1_is_seqevals():
    from seqeval.metrics import f1_score
    from seqeval.scheme import BILOU

    names = ["O", "B-A", "I-A", "B-B", "I-B"]
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 9, 200).astype(np.int32)
    truth, predicted = (generator.integers(0, 5, lengths.sum()).astype(np.int32) for _ in range(2))

    def sentences(ids, names=names):
        ends = np.cumsum(lengths)
        return [[names[i] for i in ids[end - length : end]] for end, length in zip(ends, lengths, strict=True)]

    expected = 100 * f1_score(sentences(truth), sentences(predicted))
    assert span_f1(lengths, truth, predicted, names) == pytest.approx(expected)
    one = np.asarray([4], dtype=np.int32)
    known = ["O", "B-A", "I-A", "L-A", "U-B"]
    gold, guess = np.asarray([1, 2, 3, 4], dtype=np.int32), np.asarray([1, 2, 3, 0], dtype=np.int32)
    spelled = [[[known[i] for i in ids]] for ids in (gold, guess)]
    assert span_f1(one, gold, guess, known) == pytest.approx(100 * f1_score(*spelled, mode="strict", scheme=BILOU))


def test_layers_positions_and_seeds_are_scored_in_one_run(bidirectional):
    data = WordsData(CORPUS * 3, CORPUS)
    results = evaluate_words(bidirectional, data, positions=("same", "previous"), layers=(0, 6))
    assert [(r.position, r.layer) for r in results] == [("same", 0), ("same", 6), ("previous", 0), ("previous", 6)]
    assert results[0].accuracy == 100.0
    assert all(r.f1 is None for r in results)
    paper = ProbeSettings("paper", steps=20, seeds=range(3))
    (result,) = evaluate_words(bidirectional, data, probe=paper)
    assert result.seeds == 3
    assert result.accuracy_spread >= 0


def test_after_mntp_auto_takes_the_position_that_held_out_training_words_are_read_better_from(bidirectional):
    """Labels of the word itself are in its own state, those of the word before in the state before."""
    draw = np.random.default_rng(0)
    sentences = [tuple(draw.choice(("cat", "sat", "quietly", "garden", "a", "small"), 8).tolist()) for _ in range(60)]
    tasks = {
        "own": lambda sentence: tuple("long" if len(word) > 3 else "short" for word in sentence),
        "earlier": lambda sentence: ("none", *("long" if len(word) > 3 else "short" for word in sentence[:-1])),
    }
    corpus = [LabelledSentence(one, {name: label(one) for name, label in tasks.items()}) for one in sentences]
    data = WordsData(corpus, corpus)
    assert [result.position for result in evaluate_words(bidirectional, data, positions=("auto",))] == ["same"] * 2
    try:
        bidirectional.lineage = {"stages": [{"name": "mntp", "settings": {"objective": "mntp"}}]}
        found = evaluate_words(bidirectional, data, positions=("auto",), layers=[0])
        assert {result.task: result.position for result in found} == {"own": "same", "earlier": "previous"}
        both = evaluate_words(bidirectional, data, positions=("auto", "same"), layers=[0])
        assert [(r.task, r.position, r.chosen) for r in both] == [
            ("own", "same", True),
            ("earlier", "same", False),
            ("earlier", "previous", True),
        ]
        few = WordsData(corpus[:4], corpus)  # no fifth sentence to choose by
        assert [result.position for result in evaluate_words(bidirectional, few, positions=("auto",))] == ["same"] * 2
        layers = evaluate_words(bidirectional, data, positions=("auto",), layers=[0, 2])
        assert sorted((result.task, result.layer) for result in layers) == [
            (t, n) for t in ("earlier", "own") for n in (0, 2)
        ]
    finally:
        bidirectional.lineage = {}


def test_corpora_that_no_probe_can_use_are_refused_before_an_encoder_is_needed():
    one = [LabelledSentence(("a", "b"), {"x": ("same", "same")})]
    with pytest.raises(DataError, match="at least two different labels"):
        WordsData(one, one)
    with pytest.raises(DataError, match="differ"):
        WordsData(CORPUS, one)
    with pytest.raises(DataError, match="no sentence"):
        WordsData([], CORPUS)


def test_the_fingerprint_knows_how_a_model_reads(tiny, tokenizer):
    from unmask.backbone.structure import LIFTED_KEY

    encoder = TextEncoder(tiny("llama", head=False), tokenizer)
    before = weights_fingerprint(encoder)
    setattr(encoder.model.config, LIFTED_KEY, {"sliding_window": 16})
    lifted = weights_fingerprint(encoder)
    encoder.model.config.is_causal = False
    assert len({before, lifted, weights_fingerprint(encoder)}) == 3


def test_a_sentence_that_does_not_fit_is_named_in_the_whole_corpus(bidirectional, tmp_path, monkeypatch):
    monkeypatch.setattr(features_module, "_SENTENCES_AT_ONCE", 2)
    long = LabelledSentence(("word",) * 600, {"length": ("long",) * 600})
    corpus = [*CORPUS, long]
    names = {}
    shape = look_over(corpus, names)
    with pytest.raises(DataError, match=r"Text 3 \(word word word word word ...\) has 600 words"):
        extract(bidirectional, corpus, shape, names, tmp_path, positions=("same",))


def test_a_tagger_comes_back_as_it_was_and_knows_its_encoder(bidirectional, tmp_path):
    data = WordsData(CORPUS * 3, CORPUS)
    (result,) = evaluate_words(bidirectional, data)
    tagger = Tagger.from_result("pocket", bidirectional, result, list(data.names["length"]))
    tagger.save(tmp_path / "tagger")
    assert sorted(p.name for p in (tmp_path / "tagger").iterdir()) == ["tagger.json", "tagger.safetensors"]
    again = Tagger.load(tmp_path / "tagger")
    again.check(bidirectional)
    found = list(again.tag(bidirectional, iter(TEXTS)))
    assert [labels for _, labels in found] == [list(sentence.labels["length"]) for sentence in CORPUS]
    with pytest.raises(ArtifactError, match="another encoder"):
        again.check(TextEncoder.load("pocket", attention="causal", dtype="float32"))
    with pytest.raises(ArtifactError, match="is no tagger"):
        Tagger.load(tmp_path)
