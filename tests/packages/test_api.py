"""The description of the typed API: the names of classes and labels in Kotlin, Swift and Python."""

from __future__ import annotations

import ast
import keyword
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.packages import _api, _templates
from tests.models.tiny import SPEC


@pytest.mark.parametrize(
    ("label", "kotlin", "swift"),
    [
        ("0", "LABEL_0", "label0"),
        ("great white shark", "GREAT_WHITE_SHARK", "greatWhiteShark"),
        ("StopSign", "STOP_SIGN", "stopSign"),
        ("HTMLPage", "HTML_PAGE", "htmlPage"),
        ("A380", "A380", "a380"),
        ("3D glasses", "LABEL_3D_GLASSES", "label3dGlasses"),
        ("12ab", "LABEL_12AB", "label12ab"),
        ("crème brûlée", "CREME_BRULEE", "cremeBrulee"),
        ("Straße", "STRASSE", "strasse"),
        ("class", "CLASS", "labelClass"),
        ("self", "SELF", "labelSelf"),
        ("rawValue", "RAW_VALUE", "labelRawValue"),
        ("__init__", "INIT", "labelInit"),
        ("日本3", "CLASS_0", "class0"),
        ("*/ } fun evil() = $x", "FUN_EVIL_X", "funEvilX"),
        ("", "CLASS_0", "class0"),
        ("🐈", "CLASS_0", "class0"),
    ],
)
def test_a_label_becomes_a_name_of_each_language(label: str, kotlin: str, swift: str) -> None:
    (case,) = _api.cases([label])
    assert case == _api.Case(label, kotlin, swift, kotlin)


def test_labels_that_would_share_a_name_get_their_index() -> None:
    found = _api.cases(["C", "C++", "C#", "crane", "crane", "Crane_4", "other"])
    assert [case.kotlin for case in found] == ["C_0", "C_1", "C_2", "CRANE_3", "CRANE_4_", "CRANE_4", "OTHER"]
    assert [case.swift for case in found] == ["c_0", "c_1", "c_2", "crane_3", "crane_4", "crane4", "other"]


def test_every_name_is_an_identifier_and_occurs_once() -> None:
    labels = [
        *keyword.kwlist,
        *_api.JAVA,
        *_api.KOTLIN,
        *_api.SWIFT,
        *"0123456789aA_-+ ",
        "label 0",
        "class_3",
        "Ⅷ",
        "²",
    ]
    found = _api.cases(labels)
    for names in ([c.kotlin for c in found], [c.swift for c in found], [c.python for c in found]):
        assert len(set(names)) == len(labels)
        assert all(name.isascii() and name.isidentifier() for name in names)
    assert not any(keyword.iskeyword(case.python) for case in found)
    assert not {case.swift for case in found} & (_api.SWIFT | _api.SWIFT_MEMBERS)


@pytest.mark.parametrize(
    ("model", "type_", "module", "artifact"),
    [
        ("digits_cnn", "DigitsCnn", "digits_cnn", "digits-cnn"),
        ("mobilenet_v3_small", "MobilenetV3Small", "mobilenet_v3_small", "mobilenet-v3-small"),
        ("3d-net", "Model3dNet", "model_3d_net", "model-3d-net"),
        ("class", "ClassModel", "class_model", "class"),
        ("json", "Json", "json_model", "json"),
        ("bitmap", "BitmapModel", "bitmap", "bitmap"),
        ("---", "Unnamed", "unnamed", "unnamed"),
    ],
)
def test_a_model_name_becomes_a_class_a_package_and_a_library(
    model: str, type_: str, module: str, artifact: str
) -> None:
    api = _api.describe(SPEC, model, "1.2.0", "0" * 64)
    assert (api.type, api.module, api.artifact, api.version) == (type_, module, artifact, "1.2.0")


def test_labels_with_another_name_in_code_are_listed() -> None:
    assert _api.renamed(("stop", "StopSign")) is None
    line = _api.renamed(("stop", "0", "C", "C++", "日本"))
    assert line is not None
    assert all(part in line for part in ("4 of 5", "'0' is LABEL_0", "'C++' is C_3", "'日本' is CLASS_4"))
    assert (_api.renamed(tuple("0123456789")) or "").endswith(" and 5 more")


def test_a_task_without_a_template_and_too_many_labels_are_unsupported() -> None:
    assert _api.unsupported(SPEC) is None
    assert "object_detection" in (_api.unsupported(replace(SPEC, task="object_detection")) or "")
    assert "2001" in (_api.unsupported(replace(SPEC, labels=tuple(map(str, range(2001))))) or "")


NASTY = 'say "${x}"\\\n\t\r\0 \u202e ä 🐈 #{1} \\(y)'


def test_a_string_literal_holds_every_character_and_no_code() -> None:
    assert ast.literal_eval(_templates.python(NASTY)) == NASTY
    assert _templates.kotlin("a$b🐈\u202e") == '"a\\$b\\ud83d\\udc08\\u202e"'
    assert _templates.swift("🐈\0\\(x)") == '"🐈\\u{0}\\\\(x)"'
    for literal in (_templates.kotlin(NASTY), _templates.swift(NASTY), _templates.python(NASTY)):
        assert literal.isprintable() and "\n" not in literal


def test_a_template_that_names_a_missing_value_fails(tmp_path: Path) -> None:
    import jinja2

    (tmp_path / "t.jinja").write_text("{{ label|kotlin }}\n")
    assert _templates.render(tmp_path / "t.jinja", label="a$") == '"a\\$"\n'
    with pytest.raises(jinja2.UndefinedError):
        _templates.render(tmp_path / "t.jinja")
