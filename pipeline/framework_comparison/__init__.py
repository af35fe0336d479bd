"""PyTorch against TensorFlow on one model: measured alternately, judged, reported (`inv frameworks`)."""
