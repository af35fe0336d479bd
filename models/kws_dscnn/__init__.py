"""A keyword spotter for spoken digits: log-mel features in the graph, then depthwise separable convolutions."""

from pipeline.core import Audio, ModelSpec, Tensor, Training

SPEC = ModelSpec(
    name="kws_dscnn",
    task="audio_classification",
    inputs=(Tensor("waveform", (8000,), value_range=(-1.0, 1.0)),),
    outputs=(Tensor("logits", (10,)),),
    labels=tuple("0123456789"),
    preprocessing=Audio(rate=8000, samples=8000, mean=(0.0,), std=(1.0,)),
    dataset="fsdd",
    training=Training(epochs=20, batch_size=64, lr=3e-3, weight_decay=1e-2, label_smoothing=0.1),
    # Powers of a spectrum differ by factors of a million: they have no int8 scale before their logarithm.
    float_modules=("features",),
)
