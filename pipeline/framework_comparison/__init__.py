"""PyTorch compared with TensorFlow on one model (`inv frameworks`): measured in turn, judged, reported."""
