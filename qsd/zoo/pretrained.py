"""Frozen parts that later miniatures take over from earlier ones, as the published models do."""

from typing import Any

from qsd.support.paths import find
from qsd.support.quiet import quiet


def pretrained(cls: type[Any], checkpoint: str, subfolder: str = "") -> Any:
    """A component of a shipped checkpoint, in evaluation mode and without gradients.

    Args:
        cls: a class with ``from_pretrained``.
        checkpoint: the folder's name below ``checkpoints``.
        subfolder: the component's folder in a pipeline.

    Raises:
        QsdError: the checkpoint is not there.
    """
    with quiet():  # a tower of a CLIP model leaves the other tower's weights unread
        component = cls.from_pretrained(find(f"checkpoints/{checkpoint}"), subfolder=subfolder)
    return component.eval().requires_grad_(False)


def pretrained_tokenizer(cls: type[Any], checkpoint: str) -> Any:
    """The tokenizer of a shipped checkpoint."""
    return cls.from_pretrained(find(f"checkpoints/{checkpoint}"))
