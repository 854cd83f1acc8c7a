"""The command `model`: weights of the network, one file for each thing to do with them."""

from __future__ import annotations

import typer

from producer.commands.model.evaluate import evaluate
from producer.commands.model.reference import reference
from producer.commands.model.train import train
from producer.commands.model.weights import convert, info, verify

model = typer.Typer(help="Weights of the network.", no_args_is_help=True)
for command in (convert, info, verify, train, evaluate, reference):
    model.command()(command)
