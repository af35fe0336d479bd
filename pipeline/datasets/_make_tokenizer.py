"""Makes a tokenizer.json from the training split of a text list: no test text has a part in its vocabulary.

    python -m pipeline.datasets._make_tokenizer sms.zip models/text_tiny_transformer/tokenizer.json

The same texts give the same file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline import registry
from pipeline.datasets import textlist

PADDING = "[PAD]"
"""The token with the id 0."""


def make(data: Path, out: Path, vocabulary: int) -> None:
    """Writes a tokenizer of lower-case texts: byte pair encoding of bytes, so that no text has unknown tokens.

    The trainer for WordPiece would return another vocabulary at every run.

    Args:
        data: see `textlist`.
        vocabulary: number of tokens.
    """
    with registry.extra("text"):
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text.lower() for text in textlist.texts(data, "train")], trainer)
    tokenizer.save(str(out), pretty=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a CSV or TSV file, or a folder or a zip with such files")
    parser.add_argument("out", type=Path, help="the tokenizer.json to write")
    parser.add_argument("--vocabulary", type=int, default=2048, help="number of tokens (default: 2048)")
    options = parser.parse_args()
    make(options.data, options.out, options.vocabulary)


if __name__ == "__main__":
    main()
