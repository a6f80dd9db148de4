"""What is said to people of images that cannot be had."""

from __future__ import annotations


class DataError(ValueError):
    """The images asked for cannot be had; the message is for people."""
