"""Who has a question asked: is the answer still wanted, and what is being asked just now?

Whoever may be kept waiting (a plugin's program, the API server, a registry) is asked on behalf
of an asker: it says beforehand what it asks, and now and then looks whether it should go on.

Not here: the calls that wait for the answer (`csi.work`, `csi.admissions`).
"""

from typing import Protocol


class Asker(Protocol):
    def is_wanted(self) -> bool:
        """Asked now and then; once it says no, the question is given up: CallerGone."""

    def waits_for(self, what: str) -> None:
        """From now on: "asking the credential provider ecr". It ends in `kubectl describe`."""


class Patient:
    """Waits for as long as it takes, and tells nobody."""

    def is_wanted(self) -> bool:
        return True

    def waits_for(self, what: str) -> None:
        pass


PATIENT = Patient()
