"""Measure a model file on the machine it runs on: latency, memory and all outputs, as JSON."""

__version__ = "0.1.0"
