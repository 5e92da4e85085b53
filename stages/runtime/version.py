"""The version of dataltt that is installed."""

from importlib.metadata import PackageNotFoundError, version


def tool_version() -> str:
    """The version, or "unknown" where dataltt runs from a tree that was never installed."""
    try:
        return version("dataltt")
    except PackageNotFoundError:
        return "unknown"
