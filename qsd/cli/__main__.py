"""``python -m qsd.cli`` is the program ``qsd``."""

from qsd.cli import main

raise SystemExit(main())
