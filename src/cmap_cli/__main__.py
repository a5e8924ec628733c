"""``python -m cmap_cli`` is ``cmap``."""

from cmap_cli.cli.app import main

main()
