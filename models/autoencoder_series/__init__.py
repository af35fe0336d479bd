"""An autoencoder for series: the anomaly score of a window of 64 readings is the error of its reconstruction."""

from pipeline.core import ModelSpec, Standardization, Tensor, Training

SPEC = ModelSpec(
    name="autoencoder_series",
    task="anomaly_detection",
    inputs=(Tensor("window", (64, 1)),),
    outputs=(Tensor("score", (1,)),),
    labels=("normal", "anomaly"),
    preprocessing=Standardization(mean=(0.0,), std=(1.0,)),  # the dataset scales each series
    dataset="seriescsv",
    training=Training(epochs=15, batch_size=64, lr=3e-3),
    float_modules=("error",),
)
