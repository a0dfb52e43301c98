"""How does the loss fall? Draws the training loss of finished runs, from their TensorBoard files, as one SVG.

    python -m benchmarks.loss_curve OUT [OUT ...] --names NAME [NAME ...] --svg docs/paper-loss.svg

OUT is a folder that jobs.train wrote.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

matplotlib.use("svg")


def losses(out: Path) -> tuple[list[int], list[float]]:
    """Steps and the mean loss of the steps since the one before.

    Raises:
        SystemExit: there are none.
    """
    folder = out / "tensorboard"
    events = EventAccumulator(str(folder))
    if folder.is_dir():
        events.Reload()
    if "train/loss" not in events.Tags()["scalars"]:
        raise SystemExit(f"{out} has no losses in tensorboard; give the --out of a jobs.train")
    scalars = events.Scalars("train/loss")
    return [scalar.step for scalar in scalars], [scalar.value for scalar in scalars]


def draw(runs: dict[str, Path], svg: Path) -> None:
    """One line a run; the loss on a logarithmic scale."""
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "drel"  # the same runs, the same file
    figure, axes = pyplot.subplots(figsize=(6.4, 3.2), layout="constrained")
    for name, out in runs.items():
        axes.plot(*losses(out), label=name)
    axes.set(xlabel="step", ylabel="mean hinge of a triplet", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(svg, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("out", type=Path, nargs="+", metavar="OUT")
    parser.add_argument("--names", nargs="+", help="of the runs (default: their folders')")
    parser.add_argument("--svg", type=Path, required=True)
    given = parser.parse_args()
    names = given.names or [out.name for out in given.out]
    if len(names) != len(given.out):
        raise SystemExit(f"{len(names)} --names for {len(given.out)} runs; give one for each")
    draw(dict(zip(names, given.out, strict=True)), given.svg)


if __name__ == "__main__":
    main()
