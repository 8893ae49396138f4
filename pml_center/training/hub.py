"""The Hugging Face Hub: what export writes, for others to load by name."""

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.utils import HFValidationError, validate_repo_id

from pml_center.names import one_line
from pml_center.training.export import OWN


def check_can_push(repo: str) -> None:
    """Whether a repository can be uploaded to, as far as this machine knows.

    Raises:
        ValueError: no name of a repository; no token of the Hub on this machine.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"push must be a repository such as owner/model, got {repo!r}. {one_line(error)}") from None
    if not get_token():
        raise ValueError(
            f"push must come with a token of the Hugging Face Hub, got none for {repo}. Run `hf auth login` with one "
            "of https://huggingface.co/settings/tokens that may write, or set HF_TOKEN."
        )


def push(path: Path, repo: str, private: bool = False) -> str:
    """Upload what was exported, in one commit, to a repository that is made where it is not there.

    Args:
        path: the folder, or the file, that :func:`~pml_center.training.export_timm` or ``export_onnx`` returned.
        repo: ``owner/model``, or ``model`` for a repository of one's own.
        private: a new repository is for its owner alone; one that is there stays what it is.

    Returns:
        ``owner/model``.

    Raises:
        ValueError: as of :func:`check_can_push`.
        OSError: the Hub cannot be reached, or refuses.
    """
    check_can_push(repo)
    folder, names = (path, sorted(OWN)) if path.is_dir() else (path.parent, [path.name])
    api = HfApi(library_name="pml-center")
    try:
        full = api.create_repo(repo, private=private, exist_ok=True).repo_id
        api.upload_folder(repo_id=full, folder_path=folder, allow_patterns=names, commit_message="Export of pml-center")
    except Exception as error:  # each version of the client, and of what it talks by, raises its own
        raise OSError(
            f"the Hub must take {repo!r}, got {type(error).__name__} ({one_line(error)}). What was exported is in "
            f"{path}. Look at the network, and whether the token may write there."
        ) from error
    return full
