"""Asks every form of a bundle's model its golden requests, and prints how far each is from them.

    ./scripts/forms RUN     # exports RUN into a folder that goes afterwards; needs the extra `onnx`

Prints a line for each form: requests, those answered with other items, and the largest difference
of a score. Exits with 1 where an answer is not the evaluated one. C++ is asked where cmake and g++
are; Spark and the page are asked by their own tests.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import urlopen

CHECKOUT = Path(__file__).parents[1]
sys.path[:0] = [str(CHECKOUT / "src"), str(CHECKOUT / "tests")]

import torch  # noqa: E402

import test_cpp  # noqa: E402
from deeprec import bundle, forms  # noqa: E402
from deeprec.export import export  # noqa: E402
from deeprec.golden import Answering, Request, golden_answer  # noqa: E402
from deeprec.operation.other_forms import Names  # noqa: E402
from deeprec.serve import Bundle, load, same_answer  # noqa: E402
from deeprec.server.process import bound, server_of  # noqa: E402
from deeprec.trainer import rebuilt  # noqa: E402
from deeprec.verb import ExportConfig, ServeConfig  # noqa: E402

Ask = Callable[[Request], dict[str, Any]]


def ways(path: Path, opened: Bundle) -> Iterator[tuple[str, Ask]]:
    """Each form with a function that asks it."""

    def script(request: Request) -> dict[str, Any]:
        items, scores = opened.ask(request)
        return {"items": items, "scores": scores}

    yield "TorchScript, `model.pt`", script
    facts = json.loads((path / bundle.ARCHITECTURE).read_text(encoding="utf-8"))["facts"]
    fields = {name: facts["fields"][name] for name in opened.fields}
    asked = Answering(rebuilt.rebuild(path), fields, Names(opened))
    yield "eager, of `weights.safetensors`", lambda request: golden_answer(asked, request)
    if (path / bundle.PROGRAM).is_file():
        program = torch.export.load(path / bundle.PROGRAM).module()
        yield "torch.export, `model.pt2`", lambda request: forms.ask(program, asked, request)
    if (path / bundle.ONNX).is_file():
        session = forms.onnx_session(path / bundle.ONNX)
        yield "onnxruntime, `model.onnx`", lambda request: forms.ask_onnx(session, asked, request)
    yield "HTTP, Open Inference Protocol", over_http(path, opened)
    if not test_cpp.MISSING:
        program_in_cpp = test_cpp.built(path.parent / "cpp")

        def in_cpp(request: Request) -> dict[str, Any]:
            asked = [test_cpp.lines_of(opened, request)]
            model, num_fields = path / bundle.MODEL, len(opened.fields)
            [answer] = test_cpp.answers_of(program_in_cpp, model, num_fields, asked)
            return dict(zip(("items", "scores"), test_cpp.lists_of(answer)))

        yield "C++, `model.pt` in libtorch", in_cpp


def over_http(path: Path, opened: Bundle) -> Ask:
    """`deeprec serve` in a thread of this process, asked over loopback."""
    config = ServeConfig(bundle=str(path), port=0)
    server = server_of(config)
    listening = bound(server, config)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/v2/models/{path.name}/infer"
    Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()

    def ask(request: Request) -> dict[str, Any]:
        body = json.dumps(inference(request)).encode()
        with urlopen(address, body) as response:
            answer = json.load(response)
        items, scores = (one["data"] for one in answer["outputs"])
        found = opened.indices_of([item for item in items if item])
        return {"items": found, "scores": scores[: len(found)]}

    return ask


def inference(request: Request) -> dict[str, Any]:
    def tensor(name: str, datatype: str, data: list[Any]) -> dict[str, Any]:
        return {"name": name, "datatype": datatype, "shape": [len(data)], "data": data}

    inputs = [
        tensor("item_ids", "BYTES", request["item_ids"]),
        tensor("denied_items", "BYTES", request["denied"]),
        tensor("k", "INT64", [request["k"]]),
    ]
    for name, said in request["attributes"].items():
        values = said if isinstance(said, list) else [said]
        inputs.append(tensor(f"attribute.{name}", "BYTES", values))
        inputs.append(tensor(f"attribute_offsets.{name}", "INT64", [0, len(values)]))
    if request["ages"] is not None:
        inputs.append(tensor("ages", "FP32", request["ages"]))
    if request["allowed"] is not None:
        inputs.append(tensor("allowed_items", "BYTES", request["allowed"]))
    return {"inputs": inputs, "parameters": {"exclude_seen": request["exclude_seen"]}}


def line(path: Path, name: str, ask: Ask) -> tuple[str, bool]:
    """What a form answered, as a line of a table, and whether all of it was as evaluated."""
    requests = bundle.read_lines(path / bundle.GOLDEN_REQUESTS)
    truths = bundle.read_lines(path / bundle.GOLDEN_EXPECTED)
    others, wrong, largest = 0, 0, 0.0
    for request, truth in zip(requests, truths, strict=True):
        found = ask(request)
        others += found["items"] != truth["items"]
        wrong += not same_answer(found["items"], found["scores"], truth["items"], truth["scores"])
        pairs = zip(found["scores"], truth["scores"])
        largest = max([largest, *(abs(one - other) for one, other in pairs)])
    return f"| {name} | {len(requests)} | {others} | {largest:.1e} |", not wrong


def main() -> int:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sound = True
    with tempfile.TemporaryDirectory() as folder:
        path = export(ExportConfig(sys.argv[1], f"{folder}/bundle", onnx=True, program=True))
        print("| form | golden requests | other items | largest difference |\n|---|---|---|---|")
        for name, ask in ways(path, load(path)):
            told, same = line(path, name, ask)
            print(told, flush=True)
            sound = sound and same
    return int(not sound)


if __name__ == "__main__":
    sys.exit(main())
