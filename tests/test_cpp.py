"""The C++ example compiles against the installed torch and answers the golden requests alike."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import deeprec
from deeprec import bundle
from deeprec.serve import Bundle, same_answer
from standin import bundle_folder

EXAMPLE = Path(__file__).parents[1] / "examples" / "cpp"
MISSING = [tool for tool in ("cmake", "g++") if shutil.which(tool) is None]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("cpp"))


def built(build: Path) -> Path:
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    commands = (
        ["cmake", "-S", str(EXAMPLE), "-B", str(build), prefix, "-DCMAKE_BUILD_TYPE=Quick"],
        ["cmake", "--build", str(build)],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "recommend"


def lines_of(opened: Bundle, request: dict[str, Any]) -> str:
    """A golden request in item indices, unknown items left out."""

    def known(item_ids: list[str]) -> list[int]:
        return [index for index in opened.indices_of(item_ids) if index >= 0]

    def words(values: list[Any]) -> str:
        return " ".join(map(str, values))

    lines = [f"k {request['k']}", f"exclude_seen {int(request['exclude_seen'])}"]
    lines.append(f"items {words(known(request['item_ids']))}")
    if request["ages"] is not None:
        indices = opened.indices_of(request["item_ids"])
        ages = [age for age, index in zip(request["ages"], indices, strict=True) if index >= 0]
        lines.append(f"ages {words(ages)}")
    for name, value in request["attributes"].items():
        row = opened.vocabularies[name][value]
        lines.append(f"attribute {opened.fields.index(name)} {row}")
    lines.append(f"denied {words(known(request['denied']))}")
    if request["allowed"] is not None:
        lines.append(f"allowed {words(known(request['allowed']))}")
    return "\n".join([*lines, "ask\n"])


def named_lines_of(opened: Bundle, request: dict[str, Any]) -> str:
    """The same request in item ids, those that nobody knows too."""
    given = {"items": request["item_ids"], "denied": request["denied"]}
    given |= {"allowed": request["allowed"]} if request["allowed"] is not None else {}
    named = {word: f"{word} " + "\t".join(item_ids) for word, item_ids in given.items()}
    if request["ages"] is not None:
        named["ages"] = " ".join(["ages", *map(str, request["ages"])])
    lines = lines_of(opened, request).splitlines()
    return "".join(f"{named.get(line.partition(' ')[0], line)}\n" for line in lines)


def answers_of(
    program: Path, model: Path, num_fields: int, asked: list[str], *ids: Path
) -> list[str]:
    """A line for each request."""
    command = [program, model, str(num_fields), *ids]
    done = subprocess.run(command, input="".join(asked), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def lists_of(answer: str) -> tuple[list[int], list[float]]:
    pairs = [pair.split(":") for pair in answer.split()]
    return [int(item) for item, _ in pairs], [float(score) for _, score in pairs]


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"{' and '.join(MISSING)} missing: no C++ here")
def test_golden_requests_are_answered_in_cpp(program: Path, tmp_path: Path) -> None:
    made = bundle_folder(tmp_path / "bundle")
    opened = deeprec.load(made)
    requests, expected = (
        bundle.read_lines(made / name) for name in (bundle.GOLDEN_REQUESTS, bundle.GOLDEN_EXPECTED)
    )
    asked = [lines_of(opened, request) for request in requests]
    asked += ["items 1 99\nask\n", asked[0]]  # a refused request changes nothing
    model = made / bundle.MODEL
    *answers, refused, again = answers_of(program, model, len(opened.fields), asked)
    assert len(answers) == len(requests) == 4 + 11
    for answer, truth in zip(answers, expected, strict=True):
        assert same_answer(*lists_of(answer), truth["items"], truth["scores"])
    assert "error: " in refused
    assert "item_ids must lie in [0, 30), got 99 at position 1" in refused
    assert again == answers[0]
    named = [named_lines_of(opened, request) for request in requests]
    assert any("unknown 0" in one for one in named)
    in_names = answers_of(program, model, len(opened.fields), named, made / bundle.IDS)
    for answer, index_answer in zip(in_names, answers, strict=True):
        pairs = [pair.rsplit(":", 1) for pair in answer.split("\t") if pair]
        indices = opened.indices_of([item for item, _ in pairs])
        assert [f"{index}:{score}" for index, (_, score) in zip(indices, pairs)] == (
            index_answer.split()
        )
