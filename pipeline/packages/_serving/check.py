"""Sends the golden inputs to a server and compares its outputs: python check.py http://localhost:8000

It needs Python 3.10 or later. The server speaks the protocol in golden.json over HTTP: "v2", the Open Inference
Protocol of NVIDIA Triton, OpenVINO Model Server, KServe and MLServer, or "tensorflow", TensorFlow Serving's. Exit code
0: passed; 1: the outputs differ by more than the tolerance; 2: the server does not answer as the protocol says.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import struct
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FORMATS = {"uint8": "B", "int8": "b", "int32": "i", "int64": "q", "float32": "f", "float64": "d"}
SECONDS = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Compares the outputs of a server with the golden outputs.")
    parser.add_argument("server", help="for example http://localhost:8000")
    parser.add_argument("--model", help="the model's name on the server, if it is another one")
    parser.add_argument("--latest", action="store_true", help="ask for the server's version, not for this release's")
    options = parser.parse_args(arguments)
    try:
        golden = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
        return check(golden, options.server, options.model or golden["model"], options.latest)
    except urllib.error.HTTPError as error:
        text = error.read(300).decode(errors="replace").strip()
        print(f"error: {error.url}: {error.code} {error.reason}: {text}", file=sys.stderr)
    except (OSError, ValueError, LookupError, TypeError) as error:
        print(f"error: {options.server}: {type(error).__name__}: {error}", file=sys.stderr)
    return 2


def check(golden: dict[str, Any], server: str, model: str, latest: bool) -> int:
    """Compares the outputs of all samples and prints the result."""
    kind, samples, output = FORMATS[golden["inputs_type"]], golden["samples"], golden["output"]["name"]
    inputs, outputs = numbers(golden["inputs"], kind), numbers(golden["outputs"], "f")
    width, size = len(inputs) // samples, len(outputs) // samples
    tensorflow = golden["protocol"] == "tensorflow"
    path = f"/{'v1' if tensorflow else 'v2'}/models/{urllib.parse.quote(model, safe='')}"
    path += "" if latest else f"/versions/{golden['version']}"
    path += ":predict" if tensorflow else "/infer"
    largest, same = 0.0, 0
    for i in range(samples):
        values = inputs[i * width : (i + 1) * width]
        if tensorflow:
            found = post(server.rstrip("/") + path, {"inputs": shaped(values, golden["input"]["shape"])})["outputs"]
        else:
            body = {"inputs": [{**golden["input"], "data": values}], "outputs": [{"name": output}]}
            answers = post(server.rstrip("/") + path, body)["outputs"]
            found = next(each["data"] for each in answers if each["name"] == output)
        found, known = flat(found), outputs[i * size : (i + 1) * size]
        if len(found) != size:
            raise ValueError(f"{output} has {len(found)} values, not {size}")
        differences = [abs(one - other) for one, other in zip(found, known, strict=True)]
        largest = max([largest, *(math.inf if math.isnan(each) else each for each in differences)])
        same += found.index(max(found)) == known.index(max(known))
    passed = largest <= golden["tolerance"]
    print(
        f"{model} {golden['release']}, {golden['recipe']}: {'passed' if passed else 'FAILED'}: largest difference "
        f"{largest:.3g} (at most {golden['tolerance']:.3g}), the largest value is the same in {same} of {samples}"
    )
    return 0 if passed else 1


def post(url: str, body: dict[str, Any]) -> Any:
    """What the server answers, from JSON."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return json.loads(answer.read())


def numbers(text: str, kind: str) -> list[float]:
    """The little-endian numbers in a text in base64."""
    content = base64.b64decode(text)
    return list(struct.unpack(f"<{len(content) // struct.calcsize('<' + kind)}{kind}", content))


def shaped(values: list[float], shape: Sequence[int]) -> list[Any]:
    """The numbers as lists of lists."""
    found: list[Any] = values
    for length in reversed(shape[1:]):
        found = [found[i : i + length] for i in range(0, len(found), length)]
    return found


def flat(values: list[Any]) -> list[float]:
    """The numbers of a list of lists."""
    return [one for value in values for one in flat(value)] if values and isinstance(values[0], list) else values


if __name__ == "__main__":
    sys.exit(main())
