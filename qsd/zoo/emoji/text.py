"""Word-level tokenizers for the captions of emoji, in the stock classes of transformers."""

from transformers import BertTokenizer, T5Tokenizer

from qsd.zoo.emoji.dataset import STYLES, vocabulary
from qsd.zoo.emoji.videos import MOTIONS
from qsd.zoo.tokenizers import bert_tokenizer, t5_tokenizer

TEXT_LENGTH = 12
"""Tokens of the longest caption: eight words, a comma, a style, a beginning and an end."""

VIDEO_TEXT_LENGTH = TEXT_LENGTH + 2
"""The same with a second comma and a motion."""


def emoji_t5_tokenizer() -> T5Tokenizer:
    """One token per word and for the comma."""
    return t5_tokenizer(_words(), (",",))


def emoji_bert_tokenizer() -> BertTokenizer:
    """One token per word and for the comma; it splits words as CLIP's would, with a smaller table."""
    return bert_tokenizer((*_words(), ","), model_max_length=TEXT_LENGTH)


def _words() -> list[str]:
    return sorted({*vocabulary(), *STYLES, *MOTIONS})
