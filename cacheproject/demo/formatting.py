"""Figures as a person reads them."""

__all__ = ["in_words"]


def in_words(figure: object) -> str:
    """Return a figure with its thousands apart, a truth as yes or no, and nothing as a dash."""
    if figure is None:
        return "-"
    if isinstance(figure, bool):
        return "yes" if figure else "no"
    return f"{figure:,}" if isinstance(figure, int | float) else str(figure)
