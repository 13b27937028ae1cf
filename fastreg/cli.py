"""`python -m fastreg`: the demo, and what runs here.

>>> main(["demo", "--units", "0"])
Traceback (most recent call last):
SystemExit: 2
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fastreg._version import __version__

DESCRIPTION = """\
fastreg: regularized dense networks, trained and run on a CPU at the speed of the hardware.

Begin with the demo: it trains on handwritten digits, for some seconds, and draws what each
regularizer does."""

STARTED = """\
in Python:
  import fastreg as fr
  model = fr.Sequential([
      fr.Input((64,)),
      fr.Dense(32, activation="relu", kernel_regularizer=fr.L2(1e-3)),
      fr.Dense(10, activation="softmax"),
  ])
  model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
  model.fit(x, y, epochs=20)
  model.predict(x)"""

DEMO = """\
Train one network on handwritten digits under no regularizer, and under L2 and L1 on the kernel,
the bias and the activity of its hidden layer; all from the same weights on the same batches. Print
what each did to accuracy, weights and outputs, and how long a step took, beside the same training
in NumPy; save a picture of it. Needs scikit-learn, matplotlib and tqdm."""


SPARSITY = """\
Put 64 inputs of pure noise beside the 64 pixels of handwritten digits and train one network under
L1 of growing strength, which lands on exact zeros. Make each network compact, and print what is
left: accuracy, inputs, units, parameters, and the time of a training step and of a prediction;
save a picture of it. Needs scikit-learn, matplotlib and tqdm."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (None: those of the process); the exit status.

    Raises
    ------
    SystemExit
        For arguments that do not fit (2, with a message on the standard error) and after --help.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        if options.command == "info":
            import fastreg

            fastreg.show_config()
        elif options.command == "sparsity":
            _sparsity(parser, options)
        else:
            _demo(parser, options)
    except KeyboardInterrupt:
        print("\nfastreg: stopped by Ctrl-C", file=sys.stderr)
        return 130  # 128 + SIGINT, what shells expect
    except (ModuleNotFoundError, OSError) as error:
        print(f"fastreg {options.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _checked_output(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Path:
    """Where the picture goes, if it can go there and the packages that draw it are here."""
    from fastreg import demo, plotting

    demo.need_packages()
    output: Path = options.output
    try:
        plotting.check_output(output)
    except ValueError as error:
        parser.error(str(error))
    return output


def _demo(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    from fastreg import demo

    demo.main(
        epochs=options.epochs,
        units=options.units,
        seed=options.seed,
        output=_checked_output(parser, options),
        reference=not options.no_reference,
        n_threads=options.threads,
    )


def _sparsity(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    from fastreg import sparsity_demo

    sparsity_demo.main(
        epochs=options.epochs,
        units=options.units,
        seed=options.seed,
        output=_checked_output(parser, options),
    )


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m fastreg", description=DESCRIPTION, epilog=STARTED, formatter_class=raw
    )
    parser.add_argument("--version", action="version", version=f"fastreg {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    demo = commands.add_parser(
        "demo",
        help="what each regularizer does, on handwritten digits: a table and a picture",
        description=DEMO,
        formatter_class=raw,
    )
    _add_options(demo, epochs=100, units=32, output="fastreg-demo.png")
    demo.add_argument(
        "--threads",
        type=_integer(1),
        default=1,
        help="of fastreg and of NumPy; a network as small as this gains little from more "
        "(default %(default)s)",
    )
    demo.add_argument(
        "--no-reference", action="store_true", help="do not train in NumPy for comparison"
    )
    sparsity = commands.add_parser(
        "sparsity",
        help="the more L1, the smaller and faster: digits among noise, a table and a picture",
        description=SPARSITY,
        formatter_class=raw,
    )
    _add_options(sparsity, epochs=60, units=256, output="fastreg-sparsity.png")
    commands.add_parser(
        "info",
        help="print versions, instruction set, BLAS and threads",
        description="Print what runs here: versions, instruction set, BLAS, threads.",
    )
    return parser


def _add_options(command: argparse.ArgumentParser, *, epochs: int, units: int, output: str) -> None:
    """What both demos take, with their defaults."""
    command.add_argument(
        "--epochs",
        type=_integer(1),
        default=epochs,
        help="passes over the digits (default %(default)s)",
    )
    command.add_argument(
        "--units",
        type=_integer(1),
        default=units,
        help="units of the hidden layer (default %(default)s)",
    )
    command.add_argument(
        "--seed",
        type=_integer(0),
        default=0,
        help="of the split, the first weights and the order of the batches (default %(default)s)",
    )
    command.add_argument(
        "--output",
        type=Path,
        default=Path(output),
        metavar="PATH",
        help="where the picture goes; .svg and .pdf are taken, too (default %(default)s)",
    )


def _integer(low: int) -> Callable[[str], int]:
    """What reads an argument that is an integer >= `low`."""

    def integer(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"got {text!r}; an integer >= {low} is needed")
        return value

    return integer
