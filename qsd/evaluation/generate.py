"""Draws the images of a denoiser's current weights: same prompts and same noise for every config."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from qsd.denoisers.components import denoisers_of
from qsd.denoisers.decoders import decoder_of
from qsd.evaluation.call import accepted_by, call_options, check_given
from qsd.evaluation.conditions import Conditions, conditions_of
from qsd.evaluation.given import load_given
from qsd.evaluation.meanwhile import guided, replaced, tiled, unchecked
from qsd.evaluation.memory import enough_memory, is_out_of_memory
from qsd.evaluation.overwritten import noting_overwritten
from qsd.evaluation.pictures import (
    are_embeddings,
    frames_of,
    load_pictures,
    may_take_pictures,
    needs_pictures,
    sound_of,
)
from qsd.evaluation.repeated import Repeated
from qsd.evaluation.settings import EvaluationSettings
from qsd.support.errors import QsdError, first_line
from qsd.support.packages import missing_package

_REFUSALS = (ValueError, TypeError, AttributeError, NameError, LookupError, RuntimeError, ImportError)
"""What pipelines raise for sizes, scales, pictures and arguments that they do not take."""


class Drawn(NamedTuple):
    """A batch, on the CPU.

    Attributes:
        rows: positions of its B images among all.
        latents: float32 [B, ...]: what the decoder is given, in the scale of the denoiser, or all frames from
            -1 to 1 of a pipeline without one. Of pictures with sound [B, n]: the latents of both.
        images: uint8 [B, 3, H, W]; of a video the middle frame.
        frames: uint8 [B, F, 3, H, W], all frames of a video, else the image.
        sound: uint8 [B, 1, 3, C, L], what is heard beside the frames; None for all else.
    """

    rows: slice
    latents: torch.Tensor
    images: torch.Tensor
    frames: torch.Tensor
    sound: torch.Tensor | None


class Generator:
    """Batches of latents and images for the prompts of the settings, drawn by the pipeline's own call.

    Every image has a random generator of its own, on the CPU so that every device starts from the same noise.
    Pipelines hand them to a stochastic scheduler too; one that does not gets noise that depends on the seed
    and the batch. A safety checker is switched off: it would replace images, and labels compare what the
    denoiser drew. What is drawn from a picture is drawn one by one: pipelines disagree on what several are.
    So is what a pipeline draws whose call takes a single generator or a single prompt, and all where a batch
    is one image.

    Attributes:
        pipe: the diffusers pipeline that draws (typed loosely: every family has its own call).
        settings: images, steps, guidance, size and batch size.
        prompts: one prompt an image.
        one_by_one: whether batches are drawn image by image.
        draws_embeddings: whether what was drawn last is no picture or sound, but what another pipeline draws
            from. Its frames are cut to a range that it does not have; its latents are whole.
    """

    def __init__(self, pipe: Any, settings: EvaluationSettings, *, unwatched: bool = False) -> None:
        """Checks what the pipeline is called with, encodes the prompts and opens the pictures.

        Args:
            pipe: the diffusers pipeline that draws.
            settings: how.
            unwatched: whether nobody looks inside of the denoiser, by hooks or with a stopwatch. Then
                ``settings.compile`` counts, and without it what repeats is computed once a batch.

        Raises:
            QsdError: the pipeline needs prompts or images that the settings do not name, does not know a
                class, has no choice of a size, or refuses an argument of ``call``.
        """
        self.pipe = pipe
        self.settings = settings
        self.draws_embeddings = False
        self._options = _options(pipe, settings)
        prompts = settings.load_prompts() if settings.prompts is not None else None
        self.prompts = prompts or [""] * settings.num_images
        if settings.images is None and needs_pictures(pipe, settings.call):
            raise QsdError(f"{type(pipe).__name__}: draws from images; name a folder of them as images")
        num_images, num_frames = settings.num_images, settings.num_frames
        pictures = load_pictures(pipe, settings.images, num_images, num_frames) if settings.images else {}
        given = load_given(pipe, settings.call, num_images, num_frames)
        has_pictures = bool(pictures) or any(isinstance(rows, list) for rows in given.values())
        takes_video = "video" in accepted_by(pipe)  # some of these take no list of prompts
        takes_lists = _takes_lists(pipe, "generator") and _takes_lists(pipe, "prompt")
        is_single = settings.batch_size == 1
        self.one_by_one = has_pictures or takes_video or is_single or not takes_lists
        self._conditions: Conditions = {
            **conditions_of(
                pipe,
                prompts,
                settings.guidance,
                settings.batch_size,
                settings.max_sequence_length,
                settings.call,
            ),
            **pictures,
            **given,
        }
        self._options = {k: value for k, value in self._options.items() if k not in self._conditions}
        if "prompt_embeds" in self._conditions:
            self._options["negative_prompt"] = None  # some have a default that excludes encoded prompts
        check_given(pipe, {*self._conditions, *self._options})
        parts = denoisers_of(pipe).values() if unwatched else ()
        self._compiled = [(part, torch.compile(part.forward)) for part in parts if settings.compile]
        self._repeated = Repeated(() if settings.compile else parts)

    def batches(self, noise_seed: int) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Draws all images; yields rows, latents and images of :class:`Drawn`."""
        for drawn in self.drawings(noise_seed):
            yield drawn.rows, drawn.latents, drawn.images

    def drawings(self, noise_seed: int) -> Iterator[Drawn]:
        """Draws all images.

        Args:
            noise_seed: seed of the noise; image i depends on (noise_seed, i) alone.

        Raises:
            QsdError: the pipeline refuses the settings.
        """
        for start in range(0, self.settings.num_images, self.settings.batch_size):
            rows = slice(start, min(start + self.settings.batch_size, self.settings.num_images))
            yield self.draw(rows, noise_seed)

    def draw(self, rows: slice, noise_seed: int) -> Drawn:
        """Draws one batch, see :meth:`drawings`."""
        with enough_memory("drawing", 1 if self.one_by_one else self.settings.batch_size):
            if not self.one_by_one:
                return self._draw(rows, noise_seed)
            single = [self._draw(slice(row, row + 1), noise_seed) for row in range(rows.start, rows.stop)]
            sound = [drawn.sound for drawn in single if drawn.sound is not None]
            return Drawn(
                rows,
                torch.cat([drawn.latents for drawn in single]),
                torch.cat([drawn.images for drawn in single]),
                torch.cat([drawn.frames for drawn in single]),
                torch.cat(sound) if sound else None,
            )

    @torch.no_grad()  # not inference_mode: some pipelines are guided by gradients
    def _draw(self, rows: slice, noise_seed: int) -> Drawn:
        device = self.pipe.device
        count = rows.stop - rows.start
        conditions = {
            name: value[rows].to(device) if isinstance(value, torch.Tensor) else value[rows]
            for name, value in self._conditions.items()
        }
        if self.one_by_one:
            conditions = {
                name: value if isinstance(value, torch.Tensor) else only_value(self.pipe, name, value)
                for name, value in conditions.items()
            }
        if "batch_size" in accepted_by(self.pipe) and "prompt" not in accepted_by(self.pipe):
            conditions["batch_size"] = count
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            unchecked(self.pipe),
            guided(self.pipe, self.settings.guidance),
            _recorded(self.pipe) as decoded,
            self._repeated.once(),
            noting_overwritten(self.pipe),
            contextlib.ExitStack() as compiled,
        ):
            for part, forward in self._compiled:
                compiled.enter_context(replaced(part, "forward", forward))
            torch.manual_seed(_seed(noise_seed, rows.start))
            generators = [
                torch.Generator().manual_seed(_seed(noise_seed, index))
                for index in range(rows.start, rows.stop)
            ]
            generator = generators if count > 1 else generators[0]
            try:
                drawn = self.pipe(**conditions, **self._options, generator=generator, return_dict=False)
            except _REFUSALS as error:
                if is_out_of_memory(error):
                    raise
                if tiled(self.pipe, error):
                    return self._draw(rows, noise_seed)
                raise QsdError(self._refusal(error)) from error
        self.draws_embeddings = are_embeddings(self.pipe, drawn[0])
        frames, sound = self._frames(drawn[0], count), sound_of(self.pipe, drawn)
        latents = _joined(decoded.latents, count) if decoded.latents else None
        if latents is None:
            latents = (frames * 2 - 1).flatten(0, 1) if frames.shape[1] == 1 else frames * 2 - 1
        else:
            latents = latents * _scaling_factor(self.pipe)
        if sound is not None:
            heard = _joined(decoded.sound, count) if decoded.sound else None
            heard = sound if heard is None else heard
            latents = torch.cat([latents.flatten(1), heard.flatten(1).to(latents.device)], dim=1)
            check_finite(sound, "decoded sound", self.prompts[rows])
        check_finite(latents, "latents", self.prompts[rows])
        for values in (*decoded.images, frames):  # before pipelines cut them to their range, and after
            check_finite(values, "decoded images", self.prompts[rows])
        bytes_ = _bytes_of(frames)
        heard_bytes = None if sound is None else _bytes_of(sound)
        return Drawn(rows, latents.cpu(), bytes_[:, bytes_.shape[1] // 2], bytes_, heard_bytes)

    def _frames(self, drawn: Any, count: int) -> torch.Tensor:
        """What was drawn, [B, F, 3, H, W]; several images that one prompt gives are its frames."""
        name = type(self.pipe).__name__
        try:
            frames = frames_of(drawn)
        except (ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:
            raise QsdError(
                f"{name}: draws what qsd cannot read as images, videos or sound ({first_line(error)}); give "
                "a pipeline that returns an array of them"
            ) from error
        if not len(frames) or len(frames) % count:
            raise QsdError(
                f"{name}: drew {len(frames)} images for {count}; raise steps, or `strength` in call where it "
                "starts from pictures"
            )
        return frames.reshape(count, -1, *frames.shape[2:])

    def _refusal(self, error: Exception) -> str:
        """What to say of a call that failed, with the remedy that fits."""
        name = type(self.pipe).__name__
        if isinstance(error, NameError):  # diffusers leaves out imports of packages that are not there
            return f"{name}: {first_line(error)}; `pip install {missing_package(error)}`"
        if isinstance(error, ImportError):
            return f"{name}: {first_line(error)}"
        what = f"no entry {error}" if isinstance(error, KeyError) else first_line(error)
        if self.settings.images is None and may_take_pictures(self.pipe):
            remedy = "; if it draws from pictures, name a folder of them as images"
        elif self.settings.call:
            remedy = f"; check call ({', '.join(self.settings.call)})"
        else:
            remedy = "; give it the steps, guidance, height, width or call that its own call takes"
        if not self.one_by_one:
            remedy += ", or set batch_size to 1 if it draws one image at a time"
        return f"{name}: {what}{remedy}"


def _bytes_of(frames: torch.Tensor) -> torch.Tensor:
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8)


def _joined(decoded: list[torch.Tensor], count: int) -> torch.Tensor | None:
    """What was decoded, one row an image; None where it has no values of its own (tokens)."""
    shapes = {tuple(part.shape[1:]) for part in decoded}
    if len(shapes) > 1 or not decoded[0].is_floating_point():
        return None
    latents = torch.cat(decoded).float()
    if len(latents) == count:
        return latents
    return latents.reshape(count, -1, *latents.shape[1:]) if len(latents) % count == 0 else None


def check_finite(values: torch.Tensor, stage: str, prompts: Sequence[str]) -> None:
    """Refuses what is NaN or infinite, one row of values [B, ...] a prompt.

    Raises:
        QsdError: names the stage and the first such prompt.
    """
    bad = ~values.flatten(1).isfinite().all(dim=1)
    if bad.any():
        prompt = prompts[int(bad.nonzero()[0]) if len(bad) == len(prompts) else 0]
        raise QsdError(
            f"prompt {prompt!r}: the {stage} are not finite numbers; nothing is written (is the pipeline's "
            "dtype wide enough, are all of its weights finite, are steps and num_frames as many as it needs?)"
        )


def _options(pipe: Any, settings: EvaluationSettings) -> dict[str, Any]:
    chosen = {
        "height": settings.height,
        "width": settings.width,
        "num_frames": settings.num_frames,
        "max_sequence_length": settings.max_sequence_length,
    }
    return call_options(
        pipe, steps=settings.steps, guidance=settings.guidance, chosen=chosen, call=settings.call
    )


def _takes_lists(pipe: Any, name: str) -> bool:
    """Whether an argument of the pipeline's call may be a list; what is not annotated is taken to be."""
    taken = accepted_by(pipe).get(name)
    return taken is None or taken.annotation is taken.empty or "list" in str(taken.annotation).lower()


def only_value(pipe: Any, name: str, values: Sequence[Any]) -> Any:
    """The only value of a batch, in a list where the pipeline's call takes nothing but lists."""
    parameter = accepted_by(pipe).get(name)
    annotation = "" if parameter is None else str(parameter.annotation).lower()
    takes_one = not annotation.removeprefix("typing.").startswith("list")
    return values[0] if takes_one or isinstance(values[0], list) else [values[0]]


def _seed(noise_seed: int, index: int) -> int:
    return noise_seed * 1_000_003 + index


def _scaling_factor(pipe: Any) -> float:
    return getattr(decoder_of(pipe).config, "scaling_factor", None) or 1.0


class _Decoded(NamedTuple):
    """What a pipeline's decoder was given, what it made of that, and what the decoder of sound was given."""

    latents: list[torch.Tensor]
    images: list[torch.Tensor]
    sound: list[torch.Tensor]


@contextlib.contextmanager
def _recorded(pipe: Any) -> Iterator[_Decoded]:
    """Collects what goes through the pipeline's decoder, if it has one, meanwhile."""
    decoded = _Decoded([], [], [])
    vae = decoder_of(pipe)
    if vae is None or not hasattr(vae, "decode"):
        yield decoded
        return
    decode = vae.decode

    def recording(z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        decoded.latents.append(z)
        drawn = decode(z, *args, **kwargs)
        sample = drawn[0] if isinstance(drawn, tuple) else getattr(drawn, "sample", None)
        if isinstance(sample, torch.Tensor) and sample.ndim > 1:
            decoded.images.append(sample)
        return drawn

    def hearing(z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        decoded.sound.append(z)
        return decode_sound(z, *args, **kwargs)

    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(vae, "decode", recording))
        audio_vae = getattr(pipe, "audio_vae", None)
        if audio_vae is not None:
            decode_sound = audio_vae.decode
            stack.enter_context(replaced(audio_vae, "decode", hearing))
        yield decoded
