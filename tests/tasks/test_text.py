"""A transformer for texts: token ids from training to the results, and what an unfit SPEC gets."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from pipeline import sources
from pipeline.core import Artifact
from pipeline.errors import BadModel
from pipeline.stages import train
from pipeline.stages.export import export
from pipeline.system import store
from pipeline.system.store import Store
from tests import plans
from tests.datasets import synthetic
from tests.tasks.test_numbers import MEASURED, cells

MODEL = "text_tiny_transformer"
TRAINING = {"epochs": 4, "batch_size": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.text_list(tmp_path_factory.mktemp("texts") / "sms.tsv", synthetic.messages())


def core_ml_input(build: Store, data: Path) -> str:
    """The type of the input in a static int8 file for Core ML."""
    import coremltools

    (outcome,) = export(build, plans.plan(("coreml",), ("int8",), model=MODEL, data=data, **TRAINING))
    assert outcome.artifact is not None and outcome.path is not None and outcome.artifact.inputs[0].dtype == "int32"
    (described,) = coremltools.utils.load_spec(str(outcome.path)).description.input
    array = described.type.multiArrayType
    return str(array.ArrayDataType.Name(array.dataType))


@pytest.mark.usefixtures("imported")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_texts_are_learnt_and_measured_on_every_target(framework: str, data: Path, tmp_path: Path) -> None:
    build = Store(tmp_path)
    targets = MEASURED if framework == "torch" else MEASURED[:1]
    found = cells(build, targets, model=MODEL, data=data, frameworks=framework, **TRAINING)
    assert set(found) == {(recipe, target) for recipe in ("fp32", "int8") for target in targets}
    for (recipe, target), cell in found.items():
        assert cell.metric == "top1" and (cell.accuracy or 0) > 0.9 and abs(cell.drop_points or 0) <= 4
        assert cell.figures["macro_f1"] > 0.9
        (place,) = tmp_path.glob(f"{MODEL}.*/{recipe}/{target}/artifact.json")
        artifact = store.read(Artifact, place)
        assert artifact is not None
        (port,) = artifact.inputs
        assert (port.shape, port.dtype, port.layout, port.scale) == ((1, 64), "int32", None, None)
        if recipe == "int8":
            assert cell.coverage is not None and 0.5 < cell.coverage.multiply_adds < 1
            assert cell.graph_parity is not None and cell.graph_parity.snr_db > 30
    if framework == "torch":
        assert core_ml_input(build, data) == "INT32"
    (samples,) = tmp_path.glob("**/images.npy")
    assert np.load(samples).dtype == np.int32
    checkpoint = train.ready(build, plans.job(model=MODEL, data=data, framework=framework, **TRAINING))
    assert checkpoint is not None and checkpoint.spec.tokens is not None and len(checkpoint.spec.tokens.sha256) == 64


# -- SPEC --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the model folder under another name."""
    home = sources.find(MODEL).folder
    for name in ("__init__.py", "torch.py", "tokenizer.json"):
        (tmp_path / name).write_bytes((home / name).read_bytes().replace(b'name="text_tiny_', b'name="mine_'))
    return tmp_path


def changed(folder: Path, old: str, new: str) -> Path:
    text = (folder / "__init__.py").read_text()
    assert old in text
    (folder / "__init__.py").write_text(text.replace(old, new))
    return folder


def test_the_hash_of_the_tokenizer_is_taken_from_its_file(folder: Path) -> None:
    before = sources.find(str(folder)).spec.tokens
    content = (folder / "tokenizer.json").read_bytes() + b"\n"
    (folder / "tokenizer.json").write_bytes(content)
    after = sources.find(str(folder)).spec.tokens
    assert before is not None and after is not None
    assert before.sha256 != after.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('tokenizer="tokenizer.json"', 'tokenizer="none.json"', r"none\.json"),
        ('tokenizer="tokenizer.json"', 'tokenizer="../tokenizer.json"', "plain file name"),
        ("padding=0", 'padding=0, sha256="00"', r"tokenizer\.json has the sha256"),
        ("padding=0", "padding=2048", "padding 2048"),
        ("length=64", "length=32", r"int32 \(32,\)"),
        ('"int32"', '"float32"', "float32"),
        ("value_range=(0.0, 2047.0)", "value_range=None", "value_range is None"),
        ("value_range=(0.0, 2047.0)", "value_range=(1.0, 2047.0)", r"\(1\.0, 2047\.0\)"),
        ('dataset="textlist"', 'dataset="digits"', "has images"),
        ("epochs=10", 'epochs=10, augment=("flip",)', "flip"),
        ('preprocessing=Tokens(tokenizer="tokenizer.json", length=64, padding=0, lowercase=True)',
         "preprocessing=__import__('pipeline').Standardization((0.0,), (1.0,))", "Tokens, not Standardization"),
    ],
)  # fmt: skip
def test_a_spec_that_does_not_fit_is_refused(old: str, new: str, named: str, folder: Path) -> None:
    with pytest.raises(BadModel, match=named):
        plans.plan(model=changed(folder, old, new))
