"""`python -m edge_bench` is the same as `edge-bench`."""

from .cli import entry

entry()
