"""The source's history is another one: what that means, and what a job that is to stop then says.

    ahead      the source is older than the mirror, as after a restore from a backup
    diverged   the row at the mirror's position is another row, or was written at another time where only its
               key is left; where that is forgotten too nobody can tell, and `pruned` goes on with the line: all
               that was archived before stays restorable as `keep` says
    epoch      the log was begun anew

The mirror may then be the only copy of what the source has lost.  Either way it stays: as a line of its own with a
snapshot, or, where the job is to stop, as it is until somebody has looked.

Knows: the wire's answers.  Does not know: the mirror, configuration.
"""

from __future__ import annotations

from rollrep.core.errors import MirrorNeeded
from rollrep.wire.messages import Answer

OLD_LINE_ENDS = frozenset({"epoch", "diverged", "ahead"})
"""answers after which the source's history is another one"""
WHAT = {
    "epoch": "the log of the source was begun anew",
    "ahead": "the source is older than the mirror, as after a restore from a backup",
    "diverged": "the source's history is not the mirror's, as after a restore from a backup",
}


def refuse_another_history(answer: Answer) -> None:
    """Raises MirrorNeeded where the answer says that the mirror's history is over."""
    if answer.reason in OLD_LINE_ENDS:
        raise MirrorNeeded(
            f'{WHAT[answer.reason]}, and on_history_lost is "stop": the mirror was left as it is',
            remedy="when you have looked, rollrep mirror JOB goes on, and keeps the old line",
        )
