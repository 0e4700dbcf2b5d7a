"""Every verb that writes is killed, and given again as a person would give it."""

import csv
import json
import re
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

import lives
import small_shop
from deeprec import folder, versions
from deeprec.errors import DeeprecError
from deeprec.search.study import FILE
from deeprec.search.trial import Trial, counted
from deeprec.trainer.run import open_run
from dsstne import test_train_network
from fault.ground import TIMED, Count, Ground

MODULES = (
    *("deeprec.prepare", "deeprec.sweep", "deeprec.evaluate", "deeprec.export"),
    *("deeprec.recommend", "deeprec.neighbours", "deeprec.operation.command"),
    *("deeprec.dsstne.command", "deeprec.dsstne.train_network", "deeprec.dsstne.import_weights"),
)
POINTS = (
    *("draft begun", "weights written", "filled", "file flushed", "file written", "file renamed"),
    *("sealed", "renamed", "committed", "verified", "retired", "old ones dropped"),
)
DEATHS, LIVES = 3, 12  # at most, of one try
SPACE = """\
_target_: deeprec.search.space.Space
fixed: [target=after_cut, target.window_days=20, trainer.batch_users=16, trainer.threads=1]
ranges:
  model.hidden_dims: [[4], [8], [16]]
  optimizer.lr: {low: 0.001, high: 0.1, log: true}
"""
# what tells of times, places and random ids: that it is there is compared, and no more
UNLIKE = (
    *("manifest.json", "environment.json", "status.json"),
    *("MLmodel", "provenance.json", "sbom.cdx.json"),
)
TEXT = (".html", ".json", ".jsonl", ".md", ".yaml")  # in which places stand
WRITTEN = {"best", "config.yaml", "experiment", FILE, "sweep.html", "trials"}  # by a sweep


@dataclass(frozen=True)
class Command:
    """A command, which writes into HERE and reads from GIVEN.

    Args:
        words: of it.
        there: what lies HERE before, copied from GIVEN.
        fault: of `lives`, in each of its lives.
    """

    words: str
    there: str | None = None
    fault: str | None = None

    def begin(self, here: Path, given: Path) -> list[str]:
        """Its words, once all lies HERE that it needs."""
        if self.there is not None:
            shutil.copytree(given / self.there, here / self.there)
        words = self.words.replace("HERE", str(here)).replace("GIVEN", str(given))
        return shlex.split(words)


SOLVED = "trainer.threads=1 logger.wandb=off trainer.max_epochs=2 output_dir=HERE/run"
INDEX = "-i GIVEN/input.features -o GIVEN/output.features"
COMMANDS = (
    Command(
        "prepare data=table data.events=GIVEN/events.csv data.user=user data.item=item "
        "data.time=time output_dir=HERE/in/prepared"
    ),
    Command(f"train experiment=auto prepared=GIVEN/tastes {SOLVED}"),
    Command(f"train experiment=auto prepared=GIVEN/tastes {SOLVED} resume=auto"),
    Command(f"train experiment=auto prepared=PREPARED {SOLVED} resume=auto"),
    Command("blend runs=[GIVEN/runs/a,GIVEN/runs/b] output_dir=HERE/both weights=[0.6,0.4]"),
    Command(
        "sweep --config-dir GIVEN sweep=small prepared=PREPARED output_dir=HERE/sweep trials=3 "
        "trainer.max_epochs=2 target.cut_days=60",
        fault="workers_forked",
    ),
    Command(
        "dsstne generate -d gl_input -i GIVEN/input -o HERE/input.nc -f HERE/features "
        "-s HERE/samples -c"
    ),
    Command(
        "dsstne train -c GIVEN/config.json -i GIVEN/input.nc -o GIVEN/output.nc -n HERE/gl.nc "
        "-e 4 -b 32"
    ),
    Command(
        f"dsstne import-weights -n GIVEN/gl.nc {INDEX} --prepared GIVEN/plain --output-dir HERE/run"
    ),
    Command("dsstne export-network -r GIVEN/gl.run -n HERE/gl.nc -f HERE/columns"),
    Command(f"dsstne predict -d gl {INDEX} -n GIVEN/gl.nc -r GIVEN/input -s HERE/recs -k 5"),
    Command("export run=GIVEN/runs/a output_dir=HERE/bundle golden_users=5 program=false"),
    Command("evaluate run=HERE/runs/a bootstrap_samples=20", there="runs"),
    Command(
        "recommend bundle=GIVEN/shop histories=PREPARED output=HERE/lists.parquet batch_users=4",
        fault="small_row_groups",
    ),
    Command("neighbours run=GIVEN/runs/a output=HERE/near.txt k=5 vectors=HERE/vectors.txt"),
    Command("bundle retire i03 bundle=HERE/shop", there="shop"),
    Command("bundle add new like=i03 bundle=HERE/shop", there="shop"),
)


def verbs(ground: Ground) -> Count:
    """Each command that writes, killed at random moments and points, and given again."""
    count = Count()
    with lives.server(ground.prepared, *MODULES) as live:
        assert live(["replay=no"]).code == 2  # when it is back, everything is imported
        given = _given(ground, live)
        known = [Known(one, ground, live, given) for one in COMMANDS]
        for number in ground.times(20 * len(known)):
            known[number % len(known)].tried(count)
    return count


def _given(ground: Ground, live: lives.Live) -> Path:
    """What the commands read."""
    given = ground.root / "given"
    (given / "sweep").mkdir(parents=True)
    (given / "sweep" / "small.yaml").write_text(SPACE)
    test_train_network.shop(given)
    small_shop.events_csv(given / "events.csv")
    small_shop.of_tastes(given / "tastes")
    small_shop.make(given / "plain", attributes=False)
    trained = f"prepared=PREPARED {' '.join(lives.SMALL)} output_dir={given}/runs"
    network = f"-c {given}/config.json -i {given}/input.nc -o {given}/output.nc -n {given}/gl.nc"
    bundle = f"output_dir={given}/shop/1 golden_users=5 program=false"
    for words in (
        f"train {trained}/a",
        f"train {trained}/b seed=2",
        f"dsstne train {network} -e 4 -b 32",
        f"export run={given}/runs/a {bundle}",
    ):
        life = live(shlex.split(words))
        assert life.code == 0, life.said
    versions.point(given / "shop", 1)
    return given


class Known:
    """A command, and what it leaves where nothing disturbs it."""

    def __init__(self, command: Command, ground: Ground, live: lives.Live, given: Path) -> None:
        self.command, self.ground, self.live, self.given = command, ground, live, given
        found = []
        print(f"  undisturbed, twice: deeprec {command.words}", file=sys.stderr)
        for _ in range(2):
            with ground.new() as place:
                words = command.begin(place.parent, given)
                started = time.monotonic()
                life = live(words, fault=command.fault)
                self.seconds = time.monotonic() - started
                assert life.code == 0, life.said
                found.append(content(place.parent))
        self.content = found[0]
        assert not self.unlike(found[1]), self.unlike(found[1])

    def unlike(self, found: Mapping[str, object]) -> str:
        """What is otherwise than undisturbed; empty: nothing."""
        if "trials" in found:
            return _other_sweep(self.content, found)
        names = sorted(self.content.keys() | found.keys())
        return ", ".join(one for one in names if self.content.get(one) != found.get(one))

    def tried(self, count: Count) -> None:
        """Kills it, gives it again, and counts what came of it."""
        with self.ground.new() as place:
            words = self.command.begin(place.parent, self.given)
            life, deaths = self._lived(words, place.parent)
            unlike = self.unlike(content(place.parent))
            # where all is there, another run of the command may be refused in words
            lost = life.code != 0 and bool(unlike)
            why = f"{' '.join(words)}\n  {deaths}: {unlike}\n  {life.code}: {life.said}"
            count.take(lost=lost, silent=not lost and bool(unlike), why=why)

    def _lived(self, words: list[str], here: Path) -> tuple[lives.Life, list[str]]:
        """Its last life, after some deaths and all that the words of refusals lead to."""
        again, draw, deaths = words, self.ground.draw, []
        wanted = draw.randint(1, DEATHS)
        for _ in range(LIVES):
            how: dict[str, float | dict[str, str]] = {}
            if len(deaths) < wanted and draw.random() < 0.5:
                how["kill_after"] = draw.uniform(0.0, self.seconds)
            elif len(deaths) < wanted:
                point = f"{draw.choice(POINTS)}:{draw.choice((1, 1, 2, 3, 5, 8))}"
                how["environment"] = {folder.CRASH: point}
            life = self.live(again, fault=self.command.fault, **how)  # type: ignore[arg-type]
            if life.code == -9:
                deaths.append(str(how))
            elif life.code == 0 or not (orders := _orders(life.said)):
                break
            else:
                again = _follow(orders, here) or words
        return life, deaths


def _orders(said: str) -> list[list[str]]:
    """The commands that a message names."""
    return [shlex.split(one) for one in re.findall(r"`((?:deeprec|rm|mv) [^`]+)`", said)]


def _follow(orders: Sequence[Sequence[str]], here: Path) -> list[str] | None:
    """Does what a message says, but for what deeprec is to do, which is returned."""
    for name, *words in orders:
        places = [Path(one) for one in words if one.startswith(str(here))]
        if name == "rm":
            shutil.rmtree(places[0])
        elif name == "mv":
            places[0].rename(places[1])
        else:
            return words
    return None


def content(here: Path) -> dict[str, object]:
    """What a command left, whatever the place and the time."""
    if (here / "sweep").is_dir():
        return _sweep(here / "sweep")
    return {str(one.relative_to(here)): _told(one, here) for one in sorted(here.rglob("*"))}


def _told(path: Path, here: Path) -> object:
    if path.name in UNLIKE or path.is_dir():
        return "there"
    if path.name == "metrics.csv":
        rows = csv.DictReader(path.read_text().splitlines())
        return [{name: one for name, one in row.items() if name not in TIMED} for row in rows]
    if path.suffix in TEXT:
        told = path.read_text().replace(str(here), "HERE")
        return re.sub(r'"seal": "\w+"', "", told)  # a hash of these places too
    return folder.sha256(path)


def _sweep(output: Path) -> dict[str, object]:
    """The trials by what they tried, the score of the best as its run has it, and what is left."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = f"sqlite:///{output / FILE}" if (output / FILE).is_file() else "sqlite://"
    told = optuna.create_study(study_name="sweep", storage=url, load_if_exists=True).user_attrs
    trials = [Trial(**one) for name, one in told.items() if name.startswith("ended.")]
    try:
        best: object = open_run(output / "best").checkpoint.score
    except DeeprecError as error:
        best = str(error)
    left = [one.name for one in output.rglob("*") if ".tmp-" in one.name]
    other = {one.name for one in output.iterdir()} ^ WRITTEN
    scores = {json.dumps(one.values, sort_keys=True): one.score for one in counted(trials)}
    return {"trials": scores, "best": best, "left": sorted({*left, *other})}


def _other_sweep(whole: Mapping[str, object], found: Mapping[str, object]) -> str:
    """A trial that was lost is tried again, and what comes after it may try other values."""
    known, scores = whole["trials"], found["trials"]
    assert isinstance(known, dict)
    assert isinstance(scores, dict)
    wrong = [one for one in known.keys() & scores.keys() if known[one] != scores[one]]
    wrong += [f"{len(scores)} trials in place of {len(known)}"] if len(scores) != len(known) else []
    first = next(iter(known))
    wrong += [] if first in scores else [f"{first} was not tried"]
    top = max((one for one in scores.values() if one is not None), default=None)
    wrong += [] if found["best"] == top else [f"the best is {found['best']}, and not {top}"]
    return "; ".join([*wrong, *map(str, found["left"])])  # type: ignore[call-overload]
