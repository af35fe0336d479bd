"""The model card of a bundle, README.md in Hugging Face's form: YAML that the hub reads, then text and tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from pipeline import formatting
from pipeline.core import Bundle, ModelSpec
from pipeline.report import charts, origins, tables
from pipeline.report.page import Block, Section, Table, markdown, numbers, texts
from pipeline.results.rows import Row

NO_LICENCE = "NOASSERTION"
TASKS = {"image_classification": "image-classification"}
"""What Hugging Face calls a task; another task's name is used as it is, with hyphens."""


def card(bundle: Bundle, rows: Sequence[Row]) -> str:
    """README.md of a bundle.

    Args:
        rows: the results of the bundle's files.
    """
    title = f"{bundle.model} {bundle.version}"
    return f"---\n{_metadata(bundle)}---\n\n" + markdown(_sections(bundle, rows), title)


def _metadata(bundle: Bundle) -> str:
    """The YAML. Values are JSON, which is YAML as well, so no name needs quoting of its own."""
    task = TASKS.get(bundle.spec.task, bundle.spec.task.replace("_", "-"))
    targets = sorted({cell.target for cell in bundle.cells})
    dataset = {"name": bundle.spec.dataset, "type": bundle.spec.dataset, "split": "test"}
    metrics = [
        {"type": "accuracy", "value": result.accuracy, "name": f"{cell.recipe} on {cell.target}, {result.device}"}
        for cell in bundle.cells
        for result in cell.results
        if result.accuracy is not None
    ]
    model = {
        "name": bundle.model,
        "results": [
            {
                "task": {"type": task},
                "dataset": dataset,
                "metrics": [{"type": "accuracy", "value": bundle.accuracy, "name": "float model"}, *metrics],
            }
        ],
    }
    fields: dict[str, object] = {
        "license": "unknown" if bundle.licence == NO_LICENCE else bundle.licence.lower(),
        "pipeline_tag": task,
        "tags": ["lastmile", bundle.framework, *targets],
        "metrics": ["accuracy"],
        "model-index": [model],
    }
    if " " in bundle.licence or bundle.licence.startswith("LicenseRef-"):  # the hub knows single, public licences
        fields |= {"license": "other", "license_name": bundle.licence}
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in fields.items())


def _sections(bundle: Bundle, rows: Sequence[Row]) -> list[Section]:
    return [
        Section("about", "About", blocks=(Block(points=tuple(_about(bundle))),)),
        Section("input", "Input and output", blocks=(Block(points=tuple(_contract(bundle.spec))),)),
        Section("files", "Files", blocks=(_files(bundle),)),
        tables.cells(rows),
        charts.classes(rows),
        origins.machines(rows),
        Section("limits", "Limits", blocks=(Block(points=tuple(_limits(bundle))),)),
        Section("licence", "Licence", blocks=(Block(points=(_licence(bundle),)),)),
        Section("check", "Check this bundle", blocks=_checks(bundle)),
    ]


def _about(bundle: Bundle) -> Iterator[str]:
    spec = bundle.spec
    yield f"{spec.task.replace('_', ' ').capitalize()}, {len(spec.labels)} classes, trained in {bundle.framework}."
    yield f"Data: {spec.dataset}; evaluated on the {bundle.samples:,} samples of its test split."
    yield f"The float model's accuracy there: {formatting.percent(bundle.accuracy)} %."
    yield f"Labels: {formatting.listed(spec.labels, 20)}"
    if bundle.previous:
        yield f"The version before this one: {bundle.previous}."
    for target, recipe in bundle.recommended.items():
        yield f"Recommended for {target}: {recipe}."


def _contract(spec: ModelSpec) -> Iterator[str]:
    how = spec.image
    assert how is not None  # only image classifiers are shipped
    for tensor in spec.inputs:
        size = " × ".join(map(str, tensor.shape))
        yield f"Input {tensor.name}: {size} (height, width, channels), {how.color}, raw pixels 0 to 255."
    yield (
        f"Before: apply the EXIF orientation, scale the shorter side to {how.resize} pixels (bilinear, antialiased), "
        f"crop {how.crop} pixels from the centre, drop alpha. The file itself normalises."
    )
    for tensor in spec.outputs:
        size = " × ".join(map(str, tensor.shape))
        yield f"Output {tensor.name}: {size}; the largest value is the class."


def _files(bundle: Bundle) -> Block:
    lines = []
    for cell in bundle.cells:
        ran = ", ".join(str(result.device) for result in cell.results if result.device)
        size = formatting.kilobytes(cell.results[0].size_bytes)
        lines.append((cell.recipe, cell.target, cell.file, ran or "not run", size, f"{cell.tolerance:.3g}"))
    columns = (*texts("recipe", "target", "file", "measured on"), *numbers("size, kB", "tolerance"))
    caption = (
        "Tolerance: the largest difference from the outputs in golden/ that an app should accept. It is twice the "
        "largest that was seen between runtimes and devices."
    )
    return Block(table=Table(columns, tuple(lines)), caption=caption)


def _limits(bundle: Bundle) -> Iterator[str]:
    yield "Accuracy holds for images like those of the test split. Nothing is known about others."
    for cell in bundle.cells:
        for result in cell.results:
            if result.device is None:
                yield f"{cell.recipe} on {cell.target} was exported and never run: {result.unchecked}."
    emulated = sorted({str(r.device) for cell in bundle.cells for r in cell.results if r.emulated})
    if emulated:
        yield f"Emulated, so without latency: {', '.join(emulated)}."
    for one in bundle.left_out:
        if one.status != "unsupported":
            yield f"Not in this bundle: {one.what} ({one.status}: {one.reason})."


def _licence(bundle: Bundle) -> str:
    if bundle.licence == NO_LICENCE:
        return "The licence of the model was not stated. Ask whoever sent it before you use it."
    return f"{bundle.licence}."


def _checks(bundle: Bundle) -> tuple[Block, ...]:
    folder = f"{bundle.model}-{bundle.version}"
    commands = (
        f"inv verify {folder} --key pub.pem",
        f"edge-bench verify {folder} --key pub.pem",
        f"java {folder}/Verify.java {folder} pub.pem",
        f"model_signing verify key {folder} --signature {folder}/bundle.sig --public_key pub.pem",
    )
    text = (
        "Each of these finds one changed byte and names the file. Without a key, they check the hashes alone, which "
        "anybody could have computed."
    )
    return (Block(code="\n".join(commands), caption=text),)
