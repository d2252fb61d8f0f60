"""`unmask push`: what would go, what must not, and a real upload to a hub on this machine."""

import base64
import json
import shutil
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from unmask import TextEncoder
from unmask.certificate.golden import write_certificate
from unmask.cli.main import main
from unmask.settings import EncoderSettings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A tiny encoder with its certificate."""
    from transformers import LlamaConfig, LlamaModel

    from unmask import convert

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = LlamaModel(LlamaConfig(vocab_size=len(tokenizer), **sizes)).eval()
    convert(model)
    encoder = TextEncoder(model, tokenizer, EncoderSettings(max_length=64))
    folder = tmp_path_factory.mktemp("push") / "encoder"
    encoder.save(folder)
    write_certificate(encoder, folder)
    (folder / ".env").write_text("SECRET=1")
    return folder


def said(capsys, *arguments):
    code = main(["push", *map(str, arguments)])
    out = capsys.readouterr()
    return code, out.out + out.err


def test_a_dry_run_says_what_would_go_and_asks_nobody(folder, capsys):
    code, text = said(capsys, folder, "me/encoder", "--dry-run", "--json")
    plan = json.loads(text)
    assert code == 0
    assert plan["files"]["model.safetensors"] == (folder / "model.safetensors").stat().st_size
    assert {"README.md", "golden.json", "1_Pooling/config.json"} <= plan["files"].keys()
    assert ".env" not in plan["files"]
    assert plan["private"] is True
    assert plan["address"] is None
    assert plan["card"]["library_name"] == "sentence-transformers"
    assert plan["checked"].startswith("as its golden.json says: smallest cosine 1.0")
    assert [note for note in plan["notes"] if "names no licence" in note]
    code, text = said(capsys, folder, "me/encoder", "--dry-run", "--public")
    assert code == 0
    assert "me/encoder, public if it is new" in text
    assert "nothing was sent" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_model.bin", "holds pytorch_model.bin, which may run code"),
        ("optimizer.safetensors", "a state of training that no user needs"),
        ("model.safetensors.partial", "which was not finished"),
    ],
)
def test_what_must_not_go_is_refused(folder, tmp_path, capsys, name, message):
    place = shutil.copytree(folder, tmp_path / "encoder")
    (place / name).write_bytes(b"x")
    code, text = said(capsys, place, "me/encoder", "--dry-run")
    assert code == 2
    assert message in text
    assert len(text.strip().splitlines()) == 1


def test_of_a_run_the_encoder_is_named(tmp_path, capsys):
    (tmp_path / "run" / "stages").mkdir(parents=True)
    (tmp_path / "run" / "recipe.yaml").write_text("name: t\n")
    code, text = said(capsys, tmp_path / "run", "me/encoder", "--dry-run")
    assert code == 2
    assert f"is the folder of a run; push {tmp_path / 'run' / 'encoder'}" in text


def test_no_encoder_no_name_no_network_no_token(folder, tmp_path, capsys, monkeypatch):
    for arguments, expected in [
        ((tmp_path / "nothing", "me/encoder"), "No folder"),
        ((tmp_path, "me/encoder"), "no encoder folder and no export"),
        ((folder, "me/my/encoder"), "is no name of a repository"),
        ((folder, "me/encoder"), "HF_HUB_OFFLINE is set"),
    ]:
        code, text = said(capsys, *arguments)
        assert (code, len(text.strip().splitlines())) == (2, 1), text
        assert expected in text
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    code, text = said(capsys, folder, "me/encoder")
    assert code == 2
    assert "wants a token" in text


def test_a_folder_that_is_not_what_its_certificate_says_is_kept_back(folder, tmp_path, capsys):
    place = shutil.copytree(folder, tmp_path / "encoder")
    own = json.loads((place / "unmask.json").read_text())
    own["settings"]["include_special_tokens"] = False
    (place / "unmask.json").write_text(json.dumps(own))
    code, text = said(capsys, place, "me/encoder", "--dry-run")
    assert code == 1
    assert "does not compute what its golden.json says (bos-left-out" in text


class Hub(BaseHTTPRequestHandler):
    """What an upload asks for: a repository, how files go, one commit."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append((self.path, body, self.headers["Authorization"]))
        if self.path == "/api/repos/create":
            return self.answer({"url": f"{self.server.address}/me/encoder"})
        if self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            return self.answer({"files": [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in files]})
        if self.server.full:
            return self.answer({"error": "no space left for you"}, 403)
        return self.answer({"commitUrl": f"{self.server.address}/me/encoder/commit/1", "commitOid": "1" * 40})

    def answer(self, content, status=200):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("full", [False, True], ids=["taken", "refused"])
def test_an_upload(folder, full, capsys, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.full, server.address = [], full, f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    try:
        code, text = said(capsys, folder, "me/encoder")
    finally:
        server.shutdown()
        server.server_close()
    assert {key for _, _, key in server.asked} == {"Bearer hf_mine"}
    made = json.loads(server.asked[0][1])
    assert made["name"] == "encoder"
    assert made.get("private") or made.get("visibility") == "private"
    if full:
        assert code == 1
        assert "The upload to me/encoder failed" in text
        return
    assert code == 0, text
    assert f"sent: {server.address}/me/encoder/commit/1" in text
    path, body, _ = server.asked[-1]
    assert path == "/api/models/me/encoder/commit/main"
    sent = [json.loads(line) for line in body.splitlines()]
    contents = {one["value"]["path"]: base64.b64decode(one["value"]["content"]) for one in sent if one["key"] == "file"}
    assert contents["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert contents["golden.json"] == (folder / "golden.json").read_bytes()
    assert ".env" not in contents
