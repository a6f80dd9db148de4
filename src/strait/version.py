"""The version of the package, apart from ``strait/__init__``, whose other names import the whole model."""

__version__ = "0.1.0"
