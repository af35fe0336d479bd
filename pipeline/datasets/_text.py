"""Encodes texts to the model's input, for all datasets of texts; on a device, the app does the same."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import registry
from pipeline.core import Tokens
from pipeline.errors import BadModel, first_line
from pipeline.system.store import digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def identity() -> str:
    """What decides the ids of a text besides its content and the preprocessing: this code, and its package."""
    return digest([registry.code_hash(__name__), registry.versions(("tokenizers",))])


def same(text: str) -> str:
    """Texts for which this is equal count as one: case, white space and Unicode's forms make no difference."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def encode(texts: Sequence[str], tokens: Tokens) -> tuple[NDArray[np.int32], tuple[int, ...]]:
    """The model's inputs for texts, and which of them were cut.

    Args:
        tokens: its tokenizer is a path; see `datasets.load`.

    Returns:
        int32 (N, length), and the indices of the texts with more ids than that.

    Raises:
        BadModel: the tokenizer's file cannot be read.
    """
    import numpy as np

    tokenizer = _tokenizer(tokens)
    ids = np.full((len(texts), tokens.length), tokens.padding, np.int32)
    cut = []
    for i, text in enumerate(texts):  # one by one: a batch starts threads, which a later fork would warn of
        found = tokenizer.encode(text.lower() if tokens.lowercase else text)
        ids[i, : len(found.ids)] = found.ids
        if found.overflowing:
            cut.append(i)
    return ids, tuple(cut)


def make(texts: Sequence[str], out: Path, vocabulary: int = 2048) -> None:
    """Writes a tokenizer of lower-case texts: byte pair encoding of bytes, so that no text has unknown tokens.

    The padding has the id 0. The same texts give the same file; the trainer for WordPiece would not do that.

    Args:
        texts: of the training split only.
        vocabulary: number of tokens.
    """
    with registry.extra("text"):
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["[PAD]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text.lower() for text in texts], trainer)
    tokenizer.save(str(out), pretty=False)


def vocabulary(tokens: Tokens) -> int:
    """The number of ids that the tokenizer has. Raises BadModel as `encode`."""
    return int(_tokenizer(tokens).get_vocab_size(with_added_tokens=True))


def _tokenizer(tokens: Tokens) -> Any:
    with registry.extra("text"):
        import tokenizers
    try:
        found = tokenizers.Tokenizer.from_file(tokens.tokenizer)
    except Exception as error:  # the package raises no narrower type
        raise BadModel(f"{tokens.tokenizer} is no tokenizer.json of Hugging Face: {first_line(error)}") from error
    found.no_padding()
    found.enable_truncation(tokens.length)
    return found
