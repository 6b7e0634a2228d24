"""The claim of a follower: it is made, and it is given up before the follower ends."""

from cmappd import reasons
from cmappd.core.follow import link
from cmappd.core.follow.actions import ATTEMPT, Close, Exit, Wish
from cmappd.core.follow.following import Following, Stage
from cmappd.core.follow.verdicts import detached, exit_as
from cmappd.core.messages import Claim, Done, Message, Refused, Release, Reply, Stop

SETTLE = 1.0  # seconds to wait until the server has noted that we know the outcome


def claim(f: Following) -> None:
    """Ask to own the application; only the first claim starts it.

    What becomes of a run under maintenance is of no consequence, so it is not named.
    """
    fresh = f.status is None
    f.claiming = f.seq()
    f.claims += 1
    f.stage = Stage.CLAIMING
    f.send(
        Claim(
            f.claiming,
            f.terms.app,
            run=None if f.maintained else f.run,
            start=fresh and f.wish is Wish.FOLLOW,
            takeover=fresh and f.terms.takeover,
        )
    )


def is_answer(f: Following, message: Reply) -> bool:
    """Whether this answers the claim, or says goodbye."""
    goodbye = isinstance(message, Refused) and message.seq == 0
    return message.seq == f.claiming or goodbye


def carry_out(f: Following, now: float) -> None:
    """What was wished for, once the application is ours."""
    if f.to_stop:
        ask_to_stop(f)
    else:
        detach(f, now)


def detach(f: Following, now: float) -> None:
    """Hand the application over. It counts when the server has said that it knows."""
    f.until = now + f.terms.lost_after
    settle(f, None, now, Release(f.seq(), handover=True))


def ask_to_stop(f: Following) -> None:
    """Have the application stopped, or killed: what SIGTERM asks for."""
    f.stopping = f.seq()
    f.send(Stop(f.stopping, f.terms.app, kill=f.wish is Wish.KILL))


def finish(f: Following, end: Exit, now: float) -> None:
    """Give up the ownership and end."""
    settle(f, end, now, Release(f.seq()))


def settle(f: Following, end: Exit | None, now: float, *requests: Message) -> None:
    """Say this, and when it has arrived end so; with no end, do what is wished for.

    Whoever ends has told what there is to tell. Who does not must know that it has arrived.
    """
    f.enter(Stage.SETTLING, now + (ATTEMPT if end is None else SETTLE))
    f.exit = end
    f.settling = {request.seq for request in requests}
    for request in requests:
        f.send(request)


def answered(f: Following, message: Reply, now: float) -> None:
    """The server said this while SETTLING."""
    if isinstance(message, Done | Refused):
        f.settling.discard(message.seq)
    if not f.settling:
        settled(f, now)


def settled(f: Following, now: float) -> None:
    """Everything was answered, or had the time to be."""
    if f.exit is not None:
        f.end(f.exit)
    elif f.settling:
        f.do(Close())
        link.retry(f, link.NO_ANSWER, now)
    elif f.status is None and f.wish is not Wish.FOLLOW:
        f.end(exit_as(reasons.STOPPED, "before it was started", f.run))
    elif f.wish is Wish.DETACH:
        f.end(detached(f.run))
    else:
        f.step_until = now + ATTEMPT
        claim(f)
