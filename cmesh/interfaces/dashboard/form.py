"""What a form, or an address, asks for as the arguments of an operation."""

from typing import Any, TypeVar

from pydantic import ValidationError

from cmesh.daemon.arguments import Arguments
from cmesh.interfaces.usage import usage_error

__all__ = ["checked"]

_A = TypeVar("_A", bound=Arguments)


def checked(arguments: type[_A], /, **fields: Any) -> _A:
    """Return the arguments of an operation.

    Raises:
        UsageError: a field is out of range; says which and why.
    """
    try:
        return arguments.model_validate(fields)
    except ValidationError as error:
        raise usage_error(error) from error
