"""The state of many applications, asked on the command line."""

from bench.guest import Guest, many
from bench.options import Options
from bench.peers import CIRCUS, RUNIT, SUPERVISORD, Peer, sleepers, wait_until_running
from bench.series import Goal, Measured, Row, Unit, interleave
from bench.workspace import HERE, PYTHON, Workspace, run


def measure(options: Options) -> list[Row]:
    """cmappctl, the bare question and supervisorctl in turn, then the other peers."""
    times = options.times(7)
    with Workspace() as workspace, Workspace() as other:
        guest = Guest(workspace, many(workspace, options.apps))
        guest.start()
        guest.wait_until_running()
        floor = [PYTHON, str(HERE / "floors/ask.py"), str(guest.control)]
        cmappd, asked, supervisord = interleave(
            times,
            lambda: run(workspace, guest.administrator("status"), "cmappctl"),
            lambda: run(workspace, floor, "ask"),
            lambda: _ask(SUPERVISORD, other, options.apps),
        )
    peers = {SUPERVISORD.name: SUPERVISORD.measure(lambda _: supervisord)}
    for peer in (CIRCUS, RUNIT):
        peers[peer.name] = peer.measure(lambda each: _alone(each, options.apps, times))
    figure = f"status of {options.apps} on the command line"
    return [Row(figure, Unit.SECONDS, cmappd, asked, peers, Goal(1 / 8, of=SUPERVISORD.name))]


def _alone(peer: Peer, count: int, times: int) -> Measured:
    with Workspace() as workspace:
        return interleave(times, lambda: _ask(peer, workspace, count))[0]


def _ask(peer: Peer, workspace: Workspace, count: int) -> float:
    """Seconds for one question; before the first one, the peer is started."""
    if not workspace.log(peer.name).exists():
        peer.start(workspace, sleepers(workspace, count))
        wait_until_running(workspace, count)
    assert peer.status is not None
    return run(workspace, peer.status(workspace.folder), f"{peer.name}-status")
