"""Fine-tunes an exported denoiser against the full-precision one; the file keeps its size to the byte."""

import dataclasses
import shutil
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from qsd.bank.carried import Carried
from qsd.bank.holder import HOLDER
from qsd.denoisers.components import denoiser_like
from qsd.denoisers.identity import check_same_denoiser, identity
from qsd.evaluation.settings import EvaluationSettings
from qsd.export.card import add_to_card
from qsd.export.folder import CONFIG_NAME, replacing_export, write_json
from qsd.export.read import denoiser_folders
from qsd.export.shards import check_files, read_config, shard_files
from qsd.finetune.calls import Calls
from qsd.finetune.module import FinetuneModule
from qsd.quantizers import QuantizedWeight
from qsd.runtime.manifest import Manifest
from qsd.runtime.stacks import weight_shape
from qsd.support.errors import QsdError
from qsd.support.hashing import json_hash, verification
from qsd.support.progress import Progress
from qsd.support.provenance import provenance as software
from qsd.support.tensors import tensor_hash

_VALIDATION_SEED = 1  # after that of the training images


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    """How much to train.

    Attributes:
        images: drawn by full precision to learn from; every step of every batch is one training example.
        validation_images: drawn from other noise to validate on.
        batch_size: images per example.
        epochs: passes over the examples.
        learning_rate: in units of each tensor's root mean square.
        noise_seed: of the images; those of validation have the next one.
    """

    images: int = 256
    validation_images: int = 64
    batch_size: int = 8
    epochs: int = 12
    learning_rate: float = 1e-2
    noise_seed: int = 1000

    def __post_init__(self) -> None:
        if min(self.images, self.validation_images, self.batch_size, self.epochs) < 1:
            raise QsdError(f"finetune: {self}; images, batch size and epochs must be at least 1")
        if not 0 < self.learning_rate < 1:
            raise QsdError(
                f"finetune: learning rate {self.learning_rate}; give one between 0 and 1, as 0.003"
            )


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """What came of it.

    Attributes:
        path: the folder written.
        loss_before, loss_after: validation losses.
        epochs: passes that were made.
        num_bytes: size of the denoiser's files, before and after.
    """

    path: Path
    loss_before: float
    loss_after: float
    epochs: int
    num_bytes: int


def finetune(
    export: str | Path,
    pipe: Any,
    out: str | Path,
    *,
    evaluation: EvaluationSettings,
    settings: FinetuneSettings = FinetuneSettings(),
    variant: str | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> Finetuned:
    """Trains codebooks, scales, zero points, biases and norms of an export to answer as full precision does.

    Codes stay, and so does the rounding of activations that an export carries: what is trained is trained for
    it. It needs no images: the pipeline draws its own, and the denoiser learns from every call. The
    state of the training lies in ``OUT.training`` beside the result until that is complete; run again, it
    goes on. The state with the least validation loss is kept.

    Args:
        export: folder that ``qsd export`` wrote.
        pipe: the pipeline at full precision.
        out: folder to write, a copy of the export with the trained tensors.
        evaluation: prompts, steps and guidance to draw with.
        settings: how much to train.
        variant: of the files, where they were exported with one.
        command: for the provenance.
        progress: called after every epoch.

    Raises:
        QsdError: no export, one of another denoiser, one without a codebook, scale or bias to train, or an
            ``out`` that holds something else.
    """
    export, out = Path(export), Path(out)
    folder, *others = denoiser_folders(export, None)
    if others:
        raise QsdError(f"{export}: holds several denoisers; give the folder of one, such as {folder}")
    with verification(True):
        document = read_config(folder)
        check_files(folder, document, variant)
    files = [_read(path) for path in shard_files(folder, variant)]
    manifest = Manifest.from_dict(dict(document["quantization_config"]))
    assert isinstance(manifest, Manifest)
    denoiser = denoiser_like(pipe, manifest.denoiser)
    check_same_denoiser(identity(denoiser), manifest.denoiser, export)
    tensors = {name: tensor for file in files for name, tensor in file.tensors.items()}
    carried = None if manifest.activations is None else Carried.from_json(manifest.activations)
    held = {name: tensor for name, tensor in tensors.items() if f".{HOLDER}." in name}
    learning = {name: tensor for name, tensor in tensors.items() if name not in held}
    parts, plain = _parts(manifest, learning, denoiser)
    drawing = dataclasses.replace(evaluation, num_images=settings.images, batch_size=settings.batch_size)
    training = Calls(pipe, denoiser, drawing, settings.noise_seed)
    drawing = dataclasses.replace(drawing, num_images=settings.validation_images)
    validation = Calls(pipe, denoiser, drawing, settings.noise_seed + _VALIDATION_SEED)
    steps = settings.epochs * len(training)
    module = FinetuneModule(denoiser, parts, plain, settings.learning_rate, steps, carried, held)
    state = out.with_name(f"{out.name}.training")
    before, after, epochs = _train(module, training, validation, settings, state, progress)
    with replacing_export(out) as temporary:
        shutil.copytree(export, temporary, dirs_exist_ok=True)
        place = temporary / folder.relative_to(export) if folder != export else temporary
        trained = tensors | module.tensors()
        for file in files:
            own = {name: trained[name] for name in file.tensors}
            save_file(own, place / file.path.name, metadata=file.metadata)
        note = {
            "loss_before": before,
            "loss_after": after,
            **dataclasses.asdict(settings),
            **software(command),
        }
        entry = document["quantization_config"]
        entry.pop("hash", None)
        entry["provenance"]["finetune"] = note
        entry["hashes"] = {name: tensor_hash(tensor) for name, tensor in trained.items()}
        entry["hash"] = json_hash(document)
        write_json(place / CONFIG_NAME, document)
        add_to_card(
            temporary,
            "Fine-tuned afterwards",
            f"Scales, codebooks and unquantized tensors were trained: loss {before:.4g} before, {after:.4g} "
            "after. Measured and predicted numbers above, if any, are from before.",
        )
        sizes = [(place / file.path.name).stat().st_size for file in files]
        assert sizes == [file.path.stat().st_size for file in files], "types and shapes are those of before"
    shutil.rmtree(state, ignore_errors=True)
    return Finetuned(out, before, after, epochs, sum(sizes))


@dataclasses.dataclass(frozen=True)
class _File:
    """A safetensors file."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def _read(path: Path) -> _File:
    with safe_open(path, "pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        return _File(path, tensors, opened.metadata())


def _parts(
    manifest: Manifest, tensors: dict[str, Tensor], denoiser: nn.Module
) -> tuple[dict[str, list[QuantizedWeight]], dict[str, Tensor]]:
    """Quantized weights by module, and the other tensors of the file."""
    parts: dict[str, list[QuantizedWeight]] = {}
    taken: set[str] = set()
    for path, options in manifest.parts().items():
        whole = weight_shape(denoiser, path)
        for position, (option, segment) in enumerate(options):
            prefix = f"{path}.packed.{position}."
            own = {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}
            taken |= {prefix + name for name in own}
            width = whole[1] if segment is None else segment[1] - segment[0]
            shape = (whole[0], width, *whole[2:])
            parts.setdefault(path, []).append(QuantizedWeight.from_tensors(option, shape, own))
    return parts, {key: tensor for key, tensor in tensors.items() if key not in taken}


def _train(
    module: FinetuneModule,
    training: Calls,
    validation: Calls,
    settings: FinetuneSettings,
    folder: Path,
    progress: Progress | None,
) -> tuple[float, float, int]:
    """Trains and leaves the best state in the module; validation loss before and after, and epochs."""
    saving = ModelCheckpoint(
        folder, filename="best", monitor="val_loss", mode="min", save_last=True, enable_version_counter=False
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec.*")
        trainer = lightning.Trainer(
            max_epochs=settings.epochs,
            callbacks=[saving, *([_Telling(progress)] if progress else [])],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            gradient_clip_val=1.0,
            accelerator="auto",
            devices=1,
        )
        lightning.seed_everything(settings.noise_seed, verbose=False)
        checking = DataLoader(validation, batch_size=None)
        last = folder / "last.ckpt"
        before = _mean_loss(module, validation)
        trainer.fit(
            module,
            DataLoader(training, batch_size=None, shuffle=True),
            checking,
            ckpt_path=str(last) if last.is_file() else None,
            weights_only=True,
        )
    best = torch.load(saving.best_model_path, weights_only=True)["state_dict"]
    module.load_state_dict(best)
    after = _mean_loss(module, validation)
    if not after < before:
        raise QsdError(
            f"finetune: the validation loss did not fall ({before:.3g} to {after:.3g}); lower the learning "
            f"rate from {settings.learning_rate} or train longer"
        )
    return before, after, trainer.current_epoch


@torch.no_grad()
def _mean_loss(module: FinetuneModule, calls: Calls) -> float:
    losses = [
        module._loss(module.transfer_batch_to_device(calls[index], module.device, 0))
        for index in range(len(calls))
    ]
    return float(torch.stack(losses).mean())


class _Telling(Callback):
    """Reports every epoch."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Called by Lightning."""
        loss = float(trainer.callback_metrics["val_loss"])
        total = trainer.max_epochs or 0
        self._progress(trainer.current_epoch + 1, total, f"validation loss {loss:.3g}")
