"""Values formatted for people."""

__all__ = ["format_value"]


def format_value(value: object) -> str:
    """Return a number with thousands separators, a bool as yes or no, and None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
