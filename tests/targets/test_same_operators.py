"""Operators of a file that are found again in another file of the same graph."""

from __future__ import annotations

from pipeline.targets._same_operators import Operation, matched, traced


def conv(reads: str, makes: str, weights: str, shape: str = "8") -> Operation:
    return Operation("CONV {}", (reads, f"w-{makes}"), (makes,), {f"w-{makes}": (shape, weights)})


FILE = [conv("x", "a", "1"), conv("a", "b", "2"), Operation("ADD {}", ("a", "b"), ("c",))]


def test_the_same_operators_are_found_by_what_they_read() -> None:
    other = [conv("x2", "a2", "1"), conv("a2", "b2", "2"), Operation("ADD {}", ("a2", "b2"), ("c2",))]
    assert matched(FILE, other, {"x2": "x"}) == {"x2": "x", "a2": "a", "b2": "b", "c2": "c"}


def test_changed_weights_do_not_hide_a_layer() -> None:
    other = [conv("x2", "a2", "changed"), conv("a2", "b2", "2")]
    assert matched(FILE, other, {"x2": "x"}) == {"x2": "x", "a2": "a", "b2": "b"}


def test_of_two_alike_the_one_with_the_same_weights_is_taken() -> None:
    file = [conv("x", "a", "1"), conv("x", "b", "2")]
    other = [conv("x2", "b2", "2"), conv("x2", "a2", "1")]
    assert matched(file, other, {"x2": "x"}) == {"x2": "x", "b2": "b", "a2": "a"}


def test_an_operator_that_reads_something_else_needs_the_same_weights() -> None:
    other = [Operation("RESHAPE {}", ("x2",), ("r",)), conv("r", "a2", "1"), conv("r", "b2", "unknown")]
    assert matched(FILE, other, {"x2": "x"}) == {"x2": "x", "a2": "a"}


def test_another_operator_or_shape_is_not_matched() -> None:
    other = [conv("x2", "a2", "1", shape="16"), Operation("MUL {}", ("x2", "x2"), ("m",))]
    assert matched(FILE, other, {"x2": "x"}) == {"x2": "x"}


def test_an_output_is_traced_through_its_transposes() -> None:
    other = [
        Operation("TRANSPOSE {}", ("a2", "p"), ("t",), axes=(0, 3, 1, 2)),
        Operation("DEQUANTIZE {}", ("t",), ("d",)),
        Operation("RESHAPE {}", ("t",), ("r",)),
        Operation("TRANSPOSE {}", ("r", "p"), ("u",), axes=(0, 2, 1)),
    ]
    through = ("TRANSPOSE ", "DEQUANTIZE ", "RESHAPE ")
    assert traced("d", other, {"a2": "a"}, through) == ("a", (0, 3, 1, 2))
    assert traced("d", other, {"a2": "a"}, ("DEQUANTIZE ",)) is None
    assert traced("u", other, {"a2": "a"}, through) is None
