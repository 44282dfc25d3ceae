"""Formats sizes and durations for people."""

from __future__ import annotations


def human_size(size: float) -> str:
    """Format a number of bytes in decimal units (1 kB is 1,000 bytes)."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.1f} {unit}" if size < 10 and unit != "B" else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def shorten(text: str, width: int) -> str:
    """A text on one line, of at most so many characters; what is cut off is an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def clock(seconds: float) -> str:
    """Format seconds as `h:mm:ss`."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
