"""MobileNetV3-Small: hard-swish and squeeze-and-excite make it the hard case for int8.

Source: Howard et al., Searching for MobileNetV3, 2019 (arXiv:1905.02244), table 2.
"""

from pipeline.core import ModelSpec, Preprocessing, Tensor, Training

SPEC = ModelSpec(
    name="mobilenet_v3_small",
    task="image_classification",
    inputs=(Tensor("image", (224, 224, 3), value_range=(0.0, 255.0)),),
    outputs=(Tensor("logits", (1000,)),),
    labels=(),  # from the dataset
    preprocessing=Preprocessing(
        color="RGB",
        resize=256,
        crop=224,
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
    ),
    dataset="imagefolder",
    training=Training(
        epochs=30, batch_size=128, lr=3e-3, weight_decay=1e-2, label_smoothing=0.1, augment=("flip", "shift4")
    ),
    options={"width": 1.0, "classes": 1000},
)
