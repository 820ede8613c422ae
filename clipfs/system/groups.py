"""trio raises in groups; callers of ours want the one error that says what is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager

from clipfs import errors


@contextmanager
def lone_error_unwrapped() -> Iterator[None]:
    """Raise, in a group's stead, its one error, or the first if all of them are ClipErrors."""
    try:
        yield
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        if len(leaves) == 1 or all(isinstance(leaf, errors.ClipError) for leaf in leaves):
            raise leaves[0] from None
        raise


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
