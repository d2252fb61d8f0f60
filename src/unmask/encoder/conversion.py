"""Step 1 alone: a decoder, made bidirectional, proven, saved as an encoder folder."""

from pathlib import Path

from unmask.backbone.loading import load_model
from unmask.backbone.locate import load_tokenizer, resolve_model
from unmask.backbone.truth.convert import convert
from unmask.backbone.truth.verify import VerificationReport
from unmask.encoder.opening import settings_of_folder
from unmask.encoder.saved import read_lineage
from unmask.encoder.text_encoder import TextEncoder
from unmask.files import require_new_folder
from unmask.settings import Recurrent, Window


def convert_and_save(
    name: str,
    folder: str | Path,
    *,
    recurrent: Recurrent = "refuse",
    window: Window = "keep",
    pooling: str | None = None,
    max_length: int | None = None,
    include_special_tokens: bool | None = None,
    normalize: bool | None = None,
    attention_implementation: str | None = None,
) -> VerificationReport:
    """Step 1 alone: load a decoder, make it bidirectional, verify, and save it as an encoder folder.

    What is None stays as an encoder folder has it; a bare decoder gets the defaults of `EncoderSettings`.

    Raises:
        ArtifactError: the model cannot be read, or the folder exists already.
        ConversionError: it cannot be converted; nothing is written.
    """
    target = Path(folder)
    require_new_folder(target)
    source = resolve_model(name)
    tokenizer = load_tokenizer(source)
    model = load_model(source, head=False, attention_implementation=attention_implementation)
    report = convert(model, recurrent=recurrent, window=window)
    saved, chat = settings_of_folder(model, tokenizer, Path(source))
    settings = saved.changed(
        pooling=pooling, max_length=max_length, include_special_tokens=include_special_tokens, normalize=normalize
    )
    encoder = TextEncoder(model, tokenizer, settings, chat=chat)
    # An encoder that was trained already stays what it was trained to be.
    earlier = read_lineage(Path(source)) if Path(source).is_dir() else {}
    encoder.lineage = {"base": name, "stages": [], **earlier, "attention": "bidirectional"}
    encoder.save(target)
    return report
