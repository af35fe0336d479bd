"""Makes a tokenizer.json from the training split of a text list, so that no test text has a part in its vocabulary.

python -m models.text_tiny_transformer.make_tokenizer sms.zip tokenizer.json
"""

import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from pipeline.datasets import textlist

VOCABULARY = 2048
PADDING = "[PAD]"
"""The token with the id 0."""


def make(data: Path, out: Path, vocabulary: int = VOCABULARY) -> None:
    """Writes a tokenizer of lower-case texts: byte pair encoding of bytes, so that no text has unknown tokens.

    The trainer for WordPiece would return another vocabulary at every run.

    Args:
        data: see `textlist`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text.lower() for text in textlist.texts(data, "train")), trainer)
    tokenizer.save(str(out), pretty=False)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
