"""The noise of groups of layers, as rows: what quantizing each adds to the outputs, and what float would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core import Cell, LayerGroup, Sensitivity
from pipeline.stats import decibels

FLOAT_BYTES, INT8_BYTES = 4, 1
"""Bytes of a weight."""


@dataclass(frozen=True)
class Time:
    """What a model's files take on a device in fp32 and in int8, in milliseconds."""

    device: str
    target: str
    float_ms: float
    int8_ms: float


@dataclass(frozen=True)
class GroupNoise:
    """One group of layers.

    Attributes:
        share: of the noise; see `Sensitivity.share`.
        snr_db: predicted with this group alone in float.
        bytes_more: file size with this group in float, compared with int8.
        multiply_adds: share of the model's.
        ms_more: estimate: the group's share of the multiply-adds times the difference between the fp32 and the int8
            file; None if these were not measured.
    """

    name: str
    layers: int
    share: float
    snr_db: float
    bytes_more: int
    multiply_adds: float
    ms_more: float | None


def groups(found: Sensitivity, time: Time | None = None) -> list[GroupNoise]:
    """A row for each group, the noisiest first."""
    everything = max(found.predicted(), 1e-300)
    work = max(sum(group.multiply_adds for group in found.groups), 1)
    rows = []
    for group in found.groups:
        rest = found.predicted([group.name])
        share = group.multiply_adds / work
        rows.append(
            GroupNoise(
                name=group.name,
                layers=group.layers,
                share=found.share(group.name) / everything,
                snr_db=decibels(1, rest),
                bytes_more=bytes_more(group),
                multiply_adds=share,
                ms_more=share * (time.float_ms - time.int8_ms) if time else None,
            )
        )
    return sorted(rows, key=lambda row: -row.share)


def bytes_more(group: LayerGroup) -> int:
    """Bytes that a group's weights take more in float than in int8."""
    return group.weights * (FLOAT_BYTES - INT8_BYTES)


def time(cells: Sequence[Cell], model: str, framework: str, device: str, target: str) -> Time | None:
    """The medians of a model's fp32 and int8 files on a device; None if one is not measured."""
    found = {
        cell.recipe: cell.latency_ms.p50
        for cell in cells
        if (cell.model, cell.framework, cell.device, cell.target) == (model, framework, device, target)
        and cell.latency_ms is not None
    }
    return Time(device, target, found["fp32"], found["int8"]) if {"fp32", "int8"} <= found.keys() else None
