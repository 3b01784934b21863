"""The version, in the one place that both the packages and the build read."""

__version__ = "0.1.0"
