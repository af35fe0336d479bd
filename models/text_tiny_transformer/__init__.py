"""A small transformer for short texts: two layers of self-attention, trained on SMS spam."""

from pipeline.core import ModelSpec, Tensor, Tokens, Training

SPEC = ModelSpec(
    name="text_tiny_transformer",
    task="text_classification",
    inputs=(Tensor("ids", (64,), "int32", value_range=(0.0, 2047.0)),),
    outputs=(Tensor("logits", (2,)),),
    labels=("ham", "spam"),
    # python -m pipeline.datasets.textlist sms.zip tokenizer.json
    preprocessing=Tokens(tokenizer="tokenizer.json", length=64, padding=0, lowercase=True),
    dataset="textlist",
    training=Training(epochs=10, batch_size=64, lr=2e-3, weight_decay=1e-2, label_smoothing=0.05),
)
