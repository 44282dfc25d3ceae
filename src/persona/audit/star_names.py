"""The pattern of texts that say how many stars they give."""

from __future__ import annotations

# Matches a number of stars or points; "十分" alone means "very" and does not match.
NAMES_STAR = (
    r"[一二两三四五12345１２３４５]\s*[颗个]?\s*半?\s*(?:[⭐★☆]|星(?:[^期球际级空]|$))|[⭐★☆]|满分"
    r"|(?:打|给|评|值)[^，。！？,.!?]{0,4}?(?:\d+(?:\.\d+)?|[一二三四五六七八九十]+)\s*分(?:[^钟之]|$)"
    r"|(?:^|[，。！？,.!?；\s])\d+(?:\.\d+)?\s*分(?:[^钟之]|$)"
    # Of ten or of five. "10/10" says how good, not how many of five stars; "24/10/2019" and "12/5" are dates.
    r"|(?:^|[^\d/.,])(?:[0-5](?:[.,]\d+)?\s*/\s*5|\d(?:[.,]\d+)?\s*/\s*10)(?:[^\d/]|$)"
)
