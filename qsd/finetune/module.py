"""The training of what an exported denoiser stores beside its codes."""

import copy
import math
from collections.abc import Mapping
from typing import Any, cast

import lightning
import torch
from torch import Tensor, nn
from torch.func import functional_call

from qsd.bank.activations import ActivationHooks
from qsd.bank.carried import Carried
from qsd.configs.schedule import Schedule
from qsd.finetune.calls import Call, answer, on_device
from qsd.finetune.trainable import TrainableTensor, TrainableWeight
from qsd.quantizers import QuantizedWeight

_SMALLEST_SHARE = 0.02  # of the learning rate at the end


class FinetuneModule(lightning.LightningModule):
    """Codebooks, scales, zero points, biases and norms of a denoiser that learns to answer as full precision.

    The loss is the squared error of the prediction in units of the prediction's own variance, so that every
    noise level counts alike.

    Args:
        denoiser: at full precision; a copy of it lends its architecture.
        parts: by module path, the quantized weights along the input channels.
        plain: by name, tensors of the file that are no weights of these modules.
        learning_rate: of Adam, in units of each tensor's root mean square; falls along a cosine.
        steps: of the training.
        carried: how the export rounds inputs of layers; gradients pass through.
        held: by name, the tensors that go with it.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        parts: Mapping[str, list[QuantizedWeight]],
        plain: Mapping[str, Tensor],
        learning_rate: float,
        steps: int,
        carried: Carried | None = None,
        held: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.learning_rate, self.steps = learning_rate, steps
        student = copy.deepcopy(denoiser).float().requires_grad_(False).eval()
        self._student = [student]  # no child: its own parameters are neither trained nor saved
        self._hooks: ActivationHooks | None = None
        self._carried = carried
        if carried is not None:
            carried.attach(student, held or {})
            self._hooks = carried.start(student)
            self._hooks.apply(None)  # steps come in any order, and each call says which it is of
        names = dict(student.named_parameters())
        self._paths = list(parts)
        self.weights = nn.ModuleList(
            nn.ModuleList(TrainableWeight(weight) for weight in parts[path]) for path in self._paths
        )
        trained = [name for name, value in plain.items() if name in names and value.is_floating_point()]
        self._plain = trained
        self.plain = nn.ModuleList(TrainableTensor(plain[name]) for name in trained)
        self._fixed = {
            name: value.to(student.state_dict()[name].dtype)
            for name, value in plain.items()
            if name not in trained
        }

    def forward(self, arguments: dict[str, Any]) -> Tensor:
        """The prediction for the arguments of a call."""
        tensors = {
            f"{path}.weight": torch.cat([part() for part in parts], dim=1)
            for path, parts in self._by_path().items()
        }
        tensors |= {name: value() for name, value in zip(self._plain, self.plain, strict=True)}
        tensors |= {name: value.to(self.device) for name, value in self._fixed.items()}
        return answer(functional_call(self._student[0], tensors, (), {**arguments, "return_dict": False}))

    def training_step(self, call: Call, index: int) -> Tensor:
        """The loss of one call."""
        loss = self._loss(call)
        self.log("train_loss", loss, prog_bar=True, batch_size=1)
        return loss

    def validation_step(self, call: Call, index: int) -> None:
        """Logs the loss of one call on images that nothing is trained on."""
        self.log("val_loss", self._loss(call), prog_bar=True, batch_size=1)

    def configure_optimizers(self) -> Any:
        """Adam with a learning rate that falls along half a cosine."""
        optimizer = torch.optim.Adam(self.parameters(), self.learning_rate, betas=(0.9, 0.99))

        def share(step: int) -> float:
            return max(_SMALLEST_SHARE, 0.5 * (1 + math.cos(math.pi * min(step / self.steps, 1))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Call, device: torch.device, dataloader_idx: int) -> Call:
        """Moves the tensors of a call."""
        return Call(on_device(batch.arguments, device), batch.output.to(device), batch.step)

    def _loss(self, call: Call) -> Tensor:
        if self._hooks is not None and self._carried is not None:
            options = self._carried.activations()
            self._hooks.set(options.at(call.step) if isinstance(options, Schedule) else options)
        difference = self(call.arguments).float() - call.output
        return difference.square().mean() / call.output.var().clamp_min(1e-12)

    def tensors(self) -> dict[str, Tensor]:
        """What the file holds of all that was trained, by name, in its dtypes."""
        found = {
            f"{path}.packed.{position}.{name}": table.to_store()
            for path, parts in self._by_path().items()
            for position, part in enumerate(parts)
            for name, table in part.trained().items()
        }
        plain = zip(self._plain, self.plain, strict=True)
        return found | {name: cast(TrainableTensor, value).to_store() for name, value in plain}

    def _by_path(self) -> dict[str, list[TrainableWeight]]:
        """Module path -> parts of its weight."""
        return {
            path: [cast(TrainableWeight, part) for part in cast(nn.ModuleList, parts)]
            for path, parts in zip(self._paths, self.weights, strict=True)
        }
