"""Where models come from: a folder, or the URL of one, whose files are kept on this machine."""

from services.predictor.source.folder import Folder
from services.predictor.source.source import Look, Source, SourceAway, is_model_name

__all__ = ["Folder", "Look", "Source", "SourceAway", "is_model_name", "open_source"]


def open_source(location: str | list[str]) -> Source:
    """The source of the configured root, or of several as one."""
    return Folder(location if isinstance(location, str) else location[0])
