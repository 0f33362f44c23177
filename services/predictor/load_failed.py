"""Why a version is not loaded."""

__all__ = ["LoadFailed"]


class LoadFailed(Exception):
    """A model or version that can't be loaded; the text is the reason in the index."""
