"""``fit``, ``validate`` and ``test`` of the universal ranker: Lightning's command line over probed stores."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import CSVLogger
from rich.table import Table

from qsd.cli.checkpoints import CheckedCLI
from qsd.cli.console import command_line, console
from qsd.cli.lightning_parser import LightningParser
from qsd.cli.overwriting import check_replaceable
from qsd.ranker.baselines import average_bits
from qsd.ranker.metrics import evaluate
from qsd.ranker.universal.data import ProbedStore, UniversalDataModule
from qsd.ranker.universal.files import FILE_NAME, load_universal, save_universal
from qsd.ranker.universal.finishing import finished
from qsd.ranker.universal.module import UniversalModule
from qsd.ranker.universal.predictor import UniversalPredictor
from qsd.ranker.universal.universal import Universal
from qsd.support.documents import write_json
from qsd.support.errors import QsdError

_PACKAGES = ("qsd", "torch", "lightning", "torch_geometric")


class UniversalCLI(CheckedCLI):
    """LightningCLI that ends a fit with a folder of a universal ranker."""

    model: UniversalModule
    datamodule: UniversalDataModule

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--ranker", type=str, default="universal", help="which kind of ranker")
        parser.add_argument("--out", type=str, default="runs/ranker-universal", help="folder to write")
        parser.add_argument(
            "--overwrite", type=bool, default=False, help="replace a ranker of other denoisers"
        )
        parser.add_argument(
            "--base", type=str | None, default=None, help="in a YAML file: the file whose settings it adds to"
        )

    def instantiate_trainer(self, **kwargs: Any) -> lightning.Trainer:
        """Logs to CSV in `logs/RANKER/version_N` beside the ranker, and keeps no checkpoints."""
        if self._get(self.config, "trainer").logger in (None, True):
            out = Path(self._get(self.config, "out"))
            kwargs["logger"] = CSVLogger(out.parent / "logs", name=out.name)
        return super().instantiate_trainer(**kwargs)

    def fit(self, model: UniversalModule, datamodule: UniversalDataModule, **kwargs: Any) -> None:
        """Trains, unless another ranker stands where this one is to be written."""
        if kwargs.pop("ckpt_path", None) is not None:
            raise QsdError(
                "fit: a universal ranker keeps no checkpoints and trains in minutes; leave out --ckpt_path"
            )
        datamodule.setup()
        folder = Path(self._get(self.config["fit"], "out"))
        wanted = {"denoisers": [store.data.header.denoiser for store in datamodule.stores]}
        check_replaceable(
            folder / FILE_NAME,
            wanted,
            lambda: {"denoisers": load_universal(folder).denoisers},
            overwrite=bool(self._get(self.config["fit"], "overwrite")),
        )
        self.trainer.fit(model, datamodule=datamodule, **kwargs)

    def after_fit(self) -> None:
        """Measures the ranker on what its members have not seen, and on the store left out; saves it."""
        if getattr(self.trainer, "fast_dev_run", False):
            return
        data = self.datamodule
        left_out = data.left_out
        ranker = finished(
            list(self.model.members.to("cpu")),
            data.stores,
            data.target.text,
            json.loads(self.parser.dump(self.config, format="json"))["fit"],
            {
                "command": command_line(),
                "versions": {package: version(package) for package in _PACKAGES},
                "stores": [store.data.path for store in data.stores],
                "left_out": left_out.name if left_out is not None else None,
            },
        )
        folder = Path(self._get(self.config["fit"], "out"))
        save_universal(folder, ranker)
        report = {"members": ranker.metrics}
        if left_out is not None and len(left_out.data.test_rows()) > 2:
            report["left out"] = {left_out.name: tested(ranker, left_out)}
        write_json(folder / "metrics.json", report, hashed=False)
        console.print(_table(report))
        console.print(f"ranker and metrics.json: {folder}")


def tested(ranker: Universal, store: ProbedStore) -> dict[str, Any]:
    """Metrics on the test records of a store, which the ranker has not seen, beside label-free rules."""
    rows = store.data.test_rows().numpy()
    configs = store.data.configs[rows].numpy()
    truth = store.data.targets[rows, 0].double().numpy()
    header = store.data.header
    predictor = UniversalPredictor.of(ranker.expected(header).given(None), ranker.calibration)
    found = predictor.posterior(configs)
    errors = header.relative_error[range(configs.shape[1]), configs].sum(axis=1)
    low, high = found.interval(0.9)
    return {
        "universal ranker": evaluate(truth, found.mean, 500),
        "sum of errors": evaluate(truth, -errors, 500),
        "average bits": evaluate(truth, average_bits(header, configs), 500),
        "coverage_90": float(((low <= truth) & (truth <= high)).mean()),
    }


def _table(report: dict[str, Any]) -> Table:
    table = Table(title="on denoisers that were not learned from", caption="Spearman, 95 % interval")
    for heading in ("denoiser", "predictor", "Spearman"):
        table.add_column(heading, justify="left" if heading != "Spearman" else "right")

    def add(store: str, predictor: str, row: dict[str, Any]) -> None:
        value = row["spearman"]
        table.add_row(store, predictor, f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})")

    for store, row in report["members"].items():
        add(store, "one member", row)
    for store, rows in report.get("left out", {}).items():
        for predictor, row in rows.items():
            if isinstance(row, dict):
                add(store, predictor, row)
    return table


def run(args: Sequence[str]) -> None:
    """Runs a Lightning verb over the universal ranker.

    Raises:
        QsdError: a store that cannot be learned from, or a verb that it does not have.
    """
    if args[0] != "fit":
        raise QsdError(
            f"{args[0]}: a universal ranker is tested by `lightning fit --config universal.yaml "
            "--data.leave_out STORE`, whose table and metrics.json tell"
        )
    UniversalCLI(
        UniversalModule,
        UniversalDataModule,
        args=list(args),
        parser_class=LightningParser,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"default_root_dir": "runs", "enable_checkpointing": False},
    )
