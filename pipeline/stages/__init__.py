"""Stages: train, quantize, export, push, measure and what else a command runs. Each reads manifests and writes one."""
