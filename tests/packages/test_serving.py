"""Model repositories of inference servers: Triton's schema reads them, and a server of the file passes the check."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core import Port, Tensor
from pipeline.packages import Contents, ShippedCell, _repository, serving, tensorflow_serving
from pipeline.system import store
from pipeline.system.store import Store
from tests.cli import inv
from tests.plans import TINY

PARSE = """
import importlib.metadata, importlib.util, sys
from pathlib import Path
from google.protobuf import json_format, text_format
file = next(f.locate() for f in importlib.metadata.files("tritonclient") if f.match("grpc/model_config_pb2.py"))
spec = importlib.util.spec_from_file_location("model_config_pb2", file)  # the package itself imports gRPC
schema = importlib.util.module_from_spec(spec)
spec.loader.exec_module(schema)
text = Path(sys.argv[1]).read_text(encoding="utf-8")
print(json_format.MessageToJson(text_format.Parse(text, schema.ModelConfig()), preserving_proto_field_name=True))
"""


@pytest.fixture(scope="module")
def folder(contents: Contents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("serving")
    serving.write(contents, path)
    return path


def recommended(contents: Contents) -> ShippedCell:
    cell = contents.recommended("onnx")
    assert cell is not None
    return cell


def changed(contents: Contents, **changes: Any) -> Contents:
    """The same contents with changes to the manifest of the recommended ONNX file."""
    cell = recommended(contents)
    new = replace(cell, artifact=replace(cell.artifact, **changes))
    return replace(contents, cells=tuple(new if one is cell else one for one in contents.cells))


def read(programs: Path, config: Path) -> Any:
    """config.pbtxt in Triton's own schema."""
    done = subprocess.run(
        [programs / "python", "-c", PARSE, config], capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# -- what is in it -----------------------------------------------------------------------------------------------------


def test_the_same_contents_give_the_same_repository(contents: Contents, folder: Path, tmp_path: Path) -> None:
    serving.write(contents, tmp_path)
    assert store.sha256(tmp_path) == store.sha256(folder)


def test_the_repository_has_the_shipped_file_and_the_labels(contents: Contents, folder: Path) -> None:
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        "tiny/config.pbtxt", "tiny/labels.txt", "tiny/1002000/model.onnx", "check.py", "golden.json",
    }  # fmt: skip
    assert store.sha256(folder / "tiny/1002000/model.onnx") == recommended(contents).artifact.sha256
    assert (folder / "tiny/labels.txt").read_text().splitlines() == list(contents.spec.labels)


def test_tritons_schema_reads_names_shapes_and_types_of_the_manifest(
    contents: Contents, folder: Path, programs: Path
) -> None:
    artifact = recommended(contents).artifact
    config = read(programs, folder / "tiny" / "config.pbtxt")
    assert (config["name"], config["backend"], config.get("max_batch_size", 0)) == ("tiny", "onnxruntime", 0)
    for side, ports in (("input", artifact.inputs), ("output", artifact.outputs)):
        found = [(one["name"], tuple(map(int, one["dims"])), one["data_type"]) for one in config[side]]
        assert found == [(port.name, port.shape, f"TYPE_{_repository.TYPES[port.dtype]}") for port in ports]
    assert [one.get("label_filename") for one in config["output"]] == ["labels.txt"]
    facts = {key: value["string_value"] for key, value in config["parameters"].items()}
    assert facts == {
        "version": contents.version,
        "recipe": recommended(contents).recipe,
        "weights_sha256": contents.weights_sha256,
    }


def test_names_of_any_text_types_of_any_width_and_several_outputs_are_written(
    contents: Contents, programs: Path, tmp_path: Path
) -> None:
    outputs = (Port('say "x"\\\n日本', (1, 4), "uint8"), Port("mask", (1, 8, 8), "bool"), Port("n", (1,), "int64"))
    other = replace(changed(contents, outputs=outputs), model='a "b"')
    serving.write(other, tmp_path)
    config = read(programs, tmp_path / 'a "b"' / "config.pbtxt")
    assert config["name"] == 'a "b"'
    found = [(one["name"], one["data_type"], one.get("label_filename")) for one in config["output"]]
    assert found == [(outputs[0].name, "TYPE_UINT8", None), ("mask", "TYPE_BOOL", None), ("n", "TYPE_INT64", None)]


def test_a_higher_version_has_a_higher_number() -> None:
    found = [_repository.number(version) for version in ("0.0.1", "0.1.0", "0.999.999", "1.0.0", "1.2.3", "12.0.0")]
    assert found == [1, 1000, 999_999, 1_000_000, 1_002_003, 12_000_000]


# -- what cannot be served ---------------------------------------------------------------------------------------------


def test_what_cannot_be_served_is_named(contents: Contents) -> None:
    assert serving.supports(contents) is None
    cell = recommended(contents)
    (port,) = cell.artifact.inputs
    without = tuple(one for one in contents.cells if one.target != "onnx")
    recipes = {target: recipe for target, recipe in contents.recipes.items() if target != "onnx"}
    unserved = {
        "ONNX": replace(contents, cells=without, recipes=recipes),
        "golden": replace(contents, cells=tuple(replace(one, golden=()) for one in contents.cells)),
        "2 inputs": changed(contents, inputs=(port, port)),
        "complex64": changed(contents, outputs=(Port("spectrum", (1, 4), "complex64"),)),
        "axis": changed(contents, outputs=(Port("mean", (), "float32"),)),
        "1.1000.0": replace(contents, version="1.1000.0"),
        "0.0.0": replace(contents, version="0.0.0"),
    }
    for name, other in unserved.items():
        assert name in (serving.supports(other) or "")


def test_labels_with_a_line_break_are_not_written(contents: Contents, programs: Path, tmp_path: Path) -> None:
    spec = replace(contents.spec, labels=("a\nb", *"123456789"), inputs=(Tensor("image", (8, 8, 1)),))
    serving.write(replace(changed(contents, spec=spec), spec=spec), tmp_path)
    assert not (tmp_path / "tiny" / "labels.txt").exists()
    assert "label_filename" not in read(programs, tmp_path / "tiny" / "config.pbtxt")["output"][0]


# -- the check of a server ---------------------------------------------------------------------------------------------


@contextmanager
def served(repository: Path, error: float = 0.0) -> Iterator[str]:
    """The address of a server of the Open Inference Protocol that runs the repository's file with onnxruntime.

    Args:
        error: added to every output.
    """
    import onnxruntime

    (file,) = repository.rglob("model.onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the name that http.server asks for
            known = f"/v2/models/tiny/versions/{file.parent.name}/infer"
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path not in (known, "/v2/models/tiny/infer"):
                return self.answer(404, {"error": "unknown model"})
            (given,), (wanted,) = body["inputs"], body["outputs"]
            assert given["datatype"] == "FP32"
            array = np.array(given["data"], np.float32).reshape(given["shape"])
            output = session.run([wanted["name"]], {given["name"]: array})[0] + np.float32(error)
            one = {"name": wanted["name"], "shape": list(output.shape), "datatype": "FP32", "data": output.tolist()}
            return self.answer(200, {"model_name": "tiny", "outputs": [one]})

        def answer(self, code: int, value: Any) -> None:
            content = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def check(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the package's check.py without anything that is installed."""
    return subprocess.run(
        [sys.executable, "-I", "-S", folder / "check.py", *words], capture_output=True, text=True, check=False
    )


def test_the_check_passes_on_a_server_of_the_file_and_fails_on_other_outputs(folder: Path) -> None:
    with served(folder) as address:
        for words in ([], ["--latest"]):
            done = check(folder, address, *words)
            assert (done.returncode, done.stderr) == (0, "")
            assert "8 of 8" in done.stdout
        missing = check(folder, address, "--model", "other")
        assert missing.returncode == 2 and "404" in missing.stderr and len(missing.stderr.splitlines()) == 1
    with served(folder, error=1.0) as address:
        assert check(folder, address).returncode == 1


def test_a_server_that_does_not_answer_is_an_error_in_one_line(folder: Path) -> None:
    with served(folder) as address:
        pass
    done = check(folder, address)
    assert (done.returncode, done.stdout) == (2, "")
    assert address in done.stderr and len(done.stderr.splitlines()) == 1


# -- TensorFlow Serving ------------------------------------------------------------------------------------------------

SERVE = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
import tensorflow as tf
folder, path = sys.argv[1:]
served = tf.saved_model.load(folder).signatures["serving_default"]
(name,) = served.structured_input_signature[1]
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = self.path == path
        (output,) = served(**{name: tf.constant(body["inputs"], tf.float32)}).values()
        content = json.dumps({"outputs": output.numpy().tolist()} if known else {"error": "unknown model"}).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def log_message(self, *words):
        pass
server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_tensorflow_serving_gets_the_savedmodel_of_a_keras_model(
    contents: Contents, keras_matrix: Store, tmp_path: Path
) -> None:
    build = Store(shutil.copytree(keras_matrix.root, tmp_path / "build"))
    words = ("--model", TINY, "--framework", "keras", "--recipe", "fp32", "--package", "tensorflow_serving")
    done = inv(build.root, "ship", "--version", "2.0.1", "--target", "savedmodel", *words)
    assert done.code == 0, done.err
    root = build.root / "ship" / "tiny-2.0.1"
    folder = root / "tensorflow-serving"
    version = folder / "tiny" / "2000001"
    shipped = root / "models" / "fp32" / "savedmodel" / "model.savedmodel" / "1"
    assert store.sha256(version) == store.sha256(shipped)
    assert (version / "saved_model.pb").is_file() and (version / "variables").is_dir()
    command = [sys.executable, "-c", SERVE, version, "/v1/models/tiny/versions/2000001:predict"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        address = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        try:
            passed, other = check(folder, address), check(folder, address, "--model", "other")
        finally:
            server.kill()
    assert (passed.returncode, passed.stderr) == (0, "")
    assert "8 of 8" in passed.stdout
    assert other.returncode == 2 and "404" in other.stderr
    assert "SavedModel" in (tensorflow_serving.supports(contents) or "")
