"""A small network for numbers: predicts the progression of diabetes from ten measurements of a patient."""

from pipeline.core import ModelSpec, Standardization, Tensor, Training

SPEC = ModelSpec(
    name="diabetes_mlp",
    task="regression",
    inputs=(Tensor("measurements", (10,)),),
    outputs=(Tensor("progression", (1,)),),
    labels=(),
    # Of the training split: age, sex, body mass index, blood pressure, six blood serum measurements.
    preprocessing=Standardization(
        mean=(48.5, 1.47, 26.4, 94.6, 189.1, 115.4, 49.8, 4.07, 4.64, 91.3),
        std=(13.1, 0.5, 4.4, 13.8, 34.6, 30.4, 12.9, 1.29, 0.52, 11.5),
    ),
    dataset="diabetes",
    training=Training(epochs=40, batch_size=32, lr=1e-2, weight_decay=5e-2),
)
