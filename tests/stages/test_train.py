"""The train stage: an existing checkpoint is reused if it matches the options; one that is replaced is kept."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from pipeline import registry
from pipeline.core import Checkpoint
from pipeline.datasets import Split
from pipeline.errors import BadOption
from pipeline.stages import train
from pipeline.stages.plan import Job
from pipeline.system import store
from pipeline.system.store import Store
from tests import plans
from tests.cli import inv
from tests.runs import Run

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("imported")


def checkpoint_of(build: Store) -> Checkpoint:
    found = store.read(Checkpoint, build.checkpoint("tiny", "torch") / "checkpoint.json")
    assert found is not None
    return found


def test_a_checkpoint_records_its_origin_settings_and_hashes(matrix: Store) -> None:
    found = checkpoint_of(matrix)
    assert found.origin == "trained"
    assert (found.framework, found.data, found.samples) == ("torch", None, 504)
    assert found.facts["settings"] == {"epochs": 2, "batch_size": 64, "lr": 0.01, "seed": 0}
    assert found.facts["epoch"] == 2 and found.facts["device"]
    folder = matrix.checkpoint("tiny", "torch")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["checkpoint.json", found.weights, found.predictions]
    )
    assert store.sha256(folder / found.weights) == found.weights_sha256
    assert not (matrix.home("tiny", "torch") / "training").exists(), "the state to resume from is removed"


def test_accuracy_is_computed_from_the_stored_outputs_of_the_test_split(matrix: Store) -> None:
    found = checkpoint_of(matrix)
    with np.load(matrix.checkpoint("tiny", "torch") / found.predictions) as kept:
        outputs, labels = kept["output_0"], kept["labels"]
    assert (labels == train.split_of(found, plans.job()).labels).all()
    assert found.accuracy == (outputs.argmax(1) == labels).mean() > 0.8


def test_no_test_image_occurs_in_the_other_splits(matrix: Store) -> None:
    found = checkpoint_of(matrix)
    splits = {name: train.split_of(found, plans.job(), name) for name in ("train", "validation", "test")}
    assert found.facts["train_sha256"] == splits["train"].sha256 != splits["test"].sha256

    def images(split: Split) -> set[bytes]:
        return {split.read(i).tobytes() for i in range(len(split))}

    assert not images(splits["train"]) & images(splits["test"])
    assert not images(splits["validation"]) & images(splits["test"])


def test_tensorboard_shows_the_training_curves_and_the_mistakes(matrix: Store) -> None:
    found = checkpoint_of(matrix)
    run = Run(matrix.home("tiny", "torch") / "tensorboard" / found.key[:12])
    steps = [step for step, _ in run.scalars("loss/train")]
    assert steps == [19, 38] and found.facts["steps"] == steps[-1]
    assert [value for _, value in run.scalars("loss/train")] == pytest.approx(found.facts["losses"])
    assert max(value for _, value in run.scalars("accuracy/validation")) == pytest.approx(found.facts["best_accuracy"])
    assert run.scalars("lr")[-1][1] == pytest.approx(0, abs=1e-4)
    assert run.scalars("accuracy/test") == [(steps[-1], pytest.approx(found.accuracy))]
    assert run.tensor("weights/classifier.weight")[:, 2].sum() == 10 * 8 * 4 * 4
    with np.load(matrix.checkpoint("tiny", "torch") / found.predictions) as kept:
        outputs, labels = kept["output_0"].argmax(1), kept["labels"]
    wrong = {f"mistakes/{i:05}: {labels[i]} predicted as {outputs[i]}" for i in np.flatnonzero(outputs != labels)}
    assert run.images().keys() <= wrong and len(run.images()) == min(24, len(wrong)) > 0
    assert run.embedding().sprite.image_path and len((run.folder / "features.tsv").read_text().splitlines()) == 504
    assert run.hyperparameters() | {"model": "tiny", "framework": "torch", "epochs": 2} == run.hyperparameters()
    assert run.ended() and run.nodes()


# -- the existing checkpoint and the options ---------------------------------------------------------------------------


def test_a_checkpoint_is_ready_only_if_it_matches_every_given_option(matrix: Store, job: Job) -> None:
    found = checkpoint_of(matrix)
    assert train.ready(matrix, job) == found
    for same in ({"epochs": 2}, {"batch_size": 64}, {"lr": 0.01}, {"seed": 0}, {"resume": False}):
        assert train.ready(matrix, plans.changed(job, **same)) == found, same
    for other in ({"epochs": 3}, {"batch_size": 32}, {"lr": 0.02}, {"seed": 1}):
        assert train.ready(matrix, plans.changed(job, **other)) is None, other


def test_an_up_to_date_checkpoint_is_reused_without_loading_a_framework(matrix: Store) -> None:
    code = "import sys\nfrom pathlib import Path\nfrom pipeline.stages import train\n"
    code += "from pipeline.system.store import Store\n"
    code += "from tests.plans import job\nprint(train.ensure(Store(Path(sys.argv[1])), job()).key)\n"
    code += "print([m for m in ('torch', 'numpy') if m in sys.modules])"
    command = [sys.executable, "-c", code, str(matrix.root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == [checkpoint_of(matrix).key, "[]"]


def test_inv_train_trains_again_with_other_versions_of_the_tools_and_other_commands_do_not(
    matrix: Store, job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = checkpoint_of(matrix)
    assert train.renewal(job, found) is None
    versions = registry.versions
    monkeypatch.setattr(registry, "versions", lambda names: {**versions(names), "lightning_fabric": "99.0"})
    assert train.renewal(job, found) is not None
    assert "lightning_fabric" in capsys.readouterr().err
    assert train.ready(matrix, job) == found


@pytest.mark.parametrize("which", ["weights", "predictions"])
def test_a_checkpoint_with_an_altered_file_is_not_ready_and_a_message_names_the_file(
    which: str, copied: Store, job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied.checkpoint("tiny", "torch") / getattr(checkpoint_of(copied), which)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert train.ready(copied, job) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path} does not match its manifest")


# -- training ----------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_in_another_store(matrix: Store, job: Job, tmp_path: Path) -> None:
    again = train.ensure(Store(tmp_path), job)
    assert again.weights_sha256 == checkpoint_of(matrix).weights_sha256
    assert again.key == checkpoint_of(matrix).key


KILLED = """
import dataclasses, os, signal, sys
from pathlib import Path
from pipeline.core import Checkpoint
from pipeline.stages import train
from pipeline.system import store
from tests.builds import Tree

def write(folder, checkpoint):
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_text(checkpoint.weights_sha256)
    store.write(folder / train.MANIFEST, checkpoint)

def weights(folder):
    found = store.read(Checkpoint, folder / train.MANIFEST)
    assert found is not None, folder
    assert (folder / "model.safetensors").read_text() == found.weights_sha256
    return found.weights_sha256[0]

def replaced(final, old, step):
    pid = os.fork()
    if pid == 0:
        left = step
        def count(frame, event, function):
            nonlocal left
            left -= event in ("c_call", "c_return") and function.__module__ == "posix"
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.setprofile(count)
        with store.atomic(final) as new:
            write(new, dataclasses.replace(old, weights_sha256="n" * 64))
            train._set_aside(final)
        sys.setprofile(None)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0

step, seen, ended = 0, set(), False
while not ended:
    tree = Tree(Path(sys.argv[1]) / str(step))
    old, final = tree.checkpoint(), tree.build.checkpoint("toy", "torch")
    write(final, old)
    ended = replaced(final, old, step)
    seen.add(weights(final))
    with store.lock(tree.build, "a test"):
        pass
    kept = sorted(path for path in final.parent.iterdir() if path != final)
    assert {weights(path) for path in [final, *kept]} >= {"w"}, step
    step += 7
print(step > 30, sorted(seen))
"""


def test_a_kill_at_any_moment_leaves_a_checkpoint_and_the_old_weights(tmp_path: Path) -> None:
    memory = Path("/dev/shm")  # flushing to a disk takes long
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as place:
        command = [sys.executable, "-c", KILLED, place]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True ['n', 'w']\n"


def test_imported_weights_replace_a_checkpoint_which_is_kept_beside_it(copied: Store, job: Job, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    old = checkpoint_of(copied)
    folder = copied.checkpoint("tiny", "torch")
    state = load_file(folder / old.weights)
    mine = tmp_path / "mine.safetensors"
    save_file({name: -value if name == "classifier.weight" else value for name, value in state.items()}, mine)
    with_weights = plans.changed(job, weights=mine)
    assert train.ready(copied, with_weights) is None
    new = train.ensure(copied, with_weights)
    assert new.origin == str(mine)
    assert new.facts["source_sha256"] == store.sha256(mine)
    assert new.accuracy < 0.3 < old.accuracy
    assert train.ready(copied, with_weights) == train.ready(copied, job) == new
    kept = folder.with_name(f"checkpoint-{old.weights_sha256[:8]}")
    assert store.read(Checkpoint, kept / "checkpoint.json") == old
    assert store.sha256(kept / old.weights) == old.weights_sha256
    mine.write_bytes(mine.read_bytes() + b" ")
    assert train.ready(copied, with_weights) is None, "the weights file has changed"


def test_training_in_both_frameworks_prints_no_warning(tiny: Path, tmp_path: Path) -> None:
    """Without a GPU, CUDA's loader fails differently for the framework that is imported second."""
    done = inv(tmp_path / "build", "train", "--model", tiny, "--framework", "all", "--epochs", "1")
    assert len(done.lines) == 2
    assert "Warning" not in done.err and "CUDA" not in done.err


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"epochs": -1}, {"batch_size": 0}, {"lr": 0.0}, {"lr": -1.0}, {"lr": float("nan")},
        {"lr": float("inf")}, {"seed": -1}, {"accelerator": "tpu"},
    ],
)  # fmt: skip
def test_invalid_options_are_refused_before_anything_is_written(
    wrong: dict[str, float], job: Job, tmp_path: Path
) -> None:
    with pytest.raises(BadOption, match="--"):
        train.ensure(Store(tmp_path), plans.changed(job, **wrong))
    assert list(tmp_path.iterdir()) == []
