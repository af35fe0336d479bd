"""Measure one model file on the machine it runs on: latency, memory and every output, as JSON."""

__version__ = "0.1.0"
