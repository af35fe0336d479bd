"""A small convolutional network for a wearable sensor: four activities from 32 irregular readings."""

from pipeline.core import ModelSpec, Standardization, Tensor, Training

SPEC = ModelSpec(
    name="har_cnn",
    task="time_series_classification",
    inputs=(Tensor("readings", (32, 5)),),
    outputs=(Tensor("logits", (4,)),),
    labels=("sits on the bed", "sits on a chair", "lies", "walks"),
    # Acceleration (frontal, vertical, lateral, in g), signal strength in dBm, seconds since the reading before.
    preprocessing=Standardization(mean=(0.71, 0.35, -0.22, -58.3, 0.5), std=(0.40, 0.42, 0.44, 5.2, 1.2)),
    dataset="wearable",
    training=Training(epochs=15, batch_size=64, lr=3e-3, weight_decay=1e-2, label_smoothing=0.1),
)
