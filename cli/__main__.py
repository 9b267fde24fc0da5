"""`python -m tlp_cli`: the `tlp` command line without its script."""

from .main import run

run()
