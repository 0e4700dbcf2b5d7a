"""Claim: a bundle's model answers one user in less than twice its product and top-k.

`model.pt` in its precisions, loaded from its file, stands beside the same scoring of the same users
in torch without a model (product and top-k), in onnxruntime and in numpy, in turns in one process,
on one thread; figures are CPU milliseconds per call. The model also checks its request, aggregates
and encodes histories of 70 items, and excludes these. Exact search of faiss and of implicit stands
beside them where they are installed.

    pip install --no-deps --target FOLDER faiss-cpu==1.15.1 implicit==0.7.3 threadpoolctl==3.8.0
    PYTHONPATH=FOLDER python benchmarks/run.py serving
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from page import Measured, show
from sized import sized
from torch import Tensor
from turns import Spent, in_ms, spent

from deeprec.model.autoencoder import Autoencoder
from deeprec.model.compact import Precision
from deeprec.model.served import Served
from deeprec.serve import load_model

WIDTH, HISTORY, K = 128, 70, 20
CATALOGS = sized((30_000, 1_000_000), quick=(300, 500))
CALLS = sized(  # items, users
    {(30_000, 1): 100, (30_000, 256): 8, (1_000_000, 1): 15, (1_000_000, 256): 1},
    quick={(300, 1): 3, (500, 2): 1, (500, 1): 1},
)
HAS_ONNX = all(find_spec(name) for name in ("onnx", "onnxruntime"))  # the extra `onnx`
FORMS: dict[str, tuple[Precision, bool]] = {
    "float32": ("float32", False),
    "int8": ("int8", False),
    "float32 scanned by int8": ("float32", True),
}
LOAD = """
import json, sys, time
from pathlib import Path
import torch
from deeprec.serve import load_model
def resident():
    words = Path("/proc/self/statm").read_text().split()
    return int(words[1]) * 4096
path = Path(sys.argv[1])
for _ in range(2):  # the second reading is from memory
    started = time.process_time()
    held = path.read_bytes()
    read = time.process_time() - started
    del held
before, started = resident(), time.process_time()
model = load_model(path, torch.device("cpu"))
loaded = time.process_time() - started
tables = sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
print(json.dumps([1000 * read, 1000 * loaded, (resident() - before) / tables]))
"""


def model_of(num_items: int) -> Autoencoder:
    """One table on both sides, of random numbers: what they are does not change the time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Autoencoder(
            num_items, hidden_dims=[WIDTH], tied=True, repeat_scores=False, table_backend="torch"
        )
        torch.nn.init.normal_(model.item_weight)
    return model.eval().requires_grad_(False)


def saved(model: Autoencoder, path: Path, precision: Precision, scan: bool) -> Path:
    served = Served(
        model,
        fields={},
        max_users=4_096,
        max_events=2**24,
        max_k=10_000,
        precision=precision,
        scan=scan,
    )
    torch.jit.script(served.eval()).save(str(path))  # type: ignore[no-untyped-call]  # torch leaves it so
    return path


def in_onnxruntime(weight: Tensor, bias: Tensor, folder: Path) -> Callable[[Tensor], object]:
    """Product and top-k, the table in its file."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["hidden", "weight", "bias"], ["scores"], transB=1),
            helper.make_node("TopK", ["scores", "k"], ["best", "items"]),
        ],
        "scoring",
        [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["users", WIDTH])],
        [
            helper.make_tensor_value_info("best", TensorProto.FLOAT, ["users", K]),
            helper.make_tensor_value_info("items", TensorProto.INT64, ["users", K]),
        ],
        [
            numpy_helper.from_array(weight.numpy(), "weight"),
            numpy_helper.from_array(bias.numpy(), "bias"),
            numpy_helper.from_array(np.array([K]), "k"),
        ],
    )
    onnx_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx_model.ir_version = 10
    (folder / "scoring.onnx").write_bytes(onnx_model.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        folder / "scoring.onnx", options, providers=["CPUExecutionProvider"]
    )
    return lambda hidden: session.run(None, {"hidden": hidden.numpy()})


def in_numpy(weight: Tensor, bias: Tensor) -> Callable[[Tensor], object]:
    table, offset = weight.numpy().T, bias.numpy()

    def best(hidden: Tensor) -> object:
        scores = hidden.numpy() @ table + offset
        items = np.argpartition(scores, -K, axis=1)[:, -K:]
        order = np.take_along_axis(scores, items, 1).argsort(1)[:, ::-1]
        return np.take_along_axis(items, order, 1)

    return best


def in_others(weight: Tensor, bias: Tensor) -> dict[str, Callable[[Tensor], object]]:
    """Exact search of other libraries, where they are; the bias is a further column."""
    table = np.ascontiguousarray(torch.cat([weight, bias[:, None]], 1))
    ways: dict[str, Callable[[Tensor], object]] = {}
    if find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(1)
        index = faiss.IndexFlatIP(table.shape[1])
        index.add(table)
        ways[f"exact search in faiss {version('faiss-cpu')}"] = lambda hidden: index.search(
            with_one(hidden), K
        )
    if find_spec("implicit"):
        from implicit.cpu.topk import topk

        ways[f"exact search in implicit {version('implicit')}"] = lambda hidden: topk(
            table, with_one(hidden), K, num_threads=1
        )
    return ways


def with_one(hidden: Tensor) -> Any:
    return torch.nn.functional.pad(hidden, (0, 1), value=1.0).numpy()


def asked(num_items: int, users: int) -> tuple[Any, ...]:
    draw = torch.Generator().manual_seed(users)
    items = torch.randint(0, num_items, [users * HISTORY], generator=draw)
    offsets = torch.arange(users + 1) * HISTORY
    nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(users + 1, dtype=torch.int64)
    return items, offsets, torch.zeros(0), [], [], K, True, *nothing


def calls(num_items: int, users: int, folder: Path) -> dict[str, Callable[[], object]]:
    """Every way of answering the same users."""
    model, request = model_of(num_items), asked(num_items, users)
    weight, bias = model.item_weight.detach(), model.item_bias.detach()
    hidden = torch.randn(users, WIDTH, generator=torch.Generator().manual_seed(0))
    ways: dict[str, Callable[[], object]] = {
        "product and top-k in torch": lambda: torch.addmm(bias, hidden, weight.T).topk(K)
    }
    if HAS_ONNX:
        onnx = in_onnxruntime(weight, bias, folder)
        ways["product and top-k in onnxruntime"] = partial(onnx, hidden)
    ways["product and top-k in numpy"] = partial(in_numpy(weight, bias), hidden)
    for name, search in in_others(weight, bias).items():
        ways[name] = partial(search, hidden)
    for name, form in FORMS.items():
        path = saved(model, folder / f"{form[0]}-{form[1]}.pt", *form)
        loaded = load_model(path, torch.device("cpu"))
        ways[f"model.pt, {name}"] = partial(loaded, *request)
    return ways


def row(num_items: int, users: int, folder: Path) -> list[dict[str, Any]]:
    ways = calls(num_items, users, folder)
    taken: dict[str, list[Spent]] = {name: [] for name in ways}
    warm = min(2, CALLS[num_items, users])
    for number in range(CALLS[num_items, users] + warm):
        for name, way in ways.items():
            one = spent(way)
            if number >= warm:  # TorchScript makes its plan in the first two
                taken[name].append(one)
    medians = {name: in_ms(times) for name, times in taken.items()}
    bare = medians["product and top-k in torch"]["CPU ms"]
    return [
        {
            "what": f"{num_items:,} items, {users} users" if users > 1 else f"{num_items:,} items",
            "answered by": name,
            "p50 CPU ms": medians[name]["CPU ms"],
            "p99 CPU ms": 1000 * float(np.percentile([each.cpu for each in times], 99)),
            "p50 wall ms": medians[name]["wall ms"],
            "of the bare product and top-k": medians[name]["CPU ms"] / bare,
        }
        for name, times in taken.items()
    ]


def loading(folder: Path) -> list[float]:
    """Milliseconds to read the file and to load it, and resident bytes over those of tables."""
    path = saved(model_of(CATALOGS[1]), folder / "model.pt", "float32", False)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(path)], capture_output=True, text=True, check=True
    )
    found: list[float] = json.loads(done.stdout)
    return found


def measure() -> Measured:
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for num_items, users in CALLS:
        with tempfile.TemporaryDirectory() as folder:
            rows += row(num_items, users, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        read, loaded, resident = loading(Path(folder))
    p50 = {(found["what"], found["answered by"]): found["p50 CPU ms"] for found in rows}
    few, many = (f"{num_items:,} items" for num_items in CATALOGS)
    bare = p50[few, "model.pt, float32"] / p50[few, "product and top-k in torch"]
    narrow = p50[many, "model.pt, int8"] / p50[many, "model.pt, float32"]
    aims = (
        (f"one user, {few}: p50", 2.0, bare, "of product and top-k"),
        (f"one user, {many}, int8: p50", 0.5, narrow, "of float32"),
        (f"loading {many}", 2.0, loaded / read, "of reading the file"),
        ("resident after loading", 1.2, resident, "of the bytes of tables"),
    )
    return {
        "claim": "A bundle's model answers one user in less than twice its matrix product and "
        "top-k; in int8, a million items take less than half.",
        "conditions": {"width": WIDTH, "history": HISTORY, "k": K, "threads": 1}
        | ({} if HAS_ONNX else {"left out": "onnxruntime (not installed)"}),
        "rows": rows,
        "goals": [
            {"what": what, "goal": goal, "reached": reached, "better": "lower", "unit": unit}
            for what, goal, reached, unit in aims
        ],
        "plots": [
            {
                "kind": "bar",
                "x": "what",
                "y": ["p50 CPU ms"],
                "split": "answered by",
                "log": True,
                "title": "A call, CPU ms",
            }
        ],
    }


if __name__ == "__main__":
    show(measure())
