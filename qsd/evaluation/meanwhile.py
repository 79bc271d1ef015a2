"""What is changed about a pipeline while it draws, and put back."""

import contextlib
from collections.abc import Iterator
from typing import Any

from qsd.denoisers.decoders import decoder_of
from qsd.support.quiet import quiet


class _Passing:
    """A safety checker for pipelines that refuse to draw without one."""

    def to(self, *_: Any, **__: Any) -> "_Passing":
        return self

    def check_text_safety(self, _: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


@contextlib.contextmanager
def unchecked(pipe: Any) -> Iterator[None]:
    """Without what would replace images: labels compare what the denoiser drew."""
    checker = getattr(pipe, "safety_checker", None)
    with replaced(pipe, "safety_checker", _Passing() if hasattr(checker, "check_video_safety") else None):
        yield


def tiled(pipe: Any, error: Exception) -> bool:
    """Whether a decoder that refused to decode a picture as a whole has been set to do so in tiles."""
    vae = decoder_of(pipe)
    is_meant = isinstance(error, NotImplementedError) and "tiling" in str(error)
    if not is_meant or getattr(vae, "use_tiling", True):
        return False
    vae.enable_tiling()
    return True


@contextlib.contextmanager
def guided(pipe: Any, guidance: float) -> Iterator[None]:
    """The scale of guidance for a pipeline that keeps it in a guider, a component of its own."""
    guider = getattr(pipe, "guider", None)
    if guider is None or "guidance_scale" not in guider.config:
        yield
        return
    with quiet():
        scaled = guider.new(guidance_scale=guidance)
    with replaced(pipe, "guider", scaled):
        yield


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Gives an object another attribute meanwhile, behind the back of pipelines, which record assignments."""
    attributes, absent = vars(owner), object()
    before = attributes.get(name, absent)
    attributes[name] = value
    try:
        yield
    finally:
        if before is absent:
            del attributes[name]
        else:
            attributes[name] = before
