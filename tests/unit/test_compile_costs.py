"""When layers are compiled by themselves: from figures measured on this machine, of this call and those before it."""

import copy
import json
import math
import os
import subprocess
import sys
import time

import pytest
import torch

from unmask.backbone.fast.compile_costs import Costs, Trial, costs_file, read_costs, write_costs
from unmask.backbone.fast.compiling import CompiledLayers
from unmask.backbone.fast.operators import has_compiler

pytestmark = pytest.mark.skipif(not has_compiler(torch.device("cpu")), reason="no compiler")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    return tmp_path / "inductor"


@pytest.fixture
def layers(bidirectional, cache):
    made = CompiledLayers(bidirectional.model)
    yield made
    made.detach(bidirectional.model)


def compiled(layers):
    found = {layer._compiled_call_impl is not None for layer in layers._model.layers}
    assert len(found) == 1
    return found.pop()


def spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_the_work_from_which_on_compiling_pays():
    assert Costs(2.0, 1.1, 2).worth == pytest.approx(22)
    assert Costs(2.0, 1.5, 3).worth == pytest.approx(6)
    assert Costs(12.0, 1.1, 1).worth < 60  # the next process finds on disk what took this one so long
    assert Costs(12.0, 1.1, 2).worth == pytest.approx(132)  # and where it did not, it is not expected again
    assert Costs(0.0, 1.02, 1).worth == Costs(0.0, 0.5, 1).worth == math.inf


def test_what_is_assumed_where_nothing_was_measured(bidirectional, monkeypatch):
    assert Costs.assumed(bidirectional.model).worth == pytest.approx(143)
    monkeypatch.setattr("unmask.backbone.fast.operators.has_amx", lambda: True)
    assert Costs.assumed(bidirectional.model).worth == pytest.approx(143)  # in float32 it is of no use
    assert Costs.assumed(torch.nn.Linear(2, 2, dtype=torch.bfloat16)).worth == pytest.approx(45.5)


def test_a_gain_is_that_of_neighbours_and_one_odd_batch_does_not_count():
    trial = Trial(pace=0.01)
    assert trial.compiled
    trial.record(100, 8.0, 8.0)
    assert trial.seconds == pytest.approx(7.0)
    for tokens, odd in [(100, 1), (200, 1), (300, 9), (400, 1), (500, 1)]:
        assert trial.gain is None
        assert not trial.compiled
        trial.record(tokens, 99.0, 0.01 * tokens)
        assert trial.compiled
        trial.record(tokens, 99.0, 0.008 * tokens * odd)
    assert trial.gain == pytest.approx(1.25)


def test_what_was_measured_again_moves_the_gain_by_half_and_the_cost_to_the_least():
    first = Costs.assumed(torch.nn.Linear(2, 2)).measured(12.0, 1.3)
    assert first == Costs(12.0, 1.3, 1)
    second = first.measured(2.0, 1.1)
    assert second == Costs(2.0, pytest.approx(1.2), 2)
    assert second.measured(40.0, 1.2) == Costs(2.0, pytest.approx(1.2), 3)  # a busy machine


def test_a_file_that_is_not_ours_is_as_none(tmp_path):
    path = tmp_path / "costs.json"
    assert read_costs(path) is None
    good = {"seconds": 2.0, "gain": 1.1, "times": 1}
    for broken in ({"seconds": math.nan}, {"gain": 0}, {"gain": math.inf}, {"times": "x"}, {"times": math.inf}):
        path.write_text(json.dumps(good | broken))
        assert read_costs(path) is None
    for text in ("", '{"seconds": 2.0, "ga', "[1, 2]", "null", '{"seconds": 2.0}', '{"seconds": null, "gain": 1}'):
        path.write_text(text)
        assert read_costs(path) is None
    path.write_bytes(b"\xff\xfe\x00")
    assert read_costs(path) is None
    write_costs(path, Costs(**good))
    assert read_costs(path) == Costs(**good)
    write_costs(tmp_path / "nowhere" / "costs.json", Costs(**good))  # a note in the log, no more


def test_layers_with_other_graphs_have_another_file(tiny, cache):
    model = tiny("llama", head=False)
    path = costs_file(model)
    assert path.parent == cache
    assert costs_file(tiny("llama", head=False)) == path
    others = [costs_file(tiny("llama", head=False, intermediate_size=80)), costs_file(tiny("qwen3", head=False))]
    others += [costs_file(tiny("llama", head=False, attention_implementation="eager"))]
    others += [costs_file(model.to(torch.bfloat16))]
    assert len({path, *others}) == 5


def test_minutes_of_work_are_compiled_and_seconds_are_not(layers, monkeypatch, caplog):
    monkeypatch.setattr("unmask.backbone.fast.compiling._WATCH_SECONDS", 1.0)
    layers.watch(lambda: time.sleep(0.7), 1000, left=10**9, before=0.0)  # too early to tell
    layers.watch(lambda: time.sleep(0.7), 1000, left=10_000, before=0.0)
    monkeypatch.setattr(layers, "_failure", "it failed before")
    layers.watch(lambda: None, 1000, left=10_000_000, before=0.0)
    assert not compiled(layers)
    assert not caplog.records  # nobody asked for it
    monkeypatch.setattr(layers, "_failure", "")
    layers.watch(lambda: None, 1000, left=10_000_000, before=0.0)
    assert compiled(layers)


def test_work_of_earlier_calls_counts_where_there_is_more_to_come(layers):
    write_costs(costs_file(layers._model), Costs(2.0, 1.1, 2))
    for before, left in [(20.0, 10), (30.0, 0), (30.0, -5)]:  # nothing is left of a call of one batch
        layers.watch(lambda: time.sleep(1.2), 1000, left=left, before=before)
        layers.watch(lambda: time.sleep(1.2), 1000, left=left, before=before)
        assert not compiled(layers)
    layers.watch(lambda: None, 1000, left=10, before=30.0)
    assert compiled(layers)


def test_slower_layers_are_left_and_that_is_remembered(layers):
    path = costs_file(layers._model)
    write_costs(path, Costs(0.1, 1.5, 1))
    layers.watch(lambda: spin(0.6), 100, left=10**6, before=0.0)
    assert compiled(layers)
    seen = []
    for _ in range(11):
        seen.append(compiled(layers))
        layers.watch(lambda: spin(0.09 if seen[-1] else 0.01), 100, left=10**6, before=0.0)
    assert seen == [True, False] * 5 + [True]
    assert not compiled(layers)
    assert read_costs(path).gain < 1
    again = CompiledLayers(layers._model)
    again.watch(lambda: spin(0.6), 100, left=10**9, before=1e9)
    assert not compiled(again)


def test_who_asks_gets_compiled_layers_in_the_middle_of_a_trial(layers):
    write_costs(costs_file(layers._model), Costs(0.1, 1.5, 1))
    for _ in range(2):
        layers.watch(lambda: spin(0.6), 100, left=10**6, before=0.0)
    assert not compiled(layers)
    layers.attach(layers._model)
    assert compiled(layers)
    layers.watch(lambda: None, 100, left=10**6, before=0.0)
    assert compiled(layers)


def test_a_copy_is_compiled_for_itself(layers):
    layers.attach(layers._model)
    other = copy.deepcopy(layers)
    assert not compiled(other)
    other.attach(other._model)
    own = [layer._compiled_call_impl for layer in layers._model.layers]
    assert not set(own) & {layer._compiled_call_impl for layer in other._model.layers}


STREAM = """
import sys
import numpy as np
from torch._dynamo.utils import counters
from unmask import TextEncoder
from unmask.backbone.fast import compile_costs, compiling
from pydoc_data.topics import topics
compile_costs._COLD_SECONDS, compiling._GLANCE_SECONDS = float(sys.argv[1]), 0.0
texts = [" ".join(topics[name].split())[:600] for name in sorted(topics)]
encoder = TextEncoder.load("pocket", attention="bidirectional", dtype="float32")
plain = encoder.encode(texts, compile=False, batch_tokens=512)
counters.clear()
found = encoder.encode(texts, batch_tokens=512)
difference = float(np.abs(found - plain).max() / np.abs(plain).max())
cached = counters["inductor"]["fxgraph_cache_hit"] > 0
print(difference, encoder.runner.compiled.worked, cached, counters["stats"]["unique_graphs"])
"""


def test_the_next_process_uses_what_the_first_has_measured(cache):
    def stream(cold):
        command = [sys.executable, "-c", STREAM, str(cold)]
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return [json.loads(word.lower()) for word in done.stdout.split()]

    difference, worked, _, graphs = stream(cold=1e6)
    assert graphs == 0
    assert difference == 0
    assert not list(cache.glob("unmask-*.json"))
    difference, early, cached, graphs = stream(cold=1e-3)
    assert early < worked
    assert difference < 1e-5
    assert not cached
    assert graphs > 0
    (path,) = cache.glob("unmask-*.json")
    first = read_costs(path)
    assert first.times == 1
    assert first.seconds > 0.5
    write_costs(path, Costs(1e-3, max(first.gain, 1.5), 1))  # so small a model may win nothing
    difference, early, cached, again = stream(cold=1e6)
    assert early < worked
    assert difference < 1e-5
    assert cached
    assert again == graphs
    assert read_costs(path).times == 2
