"""infinity, which reads folders with the sentence-transformers and the transformers of its time."""

from importlib.metadata import version

from .answering import answer


def answers(job):
    """Vectors of texts, in float32."""
    from infinity_emb import EngineArgs, SyncEngineArray

    options = {"device": "cpu", "dtype": "float32", "bettertransformer": False, "model_warmup": False}
    engines = SyncEngineArray.from_args([EngineArgs(model_name_or_path=job["model"], engine="torch", **options)])

    def embed(texts, prompt):
        return engines.embed(model=job["model"], sentences=[prompt + text for text in texts]).result()[0]

    return answer(version("infinity-emb"), embed)
