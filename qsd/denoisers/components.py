"""The denoisers among a pipeline's components: one, or several that share one budget."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from qsd.support.errors import QsdError

_FIRST_NAMES = ("transformer", "unet")
_CLASS_WORDS = (
    "Transformer",
    "UNet",
    "UVit",
    "DiT",
    "Prior",
    "T5FilmDecoder",
    "UniDiffuserModel",
    "DiffNeXt",
)
_OTHER_WORDS = ("ControlNet", "Autoencoder", "VAE", "Vae", "TextDecoder")


class Denoisers(nn.Module):
    """Several denoisers of one pipeline seen as one module: weights are named ``transformer_2.blocks.0``.

    Wan 2.2 draws with a transformer for high and one for low noise, Stable Cascade with a prior and a
    decoder. The modules are those of the pipeline, not copies.
    """

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.eval()

    @property
    def config(self) -> Any:
        """The config of the first."""
        return next(self.children()).config

    def forward(self, *_: Any, **__: Any) -> Any:
        """There is no forward of all.

        Raises:
            QsdError: always.
        """
        raise QsdError("several denoisers have no forward in common; call one of them")


def denoisers_of(pipe: Any) -> dict[str, nn.Module]:
    """Component name -> denoiser: every component that is a diffusers transformer, U-Net or prior.

    Raises:
        QsdError: the pipeline has none.
    """
    found = {name: part for name, part in pipe.components.items() if _is_denoiser(part)}
    for name in reversed(_FIRST_NAMES):
        if isinstance(getattr(pipe, name, None), nn.Module):
            found = {name: getattr(pipe, name)} | found
    if not found:
        raise QsdError(
            f"{type(pipe).__name__} has no denoiser among its components ({', '.join(pipe.components)}); "
            "give a pipeline with a transformer, a unet or a prior"
        )
    return found


def denoiser_of(pipe: Any, name: str | None = None) -> nn.Module:
    """The denoiser of a pipeline.

    Args:
        pipe: a diffusers pipeline.
        name: of the component; by default the only denoiser, or all of several as :class:`Denoisers`.

    Raises:
        QsdError: the pipeline has no denoiser, or none of that name.
    """
    found = denoisers_of(pipe)
    if name is not None:
        if name not in found:
            raise QsdError(f"{type(pipe).__name__} has no denoiser {name!r}; name one of {', '.join(found)}")
        return found[name]
    return next(iter(found.values())) if len(found) == 1 else Denoisers(found)


def denoiser_like(pipe: Any, identity: Mapping[str, Any]) -> nn.Module:
    """The denoiser, or all denoisers, of a pipeline that a file was made for.

    Class and size decide, and where two have the same, as in Wan 2.2, their weights.

    Args:
        pipe: a diffusers pipeline.
        identity: of the file's denoiser (:func:`qsd.denoisers.identity.identity`).

    Returns:
        All denoisers where none fits; whoever compares identities then says what differs.
    """
    found = denoisers_of(pipe)
    everything = denoiser_of(pipe)
    wanted = (identity.get("class"), identity.get("num_parameters"))
    fitting = [
        candidate
        for candidate in {id(part): part for part in (everything, *found.values())}.values()
        if (class_name(candidate), num_parameters(candidate)) == wanted
    ]
    if len(fitting) > 1:
        import qsd.denoisers.identity as identities  # which imports this module

        fitting = [
            candidate
            for candidate in fitting
            if identities.same_denoiser(identities.identity(candidate), identity)
        ]
    return fitting[0] if fitting else everything


def parts_of(denoiser: nn.Module) -> dict[str, nn.Module]:
    """Prefix of the names of weights -> denoiser; one denoiser alone has no prefix."""
    return dict(denoiser.named_children()) if isinstance(denoiser, Denoisers) else {"": denoiser}


def class_name(denoiser: nn.Module) -> str:
    """The class, or the classes of several, such as ``StableCascadeUNet + StableCascadeUNet``."""
    return " + ".join(type(part).__name__ for part in parts_of(denoiser).values())


def num_parameters(denoiser: nn.Module) -> int:
    """Numbers in all parameters, each name of a shared one counted: ties make no other denoiser."""
    return sum(parameter.numel() for _, parameter in denoiser.named_parameters(remove_duplicate=False))


def _is_denoiser(component: Any) -> bool:
    from diffusers import (
        ModelMixin,
    )  # not above: diffusers imports this module in the middle of its own import

    name = type(component).__name__
    return (
        isinstance(component, ModelMixin)
        and any(word in name for word in _CLASS_WORDS)
        and not any(word in name for word in _OTHER_WORDS)
    )
