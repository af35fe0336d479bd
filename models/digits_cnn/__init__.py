"""A small CNN for 8×8 handwritten digits: trains in seconds, exports to every target."""

from pipeline.core import ModelSpec, Preprocessing, Tensor, Training

SPEC = ModelSpec(
    name="digits_cnn",
    task="image_classification",
    inputs=(Tensor("image", (8, 8, 1), value_range=(0.0, 255.0)),),
    outputs=(Tensor("logits", (10,)),),
    labels=tuple("0123456789"),
    preprocessing=Preprocessing(color="L", resize=8, crop=8, mean=(0.0,), std=(255.0,)),
    dataset="digits",
    training=Training(epochs=40, batch_size=32, lr=5e-3, weight_decay=5e-2, label_smoothing=0.1, augment=("shift1",)),
)
