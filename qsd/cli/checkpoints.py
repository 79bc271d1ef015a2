"""Checkpoints that Lightning's command lines are given, looked at before Lightning takes them."""

from pathlib import Path

import torch
from lightning.pytorch.cli import LightningCLI

from qsd.support.errors import QsdError, first_line


def check_checkpoint(path: Path) -> None:
    """Refuses what no training can go on from.

    Raises:
        QsdError: there is no such file, it is a folder, damaged, or no checkpoint.
    """
    if path.is_dir():
        raise QsdError(f"{path}: a folder; name a checkpoint, such as the last.ckpt in the log folder")
    if not path.is_file():
        raise QsdError(f"{path}: no such checkpoint; name the last.ckpt in the log folder")
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever damaged bytes make of unpickling
        raise QsdError(f"{path}: no checkpoint, or damaged ({first_line(error)}); name another") from error


class CheckedCLI(LightningCLI):
    """Lightning's command line, which reads settings from a checkpoint before anything else."""

    def _parse_ckpt_path(self) -> None:
        named = self.config[self.config.subcommand].get("ckpt_path")
        if named and Path(named).is_file():
            check_checkpoint(Path(named))
        super()._parse_ckpt_path()
