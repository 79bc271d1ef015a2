"""Lightning's command line with the flags of every other verb."""

from lightning.pytorch.cli import LightningArgumentParser

from qsd.cli.flags import FlagsParser


class LightningParser(FlagsParser, LightningArgumentParser):
    """Lightning's parser, with flags."""
