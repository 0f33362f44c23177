"""Where models come from: a folder, or the URL of one, whose files are kept on this machine."""

from services.predictor.source.counts import Counts
from services.predictor.source.folder import Folder
from services.predictor.source.open_source import open_source
from services.predictor.source.source import Look, Source, SourceAway, is_model_name

__all__ = ["Counts", "Folder", "Look", "Source", "SourceAway", "is_model_name", "open_source"]
