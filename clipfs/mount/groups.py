"""trio raises in groups; callers of ours want the one error that says what is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager

from clipfs import errors


@contextmanager
def lone_error_unwrapped() -> Iterator[None]:
    """Raise the first ClipError of a group in the group's stead; any bug in it comes first."""
    try:
        yield
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        if all(isinstance(leaf, errors.ClipError) for leaf in leaves):
            raise leaves[0] from None
        if len(leaves) == 1:
            raise leaves[0] from None
        raise


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
