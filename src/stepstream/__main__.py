"""`python -m stepstream` is the `stepstream` command."""

from stepstream.cli import main

main()
