"""Counting lines of code."""

from pipeline.framework_comparison.parts.writing import code_lines

SOURCE = '''"""A module
of two lines."""

import os  # counts


# does not
def f(
    x: int,
) -> str:
    """Nor this."""
    text = """this does,

and so does its last line"""

    return text


LIMIT = 3
"""A docstring of a constant."""
'''


def test_blank_lines_comments_and_docstrings_do_not_count() -> None:
    assert code_lines(SOURCE) == len(["import", "def", "x", "-> str", "text", "", "and so", "return", "LIMIT"])


def test_a_file_without_code_has_no_lines() -> None:
    assert code_lines('"""Only a docstring."""\n# and a comment\n') == 0
