"""An encoder folder or an export on its way to the Hugging Face hub: what would go, what must not, and the upload."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from unmask.backbone.structure import first_line
from unmask.certificate.check import check
from unmask.certificate.golden import read_certificate
from unmask.certificate.graphs import OpenedGraph, graph_file
from unmask.certificate.targets import OpenedHere
from unmask.encoder import TextEncoder
from unmask.errors import ArtifactError, PushError
from unmask.files import refuse_pointers

_GOLDEN, _CARD = "golden.json", "README.md"
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy")
_OF_TRAINING = ("optimizer", "scheduler", "rng_state", "training_args", "trainer_state")
_UNFINISHED = (".partial", ".incomplete", ".tmp", ".lock")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushPlan:
    """What would go to the hub.

    Attributes:
        folder: that is pushed.
        repository: `owner/name`, or `name` for one's own.
        private: a repository that is not there yet would be; one that is stays as it is.
        files: size in bytes by path in the folder.
        card: the block on top of README.md, which hubs read.
        checked: how the folder was checked against its certificate, in words.
        notes: what the owner should know before it goes.
    """

    folder: str
    repository: str
    private: bool
    files: dict[str, int]
    card: dict[str, Any]
    checked: str
    notes: list[str] = field(default_factory=list)


def plan_push(folder: str | Path, repository: str, *, private: bool = True) -> PushPlan:
    """Look at a folder as somebody would who gets it, and say what would go; asks nobody outside this machine.

    Args:
        folder: of an encoder, or written by an export.
        repository: `owner/name` on the hub, or `name` for one's own.
        private: whether a new repository would be.

    Raises:
        ArtifactError: no such folder or name of a repository; pickled weights, states of training, unfinished files; a
            folder that does not open.
        PushError: its vectors are not those of its golden.json.
    """
    place = Path(folder)
    _require_name(repository)
    if not place.is_dir():
        raise ArtifactError(f"No folder {str(folder)!r}; push takes an encoder folder or what `unmask export` wrote.")
    files = _files(place)
    lacking = [name for name in ("unmask.json", "modules.json", "config.json") if name not in files]
    if lacking:
        raise ArtifactError(
            f"{place} holds no {lacking[0]}, so it is no encoder folder and no export; nothing is sent."
        )
    card = _card(place / _CARD)
    return PushPlan(
        folder=str(place),
        repository=repository,
        private=private,
        files=files,
        card=card,
        checked=_checked(place),
        notes=_notes(files, card),
    )


def push(plan: PushPlan) -> str:
    """Make the repository if it is not there, and send the files in one commit; returns its address.

    Raises:
        ArtifactError: offline, or no token.
        PushError: the hub refuses, or the connection breaks; a commit is there whole or not at all.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token, is_offline_mode

    if is_offline_mode():
        raise ArtifactError("HF_HUB_OFFLINE is set, so nothing is sent; unset it, or look with --dry-run.")
    if not get_token():
        raise ArtifactError("The hub wants a token, and there is none here: `hf auth login`, or set HF_TOKEN.")
    api = HfApi(library_name="unmask")
    try:
        made = api.create_repo(plan.repository, private=plan.private, exist_ok=True)
        adds = [CommitOperationAdd(name, Path(plan.folder) / name) for name in plan.files]
        done = api.create_commit(made.repo_id, adds, commit_message="Encoder folder, pushed by unmask")
    except Exception as error:  # a refusal, a broken connection, whatever a library of many tells
        raise PushError(f"The upload to {plan.repository} failed ({first_line(error)}).") from error
    return str(done.commit_url)


def _require_name(repository: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ArtifactError(
            f"{repository!r} is no name of a repository: owner/name, of letters, digits, '-', '_' and '.'."
        ) from error


def _files(folder: Path) -> dict[str, int]:
    """Sizes of what goes: all but hidden files.

    Raises:
        ArtifactError: a file that must not go.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    refuse_pointers(paths)
    if (folder / "recipe.yaml").is_file() and (folder / "stages").is_dir():
        raise ArtifactError(f"{folder} is the folder of a run; push {folder / 'encoder'}, which it ends with.")
    if folder.name.endswith(_UNFINISHED):
        raise ArtifactError(f"{folder} was not finished: it has the name of a folder that is still written.")
    for path in paths:
        name = path.relative_to(folder).as_posix()
        of_openvino = path.suffix == ".bin" and path.with_suffix(".xml").is_file()
        if path.suffix in _PICKLED and not of_openvino:
            raise ArtifactError(f"{folder} holds {name}, which may run code where it is opened; remove it.")
        if path.stem.startswith(_OF_TRAINING):
            raise ArtifactError(f"{folder} holds {name}, a state of training that no user needs; remove it.")
        if path.name.endswith(_UNFINISHED):
            raise ArtifactError(f"{folder} holds {name}, which was not finished; write the folder again.")
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


def _card(path: Path) -> dict[str, Any]:
    """The block on top of a card; empty where there is none."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not text.startswith("---\n") or "\n---" not in text[3:]:
        return {}
    try:
        found = yaml.safe_load(text[4:].split("\n---", 1)[0])
    except yaml.YAMLError as error:
        raise ArtifactError(f"The block on top of {path} is no YAML ({first_line(error)}).") from error
    return found if isinstance(found, dict) else {}


def _checked(folder: Path) -> str:
    """Open the folder, and compare it with its certificate where it has one."""
    graph = graph_file(folder)
    target = OpenedGraph(folder, graph) if graph else OpenedHere(TextEncoder.load(folder), str(folder))
    if not (folder / _GOLDEN).is_file():
        return "it opens"
    report = check(target, read_certificate(folder), folder=folder)
    if not report.right:
        faults = ", ".join(dict.fromkeys(fault.fault for fault in report.faults))
        raise PushError(
            f"{folder} does not compute what its {_GOLDEN} says ({faults}), so nothing is sent; `unmask check "
            f"{folder}` says more."
        )
    return f"as its {_GOLDEN} says: smallest cosine {report.smallest or 0:.6f}, {report.texts} texts"


def _notes(files: dict[str, int], card: dict[str, Any]) -> list[str]:
    notes = []
    if "license" not in card:
        base = card.get("base_model")
        notes.append(
            f"{_CARD} names no licence; the terms of {base or 'the base model'} and of the data hold for these "
            "weights, too. Write `license:` into its first block before others may read it."
        )
    if _GOLDEN not in files:
        notes.append(f"there is no {_GOLDEN}, by which users could check what they serve; `unmask export` writes one.")
    return notes
