"""Exports on a model hub."""

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from qsd.export.folder import exports_in, is_export, is_recipe
from qsd.support.errors import QsdError, first_line

READ = ["*.json", "*.safetensors"]
"""What is downloaded: no pickles."""


def push_to_hub(folder: str | Path, repo: str, *, private: bool = False, token: str | None = None) -> str:
    """Uploads an export.

    Args:
        folder: what was given to :func:`qsd.export.export`.
        repo: as ``user/name``; made if it is not there.
        private: whether a new one is.
        token: of the hub; by default the one that ``hf auth login`` stored.

    Returns:
        Address of the commit.

    Raises:
        QsdError: the folder holds no export, or the hub refuses.
    """
    folder = Path(folder)
    if not (is_export(folder) or exports_in(folder) or any(map(is_recipe, folder.glob("*")))):
        raise QsdError(f"{folder}: holds no denoiser exported by qsd; write one with `qsd export`")
    api = HfApi(token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload by qsd export"))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise QsdError(f"{repo}: the hub refuses ({first_line(error)}); see `hf auth login`") from error


def local_copy(
    name: str, *, revision: str | None = None, token: str | None = None, local_files_only: bool = False
) -> Path:
    """The folder of a hub repository on this machine, downloaded if it is not there.

    Raises:
        QsdError: there is no such folder and no such repository.
    """
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                token=token,
                local_files_only=local_files_only,
                allow_patterns=READ,
            )
        )
    except HFValidationError:
        raise QsdError(f"{name}: no such folder, and no name of a repository on a hub") from None
    except LocalEntryNotFoundError as error:
        raise QsdError(
            f"{name}: no such folder, and no such repository among the downloaded ones ({first_line(error)})"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise QsdError(f"{name}: no such folder, and the hub has none ({first_line(error)})") from error
