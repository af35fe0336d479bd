"""The smallest network with what converters treat differently: a convolution, a depthwise one, a linear layer."""

from pipeline.core import ModelSpec, Preprocessing, Tensor, Training

SPEC = ModelSpec(
    name="tiny",
    task="image_classification",
    inputs=(Tensor("image", (8, 8, 1), value_range=(0.0, 255.0)),),
    outputs=(Tensor("logits", (10,)),),
    labels=tuple("0123456789"),
    preprocessing=Preprocessing(color="L", resize=8, crop=8, mean=(0.0,), std=(255.0,)),
    dataset="digits",
    training=Training(epochs=2, batch_size=64, lr=1e-2),
)
