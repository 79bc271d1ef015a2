"""What hooks of accelerate and diffusers have done with a model's tensors between its calls."""

from torch import nn

from qsd.runtime.layers import quantized_layers
from qsd.support.errors import QsdError


def check_present(model: nn.Module, what: str, *, unmoved: bool = False, meta: bool = False) -> None:
    """Refuses a model whose weights are elsewhere between calls.

    Args:
        model: with packed layers.
        what: shall be done with it, for the message.
        unmoved: refuse one whose weights are here, but moved or cast by hooks, too.
        meta: take one on the device "meta", whose hooks fetch the weights when a layer reads them.

    Raises:
        QsdError: they are.
    """
    grouped, on_disk = _groups(model)
    absent = not meta and any(parameter.is_meta for parameter in model.parameters())
    wrapped = any(is_wrapped(layer) for layer in quantized_layers(model).values())
    if absent or on_disk or (unmoved and (grouped or wrapped)):
        raise QsdError(
            f"{what}: the weights of this model are offloaded or cast by hooks; do so before, or load it anew"
        )


def is_wrapped(layer: nn.Module) -> bool:
    """Whether hooks stand before the forward of a layer, which stays that of the class that it has now."""
    return "forward" in vars(layer)


def _groups(model: nn.Module) -> tuple[bool, bool]:
    """Whether diffusers moves weights by groups, and whether they lie on the disk meanwhile."""
    registries = [getattr(module, "_diffusers_hook", None) for module in model.modules()]
    hooks = [registry.get_hook("group_offloading") for registry in registries if registry is not None]
    groups = [hook.group for hook in hooks if hook is not None]
    return bool(groups), any(group.offload_to_disk_path is not None for group in groups)
