"""What a command asks of the disk, in order, as strace tells it."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

WRITES = ("write", "pwrite64", "writev", "ftruncate", "copy_file_range", "sendfile")
RENAMES = ("rename", "renameat", "renameat2")
CALLS = (*WRITES, *RENAMES, "fsync", "fdatasync")


def works() -> bool:
    """Whether strace is here and may look."""
    found = shutil.which("strace") is not None
    return found and subprocess.run(["strace", "-o", "/dev/null", "true"]).returncode == 0


def disorder(command: Sequence[str], root: Path, trace: Path, **how: object) -> list[str]:
    """Runs a command and says which of its renames under `root` power could make a lie of.

    Each name that is given must stand for bytes that were flushed before, and be flushed itself:
    the folder around it, before that folder is renamed or the command ends. Drafts and what is
    retired have names that nobody reads, which begin with a dot.
    """
    looking = ["strace", "-f", "-y", "-qq", "-s", "1", "-o", str(trace), "-e", ",".join(CALLS)]
    subprocess.run([*looking, *command], check=True, **how)  # type: ignore[call-overload]
    return list(_disorder(trace.read_text().splitlines(), root))


def _disorder(lines: Sequence[str], root: Path) -> Iterator[str]:
    written: set[Path] = set()  # and not flushed since
    named: set[Path] = set()  # folders in which a name was given that is not flushed
    renames = 0
    for call, paths in _calls(lines, root):
        if call in WRITES:
            written.add(paths[0])
        elif call not in RENAMES:
            written.discard(paths[0])
            named.discard(paths[0])
        elif not paths[1].name.startswith("."):
            renames += 1
            source, target = paths
            for path in written | named:
                if path == source or source in path.parents:
                    yield f"{target} was named before {path} was flushed"
            named.add(target.parent)
    yield from (f"{path} was not flushed after a name in it was given" for path in named)
    if not renames:
        yield f"nothing under {root} was named"


def _calls(lines: Sequence[str], root: Path) -> Iterator[tuple[str, list[Path]]]:
    """Calls in the order in which they ended; `unfinished` ones are joined with their end."""
    begun: dict[str, str] = {}
    for line in lines:
        process, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.endswith("<unfinished ...>"):
            begun[process] = rest.removesuffix("<unfinished ...>")
            continue
        if rest.startswith("<..."):
            rest = begun.pop(process, "") + rest.partition("resumed>")[2]
        call = rest.partition("(")[0]
        found = re.findall(r'"([^"]*)"' if call in RENAMES else r"^\w+\(\d+<([^>]*)>", rest)
        paths = [Path(one) for one in found]
        if call in CALLS and paths and all(root in path.parents or path == root for path in paths):
            yield call, paths
