"""The command. A thin shell over the Python API: it reads options, shows progress and turns outcomes into exit codes.

Nothing heavy is imported before a subcommand needs it.
"""

from __future__ import annotations

import os

import click

from pipeline.cli import bench, label, models, runs, tune
from pipeline.cli.shell import Command

# Read when torch is loaded. A thread pool that spins while it waits takes the cores from the decoders: with both cores
# busy, a forward pass of coral at f = 4 on two threads took five times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = ["main"]


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vpipe", prog_name="vpipe")
def main() -> None:
    """Label every frame of your footage with small, specialized CNNs, folded."""


for command in (
    runs.run,
    runs.check,
    runs.probe,
    runs.strip,
    label.label,
    models.train,
    models.evaluate,
    models.quantize,
    models.list_models,
    models.info,
    bench.bench,
    tune.tune,
):
    main.add_command(command)
