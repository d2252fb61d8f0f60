"""MTEB: seven categories offline, instructions where the paper has them, failures that cost only themselves."""

import json
from typing import ClassVar

import numpy as np
import pytest

from unmask.errors import DataError
from unmask.evaluation import mteb as bridge_module
from unmask.evaluation.comparison import subset_tasks
from unmask.evaluation.mteb import MtebEncoder, evaluate_mteb, select_tasks
from unmask.evaluation.mteb_instructions import load_instructions, task_instructions
from unmask.evaluation.mteb_plan import plan_tasks

pytestmark = pytest.mark.data
CATEGORIES = {
    *("Classification", "Clustering", "PairClassification", "STS", "Summarization", "Retrieval", "Reranking"),
}


class Recorder(MtebEncoder):
    """Remembers which prompt each call of a task had."""

    calls: ClassVar[list] = []

    def encode(self, inputs, *, task_metadata, prompt_type=None, **rest):
        side = prompt_type.value if prompt_type else "both"
        self.calls.append((task_metadata.name, side, self.instruction(task_metadata, prompt_type)))
        return super().encode(inputs, task_metadata=task_metadata, prompt_type=prompt_type, **rest)


@pytest.fixture
def tasks(data_folder):
    from tests.integration.local_tasks import local_tasks

    return local_tasks(data_folder)


def test_every_category_runs_offline_with_the_papers_instructions(bidirectional, tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(bridge_module, "MtebEncoder", Recorder)
    Recorder.calls = []
    result = evaluate_mteb(bidirectional, tasks, tmp_path, name="pocket")
    assert not result.failures
    assert {score.category for score in result.scores} == CATEGORIES
    assert all(0 < score.score <= 100 for score in result.scores)
    assert result.average == pytest.approx(np.mean([score.score for score in result.scores]))
    claims = "Given a scientific claim, retrieve documents that support or refute the claim: "
    prompts = {(task, side): prompt for task, side, prompt in Recorder.calls}
    assert prompts["SciFact", "query"] == claims
    assert prompts["SciFact", "document"] == ""
    assert prompts["STSBenchmark", "both"] == "Retrieve semantically similar text: "
    assert prompts["Banking77Classification", "both"].startswith("Given a online banking query")
    assert prompts["LocalReranking", "document"] == ""
    settings = json.loads((tmp_path / "settings.json").read_text())
    (own,) = settings.values()
    assert all(versions["mteb"] for versions in own["versions"].values())
    assert own["instruction_texts"]["SciFact"] == claims
    assert json.loads((tmp_path / "summary.json").read_text())["average"] == result.average

    assert set(own["versions"]) == {score.task for score in result.scores}

    count = len(Recorder.calls)
    monkeypatch.setattr(bridge_module, "version", lambda package: "99")
    again = evaluate_mteb(bidirectional, tasks, tmp_path, name="pocket")
    assert len(Recorder.calls) == count  # nothing was run again
    assert [s.score for s in again.scores] == [s.score for s in result.scores]
    assert json.loads((tmp_path / "settings.json").read_text()) == settings  # versions of what made the scores
    assert len(evaluate_mteb(bidirectional, tasks[:1], tmp_path, name="pocket").scores) == 1
    told = json.loads((tmp_path / "summary.json").read_text())
    assert len(told["scores"]) == len(result.scores)  # earlier calls stay in the summary
    assert told["average"] == pytest.approx(result.average)
    evaluate_mteb(bidirectional, tasks[:1], tmp_path, name="pocket", instructions="none")
    assert len(Recorder.calls) > count  # other settings are other results


def test_instructions_of_a_users_own_leave_no_task_out(tasks, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"STSBenchmark": "Same? ", "SciFact": ""}))
    chosen = [task for task in tasks if task.metadata.name in ("STSBenchmark", "SciFact")]
    assert task_instructions(str(path), chosen) == {"STSBenchmark": "Same? ", "SciFact": ""}
    with pytest.raises(DataError, match="has no instruction for Banking77Classification"):
        task_instructions(str(path), tasks[:1])


def test_subsets_of_another_benchmark_do_not_count(bidirectional, tasks, tmp_path):
    chosen = [task for task in tasks if task.metadata.name == "STSBenchmark"]
    (before,) = evaluate_mteb(bidirectional, chosen, tmp_path, name="pocket", instructions="none").scores
    (path,) = tmp_path.rglob("STSBenchmark.json")
    found = json.loads(path.read_text())
    for split in found["scores"].values():
        split.append({**split[0], "hf_subset": "ar-ar", "main_score": 0.0})
    path.write_text(json.dumps(found))
    (after,) = evaluate_mteb(bidirectional, chosen, tmp_path, name="pocket", instructions="none").scores
    assert after.score == before.score > 0


def test_parts_of_a_task_have_its_instruction_unless_they_have_their_own(tmp_path):
    (whole,) = select_tasks(["CQADupstackRetrieval"])
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"CQADupstackRetrieval": "Same? ", "CQADupstackTexRetrieval": "TeX: "}))
    found = task_instructions(str(path), [whole])
    assert len(found) == 13
    assert found.pop("CQADupstackTexRetrieval") == "TeX: "
    assert set(found.values()) == {"Same? "}
    path.write_text(json.dumps({part.metadata.name: "" for part in whole.tasks}))
    assert set(task_instructions(str(path), [whole]).values()) <= {"", None}


def test_a_score_that_is_not_finite_takes_only_its_own_file(bidirectional, tiny, tokenizer, tasks, tmp_path):
    import torch

    from unmask import TextEncoder

    similarity = [task for task in tasks if task.metadata.name == "STSBenchmark"]
    good = evaluate_mteb(bidirectional, similarity, tmp_path, name="good")
    model = tiny("llama", head=False)
    with torch.no_grad():
        model.norm.weight.zero_()  # all vectors equal: no correlation
    bad = evaluate_mteb(TextEncoder(model, tokenizer), similarity, tmp_path, name="bad")
    assert "has no score" in bad.failures["STSBenchmark"]
    assert len(list(tmp_path.rglob("STSBenchmark.json"))) == 1
    assert evaluate_mteb(bidirectional, similarity, tmp_path, name="good").scores[0].score == good.scores[0].score


def test_a_task_that_fails_is_told_and_costs_no_other(bidirectional, tasks, tmp_path, monkeypatch):
    similarity = next(task for task in tasks if task.metadata.name == "STSBenchmark")
    broken = next(task for task in tasks if task.metadata.name == "LocalPairs")

    def fail(**_):
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(broken, "load_data", fail)
    result = evaluate_mteb(bidirectional, [broken, similarity], tmp_path, name="pocket")
    assert result.failures == {"LocalPairs": "RuntimeError: the disk is gone"}
    assert [score.task for score in result.scores] == ["STSBenchmark"]
    assert result.average is None


def test_a_file_of_scores_that_was_cut_short_is_written_again(bidirectional, tasks, tmp_path):
    similarity = [task for task in tasks if task.metadata.name == "STSBenchmark"]
    first = evaluate_mteb(bidirectional, similarity, tmp_path, name="pocket")
    (path,) = tmp_path.rglob("STSBenchmark.json")
    path.write_text(path.read_text()[:100])  # killed while it was written
    again = evaluate_mteb(bidirectional, similarity, tmp_path, name="pocket")
    assert (again.scores[0].score, again.failures) == (first.scores[0].score, {})
    assert again.scores[0].seconds > 0  # it did run


def test_a_bug_is_no_failed_task(bidirectional, tasks, tmp_path, monkeypatch):
    def fail(**_):
        raise AssertionError("this cannot be")

    monkeypatch.setattr(tasks[0], "load_data", fail)
    with pytest.raises(AssertionError, match="this cannot be"):
        evaluate_mteb(bidirectional, tasks[:1], tmp_path, name="pocket")


def test_vectors_are_those_of_the_encoder_and_repeated_texts_are_encoded_once(bidirectional, monkeypatch):
    from mteb.types import PromptType

    asked = []
    encode = type(bidirectional).encode
    monkeypatch.setattr(
        type(bidirectional), "encode", lambda self, texts, **k: (asked.extend(texts), encode(self, texts, **k))[1]
    )
    (task,) = select_tasks(["STSBenchmark"])
    bridge = MtebEncoder(bidirectional, None, load_instructions("paper"))
    loader = [{"text": ["one", "two"]}, {"text": ["one"]}]
    options = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default"}
    vectors = bridge.encode(loader, **options)
    assert asked == ["one", "two"]
    bridge.encode(loader, **options)
    assert asked == ["one", "two"]
    expected = encode(bidirectional, ["one", "two", "one"], prompt="Retrieve semantically similar text: ")
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    documents = bridge.encode(loader, prompt_type=PromptType.document, **options)
    assert np.abs(documents - vectors).max() > 0.01


def test_the_papers_tasks_by_name():
    paper = [task.metadata.name for task in select_tasks(["paper"])]
    assert len(paper) == 56
    assert set(load_instructions("paper")) >= set(paper)
    subset = select_tasks(["paper-15"])
    assert tuple(task.metadata.name for task in subset) == subset_tasks()
    languages = {task.metadata.name: task.hf_subsets for task in subset}
    assert languages["STS17"] == ["en-en"]
    assert languages["MassiveIntentClassification"] == ["en"]
    assert len(select_tasks(["MTEB(eng, v2)"])) == 41
    with pytest.raises(DataError, match="mteb knows no task or benchmark 'SciFakt'"):
        select_tasks(["SciFakt"])
    later = task_instructions("paper", select_tasks(["MTEB(eng, v2)"]))
    assert later["Touche2020Retrieval.v3"] == load_instructions("paper")["Touche2020"]
    assert later["FEVERHardNegatives"] == load_instructions("paper")["FEVER"]
    assert task_instructions("none", subset) == {}
    with pytest.raises(DataError, match="choose paper, none, or a JSON file"):
        load_instructions("papper")


def test_sizes_and_times_are_known_before_the_start(bidirectional):
    plans = {plan.task: plan for plan in plan_tasks(bidirectional, select_tasks(["paper"]))}
    assert len(plans) == 56
    assert all(plan.texts and plan.seconds for plan in plans.values())
    assert plans["STSBenchmark"].texts == 2593
    assert plans["SciFact"].texts == 5483
    assert plans["MSMARCO"].seconds > plans["SciFact"].seconds > plans["STSBenchmark"].seconds
