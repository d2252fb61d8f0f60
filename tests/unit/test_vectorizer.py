"""The encoder in scikit-learn: its own checks where they concern text, pipelines, clones, frames."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

from unmask import DataError, EncoderVectorizer

TEXTS = ["the cat sat", "stocks fell", "a dog barked", "prices rose", "the cow ate", "markets closed"]
# Its other checks hand over matrices of numbers; scikit-learn itself leaves all of them out for estimators of texts.
CHECKS = (
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order",
    "check_get_params_invariance",
    "check_set_params",
)


@pytest.mark.parametrize("name", CHECKS)
def test_scikit_learns_own_checks(name):
    check = getattr(estimator_checks, name)
    check(EncoderVectorizer.__name__, EncoderVectorizer())


def test_vectors_are_those_of_encode_and_frames_have_names(bidirectional):
    step = EncoderVectorizer(bidirectional, prompt="Words: ", normalize=True)
    with pytest.raises(NotFittedError):
        step.transform(TEXTS)
    expected = bidirectional.encode(TEXTS, prompt="Words: ", normalize=True)
    for texts in (TEXTS, np.array(TEXTS), np.array(TEXTS, dtype=object)):
        np.testing.assert_allclose(step.fit_transform(texts), expected, atol=1e-6)
    np.testing.assert_allclose(step.fit_transform(text for text in TEXTS), expected, atol=1e-6)
    names = step.get_feature_names_out()
    assert (len(names), names[0]) == (bidirectional.dimension, "encodervectorizer0")
    frame = clone(step.set_output(transform="pandas")).fit_transform(TEXTS)
    assert list(frame.columns) == list(names)
    np.testing.assert_allclose(frame.to_numpy(), expected, atol=1e-6)


def test_a_clone_shares_the_encoder(bidirectional):
    step = EncoderVectorizer(bidirectional, normalize=True).fit(TEXTS)
    twin = clone(step)
    assert twin.encoder is bidirectional
    assert not hasattr(twin, "encoder_")
    assert twin.get_params() == step.get_params()


def test_a_pipeline_is_searched(bidirectional):
    steps = make_pipeline(EncoderVectorizer(bidirectional), LogisticRegression())
    search = GridSearchCV(steps, {"encodervectorizer__normalize": [True, False]}, cv=2)
    search.fit(TEXTS, [0, 1] * 3)
    assert set(search.predict(TEXTS)) <= {0, 1}


def test_a_name_is_opened_by_fit():
    assert EncoderVectorizer("pocket").fit(TEXTS).transform(TEXTS[:2]).shape == (2, 256)


@pytest.mark.parametrize("texts", ["one string", [1, 2], {"a": "b"}])
def test_what_is_no_list_of_texts_is_refused(bidirectional, texts):
    with pytest.raises(DataError):
        EncoderVectorizer(bidirectional).fit(texts)
