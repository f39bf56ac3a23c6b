"""cmesh: delegate policy-gated tasks to coding agents on your other machines."""

__all__ = ["__version__"]

__version__ = "0.1.0"
