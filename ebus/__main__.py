"""`python -m ebus` is the command `ebus`."""

from ebus.cli import main

main(prog_name="ebus")
