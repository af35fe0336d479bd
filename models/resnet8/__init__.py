"""MLPerf Tiny's image classification network: a ResNet with three residual blocks, for CIFAR-10.

Source: Banbury et al., MLPerf Tiny Benchmark, 2021 (arXiv:2106.07597), and its reference implementation.
"""

from pipeline.core import ModelSpec, Preprocessing, Tensor, Training

SPEC = ModelSpec(
    name="resnet8",
    task="image_classification",
    inputs=(Tensor("image", (32, 32, 3), value_range=(0.0, 255.0)),),
    outputs=(Tensor("logits", (10,)),),
    labels=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    # One mean and one standard deviation for all channels: CIFAR-10's channels are similar, and int8 pixels then stay
    # exact through the normalisation.
    preprocessing=Preprocessing(color="RGB", resize=32, crop=32, mean=(127.5,) * 3, std=(63.75,) * 3),
    dataset="cifar10",
    training=Training(epochs=30, batch_size=128, lr=5e-3, weight_decay=1e-2, augment=("flip", "shift2")),
)
