"""What no file of deeprec may do: read something in a way that can run code of whoever wrote it.

    python scripts/forbidden.py [FOLDER OR FILE ...]

Prints each place and exits with 1 if there is one.
"""

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {
    "eval": "runs what it is given",
    "exec": "runs what it is given",
    "yaml.load": "may make any object; use yaml.safe_load",
    "yaml.unsafe_load": "may make any object; use yaml.safe_load",
    "os.system": "runs a shell; use subprocess with a list",
    "os.popen": "runs a shell; use subprocess with a list",
    "torch.distributed.checkpoint.load": "unpickles its metadata",
    "dcp.load": "unpickles its metadata",
    "torch.package.PackageImporter": "runs the package",
    "pandas.read_pickle": "unpickles",
    "pd.read_pickle": "unpickles",
}
# (call, its argument, the values that are right, whether it must be given)
ARGUMENTS = (
    ("torch.load", "weights_only", (True,), True),
    ("np.load", "allow_pickle", (False,), False),
    ("numpy.load", "allow_pickle", (False,), False),
    ("np.save", "allow_pickle", (False,), False),
    ("subprocess", "shell", (False,), False),
)
# TorchScript runs what it holds: only where the hashes were compared before
JIT_LOADS_IN = {"serve.py", "bundle.py", "export.py"}


def places(path: Path) -> Iterator[str]:
    """What is forbidden in a file of Python, each with its line."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        for why in _why(node, path):
            yield f"{path}:{getattr(node, 'lineno', 0)}: {why}"


def _why(node: ast.AST, path: Path) -> Iterator[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [one.name for one in node.names]
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
        for name in names:
            if name.split(".")[0] in MODULES:
                yield f"{name} runs what it reads; use safetensors, JSON or Arrow"
    elif isinstance(node, ast.Call):
        yield from _why_call(node, path)


def _why_call(node: ast.Call, path: Path) -> Iterator[str]:
    called = ast.unparse(node.func)
    if called in CALLS:
        yield f"{called} {CALLS[called]}"
    if called == "torch.jit.load" and path.name not in JIT_LOADS_IN:
        yield "torch.jit.load runs what it reads; only a verified bundle is opened with it"
    given = {one.arg: getattr(one.value, "value", None) for one in node.keywords}
    for name, argument, right, must in ARGUMENTS:
        here = called == name or (name == "subprocess" and called.startswith("subprocess."))
        if here and (given[argument] not in right if argument in given else must):
            yield f"{called} needs {argument}={right[0]}"


def main(roots: Sequence[str]) -> int:
    """Looks through every file under these roots."""
    found = [
        place
        for root in map(Path, roots)
        for path in (sorted(root.rglob("*.py")) if root.is_dir() else [root])
        for place in places(path)
    ]
    print("\n".join(found) or "nothing that is read can run")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["src", "scripts"]))
