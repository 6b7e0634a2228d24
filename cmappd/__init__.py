"""Guest application monitoring for high-availability clusters."""

__version__ = "0.1.0"
