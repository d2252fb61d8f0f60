"""TextEncoder: text -> vector, tokens, words. One forward path: what is trained is what is evaluated and exported."""

from unmask.encoder.conversion import convert_and_save
from unmask.encoder.int8 import to_int8
from unmask.encoder.runner import EncoderModule
from unmask.encoder.search import search
from unmask.encoder.stream import Floats
from unmask.encoder.text_encoder import TextEncoder
from unmask.encoder.tokens import TokenVectors
from unmask.encoder.words import WordPosition, word_states

__all__ = [
    "EncoderModule",
    "Floats",
    "TextEncoder",
    "TokenVectors",
    "WordPosition",
    "convert_and_save",
    "search",
    "to_int8",
    "word_states",
]
