"""A small U-Net: finds the pixels of cell nuclei in microscope images."""

from pipeline.core import ModelSpec, Preprocessing, Tensor, Training

SPEC = ModelSpec(
    name="unet_small",
    task="semantic_segmentation",
    inputs=(Tensor("image", (96, 96, 3)),),
    outputs=(Tensor("logits", (96, 96, 2)),),
    labels=("background", "object"),
    preprocessing=Preprocessing(color="RGB", resize=96, crop=96, mean=(44.0, 39.0, 48.0), std=(40.0, 39.0, 36.0)),
    dataset="maskfolder",
    training=Training(epochs=30, batch_size=16, lr=3e-3, weight_decay=1e-2),
)
