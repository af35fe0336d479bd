"""The typed API of a shipped model, described once for Kotlin, Swift and Python.

Each language has a template for every task in TASKS. `describe` chooses the names, so that one label has the same name
in all languages apart from each language's spelling, and every name compiles there.
"""

from __future__ import annotations

import keyword
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from pipeline.core import ModelSpec, Preprocessing

TASKS = ("image_classification",)
"""The tasks that there are templates for: one file <task>.<suffix>.jinja a language."""
MOST_LABELS = 2000
"""A Java class holds about 3,400 enum constants: the method that creates them may have 64 kB."""

SHOWN = 5
"""Labels in the line of `renamed`."""

UNNAMED, NUMBERED = "class", "label"
"""Prefixes: of the index, for a label without a name that any language takes; of a name that cannot stand alone."""

# Letters that Unicode does not decompose to an ASCII letter and a mark.
LETTERS = str.maketrans({
    "ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L",
    "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i",
})  # fmt: skip
WORD = re.compile(r"[A-Z]?[a-z][a-z0-9]*|(?:[A-Z](?![a-z])|[0-9])+[a-z0-9]*")
"""A word of a name: words end at signs and where a capital letter begins a new one, as in StopSign or HTMLPage."""


def _of(text: str) -> frozenset[str]:
    return frozenset(text.split())


JAVA = _of(
    "abstract assert boolean break byte case catch char class const continue default do double else enum extends false "
    "final finally float for goto if implements import instanceof int interface long native new null package private "
    "protected public return short static strictfp super switch synchronized this throw throws transient true try void "
    "volatile while"
)
KOTLIN = _of("as fun in is object typealias typeof val var when")
SWIFT = _of(
    "Any Protocol Self Type actor associatedtype as async await borrowing break case catch class consuming continue "
    "default defer deinit do else enum extension fallthrough false fileprivate for func guard if import in indirect "
    "init inout internal is let nil nonisolated open operator package precedencegroup private protocol public repeat "
    "rethrows return self some static struct subscript super switch throw throws true try typealias var where while"
)
SWIFT_MEMBERS = _of("allCases description hash hashValue index label rawValue")
"""Properties of the generated Swift enum: a case cannot have the same name."""
TYPES = _of(
    "Any Array Artifact Background Bitmap Bool Boolean Bundle Bundled Byte Character Class Classifier Closeable "
    "Context Data Date Dictionary Double Engine Engines Enum Error Exception File Float Golden Image Images "
    "InferenceException Int Int8 Integer Iterable Label List Long Map Model None Nothing Number Object Optional "
    "Options Path Pixels Prediction Result Runtime Score Self SelfTest Session Set SharedClassifier String Task Type "
    "Unit Url"
)
"""Names of types that the templates use or that are visible everywhere in a language."""


@dataclass(frozen=True)
class Case:
    """One label: an entry of an enum in each language.

    Attributes:
        label: the label's text.
        kotlin, swift, python: the name of the entry.
    """

    label: str
    kotlin: str
    swift: str
    python: str


@dataclass(frozen=True)
class Input:
    """One input of the API.

    Attributes:
        kind: "image": the templates decide what a language passes, such as Bitmap, CGImage or PIL's Image.
        shape: for an image (height, width, channels).
        preprocessing: from the user's image to the input tensor.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    preprocessing: Preprocessing


@dataclass(frozen=True)
class Api:
    """What the templates of all languages are filled with.

    Attributes:
        type: name of the class: "DigitsCnn".
        module: name of the Kotlin package, the Python module and the folder of the assets: "digits_cnn".
        artifact: name of the library in Maven and of the wheel: "digits-cnn".
        version: the bundle's version.
        labels: in the order of the output.
        weights_sha256: hash of the weights that all files of the bundle were made from.
    """

    model: str
    type: str
    module: str
    artifact: str
    version: str
    task: str
    inputs: tuple[Input, ...]
    labels: tuple[Case, ...]
    weights_sha256: str


def renamed(labels: Sequence[str]) -> str | None:
    """A line about the labels whose names differ by more than case and spaces; None if there are none."""
    found = [case for case in cases(labels) if case.python != "_".join(_words(case.label)).upper()]
    if not found:
        return None
    shown = ", ".join(f"{case.label!r} is {case.python}" for case in found[:SHOWN])
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{len(found)} of {len(labels)} labels have another name in code: {shown}{more}"


def unsupported(spec: ModelSpec) -> str | None:
    """Why there is no typed API for a model; None if there is one."""
    if spec.task not in TASKS:
        return f"there is no typed API for the task {spec.task!r} (known: {', '.join(TASKS)})"
    if len(spec.labels) > MOST_LABELS:
        return f"an enum has at most {MOST_LABELS} labels; {spec.name} has {len(spec.labels)}"
    return None


def describe(spec: ModelSpec, model: str, version: str, weights_sha256: str) -> Api:
    """The API of a model.

    Args:
        spec: with labels, and with no reason in `unsupported`.
        model: the name that the bundle has.
    """
    reserved = {*JAVA, *KOTLIN, *keyword.kwlist, *(word.lower() for word in SWIFT), *sys.stdlib_module_names}
    words = _words(model) or ["unnamed"]
    if words[0][0].isdigit():
        words = ["model", *words]
    module = "_".join(words).lower()
    name = "".join(map(_capitalized, words))
    return Api(
        model=model,
        type=f"{name}Model" if name in TYPES else name,
        module=f"{module}_model" if module in reserved else module,
        artifact="-".join(words).lower(),
        version=version,
        task=spec.task,
        inputs=tuple(Input(tensor.name, "image", tensor.shape, spec.image) for tensor in spec.inputs if spec.image),
        labels=cases(spec.labels),
        weights_sha256=weights_sha256,
    )


def cases(labels: Sequence[str]) -> tuple[Case, ...]:
    """A name for each label in each language. Labels that would share a name get their index at its end."""
    words = [_words(label) or [UNNAMED, str(index)] for index, label in enumerate(labels)]
    upper = _unique([_named(each, _upper, ()) for each in words])
    swift = _unique([_named(each, _camel, SWIFT | SWIFT_MEMBERS) for each in words])
    return tuple(
        Case(label, constant, camel, constant) for label, constant, camel in zip(labels, upper, swift, strict=True)
    )


def _words(text: str) -> list[str]:
    """The words of a label or name in ASCII; none if a letter or digit of it has no ASCII form."""
    decomposed = unicodedata.normalize("NFKD", text.translate(LETTERS))
    if any(not character.isascii() and character.isalnum() for character in decomposed):
        return []
    return WORD.findall("".join(filter(lambda character: not unicodedata.combining(character), decomposed)))


def _named(words: Sequence[str], style: Callable[[Sequence[str]], str], reserved: Collection[str]) -> str:
    name = style(words)
    return style([NUMBERED, *words]) if name[0].isdigit() or name in reserved else name


def _upper(words: Sequence[str]) -> str:
    return "_".join(words).upper()


def _camel(words: Sequence[str]) -> str:
    return words[0].lower() + "".join(map(_capitalized, words[1:]))


def _capitalized(word: str) -> str:
    return word[0].upper() + word[1:].lower()


def _unique(names: Sequence[str]) -> list[str]:
    counts = Counter(names)
    taken = {name for name in names if counts[name] == 1}
    found = []
    for index, name in enumerate(names):
        unique = name
        if counts[name] > 1:
            unique = f"{name}_{index}"
            while unique in taken:
                unique += "_"
            taken.add(unique)
        found.append(unique)
    return found
