"""`deeprec dsstne <command>`: the commands of DSSTNE, with their flags, on this engine."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from deeprec.errors import ConfigError, did_you_mean

Run = Callable[[argparse.Namespace], None]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}; {self.prog} -h says more")


def run(words: Sequence[str]) -> int:
    """Runs one command; returns 0.

    Raises:
        DeeprecError: as the command says.
    """
    name, *arguments = words or ["-h"]
    if name in ("-h", "--help", "help"):
        print(overview())
        return 0
    if name not in COMMANDS:
        raise ConfigError(f"deeprec dsstne has no {name!r}; {did_you_mean(name, COMMANDS)}")
    summary, fill, act = COMMANDS[name]
    parser = _Parser(
        prog=f"deeprec dsstne {name}", description=summary, allow_abbrev=False, add_help=True
    )
    fill(parser)
    act(parser.parse_args(arguments))
    return 0


def overview() -> str:
    """Every command in a line."""
    rows = [f"  {name:<16}{summary}" for name, (summary, _, _) in COMMANDS.items()]
    return "\n".join(["usage: deeprec dsstne <command> [flags]", "", *rows])


def _generate_flags(parser: argparse.ArgumentParser) -> None:
    _paths(
        parser,
        i="text samples, or a folder of them",
        o="the NetCDF file to write; one that is there is replaced, as in DSSTNE",
        f="feature index; without -c or -m, features that it does not have are left out",
        s="sample index: read and extended if it is there, made otherwise; each sample of it has a "
        "row, empty where there is no line",
    )
    parser.add_argument("-d", required=True, help="name of the data set")
    grow = parser.add_mutually_exclusive_group()
    grow.add_argument(
        "-c", action="store_true", help="create the feature index, in place of one that is there"
    )
    grow.add_argument("-m", action="store_true", help="extend the feature index")
    _known(parser, "-t", "indicator", "what is stored", choices=["indicator", "analog"])


def _generate(told: argparse.Namespace) -> None:
    from deeprec.dsstne.generate import generate

    generate(
        name=told.d,
        samples=told.i,
        output=told.o,
        feature_index=told.f,
        sample_index=told.s,
        grow="create" if told.c else "merge" if told.m else "no",
        kind=told.t,
    )


def _encoder_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        type=Path,
        help="what encoder is told: JSON with Command, Network, Data, TrainingParameters",
    )
    _compatibility(parser, "as of train; and the ideal of ndcg is a list of all outputs")


def _encoder(told: argparse.Namespace) -> None:
    from deeprec.dsstne.encoder import encoder

    encoder(told.file, as_dsstne=told.compatibility == "dsstne")


def _validate_flags(parser: argparse.ArgumentParser) -> None:
    _paths(parser, c="network definition, JSON", o="data set file of the output")
    _input_files(parser)
    _known(parser, "-b", 16, "examples, the first ones")


def _validate(told: argparse.Namespace) -> None:
    from deeprec.dsstne.validate import validate

    validate(definition=told.c, inputs=told.i, outputs=[told.o], examples=told.b)


def _import_network_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("definition", type=Path, help="config.json of DSSTNE")
    parser.add_argument(
        "-o", type=Path, help="YAML to write; default: imported/experiment/NAME.yaml beside it"
    )


def _import_network(told: argparse.Namespace) -> None:
    from deeprec.dsstne.import_network import import_network

    import_network(told.definition, told.o)


def _import_weights_flags(parser: argparse.ArgumentParser) -> None:
    _paths(
        parser,
        n="the network file",
        i="feature index of its input",
        o="feature index of its output",
    )
    _further_inputs(parser, "INDEX")
    parser.add_argument(
        "--prepared", type=Path, required=True, help="prepared folder of whose items it recommends"
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="the run, a new folder")


def _import_weights(told: argparse.Namespace) -> None:
    from deeprec.dsstne.import_weights import import_weights

    import_weights(
        network_file=told.n,
        input_index=told.i,
        output_index=told.o,
        further={name: index for name, (index,) in _by_data_set(told.input).items()},
        prepared_folder=told.prepared,
        output_dir=told.output_dir,
    )


def _export_network_flags(parser: argparse.ArgumentParser) -> None:
    _paths(parser, r="a run folder", n="the network file to write", f="feature index to write")
    _known(parser, "-d", "gl", "data sets are D_input and D_output")


def _export_network(told: argparse.Namespace) -> None:
    from deeprec.dsstne.export_network import export_network

    export_network(told.r, told.n, told.f, name=told.d)


def _train_flags(parser: argparse.ArgumentParser) -> None:
    from deeprec.dsstne.train_network import OPTIMIZERS, Steps

    _paths(
        parser,
        c="network definition, JSON",
        o="data set file of the output",
        n="the network file to write; a new one",
    )
    _input_files(parser)
    parser.add_argument("-d", help="not read, as in DSSTNE")
    own = Steps()
    _known(parser, "-b", own.batch, "examples in a step")
    _known(parser, "-e", own.epochs, "epochs")
    _known(parser, "-alpha", own.alpha, "learning rate")
    _known(parser, "-lambda", own.decay, "weight decay (L2)")
    _known(parser, "-lambda1", own.l1_decay, "L1 decay")
    _known(parser, "-mu", own.mu, "momentum, smoothing, or first beta of Adam; sgd has none")
    _known(parser, "-mu1", own.mu1, "second beta of Adam")
    _known(parser, "--optimizer", own.optimizer, "DSSTNE's train knows sgd", choices=OPTIMIZERS)
    says = "epochs after which alpha changes, encoder's AlphaInterval; 0: it stays"
    _known(parser, "--alpha-interval", own.interval, says)
    says = "what alpha is multiplied with then, encoder's AlphaMultiplier"
    _known(parser, "--alpha-multiplier", own.multiplier, says)
    _compatibility(parser, "train with its conventions where ours are others")
    _known(parser, "--seed", own.seed, "of weights, order and dropout")


def _train(told: argparse.Namespace) -> None:
    from deeprec.dsstne.train_network import Steps, train_network

    train_network(
        definition=told.c,
        inputs=told.i,
        outputs=[told.o],
        network_file=told.n,
        steps=Steps(
            epochs=told.e,
            batch=told.b,
            alpha=told.alpha,
            decay=vars(told)["lambda"],
            l1_decay=told.lambda1,
            interval=told.alpha_interval,
            multiplier=told.alpha_multiplier,
            as_dsstne=told.compatibility == "dsstne",
            mu=told.mu,
            mu1=told.mu1,
            optimizer=told.optimizer,
            seed=told.seed,
        ),
    )


def _predict_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", required=True, help="name of the data set")
    _paths(
        parser,
        i="feature index of the input",
        o="feature index of the output",
        n="the network file",
        r="text samples to answer",
        s="the lists to write; a file that is there is replaced, as in DSSTNE",
    )
    _further_inputs(parser, "INDEX", "SAMPLES")
    parser.add_argument("-f", type=Path, help="filter: what a sample should not be given")
    parser.add_argument(
        "--filter-mode",
        choices=["exclude", "multiply"],
        help="leave out what the filter names, or multiply scores by its values, as DSSTNE does; "
        "default: exclude, or multiply with --compatibility dsstne",
    )
    _compatibility(parser, "multiply is the default of --filter-mode")
    _known(parser, "-b", 1024, "samples answered at once")
    _known(parser, "-k", 100, "features a list; there is no ceiling")
    _known(parser, "-p", "4.3f", "format of scores, as of printf")
    _known(parser, "-l", "Output", "layer that is asked")


def _predict(told: argparse.Namespace) -> None:
    from deeprec.dsstne.further import Further
    from deeprec.dsstne.predict import predict

    predict(
        name=told.d,
        network_file=told.n,
        input_index=told.i,
        output_index=told.o,
        samples=told.r,
        output=told.s,
        further={name: Further(*files) for name, files in _by_data_set(told.input).items()},
        filters=told.f,
        filter_mode=told.filter_mode
        or ("multiply" if told.compatibility == "dsstne" else "exclude"),
        batch=told.b,
        k=told.k,
        score_format=told.p,
        layer=told.l,
    )


def _input_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i",
        type=Path,
        nargs="+",
        required=True,
        help="data set files of the inputs: one with all, or several",
    )


def _further_inputs(parser: argparse.ArgumentParser, *files: str) -> None:
    parser.add_argument(
        "--input",
        nargs=1 + len(files),
        metavar=("DATA_SET", *files),
        action="append",
        default=[],
        help="of a network of several inputs, each beside the history; default: none",
    )


def _by_data_set(told: Sequence[Sequence[str]]) -> dict[str, list[Path]]:
    """The files of each `--input`, by the name of its data set."""
    found: dict[str, list[Path]] = {}
    for name, *files in told:
        if name in found:
            one, other = (" ".join(map(str, given)) for given in (found[name], files))
            raise ConfigError(
                f"--input {name} is given twice, with {one} and with {other}; give it once"
            )
        found[name] = [Path(file) for file in files]
    return found


def _compatibility(parser: argparse.ArgumentParser, meaning: str) -> None:
    _known(parser, "--compatibility", "none", f"dsstne: {meaning}", choices=["none", "dsstne"])


def _known(
    parser: argparse.ArgumentParser,
    flag: str,
    default: str | float,
    meaning: str,
    *,
    choices: Sequence[str] | None = None,
) -> None:
    """A flag that may be left out, of the type of its default, which its help says."""
    parser.add_argument(
        flag,
        type=type(default),
        default=default,
        choices=choices,
        help=f"{meaning}; default: {default}",
    )


def _paths(parser: argparse.ArgumentParser, **flags: str) -> None:
    for name, meaning in flags.items():
        parser.add_argument(f"-{name}", type=Path, required=True, help=meaning)


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Run]] = {
    "generate": ("text samples -> data set, as generateNetCDF", _generate_flags, _generate),
    "train": ("definition and data sets -> network file, as train", _train_flags, _train),
    "predict": ("text samples -> lists, as predict", _predict_flags, _predict),
    "encoder": ("train, predict or validate, as one file says", _encoder_flags, _encoder),
    "validate": ("numerical gradient check of a definition", _validate_flags, _validate),
    "import-network": (
        "network definition -> experiment for deeprec train",
        _import_network_flags,
        _import_network,
    ),
    "import-weights": (
        "network file -> run that evaluates, exports and serves",
        _import_weights_flags,
        _import_weights,
    ),
    "export-network": ("run -> network file", _export_network_flags, _export_network),
}
