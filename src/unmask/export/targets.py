"""The table of runtimes that encoders are exported for: what each serves and reads, how to start it. No torch here.

The facts are those of the versions named; docs/serving.md says which were run and which were read in their code.
"""

from dataclasses import dataclass
from typing import Literal

_LAYOUT_POOLINGS = ("mean", "weighted_mean", "last", "eos", "first")
_PLAIN_POOLINGS = ("mean", "last", "eos", "first")
_STRIPS = (
    "sentence-transformers opens graphs through optimum, which needs transformers < 4.58; versions for that (to 5.1) "
    "strip the spaces around a text, and pool one token of some prompts, such as the line end of one."
)
# How special tokens and prompts stay out of a mean: by a module of sentence-transformers, in the graph, or not at all.
Spans = Literal["module", "graph", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One runtime.

    Attributes:
        title: its name in messages.
        needs: what must read the folder; written into it.
        families: model types that it serves with two-sided attention; empty where any that transformers reads right.
        gpu_families: those that it serves on a CUDA GPU only.
        poolings: names in our table of poolings that it has.
        spans: how special tokens stay out of its mean.
        prompts: it can leave a prompt out of its mean.
        graph: it runs a graph that is written here, not weights.
        flag: it reads `use_bidirectional_attention` of Gemma 3, and a window as the whole width of what is seen.
        scaled_rope: it reads rope scaling.
        serve: commands that serve the folder; `{folder}`, `{pooling}`, `{length}` and `{context}` are filled in.
        known: what is known to go wrong there.
    """

    title: str
    needs: str
    families: tuple[str, ...] = ()
    gpu_families: tuple[str, ...] = ()
    poolings: tuple[str, ...] = _PLAIN_POOLINGS
    spans: Spans = "none"
    prompts: bool = False
    graph: bool = False
    flag: bool = False
    scaled_rope: bool = True
    serve: tuple[str, ...] = ()
    known: tuple[str, ...] = ()


TARGETS: dict[str, Target] = {
    "sentence-transformers": Target(
        title="sentence-transformers",
        needs="sentence-transformers >= 5.4 and transformers >= 5.3; older ones read texts or attention otherwise",
        poolings=_LAYOUT_POOLINGS,
        spans="module",
        prompts=True,
        serve=(
            "python -c \"from sentence_transformers import SentenceTransformer as S; S('{folder}').encode(['text'])\"",
        ),
        known=(
            "5.2 and 5.3 strip the spaces around a text.",
            "Where the prompt fills max_length, it gives a zero vector.",
        ),
    ),
    "transformers": Target(
        title="transformers",
        needs="transformers >= 5.2, which obeys `is_causal: false`; 4.x reads the model as causal",
        poolings=_LAYOUT_POOLINGS,
        serve=("python -c \"from transformers import AutoModel as M; M.from_pretrained('{folder}')\"",),
        known=("It gives states; pool them ({pooling}) over the attention mask, and cut texts at {length} tokens.",),
    ),
    "vllm": Target(
        title="vLLM",
        needs="vLLM >= 0.32; older ones do not read `is_causal: false` in all of these families",
        families=(
            *("llama", "mistral", "phi3", "qwen2", "qwen3", "gemma3_text", "ernie4_5", "apertus", "ministral3"),
            "deepseek_v3",
        ),
        flag=True,
        serve=("vllm serve {folder} --runner pooling --max-model-len {length}",),
        known=(
            "A text longer than max-model-len is an error there unless the request says truncate_prompt_tokens.",
            "bfloat16 is its default; --dtype float32 for these very vectors.",
        ),
    ),
    "tei": Target(
        title="TEI",
        needs="text-embeddings-inference >= 1.9",
        families=("qwen3", "gemma3_text"),
        gpu_families=("llama", "mistral", "qwen2"),
        flag=True,
        scaled_rope=False,
        serve=("text-embeddings-router --model-id {folder} --pooling {pooling} --auto-truncate",),
        known=(
            "1.9.3 skips the mask where all texts of a batch are of one length.",
            "Its Python backend reads Qwen3 and Mistral as causal; use the one in Rust.",
            "It reads tokenizer.json alone, so a text that spells a special token has that token.",
        ),
    ),
    "llama.cpp": Target(
        title="llama.cpp",
        needs="llama.cpp of 2026 and its convert_hf_to_gguf.py",
        families=("llama", "mistral", "qwen2", "qwen3", "gemma3_text"),
        flag=True,
        serve=(
            "python convert_hf_to_gguf.py {folder} --outtype f16 --outfile encoder.gguf",
            "llama-server -m encoder.gguf --embedding --pooling {pooling} -b {length} -ub {length} -np 4 --kv-unified "
            "-c {context}",
        ),
        known=(
            "-ub must hold the longest text, and all tokens of a batch (-b); -np needs --kv-unified: without it "
            "vectors are wrong, silently.",
            "It cuts no text: one longer than -ub is an error.",
            "It normalises no Unicode (NFC), and knows the tokenizers that its converter lists only.",
        ),
    ),
    "onnx": Target(
        title="ONNX Runtime",
        needs="ONNX Runtime >= 1.20; sentence-transformers with backend='onnx'",
        poolings=_LAYOUT_POOLINGS,
        spans="graph",
        prompts=True,
        graph=True,
        serve=("python -c \"import onnxruntime; onnxruntime.InferenceSession('{folder}/onnx/model.onnx')\"",),
        known=(
            "The output sentence_embedding knows no prompts and pools them; sentence-transformers leaves them out.",
            _STRIPS,
        ),
    ),
    "openvino": Target(
        title="OpenVINO",
        needs="OpenVINO >= 2025; sentence-transformers with backend='openvino'",
        poolings=_LAYOUT_POOLINGS,
        spans="graph",
        prompts=True,
        graph=True,
        serve=(
            "python -c \"import openvino; openvino.compile_model('{folder}/openvino/openvino_model.xml', 'CPU', "
            "{{'INFERENCE_PRECISION_HINT': 'f32'}})\"",
        ),
        known=(
            "The output sentence_embedding knows no prompts and pools them; sentence-transformers leaves them out.",
            _STRIPS,
            "On processors with bfloat16 it computes in that unless INFERENCE_PRECISION_HINT is f32; on one thread a "
            "stream with shared key heads it dies in it (SIGFPE).",
        ),
    ),
}

_NAMES = {"llama": "Llama", "mistral": "Mistral", "phi3": "Phi-3", "gemma3_text": "Gemma3"}


def family_name(model_type: str) -> str:
    """A model type as people write it: Llama, Qwen3."""
    return _NAMES.get(model_type, model_type.capitalize())


def listed(names: tuple[str, ...]) -> str:
    """Qwen3 and Gemma3."""
    *first, last = map(family_name, names)
    return f"{', '.join(first)} and {last}" if first else last
