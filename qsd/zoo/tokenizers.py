"""Word-level tokenizers for the captions, in the stock classes of transformers."""

from collections.abc import Sequence
from typing import Any

from transformers import BertTokenizer, CLIPTokenizer, T5Tokenizer

from qsd.zoo.captions import VOCABULARY

_BEGIN, _END, _PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def t5_tokenizer(words: Sequence[str] = VOCABULARY, marks: Sequence[str] = ()) -> T5Tokenizer:
    """One token per word of the captions and per mark that follows a word; all else is the unknown token."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [*(f"▁{word}" for word in words), *marks]
    return T5Tokenizer(vocab=[*special, *((piece, -1.0) for piece in pieces)], extra_ids=0)


def bert_tokenizer(words: Sequence[str] = VOCABULARY, **options: Any) -> BertTokenizer:
    """One token per word of the captions; anything else is the unknown token."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    return BertTokenizer(vocab={token: index for index, token in enumerate(tokens)}, **options)


def clip_tokenizer(max_length: int) -> CLIPTokenizer:
    """Byte-pair encoding whose merges spell each word of the captions as one token.

    Other words fall apart into letters.
    """
    merges: dict[tuple[str, str], None] = {}
    for word in VOCABULARY:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merges[pieces[0], pieces[1]] = None
            pieces[:2] = [pieces[0] + pieces[1]]
    tokens = [_BEGIN, _END, _PAD, *_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]
    tokens += [first + second for first, second in merges]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    pairs: Any = list(merges)  # the annotation of transformers wants text, its code wants pairs
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=pairs,
        bos_token=_BEGIN,
        eos_token=_END,
        unk_token=_END,
        pad_token=_PAD,
        model_max_length=max_length,
    )
