"""Models are folders, in models/ or elsewhere; options follow a colon."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import sources
from pipeline.errors import BadModel, BadOption, UnknownName

ROOT = Path(__file__).parents[2]


def test_the_folders_in_models_are_the_models() -> None:
    assert sources.names() == sorted(
        path.name for path in (ROOT / "models").iterdir() if (path / "__init__.py").exists()
    )
    assert sources.DEFAULT in sources.names()


@pytest.mark.parametrize("name", sources.names())
def test_a_model_is_found_by_name_and_by_its_folders_path(name: str) -> None:
    by_name, by_path = sources.find(name), sources.find(str(ROOT / "models" / name))
    assert by_name == by_path
    assert by_name.spec.name == name
    for framework in by_name.frameworks:
        assert len(by_name.source(framework)) == 64


def test_a_model_folder_may_be_anywhere(tiny: Path) -> None:
    model = sources.find(str(tiny))
    assert (model.folder, model.spec.name, model.frameworks) == (tiny, "tiny", ["keras", "torch"])
    assert callable(model.code("torch").build)
    assert model.summary.startswith("The smallest network")


@pytest.mark.parametrize("word", ["digits_cnn", "mobilenet_v3_small:classes=3,width=0.5", "{tiny}"])
def test_the_word_of_a_model_finds_it_from_any_folder(
    word: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sources.find(word.format(tiny=tiny))
    assert model.word == word.format(tiny=tiny)
    monkeypatch.chdir(tmp_path)
    assert sources.find(model.word) == model


def test_an_unknown_name_lists_the_known_and_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match=rf"^unknown model 'resnet9'; .*\(known: {', '.join(sources.names())}\)$"):
        sources.find("resnet9")


# -- options -----------------------------------------------------------------------------------------------------------


def test_options_change_the_spec_and_its_name_contains_those_that_are_not_default() -> None:
    spec = sources.find("mobilenet_v3_small:width=0.5,classes=10").spec
    assert spec.name == "mobilenet_v3_small-classes=10-width=0.5"
    assert (spec.classes, spec.options["width"]) == (10, 0.5)
    assert sources.find("mobilenet_v3_small:width=1,classes=1000").spec == sources.find("mobilenet_v3_small").spec


def test_the_order_of_options_does_not_matter() -> None:
    one, other = (sources.find(f"mobilenet_v3_small:{o}") for o in ("width=0.5,classes=10", "classes=10,width=0.5"))
    assert one == other


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("depth=2", r"has no option 'depth' \(it has: classes, width\)"),
        ("width=wide", "width='wide' is not a number"),
        ("width=", "width='' is not a number"),
        ("width=0", "width must be above 0"),
        ("width=-1", "width must be above 0"),
        ("width=nan", "width"),
        ("width=inf", "width"),
        ("classes=2.5", "classes"),
        ("width=0.5,", "has no option ''"),
    ],
)
def test_an_invalid_option_is_refused(options: str, complaint: str) -> None:
    with pytest.raises(BadOption, match=complaint):
        sources.find(f"mobilenet_v3_small:{options}")


def test_an_option_of_a_model_without_options_is_refused() -> None:
    with pytest.raises(BadOption, match=r"digits_cnn has no option 'width' \(it has: none\)"):
        sources.find("digits_cnn:width=1")


# -- classes -----------------------------------------------------------------------------------------------------------


def test_a_datasets_classes_become_the_labels() -> None:
    model = sources.fitted(sources.find("mobilenet_v3_small:classes=2"), ("cat", "dog"))
    assert model.spec.labels == ("cat", "dog")


def test_another_number_of_classes_is_refused_with_the_option_that_fits() -> None:
    with pytest.raises(BadOption, match=r"has 1000 classes and the data has 2: .*--model .*:classes=2"):
        sources.fitted(sources.find("mobilenet_v3_small"), ("cat", "dog"))


def test_options_that_change_the_number_of_classes_drop_the_labels_of_spec(tiny: Path, tmp_path: Path) -> None:
    text = (tiny / "__init__.py").read_text()
    folder = tmp_path / "flexible"
    folder.mkdir()
    (folder / "__init__.py").write_text(text.replace("SPEC = ModelSpec(", 'SPEC = ModelSpec(options={"classes": 10},'))
    assert sources.find(str(folder)).spec.labels == tuple("0123456789")
    assert sources.find(f"{folder}:classes=10").spec.labels == tuple("0123456789")
    assert sources.find(f"{folder}:classes=3").spec.labels == ()


@pytest.mark.parametrize("labels", [("cat", "dog"), tuple("0123456788")])
def test_labels_of_spec_that_do_not_name_every_output_are_refused(
    labels: tuple[str, ...], tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    text = (tiny / "__init__.py").read_text().replace('tuple("0123456789")', repr(labels))
    (folder / "__init__.py").write_text(text)
    with pytest.raises(BadModel, match=rf"SPEC\.labels has {len(labels)} .* 10"):
        sources.find(str(folder))


def test_a_spec_is_normalized_as_in_manifests(tiny: Path, tmp_path: Path) -> None:
    text = (tiny / "__init__.py").read_text()
    (tmp_path / "__init__.py").write_text(text.replace("(8, 8, 1)", "[8, 8, 1]"))
    assert sources.find(str(tmp_path)).spec == sources.find(str(tiny)).spec


# -- invalid folders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("SPEC =", "SPECS =", "has no SPEC of type"),
        ('name="tiny"', 'name="ti ny"', "SPEC.name"),
        ('name="tiny"', 'name="../tiny"', "SPEC.name"),
        ('name="tiny"', 'name="resnet8"', "'resnet8'"),
        ('task="image_classification"', 'task="segmentation"', r"'segmentation'.*\(known: anomaly_det"),
        ('color="L"', 'color="RGB"', "preprocessing.color 'RGB'"),
        ('color="L"', 'color="CMYK"', "preprocessing.color 'CMYK'"),
        ("mean=(0.0,)", "mean=(0.0, 0.0)", "need 1 values each"),
        ("crop=8", "crop=7", "preprocessing.crop"),
        ("resize=8", "resize=4", "resize must be at least crop"),
        ("(8, 8, 1)", "(8, 9, 1)", "preprocessing.crop"),
        ("(8, 8, 1)", "(64,)", "image input"),
        ("(8, 8, 1)", "(8.0, 8, 1)", r"__init__\.py: SPEC\.inputs\[0\]\.shape\[0\]: expected int, not 8\.0"),
        ("epochs=2", "epochs='2'", r"SPEC\.training\.epochs: expected int, not '2'"),
        ("std=(255.0,)", "std=(0.0,)", r"preprocessing\.mean .*\.std"),
        ("std=(255.0,)", "std=(float('nan'),)", r"preprocessing\.mean .*\.std"),
        ("mean=(0.0,)", "mean=(float('inf'),)", r"preprocessing\.mean must be finite"),
        ("SPEC =", "raise SystemExit(3)\nSPEC =", "cannot be imported: SystemExit: 3"),
        ("SPEC =", "raise RuntimeError('on purpose')\nSPEC =", "cannot be imported: RuntimeError: on purpose"),
        ("SPEC =", "SPEC = (", "cannot be imported: SyntaxError"),
    ],
)
def test_an_invalid_spec_is_refused_with_the_path_of_its_folder(
    old: str, new: str, complaint: str, tiny: Path, tmp_path: Path
) -> None:
    text = (tiny / "__init__.py").read_text()
    assert old in text
    (tmp_path / "__init__.py").write_text(text.replace(old, new))
    with pytest.raises(BadModel, match=complaint) as caught:
        sources.find(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_a_path_that_is_no_model_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"is not a model folder: it has no __init__\.py with SPEC"):
        sources.find(str(tmp_path))
    with pytest.raises(BadModel, match=r"^no model folder at .*/none: .*__init__\.py"):
        sources.find(str(tmp_path / "none"))


def test_a_framework_that_the_model_lacks_is_named(tiny: Path) -> None:
    with pytest.raises(BadModel, match=r"^model tiny has no jax\.py in .*build\(spec\)"):
        sources.find(str(tiny)).code("jax")
