"""Ways of reading that could run somebody's code are found, and there is none in deeprec."""

import runpy
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
CHECK = runpy.run_path(str(CHECKOUT / "scripts" / "forbidden.py"))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import cloudpickle as c",
        "from pickle import loads",
        "def f():\n    from joblib import load",
        "torch.load('x')",
        "torch.load('x', weights_only=False)",
        "torch.load('x', weights_only=trusting)",
        "np.load('x', allow_pickle=True)",
        "np.load('x', allow_pickle=flag)",
        "yaml.load(text)",
        "dcp.load(state)",
        "torch.jit.load('x')",
        "eval(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_a_dangerous_way_to_read_is_found(tmp_path: Path, line: str) -> None:
    path = tmp_path / "some.py"
    path.write_text(line)
    assert len(list(CHECK["places"](path))) == 1


def test_safe_ways_are_let_be(tmp_path: Path) -> None:
    path = tmp_path / "some.py"
    path.write_text(
        "torch.load('x', weights_only=True)\nnp.load('x')\nmodel.eval()\nyaml.safe_load(t)\n"
        "subprocess.run(['a'])\n"
    )
    assert list(CHECK["places"](path)) == []


def test_deeprec_has_none() -> None:
    assert CHECK["main"]([str(CHECKOUT / "src"), str(CHECKOUT / "scripts")]) == 0
