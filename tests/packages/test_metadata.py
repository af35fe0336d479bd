"""Metadata inside model files: runtimes and Google's reader find it, and every output is the measured file's."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import registry
from pipeline.android import dependencies
from pipeline.core import Artifact, Standardization
from pipeline.errors import NeedsTool, StageFailed, Unsupported
from pipeline.packages import Contents, ShippedCell, _metadata, _tflite_metadata
from pipeline.results import bundle, release_diff, releases, versions
from pipeline.results.gates import SIZE, Gates
from pipeline.stages import _parity, _shipped_files, gate
from pipeline.system import packages, proc, store
from pipeline.system.store import Store
from tests.packages.conftest import VERSION

READER = Path(__file__).parent / "consumers" / "ReadMetadata.java"
LABELS = list("0123456789")


def cell(contents: Contents, recipe: str, target: str) -> ShippedCell:
    return next(cell for cell in contents.cells if (cell.recipe, cell.target) == (recipe, target))


def measured(matrix: Store, recipe: str, target: str) -> tuple[Path, Artifact]:
    folder = matrix.cell("tiny", "torch", recipe, target)
    artifact = store.read(Artifact, folder / "artifact.json")
    assert artifact is not None
    return folder / artifact.file, artifact


def program(path: Path) -> Path:
    return path / _metadata.PROGRAM if path.is_dir() else path


# -- shipped and measured files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["fp32", "int8"])
@pytest.mark.parametrize("target", ["tflite", "onnx", "coreml"])
def test_a_shipped_file_contains_the_measured_one(contents: Contents, matrix: Store, recipe: str, target: str) -> None:
    path, artifact = measured(matrix, recipe, target)
    shipped = cell(contents, recipe, target)
    old, new = (program(file).read_bytes() for file in (path, contents.root / shipped.file))
    assert len(old) < len(new)
    assert (
        new.startswith(old) if target != "tflite" else new[-(new[::-1].index(old[::-1]) + len(old)) :].startswith(old)
    )
    assert shipped.artifact == replace(
        artifact, sha256=store.sha256(contents.root / shipped.file), size_bytes=store.size(contents.root / shipped.file)
    )
    assert shipped.artifact.sha256 != artifact.sha256


def test_the_bundle_records_the_hash_of_the_measured_file_too(contents: Contents, matrix: Store) -> None:
    bundled = json.loads((contents.root / "bundle.json").read_text())["cells"]
    found = {(one["recipe"], one["target"]): one["measured_sha256"] for one in bundled}
    assert found == {pair: measured(matrix, *pair)[1].sha256 for pair in found}
    for one in contents.cells:
        assert all(run.artifact_sha256 == found[one.recipe, one.target] for run in one.measurements)


def test_a_file_with_metadata_is_the_measured_file_to_the_gate_and_to_diff(contents: Contents) -> None:
    shipped, measured = releases.read(contents.root), releases.of_build(contents.build, "tiny", "torch")
    assert shipped.files
    for place, file in shipped.files.items():
        before = measured.files[place]
        assert (file.measured_sha256, file.measured_bytes) == (before.artifact.sha256, before.artifact.size_bytes)
        file.require_intact()
    limits = Gates()
    found = gate.gate(contents.build, shipped, [], limits, Path("gates.toml"))
    sizes = [check for check in found.checks if check.figure == SIZE]
    assert len(sizes) == len(shipped.files)
    assert all((check.change, check.reason) == (1.0, gate.SAME_FILE) for check in sizes)
    changes = release_diff.difference(shipped, measured).files
    assert changes and all(change.same_file and change.old_bytes == change.new_bytes for change in changes)


def test_a_patch_version_names_the_files_that_another_toolchain_made(contents: Contents, matrix: Store) -> None:
    old = bundle.manifest(contents.root)
    files = [measured(matrix, cell.recipe, cell.target)[1] for cell in old.cells]
    found = versions.change(contents.root, old, old.spec, old.weights_sha256, files)
    assert (found.part, len(found.reasons)) == ("patch", 1)
    files[0] = replace(files[0], sha256="0" * 64)
    (reason,) = versions.change(contents.root, old, old.spec, old.weights_sha256, files).reasons
    assert f"{files[0].recipe} on {files[0].target}" in reason


def test_a_format_without_metadata_is_copied(contents: Contents, matrix: Store) -> None:
    path, artifact = measured(matrix, "int8", "executorch")
    shipped = cell(contents, "int8", "executorch")
    assert (contents.root / shipped.file).read_bytes() == path.read_bytes()
    assert shipped.artifact == artifact


@pytest.mark.parametrize("target", ["tflite", "onnx", "coreml"])
def test_a_file_of_another_target_is_copied_whatever_its_name(matrix: Store, tmp_path: Path, target: str) -> None:
    path, artifact = measured(matrix, "int8", target)
    other = replace(artifact, target="acme")
    assert _metadata.write(path, other, VERSION, "MIT", tmp_path) == other
    assert store.sha256(tmp_path / path.name) == artifact.sha256


def test_the_same_file_gets_the_same_bytes(contents: Contents, matrix: Store, tmp_path: Path) -> None:
    for target in ("tflite", "onnx", "coreml"):
        folder = tmp_path / target
        folder.mkdir()
        _metadata.write(*measured(matrix, "int8", target), VERSION, "Apache-2.0", folder)
        shipped = contents.root / "models" / "int8" / target
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            assert path.read_bytes() == (shipped / path.relative_to(folder)).read_bytes()


@pytest.mark.parametrize("target", ["tflite", "onnx"])
def test_another_file_under_the_same_name_is_found(
    contents: Contents, matrix: Store, tmp_path: Path, target: str
) -> None:
    folder = tmp_path / "int8" / target
    shipped = _shipped_files.write(*measured(matrix, "int8", target), VERSION, "MIT", folder)
    _shipped_files.prove([shipped], contents.root / "golden")
    (folder / shipped.measured.name).write_bytes(measured(matrix, "fp32", target)[0].read_bytes())
    with pytest.raises(StageFailed, match="int8 on"):
        _shipped_files.prove([shipped], contents.root / "golden")


# -- TFLite ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def read(contents: Contents) -> dict[str, list[str]]:
    """What Google's Java reader prints for each .tflite file of the bundle, by the file's path in models/."""
    jars = dependencies.pinned("metadata")
    try:
        packages.require("android")
        dependencies.fetch(jars)
    except NeedsTool as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    files = sorted((contents.root / "models").rglob("*.tflite"))
    classpath = os.pathsep.join(str(jar.path) for jar in jars)
    done = proc.run(["java", "-cp", classpath, READER, *files], timeout=300)
    assert done.code == 0, done.err
    lines = [line.split("\t") for line in done.out.splitlines()]
    return {str(file.relative_to(contents.root / "models")): line for file, line in zip(files, lines, strict=True)}


def test_googles_reader_finds_labels_version_and_normalisation(read: dict[str, list[str]]) -> None:
    float32, uint8, int8 = "0", "3", "9"
    kinds = {
        "fp32/tflite/model.tflite": float32,
        "int8/tflite/model.tflite": int8,
        "int8/tflite/model.uint8.tflite": uint8,
    }
    grey, size, mean, std, largest = "2", "8", "0.0", "1.0", "255.0"
    head = ["tiny", VERSION, "Apache-2.0", "true", "image"]
    tail = [grey, size, mean, std, largest, "logits", ",".join(LABELS)]
    assert read == {file: [*head, kind, *tail] for file, kind in kinds.items()}


def test_uint8_is_beside_int8_only_and_gives_the_same_bits(contents: Contents) -> None:
    found = [str(path.relative_to(contents.root)) for path in (contents.root / "models").rglob("*.uint8.*")]
    assert found == ["models/int8/tflite/model.uint8.tflite"]
    inputs = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1), dtype=np.uint8)
    target = registry.load("targets", "tflite")
    path = contents.root / found[0]
    (same,), (shifted,) = (_parity.predict(file, target, inputs) for file in (path.with_name("model.tflite"), path))
    assert np.array_equal(same, shifted)


def test_uint8_shifts_the_zero_points_and_keeps_the_signature(contents: Contents) -> None:
    from ai_edge_litert.interpreter import Interpreter

    folder = contents.root / "models" / "int8" / "tflite"
    int8, uint8 = (Interpreter(str(folder / name)) for name in ("model.tflite", "model.uint8.tflite"))
    for old, new in zip(
        [*int8.get_input_details(), *int8.get_output_details()],
        [*uint8.get_input_details(), *uint8.get_output_details()],
        strict=True,
    ):
        assert (old["dtype"], new["dtype"]) == (np.int8, np.uint8)
        assert new["quantization"] == (old["quantization"][0], old["quantization"][1] + 128)
        assert new["shape"].tolist() == old["shape"].tolist()
    assert uint8.get_signature_list() == int8.get_signature_list()
    ((name, signature),) = uint8.get_signature_list().items()
    run = uint8.get_signature_runner(name)
    (result,) = run(**{signature["inputs"][0]: np.zeros((1, 8, 8, 1), np.uint8)}).values()
    assert result.dtype == np.uint8


def test_a_float_model_has_no_uint8_counterpart(matrix: Store) -> None:
    assert _tflite_metadata.as_uint8(measured(matrix, "fp32", "tflite")[0].read_bytes()) is None


def test_labels_of_any_text_and_several_outputs_arrive(matrix: Store, tmp_path: Path) -> None:
    path, artifact = measured(matrix, "int8", "tflite")
    labels = ("a,b", "日本", 'say "x"', "", *"456789")
    spec = replace(artifact.spec, labels=labels)
    content = _tflite_metadata.with_metadata(path.read_bytes(), replace(artifact, spec=spec), "1.0.0", "MIT")
    (tmp_path / "m.tflite").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "m.tflite") as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode() == "\n".join(labels) + "\n"


def test_labels_with_a_line_break_get_no_file_of_lines(matrix: Store) -> None:
    path, artifact = measured(matrix, "int8", "tflite")
    spec = replace(artifact.spec, labels=("a\nb", *"123456789"))
    content = _tflite_metadata.with_metadata(path.read_bytes(), replace(artifact, spec=spec), "1.0.0", "MIT")
    assert not zipfile.is_zipfile(io.BytesIO(content))


def test_an_image_without_a_range_is_an_image_and_a_vector_is_not(matrix: Store) -> None:
    path, artifact = measured(matrix, "fp32", "tflite")
    (image,) = artifact.spec.inputs
    specs = [
        replace(artifact.spec, inputs=(tensor,), preprocessing=preprocessing)
        for tensor, preprocessing in (
            (image, artifact.spec.preprocessing),
            (replace(image, value_range=None), artifact.spec.preprocessing),
            (replace(image, shape=(64,)), Standardization((0.0,), (1.0,))),
        )
    ]
    made = [
        _tflite_metadata.with_metadata(path.read_bytes(), replace(artifact, spec=spec), "1.0.0", "MIT")
        for spec in specs
    ]
    assert made[0] == made[1] != made[2]
    assert b"pixels from 0 to 255" in made[1] and b"pixels from 0 to 255" not in made[2]


def test_a_file_with_metadata_or_other_outputs_is_refused(matrix: Store) -> None:
    path, artifact = measured(matrix, "fp32", "tflite")
    once = _tflite_metadata.with_metadata(path.read_bytes(), artifact, "1.0.0", "MIT")
    with pytest.raises(Unsupported, match="TFLITE_METADATA"):
        _tflite_metadata.with_metadata(once, artifact, "1.0.0", "MIT")
    with pytest.raises(Unsupported, match="1 outputs"):
        _tflite_metadata.with_metadata(
            path.read_bytes(), replace(artifact, outputs=artifact.outputs * 2), "1.0.0", "MIT"
        )


# -- ONNX and Core ML --------------------------------------------------------------------------------------------------


def test_onnxruntime_reads_the_metadata(contents: Contents) -> None:
    import onnx
    import onnxruntime

    path = contents.root / cell(contents, "int8", "onnx").file
    found = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map
    _expect(found, contents, "int8")
    onnx.checker.check_model(onnx.load(path), full_check=True)


READ_COREML = """
import json, sys
sys.modules["tensorflow"] = sys.modules["torch"] = None
import coremltools
model = coremltools.models.MLModel(sys.argv[1], skip_model_load=True)
about = [model.short_description, model.version, model.license, dict(model.user_defined_metadata)]
spec = model.get_spec()
print(json.dumps([*about, [each.name for each in spec.description.input], spec.WhichOneof("Type")]))
"""


def test_coremltools_reads_the_metadata(contents: Contents) -> None:
    path = contents.root / cell(contents, "int8", "coreml").file
    printed = _python(READ_COREML, [path])
    description, version, licence, defined, inputs, kind = json.loads(printed.splitlines()[-1])
    assert (version, licence, inputs, kind) == (VERSION, "Apache-2.0", ["image"], "mlProgram")
    assert "tiny" in description and "int8" in description
    prefix = "org.lastmile."
    _expect({k.removeprefix(prefix): v for k, v in defined.items() if k.startswith(prefix)}, contents, "int8")


def _expect(found: dict[str, str], contents: Contents, recipe: str) -> None:
    assert (found["model"], found["version"], found["model_license"]) == ("tiny", VERSION, "Apache-2.0")
    assert (found["task"], found["recipe"], found["framework"]) == ("image_classification", recipe, "torch")
    assert found["weights_sha256"] == contents.weights_sha256
    assert json.loads(found["labels"]) == LABELS
    assert json.loads(found["preprocessing"])["crop"] == 8
    assert json.loads(found["inputs"])[0]["value_range"] == [0.0, 255.0]


def _python(code: str, arguments: Sequence[Any]) -> str:
    argv = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
