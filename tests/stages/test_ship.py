"""Ship: which files go into a bundle, what the bundle holds, and which versions are refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import core, stats
from pipeline.core import Artifact, Measurement, from_json
from pipeline.errors import BadOption, Broken, Unsupported
from pipeline.packages import Contents
from pipeline.registry import Plugin
from pipeline.results import bundle as bundles
from pipeline.stages import ship
from pipeline.stages.ship import Options
from pipeline.system import store
from tests import builds
from tests import bundles as writing
from tests.builds import LOCAL
from tests.bundles import BOARD, cell, made, tree, usual
from tests.cli import inv
from tests.cli import tree as content


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> ship.Shipped:
    """A bundle of six files. Read only."""
    return made(usual(tmp_path_factory.mktemp("ship") / "build"))


# -- what is in it -----------------------------------------------------------------------------------------------------


def test_a_bundle_holds_every_file_with_its_manifest_measurements_and_golden_outputs(shipped: ship.Shipped) -> None:
    bundle, root = shipped.bundle, shipped.path
    assert shipped.made
    assert root.name == "tiny-1.0.0"
    assert (bundle.model, bundle.version, bundle.previous, bundle.licence) == ("tiny", "1.0.0", None, "NOASSERTION")
    names = {(one.recipe, one.target) for one in bundle.cells}
    assert names == {(recipe, target) for recipe in ("fp32", "int8") for target in ("tflite", "onnx", "coreml")}
    for one in bundle.cells:
        artifact = from_json(Artifact, json.loads((root / one.file).with_name("artifact.json").read_text()))
        assert (root / one.file).read_bytes() == f"{one.recipe} {one.target}".encode() * 64
        assert (artifact.recipe, artifact.target, artifact.size_bytes) == (
            one.recipe,
            one.target,
            (root / one.file).stat().st_size,
        )
        ran = one.target != "coreml"
        assert [result.device for result in one.results] == (["local"] if ran else [None])
        assert one.golden == (("host",) if ran else ())
        assert len(one.measurements) == ran
    assert set(content(root)) - {"bundle.json"} == set(bundle.files)


def test_a_core_ml_file_that_nothing_ran_is_marked(shipped: ship.Shipped) -> None:
    (one,) = [one for one in shipped.bundle.cells if (one.recipe, one.target) == ("fp32", "coreml")]
    assert one.results[0].unchecked is not None and "Core ML" in one.results[0].unchecked
    assert ("not checked", "fp32 on coreml") in [
        (status, text.partition(":")[0]) for status, text in ship.lines(shipped)
    ]


def test_golden_outputs_are_those_that_were_recorded(shipped: ship.Shipped, tmp_path: Path) -> None:
    source, root = usual(tmp_path / "build"), shipped.path
    golden = bundles.golden(root)
    chosen = list(golden.samples)
    assert len(chosen) == ship.GOLDEN_SAMPLES
    assert golden.labels == tuple(source.truth[chosen])
    assert np.array_equal(np.load(root / "golden" / "float.npy"), source.logits[chosen])
    assert np.array_equal(np.load(root / "golden" / "int8" / "onnx" / "host.npy"), source.logits[chosen])
    assert golden.top1["int8/onnx/host"] == golden.float_top1 == tuple(stats.top1(source.logits[chosen]).tolist())
    inputs = np.load(root / "golden" / "inputs.npy")
    assert (inputs.dtype, inputs.shape) == (np.uint8, (8, 8, 8, 1))
    images = [np.asarray(Image.open(root / "golden" / "images" / f"{i}.png")) for i in range(8)]
    assert np.array_equal(np.stack(images)[..., None], inputs)


def test_measurements_and_predictions_of_every_sample_can_be_read_back(shipped: ship.Shipped, tmp_path: Path) -> None:
    source = usual(tmp_path / "build")
    (one,) = [one for one in shipped.bundle.cells if (one.recipe, one.target) == ("int8", "tflite")]
    (measurement,) = bundles.measurements(shipped.path, one)
    assert isinstance(measurement, Measurement)
    assert measurement.device["name"] == "local"
    assert len(measurement.processes) == 5
    assert np.array_equal(bundles.labels(shipped.path), source.truth)
    assert np.array_equal(bundles.float_top1(shipped.path), stats.top1(source.logits))
    assert np.array_equal(bundles.top1(shipped.path, one.measurements[0]), stats.top1(source.logits))


def test_tolerances_are_twice_what_was_seen_between_devices(tmp_path: Path) -> None:
    source = tree(tmp_path / "build")
    parity = core.Parity("float model", 128, 90.0, 1.0, 1e-5, None, 1.0, 0.5)
    cell(source, "fp32", "tflite", LOCAL, parity=parity)
    path = source.build.cell("tiny", "torch", "fp32", "tflite") / "model.bin"
    digest = from_json(Artifact, json.loads(path.with_name("artifact.json").read_text())).sha256
    moved = source.logits + np.float32(0.125)
    source.measure("fp32", "tflite", moved, BOARD, artifact_sha256=digest)
    shipped = made(source)
    (one,) = shipped.bundle.cells
    assert one.golden == ("host", "desk-board")
    chosen = list(bundles.golden(shipped.path).samples)
    assert np.array_equal(np.load(shipped.path / "golden/fp32/tflite/desk-board.npy"), moved[chosen])
    assert one.tolerance == pytest.approx(0.25, rel=1e-3)


def test_a_measurement_of_some_samples_has_golden_outputs_of_the_right_ones(tmp_path: Path) -> None:
    source = tree(tmp_path / "build")
    cell(source, "fp32", "tflite")
    digest = bundles_sha(source, "fp32", "tflite")
    chosen = stats.stratified(source.truth, 20)
    whole = source.logits
    accuracy = {"samples": 20, "value": float((stats.top1(whole[chosen]) == source.truth[chosen]).mean())}
    measured = source.measure("fp32", "tflite", None, LOCAL, artifact_sha256=digest)
    folder = source.build.cell("tiny", "torch", "fp32", "tflite") / "local"
    np.savez(folder / "predictions.npz", output_0=whole[chosen])
    accuracy["predictions_sha256"] = store.sha256(folder / "predictions.npz")
    store.write(folder / "measurement.json", replace(measured, accuracy=replace(measured.accuracy, **accuracy)))
    shipped = made(source)
    golden = bundles.golden(shipped.path)
    assert set(golden.samples) <= set(chosen.tolist())
    assert np.array_equal(np.load(shipped.path / "golden/fp32/tflite/host.npy"), whole[list(golden.samples)])


def bundles_sha(source: Any, recipe: str, target: str) -> str:
    path = source.build.cell("tiny", "torch", recipe, target) / "artifact.json"
    return from_json(Artifact, json.loads(path.read_text())).sha256


def test_the_recommended_file_is_the_fastest_within_the_margin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "SAMPLES", 600)  # with 200, an interval without a changed sample exceeds the margin
    source = tree(tmp_path / "build")
    cell(source, "fp32", "tflite", LOCAL)
    cell(source, "int8", "tflite", LOCAL, outputs=source.wrong(60))
    cell(source, "fp16", "tflite")
    source.measure(
        "fp16", "tflite", None, LOCAL, artifact_sha256=bundles_sha(source, "fp16", "tflite"),
        runs=tuple((10, 100_000 + i) for i in range(101)),
    )  # fmt: skip
    bundle = made(source).bundle
    assert bundle.recommended == {"tflite": "fp16"}
    assert bundles.contents(source.root / "ship" / "tiny-1.0.0").recommended("onnx") is None


def test_hugging_face_reads_the_card(shipped: ship.Shipped) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(shipped.path / "README.md")
    card.data.to_yaml()
    assert (card.data.license, card.data.pipeline_tag) == ("unknown", "image-classification")
    assert card.data.model_name == "tiny"
    assert card.data.eval_results[0].metric_value == shipped.bundle.accuracy
    assert len(card.data.eval_results) == 1 + 4
    for heading in ("About", "Files", "Accuracy drop by class", "Limits", "Licence"):
        assert f"## {heading}" in card.text
    assert "fp32 on coreml was exported and never run" in card.text


@pytest.mark.parametrize(
    ("licence", "known"), [("Apache-2.0", "apache-2.0"), ("MIT OR Apache-2.0", "other"), ("LicenseRef-own", "other")]
)
def test_the_card_has_the_licence_as_the_hub_knows_it(tmp_path: Path, licence: str, known: str) -> None:
    source = tree(tmp_path / "build")
    cell(source, "fp32", "tflite", LOCAL)
    found = ship.ship(source.build, writing.plan(), Options("1.0.0", licence=licence))
    first = (found.path / "README.md").read_text().splitlines()[1]
    assert first == f'license: "{known}"'
    bill = json.loads((found.path / "sbom.cdx.json").read_text())
    assert bill["metadata"]["component"]["licenses"] == [{"expression": licence}]


def test_the_bill_of_materials_names_model_files_data_and_tools(shipped: ship.Shipped) -> None:
    bill = json.loads((shipped.path / "sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.7")
    assert "licenses" not in bill["metadata"]["component"]
    by_name = {one["name"]: one for one in bill["components"]}
    for one in shipped.bundle.cells:
        assert by_name[one.file]["hashes"] == [{"alg": "SHA-256", "content": shipped.bundle.files[one.file].sha256}]
    assert by_name["torch"]["purl"] == "pkg:pypi/torch@2.13.0"
    assert by_name["digits"]["type"] == "data"
    references = {one["bom-ref"] for one in [bill["metadata"]["component"], *bill["components"]]}
    assert len(references) == 1 + len(bill["components"])
    for one in bill["dependencies"]:
        assert {one["ref"], *one["dependsOn"]} <= references


def test_the_provenance_names_every_file_and_what_it_was_made_from(shipped: ship.Shipped) -> None:
    value = json.loads((shipped.path / "provenance.intoto.json").read_text())
    assert value["predicateType"] == "https://slsa.dev/provenance/v1"
    subjects = {one["name"]: one["digest"]["sha256"] for one in value["subject"]}
    files = {name: file.sha256 for name, file in shipped.bundle.files.items()}
    assert subjects == {name: digest for name, digest in files.items() if name != "provenance.intoto.json"}
    made_from = value["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {"sha256": shipped.bundle.weights_sha256} in [one.get("digest") for one in made_from]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_failed_and_unmeasured_files_are_left_out_by_name(tmp_path: Path) -> None:
    source = tree(tmp_path / "build")
    cell(source, "fp32", "tflite", LOCAL)
    cell(source, "fp32", "onnx")
    source.fail("fp32", "executorch", "the converter crashed")
    bundle = made(source).bundle
    assert [(one.recipe, one.target) for one in bundle.cells] == [("fp32", "tflite")]
    left = {one.what: (one.status, one.reason) for one in bundle.left_out}
    assert left["fp32 on executorch"] == ("failed", "the converter crashed")
    assert left["fp32 on onnx"][0] == "missing"
    assert "inv bench" in left["fp32 on onnx"][1]
    assert left["int8 on tflite"][0] == "missing"


@pytest.mark.parametrize("named", [{"recipes": "fp32"}, {"targets": ["onnx", "tflite"]}])
def test_a_named_file_that_did_not_pass_is_refused(tmp_path: Path, named: dict[str, Any]) -> None:
    source = tree(tmp_path / "build")
    cell(source, "fp32", "tflite", LOCAL)
    cell(source, "fp32", "onnx")
    with pytest.raises(Unsupported, match="fp32 on onnx"):
        made(source, **named)
    assert not (source.root / "ship").exists()


def test_a_file_that_was_never_checked_is_refused(tmp_path: Path) -> None:
    source = tree(tmp_path / "build")
    cell(source, "fp32", "tflite", LOCAL, parity=None)
    with pytest.raises(Unsupported, match="fp32 on tflite: it was never checked"):
        made(source)


def test_a_model_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="can be shipped"):
        made(tree(tmp_path / "build"))


def test_a_device_that_measured_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="not measured on local-tflite-runtime"):
        made(usual(tmp_path / "build"), devices="local-tflite-runtime", targets=["tflite"], recipes="fp32")


@pytest.mark.parametrize("what", ["file", "manifest", "measurement", "predictions"])
def test_a_changed_file_or_manifest_is_refused_and_nothing_is_written(tmp_path: Path, what: str) -> None:
    source = usual(tmp_path / "build")
    folder = source.build.cell("tiny", "torch", "int8", "onnx")
    path = folder / {
        "file": "model.bin", "manifest": "artifact.json", "measurement": "local/measurement.json",
        "predictions": "local/predictions.npz",
    }[what]  # fmt: skip
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 0x80
    path.write_bytes(bytes(changed))
    for named in ({}, {"recipes": "int8", "targets": "onnx"}):
        with pytest.raises(Broken):
            made(source, **named)
    assert not (source.root / "ship" / "tiny-1.0.0").exists()


# -- versions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1", "1.0", "v1.0.0", "01.0.0", "1.0.0-rc1", "1.0.0\n", "1.0.-1", "", "1.0.٣"])
def test_a_version_must_be_major_minor_patch(version: str) -> None:
    with pytest.raises(BadOption, match="--version"):
        Options(version).check()


@pytest.mark.parametrize(
    "licence",
    ["MIT", "Apache-2.0", "GPL-2.0-only WITH Classpath-exception-2.0", "(MIT OR Apache-2.0) AND LicenseRef-own"],
)
def test_spdx_expressions_are_licences(licence: str) -> None:
    Options("1.0.0", licence=licence).check()


@pytest.mark.parametrize("licence", ["", "Apache 2", "MIT;", "MIT OR", "a\nb", "(MIT", "MIT)", "()", "MIT () AND X"])
def test_a_licence_must_be_an_spdx_expression(licence: str) -> None:
    with pytest.raises(BadOption, match="--licence"):
        Options("1.0.0", licence=licence).check()


def changed(source: Any, **changes: Any) -> None:
    """Writes the same files again, of a model with a changed spec or other weights."""
    weights = changes.pop("weights_sha256", "w" * 64)
    spec = replace(source.spec, **changes)
    source.checkpoint(spec=spec, weights_sha256=weights)
    for recipe in ("fp32", "int8"):
        for target in ("tflite", "onnx"):
            cell(source, recipe, target, LOCAL, spec=spec, weights_sha256=weights)
        cell(source, recipe, "coreml", spec=spec, weights_sha256=weights)


CONTRACT = {
    "labels": {"labels": ("a", "b", "d", "c")},
    "outputs": {"outputs": (core.Tensor("scores", (4,)),)},
    "inputs": {"inputs": (core.Tensor("picture", (8, 8, 1), value_range=(0.0, 255.0)),)},
    "preprocessing": {"preprocessing": core.Preprocessing("L", 10, 8, (0.0,), (255.0,))},
}


@pytest.mark.parametrize("what", CONTRACT)
def test_a_changed_contract_needs_a_major_version(tmp_path: Path, what: str) -> None:
    source = usual(tmp_path / "build")
    made(source, "1.4.2")
    changed(source, **CONTRACT[what])
    for version in ("1.4.3", "1.5.0", "1.4.2", "1.0.0"):
        with pytest.raises(BadOption):
            made(source, version)
    with pytest.raises(BadOption, match=rf"the {what}.*2\.0\.0"):
        made(source, "1.9.9")
    assert made(source, "2.0.0").bundle.previous == "1.4.2"


def test_another_layout_of_a_file_needs_a_major_version(tmp_path: Path) -> None:
    source = usual(tmp_path / "build")
    made(source)
    cell(source, "int8", "onnx", LOCAL, inputs=(core.Port("image", (1, 1, 8, 8), "float32", "NCHW"),))
    with pytest.raises(BadOption, match=r"int8 on onnx.*2\.0\.0"):
        made(source, "1.1.0")


def test_other_weights_need_a_minor_version(tmp_path: Path) -> None:
    source = usual(tmp_path / "build")
    made(source)
    changed(source, weights_sha256="v" * 64)
    with pytest.raises(BadOption, match=r"the weights.*1\.1\.0"):
        made(source, "1.0.1")
    assert made(source, "1.1.0").bundle.previous == "1.0.0"


def test_another_toolchain_needs_a_patch_version(tmp_path: Path) -> None:
    source = usual(tmp_path / "build")
    made(source)
    cell(source, "int8", "onnx", LOCAL, tools={"torch": "2.14.0"}, content=b"converted by another version")
    with pytest.raises(BadOption, match="exists"):
        made(source, "1.0.0")
    with pytest.raises(BadOption, match=r"int8 on onnx.*1\.0\.1"):
        made(source, "0.9.0")
    assert made(source, "1.0.1").made


def test_versions_are_compared_as_numbers_with_the_highest_of_the_model(tmp_path: Path) -> None:
    source = usual(tmp_path / "build")
    made(source, "1.9.0")
    made(source, "1.10.0")
    shutil.copytree(source.root / "ship" / "tiny-1.10.0", source.root / "ship" / "tiny-mini-7.0.0")
    with pytest.raises(BadOption):
        made(source, "1.9.1")
    assert made(source, "1.10.1").bundle.previous == "1.10.0"


# -- made once ---------------------------------------------------------------------------------------------------------


def test_an_up_to_date_bundle_is_not_touched(tmp_path: Path) -> None:
    source = usual(tmp_path / "build")
    first = made(source)
    times = {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    second = made(source)
    assert (first.made, second.made) == (True, False)
    assert {path: path.stat().st_mtime_ns for path in first.path.rglob("*")} == times


def test_a_version_that_exists_is_never_overwritten(tmp_path: Path) -> None:
    source = usual(tmp_path / "build")
    before = content(made(source).path)
    cell(source, "fp32", "onnx", LOCAL, content=b"other bytes")
    with pytest.raises(BadOption, match=r"1\.0\.0"):
        made(source)
    assert content(source.root / "ship" / "tiny-1.0.0") == before


def test_a_folder_that_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    source = usual(tmp_path / "build")
    (source.root / "ship" / "tiny-1.0.0").mkdir(parents=True)
    (source.root / "ship" / "tiny-1.0.0" / "thesis.txt").write_text("mine")
    with pytest.raises(Broken):
        made(source)
    assert (source.root / "ship" / "tiny-1.0.0" / "thesis.txt").read_text() == "mine"


def test_the_same_inputs_and_key_give_the_same_bytes_but_for_the_signature(tmp_path: Path) -> None:
    key, _ = writing.keys(tmp_path / "keys")
    one = content(made(usual(tmp_path / "one" / "build"), key=key).path)
    other = content(made(usual(tmp_path / "other" / "build"), key=key).path)
    assert one.pop("bundle.sig") != b"" != other.pop("bundle.sig")
    assert one == other


def test_a_package_is_written_into_its_folder_or_refused_with_its_reason(tmp_path: Path) -> None:
    class Package:
        FOLDER = "letter"

        def supports(self, contents: Contents) -> str | None:
            return None if contents.recommended("tflite") else "it needs a file for tflite"

        def write(self, contents: Contents, folder: Path) -> None:
            assert (contents.root / contents.cells[0].file).is_file()
            (folder / "hello.txt").write_text(f"{contents.model} {contents.version}")

    plugin: Plugin[Any] = Plugin("packages", "letter", Package())
    with_hash = pytest.MonkeyPatch()
    with_hash.setattr(ship.packages, "source_hash", lambda name: name)
    source = usual(tmp_path / "build")
    found = ship.ship(source.build, writing.plan(), Options("1.0.0", (plugin,)))
    assert (found.path / "letter" / "hello.txt").read_text() == "tiny 1.0.0"
    assert found.bundle.packages == ("letter",)
    assert "letter/hello.txt" in found.bundle.files
    only_onnx = writing.plan(targets="onnx")
    left = ship.ship(source.build, only_onnx, Options("1.0.1", (plugin,))).bundle.left_out[-1]
    assert (left.what, left.status, left.reason) == ("letter", "unsupported", "it needs a file for tflite")
    with pytest.raises(Unsupported, match="letter"):
        ship.ship(source.build, only_onnx, Options("1.0.2", (plugin,), every_package=False))
    assert not (source.root / "ship" / "tiny-1.0.2").exists()
    with_hash.undo()


def test_the_command_ships_and_verifies(tmp_path: Path) -> None:
    source = usual(tmp_path / "build")
    key, public = writing.keys(tmp_path / "keys")
    words = ("ship", "--model", plans_model(), "--version", "1.0.0", "--key", key, "--package", "python")
    lines = inv(source.root, *words).lines
    assert lines[-1] == f"{source.root / 'ship' / 'tiny-1.0.0'}: made"
    assert inv(source.root, *words).lines[-1].endswith(": up to date")
    root = source.root / "ship" / "tiny-1.0.0"
    assert inv(source.root, "verify", root, "--key", public).code == 0
    victim = root / "models" / "int8" / "tflite" / "model.bin"
    victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    assert "models/int8/tflite/model.bin" in inv(source.root, "verify", root, "--key", public).complaint


def plans_model() -> Path:
    from tests.plans import TINY

    return TINY
