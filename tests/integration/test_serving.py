"""`unmask serve`: real processes and sockets, OpenAI's own client, vectors equal to those of `encode`."""

import base64
import json
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import openai
import pytest

from tests.server_process import KEY, served, together
from unmask import EncoderSettings, TextEncoder

pytestmark = pytest.mark.slow
MAX_LENGTH = 64
PROMPTS = {"query": "Find what answers this: ", "passage": "Passage: "}
LONG = "a text that is longer than the encoder reads " * 20


@pytest.fixture(scope="module")
def folder(bidirectional, tmp_path_factory):
    """An encoder with prompts and a short reach."""
    place = tmp_path_factory.mktemp("served") / "encoder"
    settings = EncoderSettings(max_length=MAX_LENGTH, prompts=PROMPTS)
    TextEncoder(bidirectional.model, bidirectional.tokenizer, settings).save(place)
    return place


@pytest.fixture(scope="module")
def encoder(folder):
    return TextEncoder.load(folder, dtype="float32")


@pytest.fixture(scope="module")
def server(folder):
    with served(folder, "--name", "pocket-bi", "--max-queue", 64, UNMASK_API_KEY=KEY) as running:
        yield running


def vectors(answer):
    return np.array([item.embedding for item in answer.data], dtype=np.float32)


def ask(client, texts, **extra):
    return client.embeddings.create(model="pocket-bi", input=texts, extra_body=extra or None)


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_openais_client_gets_the_vectors_of_encode(server, encoder, articles):
    texts = [*articles[:5], "", "naïve café 日本語", "x"]
    client = server.client()
    answer = ask(client, texts)  # the client asks for base64 by itself
    close(vectors(answer), encoder.encode(texts))
    assert [item.index for item in answer.data] == list(range(len(texts)))
    tokens = sum(map(len, encoder.tokenize(texts)))
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens, answer.model) == (tokens, tokens, "pocket-bi")
    as_floats = client.embeddings.create(model="pocket-bi", input="one text", encoding_format="float")
    close(vectors(as_floats), encoder.encode(["one text"]))
    packed = server.post({"input": "one text", "encoding_format": "base64"})[2]["data"][0]["embedding"]
    close(np.frombuffer(base64.b64decode(packed), "<f4"), encoder.encode("one text"))


def test_a_side_chooses_its_saved_prompt(server, encoder):
    client = server.client()
    close(vectors(ask(client, ["where?"], input_type="query")), encoder.encode_query(["where?"]))
    close(vectors(ask(client, ["there."], input_type="document")), encoder.encode_document(["there."]))
    assert np.abs(encoder.encode_query("where?") - encoder.encode("where?")).max() > 1e-3


def test_fewer_dimensions_have_length_one(server, encoder):
    answer = server.client().embeddings.create(model="pocket-bi", input=["one", "two"], dimensions=16)
    expected = encoder.encode(["one", "two"])[:, :16]
    close(vectors(answer), expected / np.linalg.norm(expected, axis=1, keepdims=True))


def test_a_server_can_scale_vectors(folder, encoder):
    with served(folder, "--normalize") as server:
        answer = server.client().embeddings.create(model="encoder", input=["one", "two"])
    close(vectors(answer), encoder.encode(["one", "two"], normalize=True))


def test_truncation_is_told_or_refused(server, encoder):
    client = server.client()
    answer = ask(client, ["short", LONG, "short", LONG])
    assert answer.model_extra["truncated"] == [1, 3]
    assert answer.usage.prompt_tokens == sum(map(len, encoder.tokenize(["short", LONG] * 2)))
    growing = [" ".join(["word"] * count) for count in range(1, MAX_LENGTH + 1)]
    lengths = [len(text) for text in encoder.tokenize(growing)]
    fits = growing[lengths.index(MAX_LENGTH)]  # just so
    assert ask(client, [fits, f"{fits} word"]).model_extra["truncated"] == [1]
    assert ask(client, [fits], truncate=False).model_extra["truncated"] == []
    with pytest.raises(openai.UnprocessableEntityError, match=r"1 of 2 texts \(1\) have more than 64 tokens") as error:
        ask(client, ["short", LONG], truncate=False)
    assert (error.value.param, error.value.code) == ("input", "context_length_exceeded")


@pytest.mark.parametrize(
    ("body", "status", "param", "said"),
    [
        (b"{", 422, None, "JSON"),
        ([], 422, None, "object"),
        ({}, 422, "input", "required"),
        ({"input": []}, 422, "input", "empty"),
        ({"input": 3}, 422, "input", "a string or a list of strings"),
        ({"input": ["a", None]}, 422, "input", "a string or a list of strings"),
        ({"input": [1, 2]}, 422, "input", "token arrays are not read"),
        ({"input": [[1, 2], [3]]}, 422, "input", "token arrays are not read"),
        (b'{"input": "half \\ud800 pair"}', 422, None, "JSON"),
        ({"input": "a", "dimensions": 0}, 422, "dimensions", "greater than or equal to 1"),
        ({"input": "a", "dimensions": 257}, 422, "dimensions", "this encoder has 256"),
        ({"input": "a", "encoding_format": "int8"}, 422, "encoding_format", "'float' or 'base64'"),
        ({"input": "a", "input_type": "passage"}, 422, "input_type", "'query' or 'document'"),
        ({"input": "a", "truncate": "no"}, 422, "truncate", "boolean"),
        ({"input": "a", "truncate_prompt_tokens": 3}, 422, "truncate_prompt_tokens", "not permitted"),
        ({"input": "a", "model": "gpt"}, 404, "model", "this server has 'pocket-bi'"),
        ({"input": ["a"] * 2049}, 413, "input", "at most 2048"),
        ({"input": "a" * (17 << 20)}, 413, None, "16 MiB"),
    ],
)
def test_what_is_wrong_is_said_by_its_field(server, body, status, param, said):
    found, _, answer = server.post(body)
    error = answer["error"]
    assert (found, error["param"]) == (status, param), error
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["code"]


def test_the_model_its_fingerprint_and_its_health_are_told(server, encoder):
    (model,) = server.client().models.list().data
    assert model.id == server.facts["model"] == "pocket-bi"
    assert model.fingerprint == server.facts["fingerprint"] == encoder.fingerprint()
    assert (model.dimension, model.max_length, model.prompts) == (encoder.dimension, MAX_LENGTH, sorted(PROMPTS))
    assert server.client().models.retrieve("pocket-bi") == model
    status, headers, _ = server.post({"input": "a"})
    assert (status, headers["X-Unmask-Fingerprint"]) == (200, model.fingerprint)
    assert json.loads(server.get("/health")) == {"status": "ok"}
    before = server.metric("unmask_texts_total")
    ask(server.client(), ["a", "b", "c"])
    assert server.metric("unmask_texts_total") == before + 3
    assert server.metric('unmask_requests_total{status="200"}') > 0
    with pytest.raises(openai.NotFoundError, match="GET /v1/nothing"):
        server.client().get("/nothing", cast_to=object)


def test_without_the_key_nothing_is_computed(server):
    with pytest.raises(openai.AuthenticationError, match="Bearer KEY"):
        ask(server.client(api_key="another"), ["a"])
    status, headers, answer = server.post({"input": "a"}, {"Authorization": "Bearer n\u00f6"})
    assert (status, headers["WWW-Authenticate"], answer["error"]["code"]) == (401, "Bearer", "invalid_api_key")


def test_64_clients_get_what_is_theirs(server, encoder, articles, capsys):
    """No answer is lost or another's, and the latencies are printed."""
    words = " ".join(articles).split()
    texts = [[" ".join(words[7 * i + j : 7 * i + j + 3 + 5 * j]) for j in range(4)] for i in range(64 * 2)]
    expected = encoder.encode([text for some in texts for text in some]).reshape(len(texts), 4, -1)
    seconds = []

    def work(number):
        with server.client() as client:
            for turn in range(number, len(texts), 64):
                started = time.perf_counter()
                close(vectors(ask(client, texts[turn])), expected[turn])
                seconds.append(time.perf_counter() - started)

    together(64, work)
    assert len(seconds) == len(texts)
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    with capsys.disabled():
        sys.stdout.write(f"\n64 clients, {len(texts)} requests of 4 texts: p50 {p50:.3f} s, p99 {p99:.3f} s\n")
    assert server.metric("unmask_requests_inside") == 0
    assert server.metric("unmask_batch_tokens_count") < server.metric("unmask_texts_total") / 2  # they shared batches


def test_a_full_queue_says_when_to_come_again(folder):
    """Each of its requests has many batches and takes turns with the others, so the queue is full for seconds."""
    with served(folder, "--max-queue", 4, "--max-batch-tokens", 256) as server:
        waiting = threading.Thread(target=together, args=(4, lambda _: server.post({"input": [LONG] * 100})))
        waiting.start()
        until(lambda: server.metric("unmask_requests_inside") == 4)
        with pytest.raises(openai.RateLimitError, match="4 requests wait already") as error:
            server.client().embeddings.create(model="encoder", input=["one more"])
        assert 1 <= int(error.value.response.headers["Retry-After"]) <= 60
        patient = server.client(max_retries=20)  # it obeys the header
        assert len(patient.embeddings.create(model="encoder", input=["one more"]).data) == 1
        waiting.join()


def test_a_small_request_does_not_wait_for_all_of_a_large_one(server):
    done = []
    large = threading.Thread(target=lambda: done.append(server.post({"input": [LONG] * 600})[0]))
    large.start()
    until(lambda: server.metric("unmask_requests_inside") == 1)
    assert len(ask(server.client(), ["small"]).data) == 1
    assert not done
    large.join()
    assert done == [200]


def test_the_work_of_a_client_that_went_away_is_dropped(server, encoder):
    before, gone = server.metric("unmask_tokens_total"), server.metric('unmask_requests_total{status="499"}')
    body = json.dumps({"input": [LONG] * 2000}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        until(lambda: server.metric("unmask_tokens_waiting") > 0)
    until(lambda: server.metric('unmask_requests_total{status="499"}') == gone + 1)
    ask(server.client(), ["the next"])
    assert server.metric("unmask_tokens_total") - before < 2000 * MAX_LENGTH / 2
    assert server.metric("unmask_tokens_waiting") == 0


def test_what_was_accepted_is_answered_when_the_server_is_stopped(folder, encoder):
    """Under load, in eight bits, with small batches: SIGTERM, and all who were let in have their vectors."""
    expected = encoder.encode(LONG)
    with served(folder, "--int8", "--max-batch-tokens", 256) as server:
        assert server.facts["model"] == "encoder"
        assert server.facts["int8_cosine_mean"] > 0.99
        answers = []
        clients = threading.Thread(
            target=lambda: answers.extend(together(32, lambda _: server.post({"input": [LONG] * 6})))
        )
        clients.start()
        until(lambda: server.metric("unmask_requests_inside") == 32)
        assert server.stop(signal.SIGTERM) == 0
        clients.join()
        with pytest.raises(OSError, match="refused"):
            server.get("/health")
    assert [status for status, _, _ in answers] == [200] * 32
    found = np.array([item["embedding"] for _, _, answer in answers for item in answer["data"]])
    assert found.shape == (32 * 6, encoder.dimension)
    cosines = found @ expected / np.linalg.norm(found, axis=1) / np.linalg.norm(expected)
    assert cosines.min() > 0.99


def test_an_address_in_use_is_said_before_a_model_is_loaded(server):
    port = server.url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "unmask", "serve", "no-such-model", "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"127.0.0.1:{port} cannot be served (Address already in use)" in done.stderr


def test_mtebs_wrapper_of_openai_gets_the_same_vectors(server, encoder, articles):
    from mteb.models.model_implementations.openai_models import OpenAIModel

    class Tokens:  # in place of tiktoken, which fetches its files from the network
        encode = staticmethod(lambda text: encoder.tokenizer(text, add_special_tokens=False)["input_ids"])
        decode = staticmethod(encoder.tokenizer.decode)

    wrapper = OpenAIModel.__new__(OpenAIModel)
    wrapper._client, wrapper.model_name, wrapper._encoding = server.client(), "pocket-bi", Tokens
    wrapper._embed_dim, wrapper._max_tokens = encoder.dimension, 512
    loader = [{"text": articles[:3]}, {"text": articles[3:5]}]
    found = wrapper.encode(loader, task_metadata=None, hf_split="test", hf_subset="default")
    expected = encoder.encode(articles[:5], normalize=True)  # it always names the dimensions
    close(found, expected)


def until(true):
    """Wait for something that soon will be so."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
