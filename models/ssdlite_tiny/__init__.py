"""SSDLite with a small MobileNetV2 backbone: finds blood cells in microscope images."""

from pipeline.core import ModelSpec, Preprocessing, Tensor, Training

from . import anchors

SPEC = ModelSpec(
    name="ssdlite_tiny",
    task="object_detection",
    inputs=(Tensor("image", (anchors.SIDE, anchors.SIDE, 3)),),
    outputs=(Tensor("boxes", (anchors.COUNT, 4)), Tensor("scores", (anchors.COUNT, 3))),
    labels=("Platelets", "RBC", "WBC"),
    preprocessing=Preprocessing(
        color="RGB", resize=anchors.SIDE, crop=anchors.SIDE, mean=(189.0, 178.0, 183.0), std=(40.0, 40.0, 40.0),
        fit="letterbox",
    ),
    dataset="voc",
    training=Training(
        epochs=60, batch_size=16, lr=3e-3, weight_decay=1e-2, augment=("flip", "flip_vertical", "shift16")
    ),
    float_modules=("decode",),
)  # fmt: skip
