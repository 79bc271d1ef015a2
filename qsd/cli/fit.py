"""``fit``, ``validate``, ``test`` and ``predict``: Lightning's own command line over the ranker."""

import csv
import dataclasses
import json
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from qsd.cli.checkpoints import CheckedCLI, check_checkpoint
from qsd.cli.config_files import with_config_files
from qsd.cli.console import command_line, console, messages
from qsd.cli.lightning_parser import LightningParser
from qsd.cli.overwriting import check_replaceable
from qsd.cli.tables import number_table
from qsd.ranker.checkpoint import is_ranker, load_ranker, save_ranker, trained_on
from qsd.ranker.data import StoreDataModule
from qsd.ranker.ensemble import Ensemble
from qsd.ranker.evaluation import Report, compare
from qsd.ranker.metrics import LARGER_IS_BETTER
from qsd.ranker.module import RankerModule, check_precision
from qsd.ranker.posteriors import TARGET, Posteriors, coverage, fit_posteriors
from qsd.support.errors import QsdError, first_line
from qsd.support.paths import find
from qsd.support.yaml_files import read_yaml

_PACKAGES = ("qsd", "torch", "lightning", "torch_geometric")


class RankerCLI(CheckedCLI):
    """LightningCLI that ends a fit with honest numbers and a ranker folder."""

    model: RankerModule
    datamodule: StoreDataModule
    _loaded: Sequence[Posteriors] = ()

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--out",
            type=str | None,
            default=None,
            help="ranker folder; by default `ranker` in the log folder",
        )
        parser.add_argument(
            "--overwrite",
            type=bool,
            default=False,
            help="replace a ranker of other stores; one of the same stores is replaced anyway",
        )
        parser.add_argument(
            "--base", type=str | None, default=None, help="in a YAML file: the file whose settings it adds to"
        )

    def instantiate_trainer(self, **kwargs: Any) -> lightning.Trainer:
        """Logs to CSV and TensorBoard, in one folder `logs/RANKER/version_N` beside the ranker."""
        settings = self._get(self.config, "trainer")
        if settings.logger in (None, True):
            out = Path(self._get(self.config, "out") or "runs/ranker")
            table = CSVLogger(out.parent / "logs", name=out.name)
            board = TensorBoardLogger(out.parent / "logs", name=out.name, version=f"version_{table.version}")
            kwargs["logger"] = [table, board]
        if settings.enable_checkpointing is False:
            self.trainer_defaults = self.trainer_defaults | {"callbacks": []}
        try:
            return super().instantiate_trainer(**kwargs)
        except MisconfigurationException as error:
            raise QsdError(f"trainer: {first_line(error)}; change --trainer.*") from error

    def fit(
        self, model: RankerModule, datamodule: StoreDataModule, ckpt_path: Any = None, **kwargs: Any
    ) -> None:
        """Trains; where labels are too few for networks the closed form learns from them alone."""
        datamodule.setup()
        if ckpt_path in ("last", "best", "hpc"):
            raise QsdError(
                f"fit: --ckpt_path {ckpt_path} names no file, and a new run has none; give the path of a "
                "checkpoint, such as the last.ckpt in the log folder"
            )
        check_precision(self._get(self.config, "trainer").precision)
        if not getattr(self.trainer, "fast_dev_run", False):
            self._check_out(datamodule)
        if datamodule.few:
            model.members = Ensemble()
            return
        if ckpt_path is not None:
            check_checkpoint(Path(ckpt_path))
        kwargs["weights_only"] = True
        self.trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, **kwargs)

    def _check_out(self, datamodule: StoreDataModule) -> None:
        """Refuses to replace a ranker of other stores."""
        folder = self._out()
        wanted = {
            "denoisers": [data.header.denoiser for data in datamodule.stores],
            "stores": [str(Path(data.path).resolve()) for data in datamodule.stores],
        }
        check_replaceable(
            folder / "ranker.json",
            wanted,
            lambda: trained_on(folder),
            overwrite=bool(self._get(self.config[self.subcommand], "overwrite")),
        )

    def after_fit(self) -> None:
        """Restores the best epoch, measures it on the test records and saves the ranker."""
        if getattr(self.trainer, "fast_dev_run", False):
            messages.print("fast_dev_run: a try, so no ranker is written")
            return
        if not self.trainer.is_global_zero:
            return
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if best and len(self.model.members):
            self.model.load_state_dict(torch.load(best, weights_only=True)["state_dict"])
        stores = self.datamodule.stores
        self.model.members.calibrate(stores)
        posteriors = self._posteriors()
        reports, calibrations = self._report(posteriors)
        folder = self._out()
        save_ranker(
            folder,
            self.model.members,
            [data.header for data in stores],
            self.datamodule.targets[0].text,
            posteriors,
            network=self.model.settings,
            auxiliary=[target.text for target in self.datamodule.targets[1:]],
            hyper_parameters=json.loads(self.parser.dump(self.config, format="json"))[self.subcommand],
            metrics=reports,
            calibration=calibrations,
            unseen=[data.unseen for data in stores],
            last_seeds=[data.last_seed for data in stores],
            provenance={
                "command": command_line(),
                "versions": {package: version(package) for package in _PACKAGES},
                "stores": [data.path for data in stores],
                "epochs": self.trainer.current_epoch,
            },
        )
        console.print(f"ranker, metrics.json and calibration.json: {folder}")

    def test(
        self, model: RankerModule, datamodule: StoreDataModule, ckpt_path: Any = None, **kwargs: Any
    ) -> None:
        """Tests a Lightning checkpoint or a ranker folder; without one, the ranker under ``--out``."""
        self._run_checkpoint("test", ckpt_path, **kwargs)
        self._report(self._posteriors())

    def validate(
        self, model: RankerModule, datamodule: StoreDataModule, ckpt_path: Any = None, **kwargs: Any
    ) -> None:
        """Validates a Lightning checkpoint or a ranker folder."""
        self._run_checkpoint("validate", ckpt_path, **kwargs)

    def predict(
        self, model: RankerModule, datamodule: StoreDataModule, ckpt_path: Any = None, **kwargs: Any
    ) -> None:
        """Predicts all records of the stores; `predictions.csv` in the log folder."""
        self._run_checkpoint("predict", ckpt_path, **kwargs)
        file = Path(self.trainer.log_dir or self.trainer.default_root_dir) / "predictions.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["store", "split", "target", "mean", "std"])
            for data, posteriors in zip(self.datamodule.stores, self._posteriors(), strict=True):
                splits = ["test" if fold < 0 else "known" for fold in data.fold.tolist()]
                found = posteriors[TARGET].posterior(data.configs.numpy().astype(np.int16))
                columns = (splits, data.targets[:, 0].tolist(), found.mean.tolist(), found.std.tolist())
                writer.writerows((data.path, *row) for row in zip(*columns, strict=True))
        console.print(f"predictions: {file}")

    def _run_checkpoint(self, verb: str, ckpt_path: Any, **kwargs: Any) -> Any:
        source = ckpt_path or self._get(self.config[self.subcommand], "out")
        if source is None:
            raise QsdError(
                f"{verb}: which ranker? give --ckpt_path CHECKPOINT, a .ckpt file or a ranker folder"
            )
        path = find(source)
        if is_ranker(path):
            self._load_folder(path)
            path_of_lightning = None
        else:
            check_checkpoint(path)
            path_of_lightning = str(path)
        run = getattr(self.trainer, verb)
        kwargs["weights_only"] = True  # whatever the YAML says: a checkpoint may come from a stranger
        return run(self.model, datamodule=self.datamodule, ckpt_path=path_of_lightning, **kwargs)

    def _load_folder(self, folder: Path) -> None:
        """Takes from a ranker what it knows of the denoiser of each store."""
        self.datamodule.setup()
        rankers = []
        for data in self.datamodule.stores:
            ranker = load_ranker(folder, data.header.denoiser)
            ranker.check(data.header, data.path)
            if ranker.target != self.datamodule.targets[0].text:
                raise QsdError(
                    f"{folder}: predicts {ranker.target}, not {self.datamodule.targets[0].text}; "
                    "give its own as --data.target"
                )
            rankers.append(ranker)
        self.model.members = rankers[0].members
        self.model.positions = [ranker.store for ranker in rankers]
        self._loaded = [ranker.posteriors for ranker in rankers]

    def _posteriors(self) -> Sequence[Posteriors]:
        """What predicts each label of each store: a loaded ranker's own, or fitted on all that is known."""
        if self._loaded:
            return self._loaded
        members = self.model.members.to("cpu").eval()
        return [
            fit_posteriors(
                members, dataclasses.replace(data, graph=data.graph.to("cpu")), store, self.model.responses
            )
            for store, data in enumerate(self.datamodule.stores)
        ]

    def _report(self, posteriors: Sequence[Posteriors]) -> tuple[dict[str, Report], dict[str, Any]]:
        reports, calibrations = {}, {}
        for data, some in zip(self.datamodule.stores, posteriors, strict=True):
            count = len(data.test_rows())
            if count > 2:
                reports[data.path] = compare(some, data)
                calibrations[data.path] = coverage(some, data)
                name = Path(data.path).name
                console.print(_table(reports[data.path], f"{name}: {count} test records"))
                console.print(_calibration_table(calibrations[data.path], f"{name}: posterior, test records"))
            else:
                messages.print(f"{data.path}: {count} test records, too few to test on")
        for message in self.datamodule.messages:
            messages.print(message)
        return reports, calibrations

    def _out(self) -> Path:
        out = self._get(self.config[self.subcommand], "out")
        return Path(out) if out else Path(self.trainer.log_dir or self.trainer.default_root_dir) / "ranker"


def run(args: Sequence[str]) -> None:
    """Runs ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        args: the command line, verb first.

    Raises:
        QsdError: a store, target or checkpoint that cannot be used.
    """
    words = with_config_files(args)  # other verbs and scripts fit too
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # qsd.cli parsed the verb
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec")  # Lightning's own deprecation
        if _is_universal(words):
            from qsd.cli import universal

            universal.run(words)
            return
        RankerCLI(
            RankerModule,
            StoreDataModule,
            args=words,
            parser_class=LightningParser,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                "default_root_dir": "runs",  # without a logger, checkpoints would go among the shipped ones
                "callbacks": [ModelCheckpoint(monitor="val_spearman", mode="max", save_last=True)],
            },
        )


def _is_universal(words: Sequence[str]) -> bool:
    """Whether the command line, or a file that it names, has ``ranker: universal``."""
    named: Any = None
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word in ("--config", "-c"):
            named = read_yaml(after).get("ranker", named) if Path(after).is_file() else named
        elif word.partition("=")[0] == "--ranker":
            named = word.partition("=")[2] or after
    return bool(named == "universal")


def _table(report: Report, title: str) -> Table:
    """Predictors as rows, metrics as columns, the best of each column in bold."""
    names = list(report["ranker"])
    table = Table(
        title=title,
        caption="below each number its 95 % bootstrap interval",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=0,
    )
    table.min_width = len(title)
    table.add_column("", overflow="fold")
    for name in names:
        table.add_column(textwrap.fill(name.replace("_", " "), 9), justify="right", no_wrap=True)
    rivals = [predictor for predictor in report if "records" not in predictor]
    best = {
        name: (max if LARGER_IS_BETTER[name] else min)(report[rival][name]["value"] for rival in rivals)
        for name in names
    }
    for predictor, row in report.items():
        if len(table.rows) == len(rivals):
            table.add_section()  # the rows that follow are measured on fewer records
        cells = []
        for name in names:
            value = row[name]
            is_best = predictor in rivals and value["value"] == best[name]
            cells.append(
                Text.assemble(
                    (f"{value['value']:.3f}\n", "bold" if is_best else ""),
                    (f"{value['low']:.3f}..{value['high']:.3f}", "dim"),
                )
            )
        table.add_row(predictor, *cells)
    return table


def _calibration_table(rows: Mapping[str, Mapping[str, float]], title: str) -> Table:
    """Labels as rows, measures of calibration as columns."""
    table = number_table(
        title,
        ("", "Spearman", "in 1 s.d.", "in 90 %", "NLL", "miscalibration"),
        caption="coverage of the intervals of one standard deviation and of 90 %",
    )
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row['spearman']:.3f}",
            f"{row['coverage_68']:.1%}",
            f"{row['coverage_90']:.1%}",
            f"{row['nll']:.3f}",
            f"{row['miscalibration_area']:.3f}",
        )
    return table
