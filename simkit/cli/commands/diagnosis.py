"""`simkit doctor`: whether this machine computes right."""

import click

from simkit.cli.options import json_option, traceback_option
from simkit.cli.outcomes import FAULT


@click.command()
@json_option
@traceback_option
def doctor(as_json: bool) -> None:
    """Tell versions and devices, and check that jax computes right numbers here.

    The exit code is 1 if something is wrong.
    """
    import dataclasses
    import json

    from simkit.cli.compilation_cache import cache_folder
    from simkit.cli.tables import print_lines
    from simkit.doctor import examine

    diagnosis = examine(cache_folder())
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(diagnosis), indent=2, ensure_ascii=False))
    else:
        width = max(map(len, diagnosis.versions), default=0)
        print_lines(
            *(f"{name:{width}}  {version}" for name, version in diagnosis.versions.items()),
            *(f"{'device':{width}}  {device}" for device in diagnosis.devices),
            f"{'cache':{width}}  {diagnosis.cache}",
            *(f"Well: {sentence}" for sentence in diagnosis.passed),
        )
    for fault in diagnosis.faults:
        click.echo(f"Wrong: {fault}", err=True)
    if diagnosis.faults:
        click.get_current_context().exit(FAULT)
