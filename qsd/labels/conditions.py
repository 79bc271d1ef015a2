"""What the records of a store are measured under, by content: settings, pipeline, codes of the bank."""

from pathlib import Path
from typing import Any

from qsd.bank import Bank
from qsd.evaluation.content import settings_content
from qsd.evaluation.embeddings import encoder_identities
from qsd.evaluation.overwritten import identity_before_drawing
from qsd.evaluation.settings import EvaluationSettings
from qsd.support.differences import first_difference
from qsd.support.errors import QsdError

_DRAWS_NOTHING = ("safety_checker", "feature_extractor")


def store_conditions(
    pipe: Any, bank: Bank, settings: EvaluationSettings, *, config_seed: int
) -> dict[str, Any]:
    """The conditions of a store.

    Args:
        pipe: a diffusers pipeline at full precision.
        bank: of its denoiser.
        settings: how to draw and measure.
        config_seed: of the stream of random configs.

    Returns:
        JSON values: those of :func:`qsd.evaluation.content.settings_content`; ``pipeline``, its class;
        ``components``, by name the identity of everything that draws, the denoiser included, each with its
        dtype; ``bank``, by option a hash of all codes and tables; ``config_seed``.

    Raises:
        QsdError: something that the settings name is missing or unusable.
    """
    return {
        **settings_content(settings),
        "pipeline": type(pipe).__name__,
        "components": pipeline_components(pipe),
        "bank": bank.option_hashes(),
        "config_seed": config_seed,
    }


def pipeline_components(pipe: Any) -> dict[str, dict[str, str]]:
    """By name, the identity of every component that draws."""
    present = {
        name: identity_before_drawing(component)
        for name, component in pipe.components.items()
        if component is not None and name not in _DRAWS_NOTHING and hasattr(component, "__dict__")
    }
    return present | encoder_identities(pipe)


def check_conditions(file: str | Path, recorded: dict[str, Any], ours: dict[str, Any]) -> None:
    """Refuses to measure under other conditions than those of the records that are there.

    Args:
        file: the store, for the message.
        recorded: its conditions.
        ours: those of today.

    Raises:
        QsdError: the two differ; names the part. Of the bank, options that both have are compared.
    """
    if "components" not in recorded:
        raise QsdError(
            f"{file}: labeled by an older qsd, which recorded too little of its conditions; "
            "label into another store"
        )
    before, now = recorded.get("bank") or {}, ours.get("bank") or {}
    shared = before.keys() & now.keys()  # tables grow; the codes of converted stores were not recorded
    recorded = recorded | {"bank": {option: before[option] for option in shared}}
    ours = ours | {"bank": {option: now[option] for option in shared}}
    if difference := first_difference(recorded, ours):
        part, theirs, now = difference
        raise QsdError(
            f"{file}: begun with {part} {_short(theirs)}, not {_short(now)}; "
            "label into another store or use the store's own settings"
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
